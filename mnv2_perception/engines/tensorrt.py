"""TensorRT on an NVIDIA GPU: a plan, a stream of its own, pinned memory, a CUDA graph.

One class for `tensorrt` and `tensorrt_rtx` (TensorRT for RTX), whose APIs are the same.

CUDA is called through cuda-python, because torch would cost the process 1 to 2 GB. All threads
share one context of CUDA's runtime API, so any thread may call `infer`; a lock makes sure that no
two use the execution context at the same time.
"""

from collections.abc import Callable
from contextlib import ExitStack
import ctypes
import logging
from math import prod
from pathlib import Path
import threading
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines import plans
from mnv2_perception.engines.base import Engine, Opening, Tensors, TensorSpec
from mnv2_perception.engines.build import build_plan, Options
from mnv2_perception.engines.builders import check_gpus, RtxBuilder, TensorRTBuilder
from mnv2_perception.engines.plans import Plan, PlanKey
from mnv2_perception.engines.tensorrt_api import (
    checked,
    deserialise,
    DEVICE,
    gpu_name,
    import_cudart,
    last_errors,
    load,
    TITLES,
)
from mnv2_perception.errors import EngineError

if TYPE_CHECKING:
    from cuda.bindings import runtime as cudart  # at run time an engine that is opened sets it
    import tensorrt as trt

DTYPES = {
    'FLOAT': np.float32, 'HALF': np.float16, 'UINT8': np.uint8, 'INT8': np.int8,
    'INT32': np.int32, 'INT64': np.int64, 'BOOL': np.bool_,
}  # fmt: skip
logger = logging.getLogger(__name__)


