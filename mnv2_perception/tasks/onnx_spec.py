"""The spec of an ONNX file, read in no time: without a runtime, and without its weights.

An ONNX file is one protobuf message, whose fields may come in any order.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, ModelProto
"""

from pathlib import Path
from typing import BinaryIO

from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import METADATA_KEY, ModelSpec

METADATA_PROPS = 14  # ModelProto's, each with a key (1) and a value (2)
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
MAX_FIELDS = 10_000  # of a file; exporters write some ten
MAX_METADATA_BYTES = 10_000_000


def read_spec(model: Path) -> ModelSpec | None:
    """Return the spec of a model file; None where only a runtime can tell, as of a plan.

    Raises:
        ModelError: it is no ONNX file although named so, or says nothing, or nonsense, of itself.
    """
    if model.suffix != '.onnx':
        return None
    try:
        with model.open('rb') as file:
            metadata = _metadata(file, model.stat().st_size)
    except (OSError, EOFError, UnicodeDecodeError) as exc:
        raise ModelError(f'{model}: is not a readable ONNX file: {exc}') from exc
    return ModelSpec.from_metadata(metadata, model)


def _metadata(file: BinaryIO, size: int) -> dict[str, str]:
    """Return the file's key-value pair of the spec, if it has one."""
    found: dict[str, str] = {}
    for _ in range(MAX_FIELDS):
        if file.tell() == size:
            return found
        field, wire_type = divmod(_varint(file), 8)
        if wire_type == VARINT:
            _varint(file)
            continue
        if wire_type not in (FIXED64, BYTES, FIXED32):
            raise EOFError(f'wire type {wire_type} at byte {file.tell()}')
        length = _varint(file) if wire_type == BYTES else 8 if wire_type == FIXED64 else 4
        if file.tell() + length > size:
            raise EOFError('it is cut short')
        if field != METADATA_PROPS or length > MAX_METADATA_BYTES:
            file.seek(length, 1)
            continue
        end = file.tell() + length
        pair = {}
        while file.tell() < end:
            part = _varint(file) // 8
            length = _varint(file)
            if file.tell() + length > end:
                raise EOFError('its metadata is damaged')
            pair[part] = file.read(length).decode()
        if pair.get(1) == METADATA_KEY:
            found[METADATA_KEY] = pair.get(2, '')
    raise EOFError(f'it has more than {MAX_FIELDS} fields')


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError('it is cut short')
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise EOFError('a number is too long')
