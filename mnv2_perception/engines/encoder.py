"""Cut the encoder out of an ONNX file, with the mean of its last features as output.

It needs no library: an ONNX file is one protobuf message, whose parts are copied or left out.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from collections.abc import Mapping
from pathlib import Path
import re
from typing import NamedTuple

from mnv2_perception.engines.protobuf import bytes_field, fields
from mnv2_perception.engines.verified import METADATA_KEY
from mnv2_perception.errors import ModelError

FEATURES = 'features'  # name of the output, (1, channels) float32
GRAPH, METADATA = 7, 14  # fields of ModelProto
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO, ANNOTATION = 1, 5, 11, 12, 13, 14  # GraphProto's
NAME_OF = {INITIALIZER: 8, INPUT: 1}  # the field that holds the name of such a part
FLOAT = 1  # TensorProto.DataType
# The exporter names nodes by their module: /net/features/features.13/Add, or, if a network runs
# its encoder stage by stage, /0/net/features.13/Add.
IN_ENCODER = re.compile(r'/features[./]')
NO_FEATURES = {'Constant', 'QuantizeLinear', 'DequantizeLinear'}


class Node(NamedTuple):
    """The needed parts of a NodeProto."""

    name: str
    operator: str
    inputs: list[str]
    outputs: list[str]


def cut_encoder(model: Path, spec: Mapping[str, str] = {}) -> bytes:
    """Return an ONNX file of a model's encoder: it takes the model's images and outputs features.

    The features are the mean over the image of the encoder's last layer, before any decoder or
    classifier; (1, channels) float32, named `features`. The spec is kept, so a file that was cut
    can be cut again, which changes nothing.

    Args:
        model: path of an .onnx file of `mnv2 export` or `mnv2 quantize`, or of any file whose
            nodes are named by torchvision's modules `features.N`.
        spec: metadata entries to add if the file does not have them, such as its ModelSpec.

    Raises:
        ModelError: the file cannot be read, or has no such nodes.
    """
    if model.suffix != '.onnx':
        raise ModelError(f'{model}: features can only be taken from an .onnx file; give that of '
                         f'this model')
    try:
        data = model.read_bytes()
        parts = list(fields(data))
        graphs = [data[start:end] for field, _, start, end in parts if field == GRAPH]
        if len(graphs) != 1:
            raise ValueError('it holds no graph')
        graph = _cut(graphs[0])
    except OSError as exc:
        raise ModelError(f'{model}: cannot be read: {exc.strerror}') from exc
    except ValueError as exc:
        raise ModelError(f'{model}: is not a readable ONNX file: {exc}') from exc
    if not graph:
        raise ModelError(
            f'{model}: its encoder cannot be found, because no node is named as a layer of '
            f'`features`; give a model of `mnv2 export`, or a shipped one'
        )
    kept = [
        data[begin:end] for field, begin, start, end in parts
        if field != GRAPH and not (field == METADATA and _is_verified(data[start:end]))
    ]
    said = {
        key for field, _, start, end in parts if field == METADATA
        for key in _texts(data[start:end]).get(1, [])
    }
    kept += [
        bytes_field(METADATA, bytes_field(1, key.encode()) + bytes_field(2, value.encode()))
        for key, value in spec.items() if key not in said
    ]
    return b''.join([*kept, bytes_field(GRAPH, graph)])


def _is_verified(entry: bytes) -> bool:
    """Tell whether a metadata entry holds measurements, which are of the whole model."""
    return _texts(entry).get(1) == [METADATA_KEY]


def _cut(graph: bytes) -> bytes:
    """Return the graph up to the end of its encoder, empty if it has none."""
    parts = list(fields(graph))
    nodes = [_node(graph[start:end]) for field, _, start, end in parts if field == NODE]
    ends = [
        node for node in nodes
        if IN_ENCODER.search(node.name) and node.operator not in NO_FEATURES and node.outputs
    ]
    if not ends:
        return b''
    last = ends[-1].outputs[0]
    needed = {last}
    used = []
    for node in reversed(nodes):
        used.append(not needed.isdisjoint(node.outputs))
        if used[-1]:
            needed.update(node.inputs)
    kept = []
    for field, begin, start, end in parts:
        if field in (OUTPUT, VALUE_INFO, ANNOTATION) or (field == NODE and not used.pop()):
            continue
        names = _texts(graph[start:end]).get(NAME_OF[field], ['']) if field in NAME_OF else []
        if not needed.issuperset(names):
            continue
        kept.append(graph[begin:end])
    side = bytes_field(1, b'')  # a side whose length the graph does not tell
    tensor = bytes_field(1, bytes([8, FLOAT]) + bytes_field(2, side + side))
    return b''.join([
        *kept,
        bytes_field(NODE, _node_bytes('GlobalAveragePool', last, f'{FEATURES}_pooled')),
        bytes_field(NODE, _node_bytes('Flatten', f'{FEATURES}_pooled', FEATURES)),
        bytes_field(OUTPUT, bytes_field(1, FEATURES.encode()) + bytes_field(2, tensor)),
    ])


def _node(data: bytes) -> Node:
    texts = _texts(data)
    name, operator = (texts.get(field, [''])[0] for field in (3, 4))
    return Node(name, operator, texts.get(1, []), texts.get(2, []))


def _node_bytes(operator: str, taken: str, given: str) -> bytes:
    values = enumerate((taken, given, operator, operator), 1)  # input, output, name, op_type
    return b''.join(bytes_field(field, value.encode()) for field, value in values)


def _texts(data: bytes) -> dict[int, list[str]]:
    """Return the fields of bytes that may be texts, by their numbers."""
    found: dict[int, list[str]] = {}
    for field, _, start, end in fields(data):
        if end - start < 10_000:  # longer ones are weights, not text
            found.setdefault(field, []).append(data[start:end].decode(errors='replace'))
    return found
