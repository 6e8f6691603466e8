"""TensorRT plans on disk: what each was built from, where it is, and who may write it.

A plan fits one ONNX file, TensorRT version and GPU; a plan of TensorRT for RTX several GPUs. The
JSON beside it says which. It is written last: without it, the writer of the plan was killed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from mnv2_perception.engines.weights import weights_beside
from mnv2_perception.errors import command_name, EngineError, with_home

NO_HOME = Path('/nonexistent')  # Debian's name for it
BUILDER = 2  # to be raised when engines.builders makes something else of the same file
PRECISIONS = ('fp32', 'fp16', 'int8')
RTX = 'tensorrt_rtx'  # name of the engine
RTX_VERSION = 'RTX '  # prefix of its version

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanKey:
    """Everything that decides whether a plan fits.

    Attributes:
        onnx_sha256: sha256 of the ONNX file, hexadecimal.
        tensorrt: version of TensorRT; a plan loads in no other. `RTX 1.7.1` is TensorRT for RTX.
        gpu: name, compute capability and number of multiprocessors; for RTX `SM86 SM89`.
        precision: one of PRECISIONS.
        shapes: shapes of the inputs, such as `image 1x256x512x3`.
        dla: number of the DLA core, None for the GPU alone.
        builder: version of the builder, BUILDER.
    """

    onnx_sha256: str
    tensorrt: str
    gpu: str
    precision: str
    shapes: tuple[str, ...]
    dla: int | None = None
    builder: int = BUILDER

    @property
    def batch(self) -> int:
        """Number of images in one inference."""
        return int(self.shapes[0].split()[-1].partition('x')[0])

    @property
    def engine(self) -> str:
        """The name of the engine that opens the plan."""
        return RTX if self.tensorrt.startswith(RTX_VERSION) else 'tensorrt'

    def serves(self, tensorrt: str, gpu: str) -> bool:
        """Tell whether the plan loads in this version of TensorRT, on this GPU."""
        gpus = self.gpu.split() if self.engine == RTX else [self.gpu]
        return (self.tensorrt, self.builder) == (tensorrt, BUILDER) and gpu in gpus

    def file_name(self, model: Path) -> str:
        """Return the plan's file name: the model's name, the precision and a digest of the key."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f'{model.stem}-{self.precision}-{digest[:16]}.plan'


