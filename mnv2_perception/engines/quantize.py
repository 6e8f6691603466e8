"""Quantise a model to int8 for all runtimes: an ONNX file with Q/DQ nodes, by TensorRT's rules.

Activations and weights are symmetric int8 with zero point 0, weights per channel; biases stay
float,
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html.
Only convolutions and matrix products are quantised, at their inputs: scaling before and decoding
after them stay float, and so do the few layers whose rounding disturbs the result most.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines.graph import (
    fold_constants,
    network_ends,
    precision_of,
    read_onnx,
    WEIGHTED,
)
from mnv2_perception.engines.verified import METADATA_KEY
from mnv2_perception.errors import EngineError, ModelError, not_loaded
from mnv2_perception.model_spec import ModelSpec

TYPES = sorted(WEIGHTED - {'ConvTranspose'})
IMAGES_COMPARED = 3
MOST_FLOAT = 0.1  # as a fraction of the layers
TOLERANCE = 0.02

Progress = Callable[[str, int, int], None]  # arguments: what, done, total


@dataclass(frozen=True)
class Quantised:
    """The result of `quantize_model`.

    Attributes:
        layers: number of layers in int8.
        kept: names of the layers left in float, worst first, with the error each caused alone.
        error: error of the written file; see `quantize_model`.
        error_of_all: error with every layer in int8.
    """

    layers: int
    kept: dict[str, float]
    error: float
    error_of_all: float


def quantize_model(
    model: Path,
    out: Path,
    tensors: Sequence[NDArray[Any]],
    tolerance: float = TOLERANCE,
    progress: Progress = lambda *_: None,
    small: bool = False,
) -> Quantised:
    """Write a model in int8.

    An error here is the mean squared difference of the network's outputs (before decoding) from
    those in float, relative to their variance. Each layer is tried alone in int8; those with the
    largest errors stay float until the errors of the others sum to at most `tolerance`, but no
    more layers than the fraction MOST_FLOAT (at least one).

    Args:
        model: path of the .onnx file, in fp32.
        out: path of the .onnx file to write, atomically; its ModelSpec's name ends in `_int8`.
        tensors: inputs of the model, made from images like those it will see, but none that its
            accuracy is measured on. The range of each activation is the largest value seen.
        tolerance: see above; 0 leaves as many layers in float as allowed.
        progress: called with what is being done, how much of it is done, and the total.
        small: whether to store the weights in int8: a quarter of the bytes, the same results.

    Raises:
        EngineError: onnx or onnxruntime is not installed, or there is no tensor.
        ModelError: the file cannot be quantised, its output is not finite, or `out` cannot be
            written.
    """
    try:
        import onnx
        import onnxruntime.quantization  # noqa: F401  needs onnx and sympy
    except ImportError as exc:
        raise EngineError(
            f'{model}: quantising needs onnx and ONNX Runtime '
            f'{not_loaded(exc, "pip install onnx onnxruntime")}'
        ) from exc
    proto = read_onnx(model)
    pairs = {pair.key: pair.value for pair in proto.metadata_props}
    spec = ModelSpec.from_metadata(pairs, model)
    layers = name_layers(proto, model)
    if not out.parent.is_dir():
        raise ModelError(f'{out}: its folder does not exist; create it first')
    if not tensors:
        raise EngineError(f'{model}: got no image to calibrate with, expected about a hundred')
    _, ends = network_ends(proto)
    compared = tensors[:: max(1, len(tensors) // IMAGES_COMPARED)][:IMAGES_COMPARED]
    reference = run_network(proto, ends, compared)
    if not all(np.isfinite(each).all() for each in reference):
        raise ModelError(
            f'{model}: its output for the calibration images is NaN or infinite even in float, so '
            f'its training or export is broken; export it again'
        )
    with tempfile.TemporaryDirectory() as scratch:
        ranges = calibrate(proto, tensors, Path(scratch), progress)
    quantised = insert_qdq(proto, layers, ranges)

    def error(kept: Iterable[str]) -> float:
        found = run_network(leave_in_float(quantised, kept), ends, compared)
        return relative_error(reference, found)

    alone = {}
    for index, layer in enumerate(layers):
        alone[layer] = error(set(layers) - {layer})
        progress('layers measured', index + 1, len(layers))
    kept = choose_kept(alone, tolerance)
    result = leave_in_float(quantised, kept)
    if small:
        hold_int8(result)
    note = f'int8, {len(kept)} of {len(layers)} layers in float'
    description = '; '.join(filter(None, [spec.description, note]))
    described = replace(spec, name=f'{spec.name}_int8', description=description)
    pairs.pop(METADATA_KEY, None)  # they were measured with the original model, not this one
    onnx.helper.set_model_props(result, {**pairs, **described.to_metadata()})
    partial = out.with_suffix('.partial')
    try:
        onnx.checker.check_model(result, full_check=True)
        onnx.save(result, str(partial))
        partial.replace(out)
    except OSError as exc:
        raise ModelError(f'{out}: cannot be written: {exc.strerror}') from exc
    finally:
        partial.unlink(missing_ok=True)
    return Quantised(
        len(layers) - len(kept), {layer: alone[layer] for layer in kept}, error(kept), error(())
    )


def name_layers(proto: Any, model: Path) -> list[str]:
    """Give each node a unique name, and return the names of the layers to quantise.

    Raises:
        ModelError: the file is not an fp32 model, or has no such layer.
    """
    if (precision := precision_of(proto)) != 'fp32':
        raise ModelError(f'{model}: is {precision} already; quantise the fp32 file it came from')
    fold_constants(proto)
    names: set[str] = set()
    for index, node in enumerate(proto.graph.node):
        if not node.name or node.name in names:
            node.name = f'{node.op_type}_{index}'
        names.add(node.name)
    layers = [node.name for node in proto.graph.node if node.op_type in TYPES]
    if not layers:
        raise ModelError(f'{model}: has no layer that can be quantised; expected '
                         f'{", ".join(TYPES)}')
    return layers


def calibrate(
    proto: Any, tensors: Sequence[NDArray[Any]], scratch: Path, progress: Progress
) -> Any:
    """Return onnxruntime's TensorsData: the range of each layer's input over all tensors."""
    import onnx
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader:
        """Yields one input at a time; onnxruntime calls it until it returns None."""

        def __init__(self) -> None:
            self.done = 0

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            progress('images calibrated', self.done, len(tensors))
            if self.done == len(tensors):
                return None
            self.done += 1
            return {proto.graph.input[0].name: tensors[self.done - 1]}

    onnx.save(proto, str(scratch / 'float.onnx'))
    calibrator = create_calibrator(
        str(scratch / 'float.onnx'), TYPES, str(scratch / 'augmented.onnx'),
        extra_options={'symmetric': True},
    )
    calibrator.collect_data(Reader())
    return calibrator.compute_data()


def insert_qdq(proto: Any, layers: list[str], ranges: Any) -> Any:
    """Return the graph with Q/DQ before the input and the weights of every layer."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    quantizer = QDQQuantizer(
        copy, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8, tensors_range=ranges, nodes_to_quantize=layers,
        nodes_to_exclude=[], op_types_to_quantize=TYPES,
        extra_options={
            'ActivationSymmetric': True, 'WeightSymmetric': True, 'AddQDQPairToWeight': True,
            'DedicatedQDQPair': True, 'QuantizeBias': False,
            # A layer's output is rounded where the next one takes it, not twice.
            'OpTypesToExcludeOutputQuantization': TYPES,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def grouped_layers(quantised: Any) -> list[str]:
    """Return the names of the grouped convolutions (such as depthwise ones) with Q/DQ before them.

    Only those are included whose inputs can be taken back to float: float in the file, or
    constants.
    """
    makers = {name: node for node in quantised.graph.node for name in node.output}
    constants = {tensor.name for tensor in quantised.graph.initializer}

    def is_float(name: str) -> bool:
        maker = makers.get(name)
        return maker is not None and maker.op_type == 'DequantizeLinear' and (
            maker.input[0] in makers or maker.input[0] in constants
        )

    return [
        node.name for node in quantised.graph.node
        if node.op_type == 'Conv' and node.name
        and any(each.name == 'group' and each.i > 1 for each in node.attribute)
        and all(map(is_float, node.input[:2]))
    ]


def leave_in_float(quantised: Any, layers: Iterable[str]) -> Any:
    """Return a copy of a quantised graph without the Q/DQ of some layers."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(quantised)
    graph, names = copy.graph, set(layers)
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.name not in names:
            continue
        for place, name in enumerate(node.input):
            maker = makers.get(name)
            if maker is None or maker.op_type != 'DequantizeLinear':
                continue
            if maker.input[0] in makers:
                node.input[place] = makers[maker.input[0]].input[0]
                continue
            held, scale = (onnx.numpy_helper.to_array(constants[each]) for each in maker.input[:2])
            value = (held * along(maker, scale, held.ndim)).astype(np.float32)
            node.input[place] = f'{name}_float'
            graph.initializer.append(onnx.numpy_helper.from_array(value, node.input[place]))
    for op_type in ('DequantizeLinear', 'QuantizeLinear'):  # DQ first: then its Q is unused
        used = {name for node in graph.node for name in node.input}
        for node in [node for node in graph.node if node.op_type == op_type]:
            if node.output[0] not in used:
                graph.node.remove(node)
    drop_unused(graph)
    return copy


def hold_int8(quantised: Any) -> None:
    """Replace Q nodes on constants (the weights) by int8 constants, symmetric as they are."""
    import onnx

    graph = quantised.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == 'QuantizeLinear']:
        if node.input[0] not in constants:
            continue
        value, scale = (onnx.numpy_helper.to_array(constants[each]) for each in node.input[:2])
        # https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html: to the nearest even, saturated
        held = np.rint(value / along(node, scale, value.ndim)).clip(-128, 127).astype(np.int8)
        graph.initializer.append(onnx.numpy_helper.from_array(held, node.output[0]))
        graph.node.remove(node)
    drop_unused(graph)


def along(node: Any, scale: NDArray[Any], ndim: int) -> NDArray[Any]:
    """Return the scale of a Q or DQ node in a shape that numpy broadcasts along its axis."""
    axis = next((each.i for each in node.attribute if each.name == 'axis'), 1)
    return scale.reshape([-1 if side == axis % ndim else 1 for side in range(ndim)])


def drop_unused(graph: Any) -> None:
    """Remove constants that no node uses."""
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def run_network(
    proto: Any, ends: Sequence[str], tensors: Sequence[NDArray[Any]]
) -> list[NDArray[np.float32]]:
    """Return a graph's inner tensors `ends`, each flattened over all inputs to one array."""
    import onnx
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ends
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    name = copy.graph.input[0].name
    runs = [session.run(list(ends), {name: tensor}) for tensor in tensors]
    return [np.concatenate([run[index].ravel() for run in runs]) for index in range(len(ends))]


def relative_error(
    reference: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]
) -> float:
    """Return the mean squared difference relative to the variance, averaged over the tensors."""
    return float(np.mean([
        np.square(one - other).mean() / max(float(one.var()), 1e-12)
        for one, other in zip(reference, found, strict=True)
    ]))


def choose_kept(alone: Mapping[str, float], tolerance: float) -> list[str]:
    """Return the layers to leave in float, worst first; see `quantize_model`."""
    worst = sorted(alone, key=lambda layer: alone[layer], reverse=True)
    kept: list[str] = []
    rest = sum(alone.values())
    most = max(min(1, len(alone) - 1), int(MOST_FLOAT * len(alone)))
    while rest > tolerance and len(kept) < most:
        layer = worst[len(kept)]
        kept.append(layer)
        rest -= alone[layer]
    return kept
