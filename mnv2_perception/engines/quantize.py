"""INT8 once for all runtimes: an ONNX file with Q/DQ nodes, by the rules that TensorRT sets.

Activations and weights are symmetric int8 with zero point 0, weights for each channel, biases stay
float, https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html.
Only convolutions and matrix products are quantised, at their inputs: scaling before and decoding
behind them stay float, and so do the few layers whose rounding disturbs the result most.
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
MOST_FLOAT = 0.1  # of the layers
TOLERANCE = 0.02

Progress = Callable[[str, int, int], None]  # what, done, of


@dataclass(frozen=True)
class Quantised:
    """What `quantize_model` did.

    Attributes:
        layers: number of layers in int8.
        kept: names of those left in float, worst first, and the error each had caused alone.
        error: of the file that was written; see `quantize_model`.
        error_of_all: that of int8 in every layer.
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

    An error here is the mean squared difference of the network's outputs (before decoding) to
    those in float, relative to their variance. Each layer is tried alone in int8; those that err
    most stay float until what the others err alone sums to `tolerance`, but at most MOST_FLOAT of
    them all, or one of fewer than ten.

    Args:
        model: path of the .onnx file, in fp32.
        out: the .onnx file to write, atomically; its ModelSpec's name ends in `_int8`.
        tensors: inputs as the model takes them, of images like those it will see, but none that
            its accuracy is measured on. The range of each activation is the largest value seen.
        tolerance: see above; 0 leaves as many layers in float as it may.
        progress: called with what is being done, how much of it is done and how much there is.
        small: hold the weights of the layers in int8: a quarter of the bytes, the same results.

    Raises:
        EngineError: onnx or onnxruntime is not installed, or there is no tensor.
        ModelError: the file is none that can be quantised, what it gives is not finite, or `out`
            cannot be written.
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
    pairs.pop(METADATA_KEY, None)  # of another model than this one
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
    """Return the names of the layers to quantise, after giving each node one of its own.

    Raises:
        ModelError: the file is no fp32 model, or has none.
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
        """Hands over one input at a time; onnxruntime calls until there is None."""

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
    """Return the graph with Q/DQ before every layer's input and weight."""
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
            # What a layer gives is rounded where the next one takes it, not twice.
            'OpTypesToExcludeOutputQuantization': TYPES,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def grouped_layers(quantised: Any) -> list[str]:
    """Return the names of the convolutions in groups (depthwise ones) that have Q/DQ before them.

    Only those whose inputs are float in the file, or constants, can be taken back.
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
    """Return a quantised graph without the Q/DQ of some layers."""
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
    for op_type in ('DequantizeLinear', 'QuantizeLinear'):  # in this order each is seen unused
        used = {name for node in graph.node for name in node.input}
        for node in [node for node in graph.node if node.op_type == op_type]:
            if node.output[0] not in used:
                graph.node.remove(node)
    drop_unused(graph)
    return copy


def hold_int8(quantised: Any) -> None:
    """Make what Q nodes give of constants (the weights) constants, symmetric int8 as they are."""
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
    """Return the scale of a Q or DQ node in the shape in which numpy repeats it."""
    axis = next((each.i for each in node.attribute if each.name == 'axis'), 1)
    return scale.reshape([-1 if side == axis % ndim else 1 for side in range(ndim)])


def drop_unused(graph: Any) -> None:
    """Remove the constants that no node takes."""
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def run_network(
    proto: Any, ends: Sequence[str], tensors: Sequence[NDArray[Any]]
) -> list[NDArray[np.float32]]:
    """Return what a graph's inner tensors are for each input, one flat array for each tensor."""
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
    """Return the mean squared difference relative to the variance, the mean over the tensors."""
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
