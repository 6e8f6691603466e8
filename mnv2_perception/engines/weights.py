"""Find weights that are in files beside an ONNX file, as torch's exporter and large models do it.

The file is read without onnx, which a robot need not have: the names are entries `location` of
protobuf's TensorProto.external_data, field 1 the key and field 2 the value.
"""

import mmap
from pathlib import Path, PurePosixPath
import re

from mnv2_perception.errors import stand_in

_LOCATION = re.compile(rb'\x0a\x08location\x12([\x01-\x7f])(?=(.{1,127}))', re.DOTALL)


def weights_beside(model: Path) -> list[Path]:
    """Return the files that an ONNX file names as holding its weights, sorted.

    Raises:
        OSError: the file cannot be read.
    """
    if model.suffix != '.onnx' or not model.stat().st_size:
        return []
    with model.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = {
            found[2][:found[1][0]].decode(errors='replace')
            for found in _LOCATION.finditer(content)
        }
    inside = {PurePosixPath(name) for name in names}  # runtimes refuse any others
    return sorted(
        model.parent / name for name in inside
        if not name.is_absolute() and '..' not in name.parts
    )


def lacks_weights(model: Path) -> str:
    """Return which weights of an ONNX file are not beside it, and the cure; empty if none."""
    try:
        files = weights_beside(model)
    except OSError:
        return ''
    for file in files:
        if other := stand_in(file):
            return f'its weights are in {file.name}, which is {other}'
        if not file.exists():
            return (
                f'its weights are in {file.relative_to(model.parent)}, which is not beside it; '
                f'copy that file there too'
            )
    return ''
