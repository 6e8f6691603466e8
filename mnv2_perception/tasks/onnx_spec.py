"""Read the spec of an ONNX file quickly, without a runtime and without reading its weights.

An ONNX file is one protobuf message, whose fields may come in any order.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, ModelProto
"""

import mmap
from pathlib import Path

from mnv2_perception.engines.protobuf import fields
from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import METADATA_KEY, ModelSpec

METADATA_PROPS = 14  # a field of ModelProto, each entry with a key (1) and a value (2)
MAX_FIELDS = 10_000  # per file; exporters write about ten
MAX_METADATA_BYTES = 10_000_000


def read_spec(model: Path) -> ModelSpec | None:
    """Return the spec of a model file; None if only a runtime can read it, as for a plan.

    Raises:
        ModelError: it is named .onnx but is no ONNX file, or its spec is missing or wrong.
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
    """Return the file's metadata entry that holds the spec, empty if there is none."""
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
