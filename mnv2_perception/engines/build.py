"""From an ONNX file to a TensorRT plan in the cache folder: `mnv2 build`."""

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
                tell(exc, f'the plan of {len(blob) / 1e6:.0f} MB was built, but could not be '
                          f'stored')
        return plan


def built(path: Path, builder: PlanBuilder, level: int) -> Plan | None:
    """Return the plan at a path if there is one that deserialises; log why it does not."""
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
