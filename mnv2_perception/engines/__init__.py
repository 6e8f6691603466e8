"""Runtimes behind one door: `open_engine` opens a model, `Engine.infer` runs it."""

from pathlib import Path

from mnv2_perception.engines.base import Engine, TensorSpec
from mnv2_perception.errors import EngineError

__all__ = ['ENGINES', 'Engine', 'TensorSpec', 'open_engine']

ENGINES = ('onnx_runtime', 'fake')
MAX_THREADS = 256


def open_engine(model: Path, engine: str = 'auto', threads: int = 0) -> Engine:
    """Open a model.

    Args:
        model: path of the model file.
        engine: a name of ENGINES, or `auto`.
        threads: CPU threads for one inference; 0 leaves it to the runtime.

    Raises:
        EngineError: the name is unknown, the runtime is missing or refuses the model.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise EngineError(f'threads is {threads}, expected 0 (one for each core) to {MAX_THREADS}')
    # Each file imports its runtime when an engine is opened: none needs the others installed.
    if engine in ('auto', 'onnx_runtime'):
        from mnv2_perception.engines.onnx_runtime import OnnxRuntimeEngine
        return OnnxRuntimeEngine(model, threads)
    if engine == 'fake':
        from mnv2_perception.engines.fake import FakeEngine
        return FakeEngine(model)
    raise EngineError(f'engine {engine!r} is unknown; known are auto, {", ".join(ENGINES)}')
