"""Build a TensorRT plan of an ONNX file in the cache folder: `mnv2 build`."""

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
import logging
from pathlib import Path
import threading
import time
from typing import Any, Protocol

from mnv2_perception.engines import plans
from mnv2_perception.engines.graph import fix_batch, precision_of, read_onnx
from mnv2_perception.engines.plans import Plan, PlanKey
from mnv2_perception.errors import command_name, EngineError
from mnv2_perception.model_spec import ModelSpec

PERIOD_S = 5.0  # a running build logs at least this often

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of a plan.

    Attributes:
        precision: one of plans.PRECISIONS; empty: that of the file, but fp16 for fp32 weights.
        dla: number of the DLA core, None for the GPU alone. Untested on a DLA.
        batch: number of images in one inference, for a file that leaves it open or takes any.
    """

    precision: str = ''
    dla: int | None = None
    batch: int = 1


class Progress:
    """Logs periodically that a build is under way, and its present step.

    Args:
        what: name of what is being built.
        period_s: time between two lines, in seconds.
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
        logger.info('%s: building a TensorRT plan; on a GPU this takes minutes, but only '
                    'once', self._what)
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        if exc_type is None:
            logger.info('%s: built in %.0f s', self._what, self._elapsed_s())


class PlanBuilder(Protocol):
    """Builds plans for one TensorRT version and GPU."""

    tensorrt: str
    gpu: str

    def build(self, proto: Any, key: PlanKey, progress: Progress) -> bytes:
        """Return the plan of an onnx.ModelProto.

        Raises:
            EngineError: it cannot be built.
        """

    def loads(self, blob: bytes, dla: int | None) -> bool:
        """Tell whether a plan can be deserialised."""


def build_plan(
    model: Path, options: Options, folder: Path, builder: PlanBuilder, keep: bool = True
) -> Plan:
    """Return a model's plan, from the folder if it is there, otherwise built and stored there.

    If two processes need the same plan, one builds it and the other waits.

    Args:
        model: path of the .onnx file.
        options: options of the plan.
        folder: folder of the plans; created if it is missing.
        builder: builder of the plan.
        keep: whether to fail if the plan cannot be written; otherwise this is only logged.

    Raises:
        ModelError: the file is not an ONNX model, or its ModelSpec is missing.
        EngineError: the options do not fit the file, or the plan cannot be built or written.
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
            raise EngineError(
                f'{text}; free some space there, or choose another folder with --cache'
            ) from exc
        logger.warning('%s; only this process uses the plan', text)

    with ExitStack() as stack:
        if plan := built(path, builder, logging.DEBUG):
            logger.info('%s: already exists', path)
            return plan
        writable = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(plans.locked(path))
        except OSError as exc:
            writable = False
            tell(exc, 'plans cannot be stored there')
        if plan := built(path, builder, logging.WARNING):  # another process built it meanwhile
            return plan
        with Progress(f'{model.name} ({precision})') as progress:
            blob = builder.build(proto, key, progress)
        now = datetime.now(timezone.utc).isoformat(timespec='milliseconds')
        plan = Plan(key, metadata, spec, now, blob)
        if writable:
            try:
                plans.write_plan(path, plan)
            except OSError as exc:
                tell(exc, f'the plan of {len(blob) / 1e6:.0f} MB was built, but could not be '
                          f'stored')
        return plan


def built(path: Path, builder: PlanBuilder, level: int) -> Plan | None:
    """Return the plan at a path if it exists and deserialises; otherwise log why not."""
    if not path.exists():
        return None
    try:
        plan = plans.read_plan(path)
        if builder.loads(plan.blob, plan.key.dla):
            return plan
        logger.log(level, '%s: cannot be loaded; building it again', path)
    except EngineError as exc:
        logger.log(level, '%s; building it again', exc)
    return None


def choose_precision(model: Path, given: str, options: Options) -> str:
    """Return the precision of the plan.

    Args:
        model: path of the model, for errors.
        given: precision of the file, one of plans.PRECISIONS.
        options: options of the plan.

    Raises:
        EngineError: the file cannot be converted to the requested precision.
    """
    wanted = options.precision or ('fp16' if given == 'fp32' else given)
    if wanted not in plans.PRECISIONS:
        raise EngineError(f'precision is {wanted!r}, expected one of {plans.PRECISIONS}')
    if wanted == 'int8' and given != 'int8':
        raise EngineError(
            f'{model}: has float weights, but int8 needs a quantised model; make one first: '
            f'{command_name()} quantize {model}'
        )
    if options.dla is not None and wanted != 'fp16':
        reason = 'refuses Q/DQ nodes' if given == 'int8' else 'computes in fp16'
        raise EngineError(f'{model}: the DLA {reason}, {wanted} cannot run there; build the float '
                          f'file with --precision fp16')
    if wanted != given and given != 'fp32':
        raise EngineError(
            f'{model}: is {given}, but {wanted} was requested; build the float model it was made '
            f'from'
        )
    return wanted
