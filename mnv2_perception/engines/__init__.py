"""Runtimes behind one door: `open_engine` opens a model, `Engine.infer` runs it."""

import logging
from pathlib import Path

from mnv2_perception.engines import plans
from mnv2_perception.engines.base import Engine, TensorSpec
from mnv2_perception.errors import EngineError

__all__ = ['ENGINES', 'Engine', 'TensorSpec', 'open_engine']

ENGINES = ('onnx_runtime', 'tensorrt', 'fake')
MAX_THREADS = 256

logger = logging.getLogger(__name__)


def open_engine(
    model: Path, engine: str = 'auto', threads: int = 0, build: bool = False
) -> Engine:
    """Open a model.

    Args:
        model: path of the model file.
        engine: a name of ENGINES, or `auto`: TensorRT where the cache folder has a plan of the
            model or may be given one, else ONNX Runtime.
        threads: CPU threads for one inference; 0 leaves it to the runtime.
        build: build the TensorRT plan if none serves; takes minutes.

    Raises:
        EngineError: the name is unknown, the runtime is missing or refuses the model.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise EngineError(f'threads is {threads}, expected 0 (one for each core) to {MAX_THREADS}')
    # Each file imports its runtime when an engine is opened: none needs the others installed.
    if engine == 'auto':
        return _open_auto(model, threads, build)
    if engine == 'tensorrt':
        from mnv2_perception.engines.tensorrt import TensorRTEngine
        return TensorRTEngine(model, build)
    if engine == 'onnx_runtime':
        from mnv2_perception.engines.onnx_runtime import OnnxRuntimeEngine
        return OnnxRuntimeEngine(model, threads)
    if engine == 'fake':
        from mnv2_perception.engines.fake import FakeEngine
        return FakeEngine(model)
    raise EngineError(f'engine {engine!r} is unknown; known are auto, {", ".join(ENGINES)}')


def _open_auto(model: Path, threads: int, build: bool) -> Engine:
    """Open a model with TensorRT where there is a plan or one may be built, else without."""
    if model.suffix == '.plan':
        return open_engine(model, 'tensorrt')
    folder = plans.cache_folder()
    if not (model.is_file() and (build or plans.plans_of(model, folder))):
        logger.info('%s: onnx_runtime, for %s has no plan of it for TensorRT', model.name, folder)
        return open_engine(model, 'onnx_runtime', threads)
    try:
        opened = open_engine(model, 'tensorrt', build=build)
    except EngineError as exc:
        logger.warning('onnx_runtime instead of TensorRT: %s', exc)
        return open_engine(model, 'onnx_runtime', threads)
    logger.info('%s: tensorrt, for %s has a plan of it', model.name, folder)
    return opened
