"""Rewrites of a graph that make OpenVINO faster, with the same results."""

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 3  # version of these rewrites, because compiled models are cached
# How OpenVINO represents Q/DQ, and Q/DQ after a bias with ReLU6.
QDQ = ('FakeQuantize', 'Convert', 'Convert', 'Subtract', 'Multiply')
ACTIVATED = ('Add', 'Maximum', 'Minimum', *QDQ)
MOST_PLANES = 256  # ids are uint8; OpenVINO compiles a thousand planes for seven seconds


def rewrite(network: Any, of_floats: str) -> None:
    """Rewrite a graph after it was read and before it is compiled.

    Args:
        network: an openvino.Model; changed in place.
        of_floats: `fp32` or `bf16`, in which the float parts of the graph will be computed.
    """
    try:
        from openvino import passes
    except ImportError:  # before 2025: slower, with the same results
        return

    class Rewrite(passes.MatcherPass):
        def __init__(self, pattern: Any, replace: Any) -> None:
            super().__init__()
            self.register_matcher(passes.Matcher(pattern, replace.__name__), replace)

    manager = passes.Manager()
    for made in (take_share(of_floats), scale_rows(), part_concat()):
        manager.register_pass(Rewrite(*made))
    manager.run_passes(network)


def take_share(of_floats: str) -> tuple[Any, Any]:
    """Replace 1 / Σ exp(x − max x) by the largest softmax value: saves a tenth of an inference.

    OpenVINO sums over the classes slowly. ONNX Runtime is slow at softmax over them, so the file
    has the sum (`nets.export.IdsAndConfidence`). Computing plane by plane is faster still, but not
    in fp32, where softmax takes the planes in the layout in which the convolution leaves them.
    """
    from openvino import opset13
    from openvino.passes import AnyInput, WrapType

    scores = AnyInput()
    axes = [WrapType('opset13.Constant') for _ in range(3)]
    top = WrapType('opset13.ReduceMax', [scores, axes[0]])
    below = WrapType(
        'opset13.Subtract', [scores, WrapType('opset13.Unsqueeze', [top, axes[1]])]
    )
    total = WrapType('opset13.ReduceSum', [WrapType('opset13.Exp', [below]), axes[2]])
    one = WrapType('opset13.Constant')
    confidence = WrapType('opset13.Divide', [one, total])

    def take_share(found: Any) -> bool:
        nodes = found.get_pattern_value_map()
        if nodes[top].get_node().get_attributes()['keep_dims']:  # `below` would have one axis more
            return False
        along = {tuple(nodes[each].get_node().get_vector()) for each in axes}
        constant = nodes[one].get_node()
        plain = not constant.get_output_shape(0) and constant.get_vector()[0] == 1.0
        if not plain or len(along) > 1 or len(axis := list(along.pop())) > 1:
            return False
        keep = nodes[total].get_node().get_attributes()['keep_dims']
        classes = side(nodes[scores], int(axis[0]))
        if of_floats != 'fp32' and classes and classes <= MOST_PLANES:
            planes = opset13.split(nodes[scores], axis[0], classes).outputs()
            greatest = reduce(opset13.maximum, planes)
            powers = [opset13.exp(opset13.subtract(plane, greatest)) for plane in planes]
            share = opset13.divide(nodes[one], reduce(opset13.add, powers))
            share = share if keep else opset13.squeeze(share, axis)
        else:
            share = opset13.reduce_max(opset13.softmax(nodes[scores], axis[0]), axis, keep)
        nodes[confidence].replace(share.output(0))
        return True

    return confidence, take_share


def scale_rows() -> tuple[Any, Any]:
    """Scale an image (N, H, W, C) by whole rows, not by planes: saves 1 to 3 % of an inference.

    So it keeps the layout that the first convolution wants. ONNX Runtime wants planes
    (`nets.export`).
    """
    from openvino import opset13
    from openvino.passes import WrapType

    image = WrapType('opset13.Convert', [WrapType('opset13.Parameter')])
    order, mean, scale = (WrapType('opset13.Constant') for _ in range(3))
    planes = WrapType('opset13.Transpose', [image, order])
    scaled = WrapType('opset13.Multiply', [WrapType('opset13.Subtract', [planes, mean]), scale])

    def scale_rows(found: Any) -> bool:
        nodes = found.get_pattern_value_map()
        rank = nodes[image].get_partial_shape().rank
        height, width, channels = (side(nodes[image], axis) for axis in (1, 2, 3))
        if rank != 4 or None in (height, width, channels):
            return False
        shapes = [list(nodes[each].get_shape()) for each in (mean, scale)]
        as_planes = list(nodes[order].get_node().get_vector()) == [0, 3, 1, 2]
        if not as_planes or shapes != [[1, channels, 1, 1]] * 2:
            return False
        rows = opset13.reshape(nodes[image], [0, height, width * channels], special_zero=True)
        centre, factor = (
            np.tile(nodes[each].get_node().get_data().ravel(), width) for each in (mean, scale)
        )
        rows = opset13.multiply(opset13.subtract(rows, centre), factor)
        pixels = opset13.reshape(rows, [0, height, width, channels], special_zero=True)
        nodes[scaled].replace(opset13.transpose(pixels, nodes[order]).output(0))
        return True

    return scaled, scale_rows


