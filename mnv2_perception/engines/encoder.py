"""An ONNX file's encoder alone, with the mean of its last features as output.

Needs no library: an ONNX file is one protobuf message, of which whole parts are kept or left out.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
import re
from typing import NamedTuple

from mnv2_perception.engines.verified import METADATA_KEY
from mnv2_perception.errors import ModelError

FEATURES = 'features'  # the output, (1, channels) float32
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
GRAPH, METADATA = 7, 14  # ModelProto's
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO, ANNOTATION = 1, 5, 11, 12, 13, 14  # GraphProto's
NAME_OF = {INITIALIZER: 8, INPUT: 1}  # the field that holds the name of such a part
FLOAT = 1  # TensorProto.DataType
# The exporter names nodes by their module: /net/features/features.13/Add, or, where a network
# goes through its encoder stage by stage, /0/net/features.13/Add.
IN_ENCODER = re.compile(r'/features[./]')
NO_FEATURES = {'Constant', 'QuantizeLinear', 'DequantizeLinear'}


class Node(NamedTuple):
    """What is needed of a NodeProto."""

    name: str
    operator: str
    inputs: list[str]
    outputs: list[str]


def cut_encoder(model: Path, spec: Mapping[str, str] = {}) -> bytes:
    """Return the ONNX file of a model's encoder: images as the model takes them to features.

    Features are the mean over the image of what the encoder's last layer gives, before a decoder
    or a classifier; (1, channels) float32, named `features`. The spec stays, so a file that was
    cut can be cut again, which changes nothing.

    Args:
        model: an .onnx file of `mnv2 export`, `mnv2 quantize`, or any whose nodes are named by
            torchvision's modules `features.N`.
        spec: metadata for a file that does not say itself what it takes and gives.

    Raises:
        ModelError: it cannot be read, or has no such nodes.
    """
    if model.suffix != '.onnx':
        raise ModelError(f'{model}: features can only be taken from an .onnx file; give that of '
                         f'this model')
    try:
        data = model.read_bytes()
        parts = list(_fields(data))
        graphs = [data[start:end] for field, _, start, end in parts if field == GRAPH]
        if len(graphs) != 1:
            raise ValueError('it holds no graph')
        graph = _cut(graphs[0])
    except OSError as exc:
        raise ModelError(f'{model}: cannot be read: {exc.strerror}') from exc
    except (ValueError, IndexError) as exc:
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
        _message(METADATA, _message(1, key.encode()) + _message(2, value.encode()))
        for key, value in spec.items() if key not in said
    ]
    return b''.join([*kept, _message(GRAPH, graph)])


def _is_verified(entry: bytes) -> bool:
    """Tell whether metadata are figures of the whole model."""
    return _texts(entry).get(1) == [METADATA_KEY]


def _cut(graph: bytes) -> bytes:
    """Return the graph up to the end of its encoder, empty where there is none."""
    parts = list(_fields(graph))
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
    side = _message(1, b'')  # of a length that the graph does not tell
    tensor = bytes([8, FLOAT]) + _message(2, side + side)
    return b''.join([
        *kept,
        _message(NODE, _node_bytes('GlobalAveragePool', last, f'{FEATURES}_pooled')),
        _message(NODE, _node_bytes('Flatten', f'{FEATURES}_pooled', FEATURES)),
        _message(OUTPUT, _message(1, FEATURES.encode()) + _message(2, _message(1, tensor))),
    ])


def _node(data: bytes) -> Node:
    texts = _texts(data)
    name, operator = (texts.get(field, [''])[0] for field in (3, 4))
    return Node(name, operator, texts.get(1, []), texts.get(2, []))


def _node_bytes(operator: str, taken: str, given: str) -> bytes:
    values = enumerate((taken, given, operator, operator), 1)  # input, output, name, op_type
    return b''.join(_message(field, value.encode()) for field, value in values)


def _texts(data: bytes) -> dict[int, list[str]]:
    """Return the fields of bytes by their numbers, those that are texts."""
    found: dict[int, list[str]] = {}
    for field, _, start, end in _fields(data):
        if end - start < 10_000:  # weights are no text
            found.setdefault(field, []).append(data[start:end].decode(errors='replace'))
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, begin, begin of the content and end of each field of a message."""
    place = 0
    while place < len(data):
        begin = place
        key, place = _varint(data, place)
        field, wire_type = divmod(key, 8)
        start = place
        if wire_type == VARINT:
            _, place = _varint(data, place)
        elif wire_type == BYTES:
            length, start = _varint(data, place)
            place = start + length
        elif wire_type in (FIXED64, FIXED32):
            place += 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f'wire type {wire_type} at byte {begin}')
        if place > len(data):
            raise ValueError('it is cut short')
        yield field, begin, start, place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError('a number is too long')


def _message(field: int, content: bytes) -> bytes:
    """Return a field of bytes, with its key and length."""
    length, head = len(content), bytearray([field * 8 + BYTES])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + content
