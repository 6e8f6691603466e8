"""Write files completely or not at all; make and lock folders."""

from collections.abc import Iterator
from contextlib import contextmanager
import fcntl
import os
from pathlib import Path

from mnv2_perception.errors import DataError, SetupError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file; what the block writes there then replaces the file.

    If the block fails, the file stays as it was. A pipe or device is written directly.
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


def make_folder(folder: Path) -> None:
    """Create the folder that `--out` names, unless it exists.

    Raises:
        SetupError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        for path in (folder, *folder.parents):
            if os.path.lexists(path) and not path.is_dir():
                raise SetupError(
                    f'{folder}: cannot be created: {path} is a file, expected a folder; choose '
                    f'another --out, or move the file away'
                ) from exc
        raise SetupError(
            f'{folder}: cannot be created: {exc.strerror}; choose another --out'
        ) from exc


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder for the block, so that no other process enters one of the same folder.

    The system releases the lock of a killed process.

    Raises:
        DataError: another process holds the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise DataError(
                f'{folder}: another process trains there; wait for it, or choose another --out'
            ) from exc
        yield
    finally:
        os.close(descriptor)