def part_concat() -> tuple[Any, Any]:
    """Convolve concatenated parts one by one, in int8: saves 3 to 8 % of an inference.

    The convolutions are a depthwise one, which never mixes channels, and a pointwise one, which
    sums over them (`nets.unet`). OpenVINO concatenates int8 pixel by pixel; in float it has
    nothing to move. And a part that was upsampled is quantised before that: a quarter of the
    pixels.
    """
    from openvino import opset13
    from openvino.passes import AnyInput, WrapType

    pointwise = WrapType('opset13.Convolution', [AnyInput(), AnyInput()])

    def part_concat(found: Any) -> bool:
        last = found.get_pattern_value_map()[pointwise].get_node()
        below, depthwise = walk_up(last, ACTIVATED)
        above, concat = walk_up(depthwise, QDQ)
        if not below or not above or not joins_channels(concat) or users(depthwise) > 1:
            return False
        kernel, sums = int8_kernel(depthwise), int8_kernel(last)
        sides = [side(value, 1) for value in concat.input_values()]
        channels = sum(sides)
        if (
            kernel is None or kernel[0].shape[:2] != (channels, 1)
            or sums is None or sums[0].shape[1:] != (channels, 1, 1)
            or set(last.get_attributes()['strides']) != {1}  # others may not compile as a sum
        ):
            return False
        results, first = [], 0
        for value, size in zip(concat.input_values(), sides, strict=True):
            part = slice(first, first := first + size)
            node = value.get_node()
            if is_enlarged(node):
                small = on_part(above, node.input_value(0), part)
                node.input(0).replace_source_output(small)
            else:
                value = on_part(above, value, part)
            weights = dequantised(kernel[0][part, None], kernel[1][part])
            value = opset13.group_convolution(value, weights, *window(depthwise)).output(0)
            value = on_part(below, value, part)
            weights = dequantised(sums[0][:, part], sums[1])
            results.append(opset13.convolution(value, weights, *window(last)))
        last.output(0).replace(reduce(opset13.add, results).output(0))
        return True

    return pointwise, part_concat


def walk_up(node: Any, kinds: Sequence[str]) -> tuple[list[Any], Any]:
    """Return the chain of nodes of these kinds above a node, top first, and the node above them.

    The chain is empty unless all kinds are there, in this order, each used by the next one only,
    acting alike on all values of a channel, from and to fp32, and with zero point 0.
    """
    passed: list[Any] = []
    if not node.get_input_size():
        return [], node
    value = node.input_value(0)
    for kind in reversed(kinds):
        if value.get_node().get_type_name() != kind:
            return [], node
        node = value.get_node()
        values = [each for each in node.input_values() if not is_constant(each)]
        constants = [each for each in node.input_values() if is_constant(each)]
        shapes = [list(each.get_shape()) for each in constants]
        if (
            len(values) != 1 or users(node) > 1
            or (kind == 'Subtract' and origin(constants[0]).get_data().any())
            or (kind == 'Add' and shapes != [[1, side(values[0], 1), 1, 1]])
            or (kind != 'Add' and any(prod(shape) != 1 for shape in shapes))
        ):
            return [], node
        passed.insert(0, node)
        value, = values
    types = {each.get_element_type().to_string() for each in (value, passed[-1].output(0))}
    return passed if types == {'f32'} else [], value.get_node()


def is_constant(value: Any) -> bool:
    """Tell whether a value is a constant, even if its type or shape is converted."""
    static = value.get_partial_shape().is_static
    return bool(static and origin(value).get_type_name() == 'Constant')


def origin(value: Any) -> Any:
    """Return the node that made a value, before conversions of type and shape."""
    while (node := value.get_node()).get_type_name() in ('Convert', 'Reshape'):
        value = node.input_value(0)
    return node


