"""A simulated TensorRT and CUDA runtime, which lets TensorRTEngine run without a GPU.

Device memory is host memory, a stream executes its queue when it is synchronised, and the only
network is the identity: red channel to class_ids, green channel to confidence. It verifies who
copies what when, what is freed, and what happens after an error; nothing of TensorRT itself.
test_real_api.py checks that the real modules have these names.
"""

from collections.abc import Callable
import ctypes
from enum import IntEnum
import json
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

GPU = 'Pretended 8.7 (16 SMs)'
VERSION = '10.3.0'
REFUSED = 700


class Cuda:
    """The functions of cudart that the engine calls.

    Attributes:
        integrated: whether the GPU shares the CPU's memory.
        compute: compute capability.
        failing: names of functions that return an error.
        alive: objects that were created and not freed yet.
        called: names of the functions called, in order.
    """

    cudaStreamNonBlocking, cudaHostAllocDefault, cudaHostAllocMapped = 1, 0, 2
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrIntegrated=18)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaDeviceProp = object

    def __init__(self) -> None:
        self.integrated = False
        self.compute = (8, 7)
        self.failing: set[str] = set()
        self.alive: dict[int, Any] = {}
        self.called: list[str] = []
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self._busy = threading.Lock()
        self._count = 0

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith('cuda') or not callable(value) or name == 'cudaDeviceProp':
            return value

        def call(*args: Any) -> Any:
            assert self._busy.acquire(blocking=False), f'{name}: two threads at once'
            try:
                self.called.append(name)
                if name not in self.failing:
                    return value(*args)
                if name == 'cudaStreamEndCapture':
                    self.captured = None  # as the real one does
                return REFUSED, None
            finally:
                self._busy.release()

        return call

    def _make(self, thing: Any) -> int:
        self._count += 1
        self.alive[self._count] = thing
        return self._count

    def _free(self, handle: int) -> tuple[int]:
        del self.alive[handle]  # a KeyError is a double free
        return (0,)

    def add(self, work: Callable[[], None]) -> None:
        """Queue work on the stream, or on the graph that is being captured."""
        (self.queue if self.captured is None else self.captured).append(work)

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return 0, 1

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, b'as the test asked for'

    def cudaGetLastError(self) -> tuple[int]:
        return (0,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        major, minor = self.compute
        return 0, SimpleNamespace(
            name=b'Pretended\0\0', major=major, minor=minor, multiProcessorCount=16
        )

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        assert attribute == 18
        return 0, int(self.integrated)

    def _allocate(self, size: int) -> tuple[int, int]:
        memory = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(memory)
        self.alive[address] = memory
        return 0, address

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        assert flags == (self.cudaHostAllocMapped if self.integrated else 0)
        return self._allocate(size)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._allocate(size)

    def cudaHostGetDevicePointer(self, address: int, flags: int) -> tuple[int, int]:
        assert self.integrated and address in self.alive
        return 0, address

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[int]:
        assert kind in (1, 2) and stream in self.alive
        self.add(lambda: ctypes.memmove(target, source, size) and None)
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == self.cudaStreamNonBlocking
        return 0, self._make('stream')

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert self.captured is None and stream in self.alive
        while self.queue:
            self.queue.pop(0)()
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        assert not self.queue
        self.captured = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        assert self.captured is not None
        graph, self.captured = self._make(self.captured), None
        return 0, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        return 0, self._make(list(self.alive[graph]))

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        self.queue += self.alive[graph]
        return (0,)

    cudaFree = cudaFreeHost = cudaStreamDestroy = cudaGraphDestroy = cudaGraphExecDestroy = _free


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


class IProgressMonitor:
    pass


class TensorRT:
    """The part of the tensorrt module that the engine and the builder use.

    Attributes:
        refuse: what fails: `run`, `capture`, `parse` or `build`.
        configs: configurations of the builds, in order.
        networks: networks of the builds, each with its `flags` and `content`, an ONNX model.
    """

    ILogger = ILogger
    TensorIOMode = SimpleNamespace(INPUT='in', OUTPUT='out')
    DeviceType = SimpleNamespace(DLA='dla')
    num_DLA_cores = 2

    def __init__(self, cuda: Cuda, version: str) -> None:
        major = int(version.partition('.')[0])
        self.__version__ = version
        self.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
        self.BuilderFlag = SimpleNamespace(GPU_FALLBACK='gpu_fallback')
        if major >= 10:
            self.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
            self.IProgressMonitor = IProgressMonitor
        if major <= 10:
            self.BuilderFlag.FP16, self.BuilderFlag.INT8 = 'fp16', 'int8'
        self.cuda = cuda
        self.refuse = ''
        self.configs: list[Any] = []
        self.networks: list[Any] = []

    def Runtime(self, logger: Any) -> Any:
        def deserialize_cuda_engine(blob: bytes) -> Any:
            try:
                height, width = json.loads(blob)['size']
            except ValueError:
                logger.log(Severity.ERROR, 'magic tag does not match')
                return None
            return PretendedEngine(self, logger, height, width)

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)

    def Builder(self, logger: Any) -> Any:
        def create_network(flags: int) -> Any:
            self.networks.append(SimpleNamespace(flags=flags, content=b''))
            return self.networks[-1]

        def create_builder_config() -> Any:
            flags: list[str] = []
            caches: list[Any] = []

            def set_timing_cache(timing: Any, ignore_mismatch: bool) -> bool:
                caches.append(timing)
                return not ignore_mismatch

            self.configs.append(SimpleNamespace(
                flags=flags, set_flag=flags.append, set_timing_cache=set_timing_cache,
                create_timing_cache=lambda blob: SimpleNamespace(
                    blob=blob, serialize=lambda: blob + b'timings '
                ),
                get_timing_cache=lambda: caches[-1],
            ))
            return self.configs[-1]

        def build_serialized_network(network: Any, config: Any) -> bytes | None:
            if self.refuse == 'build':
                logger.log(Severity.ERROR, 'no kernel for this GPU')
                return None
            if hasattr(config, 'progress_monitor'):
                config.progress_monitor.phase_start('Timing', None, 4)
                assert config.progress_monitor.step_complete('Timing', 0)
                config.progress_monitor.phase_finish('Timing')
            return plan_blob(network.content)

        return SimpleNamespace(
            create_network=create_network, create_builder_config=create_builder_config,
            build_serialized_network=build_serialized_network, num_DLA_cores=self.num_DLA_cores,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        def parse(content: bytes) -> bool:
            network.content = content
            return self.refuse != 'parse'

        return SimpleNamespace(
            parse=parse, get_error=lambda index: SimpleNamespace(desc=lambda: 'unknown operator')
        )


def plan_blob(content: bytes) -> bytes:
    """Return the simulated plan of a serialised ONNX model."""
    import onnx

    sides = onnx.ModelProto.FromString(content).graph.input[0].type.tensor_type.shape.dim
    return json.dumps({'size': [side.dim_value for side in sides[1:3]]}).encode()


class PretendedEngine:
    """ICudaEngine and IExecutionContext in one."""

    def __init__(self, trt: TensorRT, logger: Any, height: int, width: int) -> None:
        self.trt, self.logger = trt, logger
        self.shapes = {
            'image': (1, height, width, 3), 'class_ids': (1, height, width),
            'confidence': (1, height, width),
        }
        self.num_io_tensors = 3
        self.addresses: dict[str, int] = {}

    def create_execution_context(self) -> 'PretendedEngine':
        return self

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name='UINT8')

    def get_tensor_mode(self, name: str) -> str:
        return 'in' if name == 'image' else 'out'

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.trt.cuda.alive

    def execute_async_v3(self, stream: int) -> bool:
        capturing = self.trt.cuda.captured is not None
        if self.trt.refuse == ('capture' if capturing else 'run'):
            self.logger.log(Severity.ERROR, 'enqueue refused')
            return False
        self.trt.cuda.add(self._run)
        return True

    def _run(self) -> None:
        arrays = {}
        for name, shape in self.shapes.items():
            assert self.addresses[name] in self.trt.cuda.alive, 'use after free'
            memory = (ctypes.c_uint8 * int(np.prod(shape))).from_address(self.addresses[name])
            arrays[name] = np.ctypeslib.as_array(memory).reshape(shape)
        arrays['class_ids'][:] = arrays['image'][..., 0]
        arrays['confidence'][:] = np.maximum(arrays['image'][..., 1], 1)


def install_cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Make imports of cuda-python find the simulation."""
    cuda = Cuda()
    modules = {name: ModuleType(name) for name in ('cuda', 'cuda.bindings')}
    modules['cuda.bindings'].runtime = cuda  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return cuda


def install(monkeypatch: pytest.MonkeyPatch, version: str = VERSION) -> TensorRT:
    """Make imports of TensorRT, TensorRT for RTX and cuda-python find the simulation."""
    from mnv2_perception.engines import tensorrt_api as ours

    trt = TensorRT(install_cuda(monkeypatch), version)
    for name in ('tensorrt', 'tensorrt_rtx_bindings'):
        monkeypatch.setitem(sys.modules, name, trt)
    ours.trt_logger.cache_clear()
    ours.ERRORS.clear()
    return trt
