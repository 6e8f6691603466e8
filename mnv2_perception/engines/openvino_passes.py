"""What OpenVINO computes faster in another form, with the same results."""

from typing import Any

import numpy as np

VERSION = 1  # of what is done here: compiled models are kept


def rewrite(network: Any) -> None:
    """Rewrite a graph as it was read, before it is compiled."""
    try:
        from openvino import passes
    except ImportError:  # before 2025: slower, and as right
        return

    class Rewrite(passes.MatcherPass):
        def __init__(self, pattern: Any, replace: Any) -> None:
            super().__init__()
            self.register_matcher(passes.Matcher(pattern, replace.__name__), replace)

    manager = passes.Manager()
    for make in (take_softmax, scale_rows):
        manager.register_pass(Rewrite(*make()))
    manager.run_passes(network)


def take_softmax() -> tuple[Any, Any]:
    """Take the greatest softmax where there is 1 / Σ exp(x − max x): a tenth of an inference.

    It sums over the classes slowly. ONNX Runtime is slow at softmax over them, so the file has
    the sum (`nets.export.IdsAndConfidence`).
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

    def take_softmax(found: Any) -> bool:
        nodes = found.get_pattern_value_map()
        if nodes[top].get_node().get_attributes()['keep_dims']:  # then `below` has one side more
            return False
        along = {tuple(nodes[each].get_node().get_vector()) for each in axes}
        constant = nodes[one].get_node()
        plain = not constant.get_output_shape(0) and constant.get_vector()[0] == 1.0
        if not plain or len(along) > 1 or len(axis := along.pop()) > 1:
            return False
        softmax = opset13.softmax(nodes[scores], *axis)
        keep = nodes[total].get_node().get_attributes()['keep_dims']
        nodes[confidence].replace(opset13.reduce_max(softmax, axis, keep).output(0))
        return True

    return confidence, take_softmax


def scale_rows() -> tuple[Any, Any]:
    """Scale an image (N, H, W, C) by whole rows, and not plane by plane: 1 to 3 % of an inference.

    So it stays as the first convolution wants it. ONNX Runtime wants planes (`nets.export`).
    """
    from openvino import opset13
    from openvino.passes import WrapType

    image = WrapType('opset13.Convert', [WrapType('opset13.Parameter')])
    order, mean, scale = (WrapType('opset13.Constant') for _ in range(3))
    planes = WrapType('opset13.Transpose', [image, order])
    scaled = WrapType('opset13.Multiply', [WrapType('opset13.Subtract', [planes, mean]), scale])

    def scale_rows(found: Any) -> bool:
        nodes = found.get_pattern_value_map()
        sides = nodes[image].get_partial_shape()
        if len(sides) != 4 or any(side.is_dynamic for side in list(sides)[1:]):
            return False
        height, width, channels = (side.get_length() for side in list(sides)[1:])
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
