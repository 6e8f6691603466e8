"""Prepare ONNX graphs for TensorRT's strong typing, which takes the precision from the file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_perception.engines.weights import lacks_weights
from mnv2_perception.errors import EngineError, ModelError, not_loaded, stand_in

WEIGHTED = {'Conv', 'ConvTranspose', 'Gemm', 'MatMul'}
QDQ = {'QuantizeLinear', 'DequantizeLinear'}
FP16_MAX = 65504.0
FP16_LEAST = 2.0**-24  # more than zero: values are divided by a scale
FP16_QDQ_OPSET = 19  # the first opset in which Q/DQ take half precision
# Inputs that are float32 whatever the others are: Resize's roi and scales.
ALWAYS_FLOAT = {('Resize', 1), ('Resize', 2)}
# Operators whose parameters contain no number of images, unlike those of Reshape.
ANY_BATCH = {
    'Add', 'ArgMax', 'AveragePool', 'BatchNormalization', 'Cast', 'Clip', 'Concat', 'Constant',
    'Conv', 'ConvTranspose', 'DequantizeLinear', 'Div', 'Exp', 'Flatten', 'Gemm',
    'GlobalAveragePool', 'HardSigmoid', 'HardSwish', 'Identity', 'MatMul', 'Max', 'MaxPool', 'Min',
    'Mul', 'QuantizeLinear', 'Reciprocal', 'ReduceMax', 'ReduceMean', 'ReduceSum', 'Relu',
    'Resize', 'Sigmoid', 'Slice', 'Softmax', 'Squeeze', 'Sub', 'Transpose', 'Unsqueeze',
}


def read_onnx(model: Path) -> Any:
    """Return the onnx.ModelProto of a file.

    Raises:
        EngineError: onnx is not installed.
        ModelError: the file is missing or not an ONNX model.
    """
    try:
        import onnx
    except ImportError as exc:
        raise EngineError(
            f'{model}: reading and changing it needs onnx {not_loaded(exc, "pip install onnx")}'
        ) from exc
    if not model.is_file():
        raise ModelError(f'{model}: no such model file')
    try:
        proto = onnx.load(str(model))
        onnx.checker.check_model(proto)
    except Exception as exc:  # errors of protobuf and checker have no common base but Exception
        raise ModelError(
            f'{model}: ' + (
                stand_in(model) or lacks_weights(model) or f'is not an ONNX model: {exc}'
            )
        ) from exc
    return proto


def precision_of(proto: Any) -> str:
    """Return `int8` for a graph with Q/DQ nodes, `fp16` for half-precision weights, or `fp32`."""
    from onnx import TensorProto

    if any(node.op_type == 'QuantizeLinear' for node in proto.graph.node):
        return 'int8'
    halves = [tensor for tensor in proto.graph.initializer
              if tensor.data_type == TensorProto.FLOAT16]
    return 'fp16' if halves else 'fp32'


def fix_batch(proto: Any, batch: int, model: Path) -> tuple[str, ...]:
    """Set the first side of inputs and outputs, if the graph leaves it open or works with any.

    Args:
        proto: onnx.ModelProto; changed in place.
        batch: number of images in one inference.
        model: path of the model, for errors.

    Returns:
        The inputs, such as `image 1x256x512x3`.

    Raises:
        ModelError: the graph takes another number of images, or leaves another side open.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    del proto.graph.value_info[:]  # they contain the first side, too
    ends = [value.type.tensor_type.shape.dim for value in (*inputs, *proto.graph.output)]
    single = [sides[0] for sides in ends if sides and sides[0].dim_value == 1]
    takes_any = {node.op_type for node in proto.graph.node} <= ANY_BATCH
    for sides in ends:
        if sides and not sides[0].dim_value:
            sides[0].dim_value = batch  # value and name are alternatives: this drops the name
    if batch > 1 and takes_any:
        for side in single:
            side.dim_value = batch
        if single and not _follows(proto):
            for side in single:
                side.dim_value = 1
    shapes = []
    for value in inputs:
        lengths = [side.dim_value for side in value.type.tensor_type.shape.dim]
        text = f'{value.name} {"x".join(str(length or "any") for length in lengths)}'
        if not all(lengths):
            raise ModelError(f'{model}: takes {text}; export it with a fixed height and width')
        if lengths[0] != batch:
            raise ModelError(
                f'{model}: takes {text}, but a batch of {batch} images was requested; export it '
                f'with this first dimension, or with a dynamic one'
            )
        shapes.append(text)
    return tuple(shapes)


