"""The spec of an ONNX file, read in no time: without a runtime, and without its weights.

An ONNX file is one protobuf message, whose fields may come in any order.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, ModelProto
"""

import mmap
from pathlib import Path

from mnv2_perception.engines.protobuf import fields
from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import METADATA_KEY, ModelSpec

METADATA_PROPS = 14  # ModelProto's, each with a key (1) and a value (2)
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
        with (
            model.open('rb') as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            metadata = _metadata(content)
    except (OSError, ValueError) as exc:
        raise ModelError(f'{model}: is not a readable ONNX file: {exc}') from exc
    return ModelSpec.from_metadata(metadata, model)


def _metadata(content: mmap.mmap) -> dict[str, str]:
    """Return the file's key-value pair of the spec, if it has one."""
    found: dict[str, str] = {}
    for count, (number, _, start, end) in enumerate(fields(content)):
        if count == MAX_FIELDS:
            raise ValueError(f'it has more than {MAX_FIELDS} fields')
        if number == METADATA_PROPS and end - start <= MAX_METADATA_BYTES:
            entry = content[start:end]
            pair = {part.number: entry[part.start:part.end].decode() for part in fields(entry)}
            if pair.get(1) == METADATA_KEY:
                found[METADATA_KEY] = pair.get(2, '')
    return found