@dataclass(frozen=True)
class Plan:
    """A serialised engine, and what is known about it.

    Attributes:
        key: what it was built for.
        metadata: key-value pairs of the ONNX file.
        spec: the entries that hold the ModelSpec, from the file or from the YAML beside it.
        built: time of the build, ISO 8601.
        blob: the bytes that TensorRT deserialises.
    """

    key: PlanKey
    metadata: Mapping[str, str]
    spec: Mapping[str, str]
    built: str
    blob: bytes


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/mnv2_perception/plans, by default below ~/.cache.

    For a user without a home nothing is stored: in a folder for all, strangers could place plans.
    """
    cache = Path(os.environ.get('XDG_CACHE_HOME') or with_home('~/.cache'))
    return (NO_HOME if cache.parts[0] == '~' else cache) / 'mnv2_perception/plans'


def build_command(
    model: Path, key: PlanKey | None = None, engine: str = 'tensorrt', gpu: str = ''
) -> str:
    """Return the command that builds a model's plan for an engine, or builds one again.

    Args:
        model: path of the .onnx file.
        key: key of the plan to build again, if any.
        engine: engine that is to open it.
        gpu: GPU that it is for, if the engine is RTX's.
    """
    words = [command_name(), 'build', str(model)]
    words += ['--rtx', '--gpu', gpu] if engine == RTX else []
    if key:
        words += ['--precision', key.precision]
        if key.batch != 1:
            words += ['--batch', str(key.batch)]
        if key.dla is not None:
            words += ['--dla', str(key.dla)]
    return ' '.join(words)


def sha256(path: Path) -> str:
    """Return a file's sha256, hexadecimal; for an ONNX file including the weights beside it.

    An ONNX file may only name the files of its weights: then it is the same, byte for byte, after
    a training that changed nothing else.
    """
    digest = hashlib.sha256()
    for file in [path, *filter(Path.is_file, weights_beside(path))]:
        with file.open('rb') as part:
            while block := part.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_plan(path: Path) -> Plan:
    """Read a plan and the JSON beside it.

    Raises:
        EngineError: one of the two is missing or damaged.
    """
    facts = read_facts(path.with_suffix('.json'))
    try:
        blob = path.read_bytes()
    except OSError as exc:
        raise EngineError(f'{path}: cannot be read: {exc.strerror}') from exc
    # TensorRT reads a damaged plan without complaint, even beyond its end.
    if hashlib.sha256(blob).hexdigest() != facts['plan_sha256']:
        raise EngineError(f'{path}: is damaged: its sha256 is not the one in the JSON beside it')
    return Plan(facts['key'], facts['metadata'], facts['spec'], facts['built'], blob)


def read_facts(path: Path) -> dict[str, Any]:
    """Read the JSON beside a plan; its `key` is returned as PlanKey.

    Raises:
        EngineError: it is missing or damaged.
    """
    try:
        facts = json.loads(path.read_text(encoding='utf-8'))
        key = facts['key']
        facts['key'] = PlanKey(**{**key, 'shapes': tuple(key['shapes'])})
        missing = {'metadata', 'spec', 'built', 'plan_sha256'} - set(facts)
    except OSError as exc:
        raise EngineError(f'{path}: cannot be read: {exc.strerror}') from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise EngineError(f'{path}: is damaged: {exc}') from exc
    if missing:
        raise EngineError(f'{path}: is damaged: {", ".join(sorted(missing))} missing')
    return dict(facts)


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan, then the JSON beside it, each completely or not at all.

    Raises:
        OSError: the folder cannot be written, or is full.
    """
    facts = {
        'key': asdict(plan.key), 'plan_sha256': hashlib.sha256(plan.blob).hexdigest(),
        'built': plan.built, 'metadata': dict(plan.metadata), 'spec': dict(plan.spec),
    }
    path.with_suffix('.json').unlink(missing_ok=True)
    write_whole(path, plan.blob)
    write_whole(path.with_suffix('.json'), json.dumps(facts, indent=2).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half-written, not even after a power cut.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    partial = path.with_name(f'{path.name}.partial')
    try:
        with partial.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def plans_of(model: Path, folder: Path) -> list[tuple[Path, PlanKey]]:
    """Return path and key of each plan that was built from a file, the newest first."""
    if not folder.is_dir():
        return []
    digest = sha256(model)
    found = []
    for path in folder.glob('*.json'):
        try:
            facts = read_facts(path)
        except EngineError as exc:
            logger.debug('%s', exc)
            continue
        if facts['key'].onnx_sha256 == digest:
            found.append((facts['built'], path.with_suffix('.plan'), facts['key']))
    return [(path, key) for _, path, key in sorted(found, key=lambda item: item[0], reverse=True)]


def choose_plan(model: Path, folder: Path, tensorrt: str, gpu: str) -> tuple[Path, PlanKey]:
    """Return path and key of the newest plan that fits this machine.

    Raises:
        EngineError: there is none; the message says which others there are.
    """
    found = plans_of(model, folder)
    for path, key in found:
        if key.serves(tensorrt, gpu):
            return path, key
    there = ', '.join(f'TensorRT {key.tensorrt} on {key.gpu}' for _, key in found)
    raise EngineError(
        f'{model}: {folder} has no plan of it for TensorRT {tensorrt} on {gpu}'
        + (f', only for {there}' if there else '')
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a plan's file: only one process at a time builds it.

    The kernel releases the lock of a process that is killed. The lock file is never removed,
    because then two processes could hold two locks of the same name.

    Raises:
        OSError: the folder cannot be written.
    """
    import fcntl  # some systems have no fcntl; there, engines work without plans

    with path.with_suffix('.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info('%s is being built by another process: waiting for it', path.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