class TensorRTEngine(Engine):
    """A plan in TensorRT.

    Args:
        model: path of an .onnx file whose plan is in the cache folder, or of a .plan file.
        how: `build`: build the plan if none fits; `precision` is that of the plan, or auto.

    Raises:
        EngineError: TensorRT, cuda-python or the GPU is missing, the plan has another precision,
            or there is none and `build` is not set; the message then contains the command that
            builds it.
    """

    on_gpu = True

    def __init__(self, model: Path, how: Opening) -> None:
        if not model.is_file():
            raise EngineError(f'{model}: no such model file')
        self.name, self.model = how.engine, model.name
        check_library(model, self.name)
        self._module = load(model, self.name)
        globals().update(cudart=import_cudart())
        plan, engine = open_plan(model, self.name, self._module, how.build)
        self.precision = plan.key.precision
        # A YAML beside the ONNX file may have changed since; beside a plan there is none.
        beside = plan.spec if model.suffix == '.plan' else {}
        self.metadata = {**beside, **plan.metadata}
        self._context: trt.IExecutionContext
        self._stream: cudart.cudaStream_t
        self._graph: cudart.cudaGraphExec_t | None = None
        self._mapped = False
        self._host: dict[str, NDArray[Any]] = {}
        self._device: dict[str, int] = {}
        self._lock = threading.Lock()
        self._held = ExitStack()  # releases in reverse order
        try:
            self._open(engine)
        except BaseException:
            self._held.close()
            raise
        if how.precision not in ('auto', self.precision):
            self.close()
            raise EngineError(
                f'{model}: its {TITLES[self.name]} plan is {self.precision}, got precision '
                f'{how.precision}; run '
                f'{plans.build_command(model, engine=self.name, gpu=gpu_name(self.name))} '
                f'--precision {how.precision}'
            )

    @classmethod
    def lacks(cls, model: Path, how: Opening) -> str:
        folder = plans.cache_folder()
        found = plans.plans_of(model, folder)
        if how.build or any(key.engine == how.engine for _, key in found):
            return ''
        return f'no {TITLES[how.engine]} plan of it in {folder}'

    def _open(self, engine: 'trt.ICudaEngine') -> None:
        """Create everything that inferences need, once."""
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self._module
        context = engine.create_execution_context()
        if context is None:
            raise EngineError(f'{self.model}: TensorRT cannot create a context: {last_errors()}')
        self._context = context
        self._held.callback(self._drop_context)
        self._stream = checked(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        self._give_back(cudart.cudaStreamDestroy, self._stream)
        # A GPU that shares the CPU's memory (Jetson) accesses it without a copy.
        self._mapped = bool(checked(cudart.cudaDeviceGetAttribute(
            cudart.cudaDeviceAttr.cudaDevAttrIntegrated, DEVICE
        )))
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = tuple(engine.get_tensor_shape(name))
            if min(shape, default=0) < 0:  # e.g. boxes after NMS; no CUDA graph either
                raise EngineError(f'{self.model}: {name!r} is {shape}, which is not fixed; export '
                                  f'the model with fixed sizes and build it again')
            kind = engine.get_tensor_dtype(name).name
            if kind not in DTYPES:
                raise EngineError(f'{self.model}: {name!r} is {kind}; known are '
                                  f'{", ".join(DTYPES)}')
            spec = TensorSpec(name, shape, np.dtype(DTYPES[kind]))
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(spec)
            self._allocate(spec, shape)
            if not self._context.set_tensor_address(name, self._device[name]):
                raise EngineError(f'{self.model}: TensorRT refuses {spec}: {last_errors()}')
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._graph = self._capture()

    def _allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        """Allocate a tensor's pinned host memory and, unless it is mapped, its device memory."""
        size = prod(shape) * spec.dtype.itemsize
        flags = cudart.cudaHostAllocMapped if self._mapped else cudart.cudaHostAllocDefault
        address = checked(cudart.cudaHostAlloc(size, flags))
        self._give_back(cudart.cudaFreeHost, address)
        memory = (ctypes.c_uint8 * size).from_address(int(address))
        host: NDArray[Any] = np.ctypeslib.as_array(memory).view(spec.dtype)
        self._host[spec.name] = host.reshape(shape)
        if self._mapped:
            device = checked(cudart.cudaHostGetDevicePointer(address, 0))
        else:
            device = checked(cudart.cudaMalloc(size))
            self._give_back(cudart.cudaFree, device)
        self._device[spec.name] = int(device)

    def _give_back(self, free: Callable[[Any], Any], handle: Any) -> None:
        """Register a handle to be freed when the engine is closed, or if opening it fails."""

        def give_back() -> None:
            try:
                checked(free(handle))
            except EngineError as exc:  # the remaining handles must be freed all the same
                logger.error('%s: closing: %s', self.model, exc)

        self._held.callback(give_back)

    def _drop_context(self) -> None:
        del self._context

    def _enqueue(self) -> None:
        """Queue the copies and the network on the stream."""
        to_device = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        to_host = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for spec in () if self._mapped else self.inputs:
            host = self._host[spec.name]
            checked(cudart.cudaMemcpyAsync(
                self._device[spec.name], host.ctypes.data, host.nbytes, to_device, self._stream
            ))
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(f'{self.model}: TensorRT refuses to run: {last_errors()}')
        for spec in () if self._mapped else self.outputs:
            host = self._host[spec.name]
            checked(cudart.cudaMemcpyAsync(
                host.ctypes.data, self._device[spec.name], host.nbytes, to_host, self._stream
            ))

    def _capture(self) -> Any:
        """Record one inference as a CUDA graph; return it, or None if that is refused."""
        self._run_once()  # TensorRT initialises itself in the first run, so not in the capture
        try:
            # Capture this thread only: another engine of the process may allocate meanwhile.
            checked(cudart.cudaStreamBeginCapture(
                self._stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            ))
            try:
                self._enqueue()
            except EngineError:
                # End the capture; its incomplete graph is useless.
                error, graph = cudart.cudaStreamEndCapture(self._stream)
                if not int(error) and graph:
                    checked(cudart.cudaGraphDestroy(graph))
                raise
            graph = checked(cudart.cudaStreamEndCapture(self._stream))
            try:
                executable = checked(cudart.cudaGraphInstantiate(graph, 0))
            finally:
                checked(cudart.cudaGraphDestroy(graph))
        except EngineError as exc:
            cudart.cudaGetLastError()  # otherwise a later check would see this error
            logger.warning('%s: no CUDA graph (%s); each inference launches its kernels one by '
                           'one', self.model,
                           exc)
            self._run_once()  # it must work without a graph
            return None
        self._give_back(cudart.cudaGraphExecDestroy, executable)
        return executable

    def _run_once(self) -> None:
        self._enqueue()
        checked(cudart.cudaStreamSynchronize(self._stream))

    def _infer(self, tensors: Tensors) -> Tensors:
        with self._lock:
            if not self._host:
                raise EngineError(f'{self.model}: the engine was closed during the inference')
            for name, array in tensors.items():
                np.copyto(self._host[name], array)
            if self._graph is None:
                self._enqueue()
            else:
                checked(cudart.cudaGraphLaunch(self._graph, self._stream))
            checked(cudart.cudaStreamSynchronize(self._stream))
            return {spec.name: self._host[spec.name].copy() for spec in self.outputs}

    def _release(self) -> None:
        with self._lock:  # wait for the inference under way in any thread
            self._host.clear()
            self._held.close()


def check_library(model: Path, engine: str) -> None:
    """Refuse a .plan file that was built by the other library, before anything is loaded.

    Raises:
        EngineError: it was, or the facts beside the plan are missing.
    """
    if model.suffix != '.plan':
        return
    key: PlanKey = plans.read_facts(model.with_suffix('.json'))['key']
    if key.engine != engine:
        raise EngineError(
            f'{model}: is a plan of {TITLES[key.engine]}, engine {engine} takes those of '
            f'{TITLES[engine]}; open it with engine {key.engine}, or build another from its ONNX '
            f'file'
        )


def open_plan(
    model: Path, engine: str, module: Any, build: bool
) -> tuple[Plan, 'trt.ICudaEngine']:
    """Return the plan that fits this machine, and its engine.

    Args:
        model: path of the .onnx or .plan file.
        engine: `tensorrt` or `tensorrt_rtx`.
        module: TensorRT module of the engine, see `load`.
        build: whether to build a plan if none fits.

    Raises:
        EngineError: no plan fits, and none may or can be built.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module
    key: PlanKey | None = None
    gpu = gpu_name(engine)
    if engine == plans.RTX and model.suffix != '.plan':
        check_gpus(model, [gpu])
    version = f'{plans.RTX_VERSION if engine == plans.RTX else ""}{trt.__version__}'
    try:
        if model.suffix == '.plan':
            path = model
        else:
            path, key = plans.choose_plan(model, plans.cache_folder(), version, gpu)
        plan = plans.read_plan(path)
        opened = deserialise(module, plan.blob, plan.key.dla)
        if opened is not None:
            return plan, opened
        raise EngineError(
            f'{path}: TensorRT {version} on {gpu} refuses it: {last_errors()}; it '
            f'was built with TensorRT {plan.key.tensorrt} on {plan.key.gpu}'
        )
    except EngineError as exc:
        if model.suffix == '.plan':
            raise EngineError(f'{exc}; build it again from its ONNX file') from exc
        if not build:
            raise EngineError(
                f'{exc}; run: {plans.build_command(model, key, engine, gpu)}'
            ) from exc
    options = Options(key.precision, key.dla, key.batch) if key else Options()
    folder = plans.cache_folder()
    builder = (
        RtxBuilder(model, [gpu]) if engine == plans.RTX
        else TensorRTBuilder(model, folder)
    )
    plan = build_plan(model, options, folder, builder, keep=False)
    opened = deserialise(module, plan.blob, plan.key.dla)
    if opened is None:
        raise EngineError(f'{model}: TensorRT refuses the plan it built: {last_errors()}')
    return plan, opened
