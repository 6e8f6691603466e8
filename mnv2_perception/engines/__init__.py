"""Runtimes behind one door: `open_engine` opens a model, `Engine.infer` runs it."""

from importlib.util import find_spec
import logging
from pathlib import Path

from mnv2_perception.engines import plans
from mnv2_perception.engines.base import Engine, PRECISIONS, TensorSpec
from mnv2_perception.errors import EngineError

__all__ = ['ENGINES', 'PRECISIONS', 'Engine', 'TensorSpec', 'open_engine']

ENGINES = (
    'tensorrt', 'onnx_runtime_cuda', 'onnx_runtime_tensorrt', 'openvino', 'onnx_runtime', 'torch',
    'fake',
)
FILES = {'.plan': 'tensorrt', '.pt2': 'torch'}  # what only one engine opens
MAX_THREADS = 256

logger = logging.getLogger(__name__)


def open_engine(
    model: Path,
    engine: str = 'auto',
    threads: int = 0,
    build: bool = False,
    precision: str = 'auto',
) -> Engine:
    """Open a model.

    Args:
        model: path of the model file.
        engine: a name of ENGINES, or `auto`: TensorRT where the cache folder has a plan of the
            model or may be given one, else ONNX Runtime's CUDA provider, OpenVINO or ONNX Runtime
            on the CPU, the first that is installed and takes the model.
        threads: CPU threads for one inference; 0 leaves it to the runtime.
        build: build the TensorRT plan if none serves; takes minutes.
        precision: of the arithmetic, one of PRECISIONS; `auto` is that of a TensorRT plan, fp16
            for torch on a GPU, else fp32.

    Raises:
        EngineError: the name is unknown, the runtime is missing, refuses the model or has no such
            precision.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise EngineError(f'threads is {threads}, expected 0 (one for each core) to {MAX_THREADS}')
    # Each file imports its runtime when an engine is opened: none needs the others installed.
    if engine == 'auto':
        return _open_auto(model, threads, build, precision)
    if engine == 'tensorrt':
        from mnv2_perception.engines.tensorrt import TensorRTEngine
        opened = TensorRTEngine(model, build)
        if precision not in ('auto', opened.precision):
            opened.close()
            raise EngineError(
                f'{model}: its TensorRT plan is {opened.precision}, got precision {precision}; '
                f'run {plans.build_command(model)} --precision {precision}'
            )
        return opened
    if engine.startswith('onnx_runtime') and engine in ENGINES:
        from mnv2_perception.engines.onnx_runtime import OnnxRuntimeEngine
        return OnnxRuntimeEngine(model, threads, precision, engine)
    if engine == 'openvino':
        from mnv2_perception.engines.openvino import OpenVINOEngine
        return OpenVINOEngine(model, threads, precision)
    if engine == 'torch':
        from mnv2_perception.engines.torch import TorchEngine
        return TorchEngine(model, threads, precision)
    if engine == 'fake':
        from mnv2_perception.engines.fake import FakeEngine
        return FakeEngine(model)
    raise EngineError(f'engine {engine!r} is unknown; known are auto, {", ".join(ENGINES)}')


def _open_auto(model: Path, threads: int, build: bool, precision: str) -> Engine:
    """Open a model with the first engine that can, and say why it was this one."""
    if model.suffix in FILES:
        return open_engine(model, FILES[model.suffix], threads, build, precision)
    if not model.is_file():
        raise EngineError(f'{model}: no such model file')
    passed_over = []
    for name in ('tensorrt', 'onnx_runtime_cuda', 'openvino'):
        if lacks := _lacks(name, model, build):
            passed_over.append(lacks)
            continue
        try:
            opened = open_engine(model, name, threads, build, precision)
        except EngineError as exc:
            logger.warning('%s is passed over: %s', name, exc)
            passed_over.append(f'{name} refuses it')
            continue
        break
    else:
        opened = open_engine(model, 'onnx_runtime', threads, build, precision)
    why = '; '.join(passed_over) or 'it has a plan'
    logger.info('%s: engine %s in %s: %s', model.name, opened.name, opened.precision, why)
    return opened


def _lacks(name: str, model: Path, build: bool) -> str:
    """Return what keeps an engine from being chosen, empty where nothing is known to."""
    if name == 'tensorrt':
        folder = plans.cache_folder()
        if not build and not plans.plans_of(model, folder):
            return f'no TensorRT plan of it in {folder}'
    elif name == 'onnx_runtime_cuda':
        from mnv2_perception.engines.onnx_runtime import has_provider
        if not has_provider(name):
            return 'no CUDA in ONNX Runtime'
    elif find_spec(name) is None:
        return 'OpenVINO is not installed (pip install openvino)'
    return ''
