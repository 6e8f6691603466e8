"""Build plans of graphs: TensorRT for the GPU of this machine, TensorRT for RTX for any."""

from collections.abc import Sequence
import logging
from pathlib import Path
import re
from typing import Any, TYPE_CHECKING

from mnv2_perception.engines import plans
from mnv2_perception.engines import tensorrt_api as runtime
from mnv2_perception.engines.build import Progress
from mnv2_perception.engines.graph import precision_of, to_fp16
from mnv2_perception.engines.plans import PlanKey
from mnv2_perception.engines.quantize import grouped_layers, leave_in_float
from mnv2_perception.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt

# Compute capabilities that TensorRT for RTX supports; Turing's (SM75) makes large plans.
RTX_GPUS = ('SM75', 'SM80', 'SM86', 'SM89', 'SM120', 'SM121')
RTX_DEFAULT = RTX_GPUS[1:]

logger = logging.getLogger(__name__)


class TensorRTBuilder:
    """Builds plans with the TensorRT and for the GPU of this machine.

    Args:
        model: path of the model, for errors.
        folder: folder of the plans.
        timing_cache: file of kernel timings that builds share; None: one in the folder.

    Raises:
        EngineError: TensorRT, cuda-python, onnx or the GPU is missing.
    """

    tensorrt: str
    gpu: str

    def __init__(self, model: Path, folder: Path, timing_cache: Path | None = None) -> None:
        self._model = model
        self._module = runtime.load(model, 'tensorrt', building=True)
        self.tensorrt = self._module.__version__
        self.gpu = runtime.gpu_name('tensorrt')
        name = re.sub(r'[^\w.]+', '-', f'timing {self.tensorrt} {self.gpu}')
        self._timing_cache = timing_cache or folder / f'{name}.cache'

    def loads(self, blob: bytes, dla: int | None) -> bool:
        """Tell whether a plan can be deserialised."""
        return runtime.deserialise(self._module, blob, dla) is not None

    def parse(
        self, builder: 'trt.Builder', proto: Any, key: PlanKey
    ) -> 'trt.INetworkDefinition':
        """Return TensorRT's network of an onnx.ModelProto.

        Raises:
            EngineError: TensorRT refuses the graph.
        """
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self._module
        has_typing = hasattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED')  # since 10
        typed = self._is_typed(key)
        if not has_typing:
            flags = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        else:
            flags = typed << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        # Without strong typing flags set the precision: fp16, or int8 with the rest in fp16.
        if typed and (key.precision, precision_of(proto)) in (('fp16', 'fp32'), ('int8', 'int8')):
            proto = to_fp16(proto)
        parser = trt.OnnxParser(network, runtime.trt_logger(trt))
        if not parser.parse(proto.SerializeToString()):
            error: trt.ParserError = parser.get_error(0)
            raise EngineError(f'{self._model}: TensorRT cannot read it: {error.desc()}')
        return network

    def _is_typed(self, key: PlanKey) -> bool:
        """Tell whether the graph sets the precision; otherwise builder flags do."""
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self._module
        has_typing = hasattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED')
        has_flags = hasattr(trt.BuilderFlag, 'FP16')  # until 10
        # A DLA takes its precision from the flag as long as there is one.
        return has_typing and not (has_flags and key.dla is not None)

    def build(self, proto: Any, key: PlanKey, progress: Progress) -> bytes:
        """Return the plan of an onnx.ModelProto.

        Raises:
            EngineError: TensorRT refuses the graph, or this machine does not have the DLA core.
        """
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self._module
        has_flags = hasattr(trt.BuilderFlag, 'FP16')
        typed = self._is_typed(key)
        builder = trt.Builder(runtime.trt_logger(trt))
        network = self.parse(builder, proto, key)
        config = builder.create_builder_config()
        if has_flags and not typed:
            if key.precision in ('fp16', 'int8'):
                config.set_flag(trt.BuilderFlag.FP16)
            if key.precision == 'int8':
                config.set_flag(trt.BuilderFlag.INT8)
        if key.dla is not None:
            if not 0 <= key.dla < builder.num_DLA_cores:
                raise EngineError(
                    f'{self._model}: DLA core {key.dla} was requested, but {self.gpu} has '
                    f'{builder.num_DLA_cores} DLA cores with TensorRT {self.tensorrt}; leave out '
                    f'--dla'
                )
            config.default_device_type = trt.DeviceType.DLA
            config.DLA_core = key.dla
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        monitor = watch(trt, config, progress)
        self._prepare(config)
        blob = builder.build_serialized_network(network, config)
        del monitor
        if blob is None:
            raise EngineError(f'{self._model}: cannot be built: {runtime.last_errors()}')
        self._keep(config)
        return to_bytes(blob)

    def _prepare(self, config: 'trt.IBuilderConfig') -> None:
        """Let the build reuse the kernel timings of earlier builds."""
        try:
            timings = self._timing_cache.read_bytes()
        except OSError:
            timings = b''
        timing_cache = config.create_timing_cache(timings)
        if not timing_cache or not config.set_timing_cache(timing_cache, ignore_mismatch=False):
            logger.info('%s: cannot be used here; starting a new one', self._timing_cache)
            timing_cache = config.create_timing_cache(b'')
            config.set_timing_cache(timing_cache, ignore_mismatch=False)

    def _keep(self, config: 'trt.IBuilderConfig') -> None:
        """Store the kernel timings for the next build."""
        try:
            with plans.locked(self._timing_cache):
                plans.write_whole(
                    self._timing_cache, to_bytes(config.get_timing_cache().serialize())
                )
        except OSError as exc:
            logger.info('%s: could not be stored: %s', self._timing_cache, exc.strerror)


