"""What engine and builder share of TensorRT and CUDA: modules, errors, the GPU's name."""

from collections import deque
from functools import cache
import logging
from pathlib import Path
from typing import Any, TYPE_CHECKING

from mnv2_perception.errors import EngineError

if TYPE_CHECKING:  # at run time `load` sets these two
    from cuda.bindings import runtime as cudart
    import tensorrt as trt

DEVICE = 0  # CUDA_VISIBLE_DEVICES chooses which GPU that is
INSTALL = (
    'on a Jetson: apt install python3-libnvinfer, and pip install "cuda-python<13" (JetPack 6) or '
    'cuda-python (JetPack 7), in a virtual environment with --system-site-packages; elsewhere: '
    'pip install tensorrt cuda-python'
)

logger = logging.getLogger(__name__)


def load(model: Path) -> tuple[Any, Any]:
    """Import TensorRT and cuda-python's runtime API; return both.

    Args:
        model: for errors.

    Raises:
        EngineError: one of them is not installed, or there is no GPU.
    """
    try:
        import tensorrt
        globals().update(trt=tensorrt, cudart=import_cudart())
    except ImportError as exc:
        raise EngineError(f'{model}: TensorRT is not installed ({exc}); {INSTALL}') from exc
    try:
        checked(cudart.cudaGetDeviceCount())
    except (EngineError, RuntimeError) as exc:  # RuntimeError: there is no driver at all
        raise EngineError(f'{model}: no NVIDIA GPU can be used: {exc}; choose another engine, or '
                          f'install the driver') from exc
    return trt, cudart


def import_cudart() -> Any:
    """Return cuda-python's runtime API, which has moved."""
    try:
        from cuda.bindings import runtime
        return runtime
    except ImportError:  # before cuda-python 12.6
        from cuda import cudart
        return cudart


def checked(result: tuple[Any, ...]) -> Any:
    """Return what a call of cuda-python gave, without the error code.

    Raises:
        EngineError: the code is not cudaSuccess.
    """
    error, *values = result
    if int(error):
        _, text = cudart.cudaGetErrorString(error)
        text = text.decode() if isinstance(text, bytes) else text
        raise EngineError(f'CUDA error {int(error)}: {text}')
    return values[0] if values else None


def gpu_name() -> str:
    """Return name, compute capability and multiprocessors, such as `Orin 8.7 (16 SMs)`.

    The modules of a Jetson family share the first two, but no plan.
    """
    properties: cudart.cudaDeviceProp = checked(cudart.cudaGetDeviceProperties(DEVICE))
    name = properties.name.split(b'\0')[0].decode()
    return (f'{name} {properties.major}.{properties.minor} '
            f'({properties.multiProcessorCount} SMs)')


# What TensorRT said since an exception last told it.
ERRORS: deque[str] = deque(maxlen=4)


def last_errors() -> str:
    """Return what TensorRT complained of since the last call."""
    errors = [ERRORS.popleft() for _ in range(len(ERRORS))]
    return '; '.join(errors) or 'it gives no reason'


@cache
def trt_logger() -> Any:
    """Return TensorRT's logger; it keeps the first of a process."""

    class Logger(trt.ILogger):
        """Errors wait for the exception that tells them, the rest is logged."""

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


def deserialise(blob: bytes, dla: int | None) -> 'trt.ICudaEngine | None':
    """Return the engine of a plan, on a DLA core if any; None where TensorRT refuses it."""
    ERRORS.clear()
    runtime = trt.Runtime(trt_logger())
    if dla is not None:
        runtime.DLA_core = dla
    return runtime.deserialize_cuda_engine(blob)
