"""Every exception that mnv2_perception raises on purpose.

::

    PerceptionError
    ├── ModelError       a model file, checkpoint or ModelSpec is missing, damaged or contradictory
    ├── EngineError      a runtime is missing, refuses the model, or fails while it runs
    │   └── TensorError  a tensor's name, shape or dtype is not what the engine takes
    ├── ImageError       an image, or an image message, that contradicts itself
    ├── CalibrationError a camera's intrinsics or pose that cannot be used
    ├── DataError        a training or evaluation data set that cannot be used
    ├── BagError         a bag that cannot be read, played or written
    ├── ParameterError   a node's parameter whose value is not possible
    ├── SetupError       something this machine lacks for what was asked
    └── DemoError        the demo ran, and its result is not good enough

A message says what was wrong, what was got, what was expected and how to cure it. Exceptions of
other libraries are wrapped (``raise ... from exc``), so ``except PerceptionError`` catches all.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
import sys


class PerceptionError(Exception):
    """Base of every exception of this package."""


class ModelError(PerceptionError):
    """A model file, checkpoint or ModelSpec is missing, damaged or contradictory."""


class EngineError(PerceptionError):
    """A runtime is missing, refuses the model, or fails while it runs."""


class TensorError(EngineError):
    """A tensor's name, shape or dtype is not what the engine takes."""


class ImageError(PerceptionError):
    """An image, or an image message, that contradicts itself."""


class CalibrationError(PerceptionError):
    """A camera's intrinsics or pose that cannot be used."""


class DataError(PerceptionError):
    """A training or evaluation data set that cannot be used."""


class BagError(PerceptionError):
    """A bag that cannot be read, played or written."""


class ParameterError(PerceptionError):
    """A parameter's value is not possible."""


class SetupError(PerceptionError):
    """Something this machine lacks for what was asked."""


class DemoError(PerceptionError):
    """The demo ran, and its result is not good enough."""


def describe_error(exc: Exception) -> str:
    """Return what an exception says; of one that was not raised on purpose, its type too."""
    kind = '' if isinstance(exc, PerceptionError) else f'unexpected {type(exc).__name__}: '
    return f'{kind}{exc}'


def nearest(name: str, known: Iterable[str], likeness: float) -> str:
    """Return which known name a misspelt one stands for; empty if none is as like (0 to 1)."""
    return next(iter(get_close_matches(name, list(known), 1, likeness)), '')


def quoted(text: object, most: int = 100) -> str:
    """Return text of a stranger as a message may hold it: in quotes, one line, cut."""
    shown = text if isinstance(text, bytes) else str(text)
    return repr(shown[:most]) + (' …' if len(shown) > most else '')


def stand_in(path: Path) -> str:
    """Return what lies in a file's place, and the cure; empty where that can be the file itself.

    A clone without Git LFS has pointers, and who downloads a file from its page gets the page.
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
    """Return what the loader said of a library that cannot be imported, and the cure.

    Args:
        exc: what importing it raised.
        cure: of one that is not installed.
    """
    told = f'({exc})'
    if isinstance(exc, ModuleNotFoundError):
        return f'{told}: {cure}'
    if 'failed to map segment' in str(exc) and 'permitted' not in str(exc):  # on noexec, that
        return f'{told}: not enough memory to load it; close other programs'
    return f'{told}: it is installed but cannot be loaded; reinstall it: {cure}'


def with_home(path: str | Path) -> Path:
    """Return a path with the home folder in the place of its ~, which stays where none is known.

    Who has no HOME and is in no list of users, as in a container with `--user 12345`, has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def command_name() -> str:
    """Return how this program is called here: on a robot through `ros2 run`, else by its path."""
    program = Path(sys.argv[0])
    if program.parent.parts[-2:] == ('lib', 'mnv2_perception'):
        return 'ros2 run mnv2_perception mnv2'
    if program.name != 'mnv2':
        return 'mnv2'
    try:
        return str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(program)
