"""Files that are written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside a file; what the block writes there takes the file's place.

    If the block fails, the file stays as it was.
    """
    if path.exists() and not path.is_file():  # a pipe or a device cannot be replaced
        yield path
        return
    path = path.resolve()  # not the link to it
    partial = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