def side(value: Any, axis: int) -> Any:
    """Return the length of an axis of a value; None if it is dynamic."""
    shape = value.get_partial_shape()
    fixed = shape.rank.is_static and axis < len(shape) and shape[axis].is_static
    return shape[axis].get_length() if fixed else None


def users(node: Any) -> int:
    """Return the number of nodes that use a node's result, other than to read its shape."""
    taken = node.output(0).get_target_inputs()
    return sum(each.get_node().get_type_name() != 'ShapeOf' for each in taken)


def joins_channels(node: Any) -> bool:
    """Tell whether a node, with one user, concatenates (N, C, H, W) tensors along C only."""
    if node.get_type_name() != 'Concat' or node.get_attributes()['axis'] != 1 or users(node) > 1:
        return False
    whole = node.output(0)
    return all(
        depends_on_input(value) and value.get_partial_shape().rank == whole.partial_shape.rank
        and side(value, 1) and all(side(value, axis) == side(whole, axis) for axis in (0, 2, 3))
        for value in node.input_values()
    )


def depends_on_input(value: Any) -> bool:
    """Tell whether a value depends on a graph input; OpenVINO would fold others, and fail."""
    seen, left = set(), [value.get_node()]
    while left:
        node = left.pop()
        if node.get_type_name() == 'Parameter':
            return True
        if node.get_type_name() != 'ShapeOf' and node.get_friendly_name() not in seen:
            seen.add(node.get_friendly_name())
            left += [each.get_node() for each in node.input_values()]
    return False


def is_enlarged(node: Any) -> bool:
    """Tell whether a node, with one user, upsamples by repeating pixels."""
    if node.get_type_name() != 'Interpolate' or users(node) > 1:
        return False
    same = side(node.input_value(0), 1) == side(node.output(0), 1)
    return bool(same and node.get_attributes()['mode'] == 'nearest')


def on_part(nodes: list[Any], value: Any, part: slice) -> Any:
    """Apply nodes of ACTIVATED to a part of the channels of a value (N, C, H, W)."""
    from openvino import opset13

    for node in nodes:
        kind, attributes = node.get_type_name(), node.get_attributes()
        values = [each if is_constant(each) else value for each in node.input_values()]
        if kind == 'FakeQuantize':
            result = opset13.fake_quantize(*values, attributes['levels'])
        elif kind == 'Convert':
            result = opset13.convert(*values, attributes['destination_type'])
        elif kind == 'Add':
            bias, = (each for each in node.input_values() if is_constant(each))
            result = opset13.add(value, opset13.slice(bias, [part.start], [part.stop], [1], [1]))
        else:
            result = getattr(opset13, kind.lower())(*values)
        value = result.output(0)
    return value


def int8_kernel(layer: Any) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return a layer's weights (O, I, H, W) int8 and scale (O, 1, 1, 1); None if not in int8."""
    value = layer.input_value(1)
    product = value.get_node()
    if product.get_type_name() == 'Reshape':  # for depthwise layers, of (O, 1, I, H, W)
        product = product.input_value(0).get_node()
    if product.get_type_name() != 'Multiply':
        return None
    difference, scale = product.input_values()
    if difference.get_node().get_type_name() != 'Subtract' or not is_constant(scale):
        return None
    floats, zero = difference.get_node().input_values()
    integers = floats.get_node().input_value(0) if is_constant(floats) else floats
    if integers.get_node().get_type_name() != 'Constant' or not is_constant(zero):
        return None
    weights, scales = integers.get_node().get_data(), origin(scale).get_data()
    if (
        weights.dtype != np.int8 or weights.ndim != 4 or origin(zero).get_data().any()
        or not value.get_partial_shape().is_static
        or tuple(value.get_shape())[-3:] != weights.shape[1:]
        or scales.dtype != np.float32 or tuple(scale.get_shape()) != (len(weights), 1, 1, 1)
    ):
        return None
    return weights, scales.reshape(-1, 1, 1, 1)


def dequantised(weights: NDArray[Any], scale: NDArray[Any]) -> Any:
    """Return a kernel in the form that OpenVINO recognises as int8."""
    from openvino import opset13

    scale = scale.reshape(scale.shape + (1,) * (weights.ndim - scale.ndim))
    return opset13.multiply(opset13.convert(opset13.constant(weights), 'f32'), scale)


def window(layer: Any) -> tuple[Any, ...]:
    """Return the attributes of a convolution in the order of opset13's arguments."""
    names = ('strides', 'pads_begin', 'pads_end', 'dilations', 'auto_pad')
    return tuple(layer.get_attributes()[name] for name in names)