def _follows(proto: Any) -> bool:
    """Tell whether the outputs have the first side that the graph declares."""
    import onnx

    try:
        onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def to_fp16(proto: Any) -> Any:
    """Return the graph in half precision from its first convolution to its last.

    Whatever is before (scaling) and after (decoding) stays float, as do inputs and outputs:
    TensorRT converts from and to uint8 only there. In an int8 graph, the parts around the int8
    layers become fp16, as in NVIDIA's Model Optimizer.

    Args:
        proto: onnx.ModelProto with float weights; only read.

    Raises:
        ModelError: the graph contains subgraphs, or is int8 in an opset that cannot be converted.
    """
    import onnx
    from onnx import helper, numpy_helper, TensorProto, version_converter

    opset = next(each.version for each in proto.opset_import if each.domain in ('', 'ai.onnx'))
    if opset < FP16_QDQ_OPSET and precision_of(proto) == 'int8':
        try:
            proto = version_converter.convert_version(proto, FP16_QDQ_OPSET)
        except Exception as exc:  # an exception of C++, without a useful base
            raise ModelError(
                f'int8: opset {opset} cannot be raised to {FP16_QDQ_OPSET}: {exc}; export the '
                f'float model with that opset, and quantise it again'
            ) from exc
    proto = onnx.shape_inference.infer_shapes(proto)
    graph = proto.graph
    for node in graph.node:
        if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
            raise ModelError(f'fp16: {node.op_type} {node.name!r} contains a subgraph; build it '
                             f'with --precision fp32')
    fold_constants(proto)
    half = between_convolutions(graph.node)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    types = {value.name: value.type.tensor_type.elem_type
             for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {name: tensor.data_type for name, tensor in constants.items()}
    made_half = {name for index in half for name in graph.node[index].output
                 if types.get(name) == TensorProto.FLOAT}
    kept_names = {value.name for value in graph.output} | {
        name for index, node in enumerate(graph.node) if index not in half for name in node.input
    }
    nodes, halves = [], set()
    for index, node in enumerate(graph.node):
        nodes.append(node)
        if index not in half:
            continue
        for place, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT or (node.op_type, place) in ALWAYS_FLOAT:
                continue
            if name in made_half and name not in kept_names:
                continue  # it keeps its name and is half precision from now on
            node.input[place] = f'{name}__fp16'
            if name in made_half or name in halves:
                continue
            halves.add(name)
            if name in constants:
                array = numpy_helper.to_array(constants[name])
                least = FP16_LEAST if node.op_type in QDQ and place == 1 else -FP16_MAX
                array = np.clip(array, least, FP16_MAX).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(array, f'{name}__fp16'))
            else:
                nodes.insert(-1, helper.make_node(
                    'Cast', [name], [f'{name}__fp16'], to=TensorProto.FLOAT16
                ))
        for place, name in enumerate(node.output):
            if name in made_half and name in kept_names:
                node.output[place] = f'{name}__fp16'
                nodes.append(helper.make_node(
                    'Cast', [f'{name}__fp16'], [name], to=TensorProto.FLOAT
                ))
        for attribute in node.attribute:
            if (node.op_type, attribute.name, attribute.i) == ('Cast', 'to', TensorProto.FLOAT):
                attribute.i = TensorProto.FLOAT16
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    used = {name for node in nodes for name in node.input} | kept_names
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def fold_constants(proto: Any) -> None:
    """Convert Constant nodes to initializers: TensorRT requires constant limits of Clip."""
    graph = proto.graph
    for node in [node for node in graph.node if node.op_type == 'Constant']:
        if node.attribute[0].name == 'value':
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            graph.node.remove(node)


def between_convolutions(nodes: Iterable[Any]) -> set[int]:
    """Return the indices of nodes that have weighted nodes before and after, or are weighted.

    Q/DQ nodes count as weighted, because they make the inputs and weights of weighted nodes.
    """
    nodes = list(nodes)
    weighted = WEIGHTED | QDQ
    after: set[str] = set()  # tensors that depend on a weighted node
    behind = set()
    for index, node in enumerate(nodes):
        if node.op_type in weighted or after.intersection(node.input):
            behind.add(index)
            after.update(node.output)
    before: set[str] = set()  # tensors that a weighted node depends on
    ahead = set()
    for index, node in reversed(list(enumerate(nodes))):
        if node.op_type in weighted or before.intersection(node.output):
            ahead.add(index)
            before.update(node.input)
    return behind & ahead


def network_ends(proto: Any) -> tuple[list[str], list[str]]:
    """Return the tensors between which the network lies: after scaling and before decoding.

    They are the inputs of the first weighted nodes and the outputs of the last ones, apart from
    quantisation.
    """
    graph = proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == 'Constant'}
    starts: list[str] = []
    behind: set[str] = set()  # tensors that depend on a weighted node
    for node in graph.node:
        if behind.intersection(node.input):
            behind.update(node.output)
        elif node.op_type in WEIGHTED | {'QuantizeLinear'} and node.input[0] not in constants:
            behind.update(node.output)
            if node.input[0] not in starts:
                starts.append(node.input[0])
    ends: list[str] = []
    ahead: set[str] = set()  # tensors that a weighted node depends on
    for node in reversed(graph.node):
        leads = ahead.intersection(node.output)
        if node.op_type in WEIGHTED and not leads:
            ends.append(node.output[0])
        if node.op_type in WEIGHTED or leads:
            ahead.update(node.input)
    return starts, ends[::-1]


def cut_network(model: Path, out: Path) -> None:
    """Write only the network of a model: scaled float image in, outputs of its last layers out.

    Raises:
        EngineError: onnx is not installed.
        ModelError: the file is not an ONNX model, or has no weighted layer.
    """
    proto = read_onnx(model)
    import onnx

    starts, ends = network_ends(proto)
    if not starts:
        raise ModelError(f'{model}: has no layer with weights; expected a network')
    proto = onnx.shape_inference.infer_shapes(proto)
    try:
        cut = onnx.utils.Extractor(proto).extract_model(starts, ends)
    except Exception as exc:  # a missing part ends in a KeyError
        raise ModelError(f'{model}: its network cannot be cut out: {exc}') from exc
    onnx.save(cut, str(out))
