"""From an ONNX file to a TensorRT plan in the cache folder: `mnv2 build`."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
import logging
from pathlib import Path
import re
import threading
import time
from typing import Any, Protocol, TYPE_CHECKING

from mnv2_perception.engines import plans
from mnv2_perception.engines import tensorrt_api as runtime
from mnv2_perception.engines.graph import fix_batch, precision_of, read_onnx, to_fp16
from mnv2_perception.engines.plans import Plan, PlanKey
from mnv2_perception.engines.quantize import grouped_layers, leave_in_float
from mnv2_perception.errors import command_name, EngineError
from mnv2_perception.model_spec import ModelSpec

if TYPE_CHECKING:
    import tensorrt as trt

# Compute capabilities that TensorRT for RTX builds for; Turing's (SM75) makes large plans.
RTX_GPUS = ('SM75', 'SM80', 'SM86', 'SM89', 'SM120', 'SM121')
RTX_DEFAULT = RTX_GPUS[1:]
PERIOD_S = 5.0  # a build that runs says so at least as often

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a plan is to be.

    Attributes:
        precision: one of plans.PRECISIONS; empty: what the file holds, fp16 for float weights.
        dla: number of the DLA core, None for the GPU alone. Untested on a DLA.
        batch: images in one inference, for a file that leaves it open or takes any number.
    """

    precision: str = ''
    dla: int | None = None
    batch: int = 1


class Progress:
    """Logs every PERIOD_S seconds that a build is under way, and what it does.

    Args:
        what: is being built.
        period_s: between two lines.
    """

    def __init__(self, what: str, period_s: float = PERIOD_S) -> None:
        self.step = ''
        self._start_s = time.monotonic()
        self._what = what
        self._period_s = period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name='progress', daemon=True)

    def _tick(self) -> None:
        while not self._ended.wait(self._period_s):
            logger.info('%s: building for %.0f s%s', self._what, self._elapsed_s(), self.step)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._start_s

    def __enter__(self) -> 'Progress':
        self._start_s = time.monotonic()
        logger.info('%s: building a TensorRT plan; on a GPU this takes minutes, once', self._what)
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        if exc_type is None:
            logger.info('%s: built in %.0f s', self._what, self._elapsed_s())


class PlanBuilder(Protocol):
    """What makes plans, for one TensorRT version and GPU."""

    tensorrt: str
    gpu: str

    def build(self, proto: Any, key: PlanKey, progress: Progress) -> bytes:
        """Return the plan of an onnx.ModelProto.

        Raises:
            EngineError: it cannot be built.
        """

    def loads(self, blob: bytes, dla: int | None) -> bool:
        """Tell whether a plan deserialises."""


def build_plan(
    model: Path, options: Options, folder: Path, builder: PlanBuilder, keep: bool = True
) -> Plan:
    """Return a model's plan, from the folder if it is there, else built and written there.

    Of two processes that ask for the same plan one builds it and the other waits.

    Args:
        model: the .onnx file.
        options: what the plan is to be.
        folder: where plans are kept; made if it is missing.
        builder: what makes it.
        keep: fail when the plan cannot be written; else this is only logged.

    Raises:
        ModelError: the file is no ONNX model, or its ModelSpec is missing.
        EngineError: the options do not fit the file, TensorRT cannot build it, or it cannot be
            written.
    """
    proto = read_onnx(model)
    precision = choose_precision(model, precision_of(proto), options)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    spec = ModelSpec.from_metadata(metadata, model).to_metadata()
    shapes = fix_batch(proto, options.batch, model)
    key = PlanKey(
        plans.sha256(model), builder.tensorrt, builder.gpu, precision, shapes, options.dla
    )
    path = folder / key.file_name(model)

    def tell(exc: OSError, what: str) -> None:
        text = f'{folder}: {what} ({exc.strerror or exc})'
        if keep:
            raise EngineError(f'{text}; make room there, or choose another with --cache') from exc
        logger.warning('%s; the plan serves this process only', text)

    with ExitStack() as stack:
        if plan := built(path, builder, logging.DEBUG):
            logger.info('%s: is there already', path)
            return plan
        writable = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(plans.locked(path))
        except OSError as exc:
            writable = False
            tell(exc, 'plans cannot be kept there')
        if plan := built(path, builder, logging.WARNING):  # by another process meanwhile
            return plan
        with Progress(f'{model.name} ({precision})') as progress:
            blob = builder.build(proto, key, progress)
        now = datetime.now(timezone.utc).isoformat(timespec='milliseconds')
        plan = Plan(key, metadata, spec, now, blob)
        if writable:
            try:
                plans.write_plan(path, plan)
            except OSError as exc:
                tell(exc, f'the plan of {len(blob) / 1e6:.0f} MB was built, but not kept')
        return plan


def built(path: Path, builder: PlanBuilder, level: int) -> Plan | None:
    """Return the plan at a path if there is one that deserialises; log why it does not."""
    if not path.exists():
        return None
    try:
        plan = plans.read_plan(path)
        if builder.loads(plan.blob, plan.key.dla):
            return plan
        logger.log(level, '%s: does not deserialise; it is built again', path)
    except EngineError as exc:
        logger.log(level, '%s; it is built again', exc)
    return None