class RtxBuilder(TensorRTBuilder):
    """Builds plans with TensorRT for RTX on any machine: it needs no GPU, and times nothing.

    Args:
        model: path of the model, for errors.
        gpus: compute capabilities of the GPUs that the plan is for, some of RTX_GPUS.

    Raises:
        EngineError: TensorRT for RTX or onnx is missing, or it does not support one of the GPUs.
    """

    def __init__(self, model: Path, gpus: Sequence[str] = RTX_DEFAULT) -> None:
        self._model = model
        self._module = runtime.load(model, plans.RTX, building=True, running=False)
        self._gpus = tuple(gpus)
        check_gpus(model, gpus)
        self.tensorrt = f'{plans.RTX_VERSION}{self._module.__version__}'
        self.gpu = ' '.join(gpus)

    def loads(self, blob: bytes, dla: int | None) -> bool:
        """Tell whether a plan is complete; only on its GPU could more be told."""
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self._module
        has_targets = hasattr(trt, 'ComputeCapability')  # only RTX has this
        if has_targets:
            reader = trt.Runtime(runtime.trt_logger(trt))
            _, problems = reader.get_engine_validity(blob)
            return not problems & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
        return False

    def parse(
        self, builder: 'trt.Builder', proto: Any, key: PlanKey
    ) -> 'trt.INetworkDefinition':
        """Return TensorRT's network of an onnx.ModelProto, its grouped convolutions in float.

        In int8 the library pads each group to 32 × 32 channels: a depthwise layer would have 1024
        times its weights.
        """
        if grouped := grouped_layers(proto):
            logger.info('%s: %d grouped layers stay float', self._model.name, len(grouped))
            proto = leave_in_float(proto, grouped)
        return super().parse(builder, proto, key)

    def _prepare(self, config: 'trt.IBuilderConfig') -> None:
        """Set the GPUs that the plan is for."""
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self._module
        has_targets = hasattr(trt, 'ComputeCapability')
        if has_targets:
            config.num_compute_capabilities = len(self._gpus)
            for index, gpu in enumerate(self._gpus):
                target = trt.ComputeCapability.__members__[gpu]
                if not config.set_compute_capability(target, index):
                    raise EngineError(f'{self._model}: cannot be built for {self.gpu}: '
                                      f'{runtime.last_errors()}')

    def _keep(self, config: 'trt.IBuilderConfig') -> None:
        """Store nothing: there are no timings."""


def check_gpus(model: Path, gpus: Sequence[str]) -> None:
    """Refuse compute capabilities that TensorRT for RTX does not support.

    Raises:
        EngineError: one of them is not supported.
    """
    if unknown := set(gpus) - set(RTX_GPUS):
        raise EngineError(
            f'{model}: TensorRT for RTX supports {", ".join(RTX_GPUS)}, got '
            f'{", ".join(sorted(unknown))}; use engine tensorrt for the others'
        )


def watch(module: Any, config: 'trt.IBuilderConfig', progress: Progress) -> Any:
    """Keep `progress.step` up to date if TensorRT reports it; return an object to keep alive."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module
    has_monitor = hasattr(trt, 'IProgressMonitor')  # since 10
    if has_monitor:

        class Monitor(trt.IProgressMonitor):
            """Shows the innermost phase; TensorRT calls it from threads of its own."""

            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self._steps: dict[str, int] = {}

            def phase_start(
                self, phase_name: str, parent_phase: str | None, num_steps: int
            ) -> None:
                self._steps[phase_name] = num_steps

            def step_complete(self, phase_name: str, step: int) -> bool:
                steps = self._steps.get(phase_name, '?')
                progress.step = f', {phase_name} {step + 1} of {steps}'
                return True

            def phase_finish(self, phase_name: str) -> None:
                self._steps.pop(phase_name, None)

        config.progress_monitor = Monitor()
        return config.progress_monitor
    return None


def to_bytes(memory: Any) -> bytes:
    """Return a copy of the content of an IHostMemory."""
    return bytes(memoryview(memory))
