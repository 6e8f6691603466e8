"""Find models by path or name, open them, and share them within a process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import sys
import threading

from mnv2_perception.engines import Engine, ENGINES, open_engine, PRECISIONS
from mnv2_perception.engines.verified import int8_beside
from mnv2_perception.errors import ModelError, SetupError, with_home
from mnv2_perception.model_spec import ModelSpec

__all__ = [
    'CLASSIFICATION_MODEL', 'DETECTION_MODEL', 'ENGINES', 'PRECISIONS', 'SEGMENTATION_MODEL',
    'Engine', 'OpenModels', 'find_model', 'find_shared_file', 'open_engine', 'opening',
    'shared_folders',
]

# Defaults of nodes, commands and the demo: models whose weights may be sold.
SEGMENTATION_MODEL = 'unet_mobilenetv2_ground_fast'
CLASSIFICATION_MODEL = 'mobilenetv2_ground_ahead'
DETECTION_MODEL = 'ssdlite_mobilenetv2_ground'


@contextmanager
def opening(
    model: str | Path,
    engine: str = 'auto',
    threads: int = 0,
    build: bool = False,
    precision: str = 'auto',
    at_once: int = 1,
) -> Iterator[tuple[Engine, ModelSpec]]:
    """Open a model, given by path or by the name of a shipped one; close it if the block fails.

    The other arguments are those of `open_engine`.

    Raises:
        ModelError: there is no such model, or it has no spec.
        EngineError: the runtime is missing or refuses the model.
    """
    opened, spec = _open(find_model(model), engine, threads, build, precision, at_once)
    with _closed_on_failure(opened):
        yield opened, spec


def _open(
    path: Path, engine: str, threads: int, build: bool, precision: str, at_once: int = 1
) -> tuple[Engine, ModelSpec]:
    opened = open_engine(path, engine, threads, build, precision, at_once)
    with _closed_on_failure(opened):
        return opened, ModelSpec.from_metadata(opened.metadata, path)


@contextmanager
def _closed_on_failure(opened: Engine) -> Iterator[None]:
    try:
        yield
    except BaseException:
        opened.close()
        raise


class OpenModels:
    """Models that are opened once in a process, however many pipelines use them.

    Each pipeline closes its engine; the last one to do so releases it. Thread-safe: opening waits
    only for another thread that opens the same model.
    """

    def __init__(self) -> None:
        self._opened: dict[tuple[object, ...], tuple[Engine, ModelSpec]] = {}
        self._lock = threading.Lock()
        self._locks: dict[tuple[object, ...], threading.Lock] = {}

    @contextmanager
    def opening(
        self,
        model: str | Path,
        engine: str = 'auto',
        threads: int = 0,
        build: bool = False,
        precision: str = 'auto',
        warm_up: Callable[[Engine, ModelSpec], object] = lambda *_: None,
    ) -> Iterator[tuple[Engine, ModelSpec]]:
        """Open a model, or share it if it is open in the same way; arguments as for `opening`.

        `warm_up` is called with a newly opened model before it is shared.
        """
        path = find_model(model)
        # A file that was replaced since then is another model.
        how = (path, path.stat().st_mtime_ns, engine, threads, precision)
        with self._lock:
            opening_it = self._locks.setdefault(how, threading.Lock())
        with opening_it:  # not held while it is used: the user may open it again
            with self._lock:
                self._opened = {
                    key: held for key, held in self._opened.items() if not held[0].closed
                }
                found = self._opened.get(how)
            if found is None or not found[0].share():
                found = _open(path, engine, threads, build, precision)
                with _closed_on_failure(found[0]):
                    warm_up(*found)
                with self._lock:
                    self._opened[how] = found
        with _closed_on_failure(found[0]):
            yield found


def find_model(model: str | Path) -> Path:
    """Return the path of a model, given by path or by the name of a shipped one.

    Raises:
        ModelError: there is none; the message lists the shipped models.
    """
    path = with_home(model)
    if path.is_file():
        return path.absolute()
    folders = shared_folders('models')
    for folder in folders:
        shipped = folder / f'{model}.onnx'
        if shipped.is_file():
            return shipped
    files = {file for folder in folders for file in folder.glob('*.onnx')}
    # An int8 file belongs to the model beside it, and is not listed itself.
    names = sorted({file.stem for file in files} - {int8_beside(file).stem for file in files})
    raise ModelError(
        f'{model}: is neither a model file nor a shipped model; shipped models: '
        f'{", ".join(names) or "none (is the installation complete?)"}'
    )


def find_shared_file(name: str) -> Path:
    """Return the path of a file that the package ships, such as `config/fastdds.xml`.

    Raises:
        SetupError: the file is missing: the package is not installed completely.
    """
    folder, _, file = name.rpartition('/')
    for candidate in shared_folders(folder):
        if (candidate / file).is_file():
            return candidate / file
    raise SetupError(f'{name} is missing; build the package with colcon, or run `make setup`')


def shared_folders(folder: str) -> list[Path]:
    """Return the folders that may hold files of the package's share folder, best first.

    In a checkout they are beside the code; in an installation, in the package's share folder,
    which is found as the ament index does it.
    """
    package = Path(__file__).parents[1]
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    return [
        package / folder,
        package.parent / folder,
        *(Path(prefix, 'share', package.name, folder) for prefix in prefixes if prefix),
    ]