def choose_precision(model: Path, given: str, options: Options) -> str:
    """Return the plan's precision.

    Args:
        model: for errors.
        given: what the file holds, one of plans.PRECISIONS.
        options: what is asked for.

    Raises:
        EngineError: the file cannot become that.
    """
    wanted = options.precision or ('fp16' if given == 'fp32' else given)
    if wanted not in plans.PRECISIONS:
        raise EngineError(f'precision is {wanted!r}, expected one of {plans.PRECISIONS}')
    if wanted == 'int8' and given != 'int8':
        raise EngineError(
            f'{model}: has float weights, int8 needs quantised ones; make them first: '
            f'{command_name()} quantize {model}'
        )
    if options.dla is not None and wanted != 'fp16':
        reason = 'refuses Q/DQ nodes' if given == 'int8' else 'computes in fp16'
        raise EngineError(f'{model}: the DLA {reason}, {wanted} cannot run there; build the float '
                          f'file with --precision fp16')
    if wanted != given and given != 'fp32':
        raise EngineError(
            f'{model}: holds {given}, {wanted} was asked for; build the float file it was made of'
        )
    return wanted


class TensorRTBuilder:
    """Builds plans with the TensorRT and the GPU of this machine.

    Args:
        model: for errors.
        folder: of the plans.
        timing_cache: file of kernel timings that builds share; None for one in the folder.

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
        """Tell whether a plan deserialises."""
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
        if typed and key.precision == 'fp16' and precision_of(proto) == 'fp32':
            proto = to_fp16(proto)
        parser = trt.OnnxParser(network, runtime.trt_logger(trt))
        if not parser.parse(proto.SerializeToString()):
            error: trt.ParserError = parser.get_error(0)
            raise EngineError(f'{self._model}: TensorRT cannot read it: {error.desc()}')
        return network

    def _is_typed(self, key: PlanKey) -> bool:
        """Tell whether the precision lies in the graph; else flags tell it."""
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
            EngineError: TensorRT refuses the graph, or this machine has no such DLA.
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
                    f'{self._model}: DLA {key.dla} was asked for, {self.gpu} has '
                    f'{builder.num_DLA_cores} with TensorRT {self.tensorrt}; leave out --dla'
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
        """Let the build start from the timings of those before."""
        try:
            timings = self._timing_cache.read_bytes()
        except OSError:
            timings = b''
        timing_cache = config.create_timing_cache(timings)
        if not timing_cache or not config.set_timing_cache(timing_cache, ignore_mismatch=False):
            logger.info('%s: is of no use here; it starts afresh', self._timing_cache)
            timing_cache = config.create_timing_cache(b'')
            config.set_timing_cache(timing_cache, ignore_mismatch=False)

    def _keep(self, config: 'trt.IBuilderConfig') -> None:
        """Keep the timings for the next build."""
        try:
            with plans.locked(self._timing_cache):
                plans.write_whole(
                    self._timing_cache, to_bytes(config.get_timing_cache().serialize())
                )
        except OSError as exc:
            logger.info('%s: not kept: %s', self._timing_cache, exc.strerror)


class RtxBuilder(TensorRTBuilder):
    """Builds plans with TensorRT for RTX, on any machine: no GPU is needed, and nothing is timed.

    Args:
        model: for errors.
        gpus: compute capabilities of the GPUs that the plan is for, some of RTX_GPUS.

    Raises:
        EngineError: TensorRT for RTX or onnx is missing, or it knows no such GPU.
    """

    def __init__(self, model: Path, gpus: Sequence[str] = RTX_DEFAULT) -> None:
        self._model = model
        self._module = runtime.load(model, plans.RTX, building=True, running=False)
        self._gpus = tuple(gpus)
        if unknown := set(gpus) - set(RTX_GPUS):
            raise EngineError(
                f'{model}: TensorRT for RTX builds for {", ".join(RTX_GPUS)}, got '
                f'{", ".join(sorted(unknown))}; choose engine tensorrt there'
            )
        self.tensorrt = f'{plans.RTX_VERSION}{self._module.__version__}'
        self.gpu = ' '.join(gpus)

    def loads(self, blob: bytes, dla: int | None) -> bool:
        """Tell whether a plan is whole; only the GPU that it is for can tell more."""
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self._module
        has_targets = hasattr(trt, 'ComputeCapability')  # RTX alone
        if has_targets:
            reader = trt.Runtime(runtime.trt_logger(trt))
            _, problems = reader.get_engine_validity(blob)
            return not problems & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
        return False

    def parse(
        self, builder: 'trt.Builder', proto: Any, key: PlanKey
    ) -> 'trt.INetworkDefinition':
        """Return TensorRT's network of an onnx.ModelProto, its grouped convolutions in float.

        In int8 each group is padded to 32 × 32 channels: a depthwise layer of 960 would have
        1024 times its weights, and as many times the work.
        """
        if grouped := grouped_layers(proto):
            logger.info('%s: %d grouped layers stay float', self._model.name, len(grouped))
            proto = leave_in_float(proto, grouped)
        return super().parse(builder, proto, key)

    def _prepare(self, config: 'trt.IBuilderConfig') -> None:
        """Say which GPUs the plan is for."""
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
        """Keep nothing."""


def watch(module: Any, config: 'trt.IBuilderConfig', progress: Progress) -> Any:
    """Keep `progress.step` up to date where TensorRT tells; return what must live until then."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module
    has_monitor = hasattr(trt, 'IProgressMonitor')  # since 10
    if has_monitor:

        class Monitor(trt.IProgressMonitor):
            """Shows the innermost phase; TensorRT calls from threads of its own."""

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
    """Return a copy of an IHostMemory's content."""
    return bytes(memoryview(memory))
