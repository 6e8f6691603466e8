"""A recording through the machines of a Ray cluster, into the same file as without.

This process reads the recording, cuts it into slices of a few frames, and writes what comes back
in their order. The machines get frames as they were recorded, so none needs the recording. Ray
runs a slice again whose worker or machine was lost. https://docs.ray.io/en/latest/ray-core/tasks.html
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
import importlib.util
import os
from pathlib import Path
import socket
import sys
import time
from typing import Any, NamedTuple

from mnv2_perception.errors import BagError, EngineError, PerceptionError, SetupError
from mnv2_perception.replay.frames import Calibration, Frame, Item
from mnv2_perception.replay.models import open_tasks, Task
from mnv2_perception.replay.placing import Placer
from mnv2_perception.replay.run import Block, Run
from mnv2_perception.replay.work import Decoded, Found, Rejected, Work
from mnv2_perception.tasks.models import find_model

RAY = 'ray==2.60.0'
GPU_ENGINES = 'tensorrt', 'onnx_runtime_cuda', 'onnx_runtime_tensorrt'
SLICE_FRAMES = 16
SLICE_BYTES = 8 * 2**20
AHEAD = 2  # slices for each that is worked on
RETRIES = 3  # of a slice whose worker was lost
ANSWER_S = 5.0
# Ray takes minutes to say that nobody is there: a greeting that any gRPC server answers at once.
HTTP2_GREETING = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0'
HTTP2_SETTINGS = 4


@dataclass(frozen=True)
class Orders:
    """What the workers of a run open.

    Attributes:
        run: number of it, in this process.
        models: names, or absolute paths.
        opening: how, see `open_tasks`.
        facts: what must then be opened, see `Task`.
        placer: of the masks.
    """

    run: str
    models: Sequence[str]
    opening: Mapping[str, Any]
    facts: Sequence[Mapping[str, Any]]
    placer: Placer | None


class Piece(NamedTuple):
    """What a worker needs of an item: see there."""

    stamp_ns: int
    frame: Frame | None
    calibration: Calibration | None


class Done(NamedTuple):
    """What a worker returns of a slice.

    Attributes:
        results: of the frames of each block.
        inference_ms: of one frame, for each block.
        worker: machine and process.
    """

    results: list[list[Found | Rejected]]
    inference_ms: list[float]
    worker: str


class Slice(NamedTuple):
    """Blocks that a worker has, and Ray's name for what becomes of them."""

    blocks: list[Block]
    answer: Any


