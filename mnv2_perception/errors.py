"""All exceptions that mnv2_perception raises on purpose.

::

    PerceptionError
    ├── ModelError       a model file, checkpoint or ModelSpec is missing, damaged or contradictory
    ├── EngineError      a runtime is missing, refuses the model, or fails while it runs
    │   └── TensorError  a tensor's name, shape or dtype is not what the engine takes
    ├── ImageError       an image or image message contradicts itself, or an argument about one
    ├── CalibrationError a camera's intrinsics or pose cannot be used
    ├── DataError        a training or evaluation data set cannot be used
    ├── BagError         a bag cannot be read, played or written
    ├── ParameterError   a node's parameter has an invalid value
    ├── SetupError       this machine lacks something that is needed
    └── DemoError        the demo ran, but its result is not good enough

A message says what was wrong, what was got, what was expected and how to cure it. Exceptions of
other libraries are wrapped (``raise ... from exc``), so ``except PerceptionError`` catches all.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
import sys


class PerceptionError(Exception):
    """Base of all exceptions of this package."""


class ModelError(PerceptionError):
    """A model file, checkpoint or ModelSpec is missing, damaged or contradictory."""


class EngineError(PerceptionError):
    """A runtime is missing, refuses the model, or fails while it runs."""


class TensorError(EngineError):
    """A tensor's name, shape or dtype is not what the engine takes."""


class ImageError(PerceptionError):
    """An image or image message contradicts itself, or an argument about images is invalid."""


class CalibrationError(PerceptionError):
    """A camera's intrinsics or pose cannot be used."""


class DataError(PerceptionError):
    """A training or evaluation data set cannot be used."""


class BagError(PerceptionError):
    """A bag cannot be read, played or written."""


class ParameterError(PerceptionError):
    """A node's parameter has an invalid value."""


class SetupError(PerceptionError):
    """This machine lacks something that is needed."""


class DemoError(PerceptionError):
    """The demo ran, but its result is not good enough."""


def describe_error(exc: Exception) -> str:
    """Return the message of an exception, with its type if it is not one of this package."""
    kind = '' if isinstance(exc, PerceptionError) else f'unexpected {type(exc).__name__}: '
    return f'{kind}{exc}'


def nearest(name: str, known: Iterable[str], likeness: float) -> str:
    """Return the known name that is most like a misspelt one, empty if none is alike enough.

    Args:
        name: the misspelt name.
        known: names to compare it with.
        likeness: smallest likeness that counts, 0 to 1, see `difflib.get_close_matches`.
    """
    return next(iter(get_close_matches(name, list(known), 1, likeness)), '')


def quoted(text: object, most: int = 100) -> str:
    """Return untrusted text so that it fits into a message: quoted, on one line, and cut."""
    shown = text if isinstance(text, bytes) else str(text)
    return repr(shown[:most]) + (' …' if len(shown) > most else '')


def stand_in(path: Path) -> str:
    """Say what lies in a file's place, with the cure; empty if it may be the file itself.

    A clone without Git LFS has pointers; who downloads a file from its web page gets the page.
    """
    if not path.is_file():
        return ''
    try:
        with path.open('rb') as file:
            start = file.read(200).lstrip().lower()
    except OSError:
        return ''
    if start.startswith(b'version https://git-lfs'):
        return "a Git LFS pointer, not the file itself; fetch that with 'git lfs pull'"
    if start.startswith((b'<!doctype html', b'<html')):
        return 'a web page, not the file itself; download that by its raw link'
    return ''


def not_loaded(exc: ImportError, cure: str) -> str:
    """Return the loader's message about a library that cannot be imported, and the cure.

    Args:
        exc: the exception that the import raised.
        cure: how to install the library if it is missing.
    """
    told = f'({exc})'
    if isinstance(exc, ModuleNotFoundError):
        return f'{told}: {cure}'
    if 'failed to map segment' in str(exc) and 'permitted' not in str(exc):  # else: noexec
        return f'{told}: not enough memory to load it; close other programs'
    return f'{told}: it is installed but cannot be loaded; reinstall it: {cure}'


def with_home(path: str | Path) -> Path:
    """Return a path with ~ replaced by the home folder; unchanged if there is none.

    A user without HOME and without an entry in the list of users, as in a container with
    `--user 12345`, has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def command_name() -> str:
    """Return how this program is called here: by `ros2 run` on a robot, otherwise by its path."""
    program = Path(sys.argv[0])
    if program.parent.parts[-2:] == ('lib', 'mnv2_perception'):
        return 'ros2 run mnv2_perception mnv2'
    if program.name != 'mnv2':
        return 'mnv2'
    try:
        return str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(program)
