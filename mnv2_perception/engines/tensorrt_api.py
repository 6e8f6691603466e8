"""What engine and builder share of TensorRT and CUDA: modules, errors, the name of the GPU.

TensorRT and TensorRT for RTX are two libraries with the same API; a process may use both.
"""

from collections import deque
from collections.abc import Callable
import ctypes
from functools import cache
from importlib import import_module
from importlib.util import find_spec
import logging
from pathlib import Path
from typing import Any, TYPE_CHECKING

from mnv2_perception.engines.plans import RTX
from mnv2_perception.errors import EngineError

if TYPE_CHECKING:
    from cuda.bindings import runtime as cudart  # at run time `load` sets it
    import tensorrt as trt

DEVICE = 0  # CUDA_VISIBLE_DEVICES chooses which GPU this is
INSTALL = {
    'tensorrt': (
        'on a Jetson: apt install python3-libnvinfer, and pip install onnx "cuda-python<13" '
        '(JetPack 6) or onnx cuda-python (JetPack 7), in a virtual environment with '
        '--system-site-packages; elsewhere: pip install tensorrt cuda-python onnx'
    ),
    RTX: (  # bindings and libraries of one release
        'on Linux on x86-64: pip install onnx cuda-python tensorrt-rtx-cu13-bindings==1.7.1.116 '
        'onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0'
    ),
}
TITLES = {'tensorrt': 'TensorRT', RTX: 'TensorRT for RTX'}

logger = logging.getLogger(__name__)


def load(model: Path, engine: str, building: bool = False, running: bool = True) -> Any:
    """Import the modules that an engine needs; return its TensorRT module.

    Args:
        model: path of the model, for errors.
        engine: `tensorrt` or `tensorrt_rtx`.
        building: whether ONNX files are to be read, too.
        running: whether the GPU is to be used.

    Raises:
        EngineError: something is not installed, or there is no GPU.
    """
    wanted: list[Callable[[], Any]] = [import_rtx if engine == RTX else import_tensorrt]
    wanted += [import_cudart] if running else []
    wanted += [lambda: import_module('onnx')] if building else []
    found, missing = [], []
    for import_it in wanted:
        try:
            found.append(import_it())
        except ImportError as exc:
            missing.append(exc)
    if missing:
        reasons = ', '.join(map(str, missing))
        raise EngineError(f'{model}: {TITLES[engine]} cannot be used, because a package is not '
                          f'installed ({reasons}); {INSTALL[engine]}') from missing[0]
    if running:
        globals().update(cudart=found[1])
        try:
            checked(cudart.cudaGetDeviceCount())
        except (EngineError, RuntimeError) as exc:  # RuntimeError: there is no driver at all
            raise EngineError(f'{model}: no NVIDIA GPU can be used: {exc}; choose another engine, '
                              f'or install the driver') from exc
    return found[0]


def import_tensorrt() -> Any:
    """Return the module of TensorRT."""
    return import_module('tensorrt')


def import_rtx() -> Any:
    """Return the module of TensorRT for RTX; its libraries come from another package."""
    spec = find_spec('onnxruntime_ep_nv_tensorrt_rtx')
    for folder in (spec and spec.submodule_search_locations) or ():
        for name in ('libtensorrt_rtx', 'libtensorrt_onnxparser_rtx'):
            for library in Path(folder).glob(f'{name}.so.*'):
                try:
                    ctypes.CDLL(str(library))  # the loader takes the library that is already open
                except OSError as exc:
                    raise ImportError(str(exc)) from exc
    return import_module('tensorrt_rtx_bindings')


def import_cudart() -> Any:
    """Return the runtime API of cuda-python, whose module has moved."""
    try:
        from cuda.bindings import runtime
        return runtime
    except ImportError:  # before cuda-python 12.6
        from cuda import cudart
        return cudart


def checked(result: tuple[Any, ...]) -> Any:
    """Return the results of a cuda-python call without the error code.

    Raises:
        EngineError: the code is not cudaSuccess.
    """
    error, *values = result
    if int(error):
        _, text = cudart.cudaGetErrorString(error)
        text = text.decode() if isinstance(text, bytes) else text
        raise EngineError(f'CUDA error {int(error)}: {text}')
    return values[0] if values else None


def gpu_name(engine: str) -> str:
    """Return the name of the GPU in the form that an engine's plans use.

    For TensorRT it is name, compute capability and multiprocessors, such as `Orin 8.7 (16 SMs)`,
    because the modules of a Jetson family share the first two but no plans. For RTX it is `SM86`.
    """
    properties: cudart.cudaDeviceProp = checked(cudart.cudaGetDeviceProperties(DEVICE))
    if engine == RTX:
        return f'SM{properties.major}{properties.minor}'
    name = properties.name.split(b'\0')[0].decode()
    return (f'{name} {properties.major}.{properties.minor} '
            f'({properties.multiProcessorCount} SMs)')


# Errors that TensorRT logged and no exception has reported yet.
ERRORS: deque[str] = deque(maxlen=4)


def last_errors() -> str:
    """Return the errors that TensorRT logged since the last call."""
    errors = [ERRORS.popleft() for _ in range(len(ERRORS))]
    return '; '.join(errors) or 'it gives no reason'


@cache
def trt_logger(module: Any) -> Any:
    """Return the logger of a library, which keeps the first one of a process."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module

    class Logger(trt.ILogger):
        """Keeps errors for the exception that will report them, and logs everything else."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: 'trt.ILogger.Severity', msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                ERRORS.append(msg.strip())
            elif severity == trt.ILogger.Severity.WARNING:
                logger.warning('TensorRT: %s', msg.strip())
            else:
                logger.debug('TensorRT: %s', msg.strip())

    return Logger()


def deserialise(module: Any, blob: bytes, dla: int | None) -> 'trt.ICudaEngine | None':
    """Return the engine of a plan, on a DLA core if given; None if TensorRT refuses it."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module
    ERRORS.clear()
    runtime = trt.Runtime(trt_logger(module))
    if dla is not None:
        runtime.DLA_core = dla
    return runtime.deserialize_cuda_engine(blob)