class Cluster:
    """A Ray cluster that this process is connected to, and whose workers open models.

    Args:
        address: HOST:PORT of one that this machine belongs to; empty takes that of RAY_ADDRESS, or
            one that runs here, or starts one here.
        stack: disconnects, and ends what was started.
        models: as on the command line.
        opening: how they were opened here; `threads` is also the CPUs of a worker.
        tasks: what was opened here, and what they must be there.
        placer: of the masks.

    Attributes:
        slots: how many slices are worked on at once.
        told: in words, what works.

    Raises:
        SetupError: Ray is not installed; there is no such cluster, or none of its machines has
            what a worker needs.
    """

    def __init__(
        self, address: str, stack: ExitStack, models: Sequence[str], opening: Mapping[str, Any],
        tasks: Sequence[Task], placer: Placer | None,
    ) -> None:
        if importlib.util.find_spec('ray') is None:
            raise SetupError(f"--ray needs Ray: pip install '{RAY}', or run `make setup-ray`")
        address = address or os.environ.get('RAY_ADDRESS', '')
        if address not in ('', 'auto', 'local'):
            check_address(address)
        # A cluster that is started here tells nobody of it, unless one is asked to.
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
        import ray

        self._ray = ray
        try:
            ray.init(
                address or None, include_dashboard=None if address else False,
                log_to_driver=False, logging_level='ERROR',
            )
        except Exception as exc:  # of many kinds: versions that differ, a token that lacks
            raise SetupError(
                f'--ray {address}: the cluster cannot be used ({one_line(exc)}); this machine '
                f'must belong to it (`ray start --address={address or "HOST:PORT"}`), with the '
                f'same Python, the same token and {RAY}'
            ) from exc
        stack.callback(ray.shutdown)
        cpus, gpus = opening['threads'], int(any(uses_gpu(task) for task in tasks))
        self.slots, machines = self._room(cpus, gpus)
        self.told = (
            f'{machines} machine{"s" * (machines != 1)}; {self.slots} slices of {SLICE_FRAMES} '
            f'frames at once, each on {cpus} CPU{"s" * (cpus != 1)}' + f' and {gpus} GPU' * gpus
        )
        orders = Orders(
            os.urandom(8).hex(),
            [str(find_model(name)) if Path(name).is_file() else name for name in models],
            opening, [task.facts for task in tasks], placer,
        )
        # In a list, a worker gets its name alone, and asks for it once.
        self._run, self._orders = orders.run, [ray.put(orders)]
        self._work_on = ray.remote(work_on).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES
        )
        self.answer(self.send(None, []), 'opening the models')

    def _room(self, cpus: int, gpus: int) -> tuple[int, int]:
        """Return how many tasks run at once, and on how many machines."""
        nodes = [node['Resources'] for node in self._ray.nodes() if node['Alive']]
        rooms = [
            int(min(node.get('CPU', 0) // cpus, node.get('GPU', 0) // gpus if gpus else 1e9))
            for node in nodes
        ]
        if not any(rooms):
            most = max((int(node.get('CPU', 0)) for node in nodes), default=0)
            cards = int(max((node.get('GPU', 0) for node in nodes), default=0))
            raise SetupError(
                f'--ray: no machine of the cluster has {cpus} CPUs and {gpus} GPUs, at most '
                f'{most} and {cards} on one; give a smaller --threads, or another --engine'
            )
        return sum(rooms), sum(room > 0 for room in rooms)

    def send(self, start: Calibration | None, blocks: list[list[Piece]]) -> Any:
        """Hand out a slice, see `work_on`; return Ray's name for what becomes of it."""
        return self._work_on.remote(self._run, self._orders, start, blocks)

    def answer(self, name: Any, what: str) -> Done:
        """Wait for what becomes of a slice.

        Args:
            name: from `send`.
            what: the slice, in words.

        Raises:
            PerceptionError: of the worker.
            EngineError: it failed otherwise, or was lost again and again.
        """
        exceptions = self._ray.exceptions
        try:
            done: Done = self._ray.get(name)
        except exceptions.RayTaskError as exc:
            cause = exc.cause
            if isinstance(cause, PerceptionError):
                raise type(cause)(str(cause)) from exc
            raise EngineError(
                f'{what}: a worker failed ({one_line(cause or exc)}); each machine needs this '
                f'package, in one version. What is done is kept: go on with --resume'
            ) from exc
        except exceptions.RayError as exc:
            raise EngineError(
                f'{what}: the worker was lost {RETRIES + 1} times ({one_line(exc)}); see whether '
                f'memory suffices there. What is done is kept: go on with --resume'
            ) from exc
        return done


def check_address(address: str) -> None:
    """Raise SetupError unless something like a Ray cluster answers at an address."""
    host, _, port = address.rpartition(':')
    host = host.strip('[]')
    if not (host and port.isdecimal() and 0 < int(port) < 65536 and '/' not in host):
        raise SetupError(
            f'--ray {address}: expected HOST:PORT, as `ray start --head` tells it; the recordings '
            f'stand before --ray'
        )
    try:
        with socket.create_connection((host, int(port)), ANSWER_S) as connection:
            connection.settimeout(ANSWER_S)
            connection.sendall(HTTP2_GREETING)
            answer = connection.recv(9)
    except OSError as exc:
        raise SetupError(
            f'--ray {address}: no Ray cluster answers there ({exc.strerror or exc}); start one '
            f'with `ray start --head`, which tells its address'
        ) from exc
    if len(answer) < 4 or answer[3] != HTTP2_SETTINGS:
        raise SetupError(
            f'--ray {address}: what answers there is no Ray cluster; give the address that '
            f'`ray start --head` tells'
        )


class FleetRun(Run):
    """A run whose frames a cluster works on; the models here only tell what they are.

    Args:
        cluster: that works.
        of_run: the arguments of Run.

    Attributes:
        workers: machine and process of each that gave results.
    """

    def __init__(self, cluster: Cluster, *of_run: Any) -> None:
        super().__init__(*of_run)
        self.workers: set[str] = set()
        self._cluster, self._calibration = cluster, self.source.calibration

    def warm_up(self) -> None:
        """Do nothing: the workers do that themselves."""

    def process(self, tell: Callable[[], None]) -> None:
        """Hand out slices, and write what becomes of them in their order."""
        pending: deque[Slice] = deque()
        blocks: list[Block] = []
        pieces: list[list[Piece]] = []
        frames = size = 0
        start = self._calibration

        def send() -> None:
            nonlocal blocks, pieces, frames, size, start
            pending.append(Slice(blocks, self._cluster.send(start, pieces)))
            blocks, pieces, frames, size, start = [], [], 0, 0, self._calibration

        def settle() -> None:
            self._settle(pending.popleft())
            tell()

        def passed_over(item: Item) -> None:
            nonlocal start
            self.calibrate(item)
            start = self._calibration

        for block in self.blocks(passed_over):
            carried = [self._piece(item) for _, item in block]
            blocks.append(block)
            pieces.append(carried)
            frames += sum(piece.frame is not None for piece in carried)
            size += sum(piece.frame.size for piece in carried if piece.frame)
            if frames >= SLICE_FRAMES or size >= SLICE_BYTES:
                send()
            if len(pending) >= AHEAD * self._cluster.slots:
                settle()
        if blocks:
            send()
        while pending:
            settle()

    def calibrate(self, item: Item) -> None:
        """Note the calibration, if an item is one, and tell of one that is damaged."""
        if item.calibration is None or self.work.placer is None:
            return
        try:
            item.calibration.read()
            self._calibration = item.calibration
        except BagError as exc:
            self.summary.reasons[str(exc)] += 1

    def _piece(self, item: Item) -> Piece:
        before = self._calibration
        self.calibrate(item)
        counts = self._calibration if self._calibration is not before else None
        return Piece(item.stamp_ns, item.frame and item.frame.carried(), counts)

    def _settle(self, sent: Slice) -> None:
        first, last = sent.blocks[0][0][1], sent.blocks[-1][-1][1]
        done = self._cluster.answer(
            sent.answer, f'what was recorded from {first.stamp_ns} to {last.stamp_ns} ns'
        )
        self.workers.add(done.worker)
        self.inference_ms += done.inference_ms
        for block, results in zip(sent.blocks, done.results, strict=True):
            self.write(block, results)


def uses_gpu(task: Task) -> bool:
    """Tell whether an opened model computes on a GPU."""
    name = task.model.engine.name
    return name in GPU_ENGINES or (name == 'torch' and sys.modules[name].cuda.is_available())


def one_line(exc: object) -> str:
    """Return the first line of what an exception says."""
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)[:200]


# What follows runs in the workers.

_works: dict[str, tuple[Work, ExitStack]] = {}


def work_on(
    run: str, orders: Sequence[Any], start: Calibration | None, blocks: Sequence[Sequence[Piece]]
) -> Done:
    """Work on a slice.

    Args:
        run: number of it.
        orders: Ray's name for them.
        start: the calibration that counts at its beginning.
        blocks: of the slice.

    Raises:
        SetupError: the models do not open here, or open otherwise.
        EngineError: a runtime failed.
    """
    if run not in _works:
        import ray

        while _works:
            _works.popitem()[1][1].close()
        _works[run] = open_work(ray.get(orders[0]))
    work, _ = _works[run]
    work.calibrate(start)
    done = Done([], [], f'{socket.gethostname()} {os.getpid()}')
    for pieces in blocks:
        frames = [work.decode(piece.frame) for piece in pieces if piece.frame]
        good = [frame for frame in frames if isinstance(frame, Decoded)]
        begun_s = time.perf_counter()
        outputs = iter(work.infer(good))
        if good:
            done.inference_ms.append((time.perf_counter() - begun_s) * 1000.0 / len(good))
        of_frames, results = iter(frames), []
        for piece in pieces:
            if piece.calibration is not None:
                work.calibrate(piece.calibration)
            if piece.frame is not None:
                frame = next(of_frames)
                results.append(
                    work.finish(frame, next(outputs), piece.stamp_ns)
                    if isinstance(frame, Decoded) else frame
                )
        done.results.append(results)
    return done


def open_work(orders: Orders) -> tuple[Work, ExitStack]:
    """Open the models of a run.

    Raises:
        SetupError: they do not open here, or are not those that opened where the run was started.
    """
    here, stack = socket.gethostname(), ExitStack()
    try:
        tasks = open_tasks(orders.models, stack, **orders.opening)
    except PerceptionError as exc:
        stack.close()
        raise SetupError(
            f'on {here}: {exc}; each machine of the cluster needs the model at the same path (a '
            f'shared folder), and the same engine'
        ) from exc
    for task, expected in zip(tasks, orders.facts, strict=True):
        for name, value in expected.items():
            if task.facts[name] != value:
                stack.close()
                raise SetupError(
                    f'on {here}: {task.facts["file"]} has {name} {task.facts[name]}, expected '
                    f'{value} as where the run was started: results would depend on who made '
                    f'them; copy the model there, or name --engine and --precision'
                )
    work = Work(tasks, orders.placer)
    work.warm_up()
    return work, stack
