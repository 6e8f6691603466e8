"""Run a recording on a Ray cluster, into the same file as without one.

This process reads the recording, cuts it into slices of a few frames, and writes the results in
their order. Workers receive the frames as recorded, so no machine needs the recording. If a worker
or machine is lost, Ray runs its slice again. https://docs.ray.io/en/latest/ray-core/tasks.html
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
import importlib.util
import os
from pathlib import Path
import socket
from typing import Any, NamedTuple

from mnv2_perception.errors import BagError, EngineError, PerceptionError, SetupError
from mnv2_perception.replay.fleet_worker import Done, Orders, Piece, work_on
from mnv2_perception.replay.frames import Calibration, Item
from mnv2_perception.replay.models import Task
from mnv2_perception.replay.placing import Placer
from mnv2_perception.replay.run import Block, Run
from mnv2_perception.tasks.models import find_model

RAY = 'ray==2.60.0'
SLICE_FRAMES = 16
SLICE_BYTES = 8 * 2**20
AHEAD = 2  # pending slices per slot
RETRIES = 3  # of a slice that lost its worker
ANSWER_S = 5.0
# Ray takes minutes to report that nobody is there, so a greeting is sent that any gRPC server
# answers at once.
HTTP2_GREETING = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0'
HTTP2_SETTINGS = 4


class Slice(NamedTuple):
    """Blocks that were sent to a worker, and Ray's reference to their results."""

    blocks: list[Block]
    answer: Any


class Cluster:
    """A Ray cluster that this process is connected to, and whose workers open the models.

    Args:
        address: HOST:PORT of a cluster that this machine belongs to; empty for that of
            RAY_ADDRESS, one that runs on this machine, or a new one started here.
        stack: disconnects, and stops what was started.
        models: the models as on the command line.
        opening: options with which they were opened here; `threads` is also a worker's CPUs.
        tasks: the models as opened here; workers must open the same.
        placer: places the masks on the ground; None for no grid.

    Attributes:
        slots: number of slices that are processed at once.
        told: description of the workers, in words.

    Raises:
        SetupError: Ray is not installed, there is no such cluster, or no machine of it has the
            CPUs and the GPU that a worker needs.
        PerceptionError: a worker cannot open the models.
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
        # A cluster that is started here sends no usage statistics unless the user enables them.
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
        # Ray's own default retries forever if it kills a worker for lack of memory.
        os.environ.setdefault('RAY_task_oom_retries', str(RETRIES))
        import ray

        self._ray = ray
        try:
            ray.init(
                address or None, include_dashboard=None if address else False,
                log_to_driver=False, logging_level='ERROR',
            )
        except Exception as exc:  # of many types: other versions, a missing token
            given = address if ':' in address else 'HOST:PORT'
            raise SetupError(
                f'--ray {address or "here"}: the cluster cannot be used ({one_line(exc)}); this '
                f'machine must belong to it (`ray start --address={given}`), with the same '
                f'Python, the same token and {RAY}'
            ) from exc
        stack.callback(ray.shutdown)
        cpus, gpus = opening['threads'], int(any(task.model.engine.on_gpu for task in tasks))
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
        # Inside a list Ray passes only the reference; a worker fetches the object once.
        self._run, self._orders = orders.run, [ray.put(orders)]
        self._work_on = ray.remote(work_on).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES
        )
        self.answer(self.send(None, []), 'opening the models')

    def _room(self, cpus: int, gpus: int) -> tuple[int, int]:
        """Return how many tasks can run at once, and on how many machines."""
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
        """Send a slice to a worker, see `work_on`; return Ray's reference to its results."""
        return self._work_on.remote(self._run, self._orders, start, blocks)

    def answer(self, name: Any, what: str) -> Done:
        """Wait for the results of a slice.

        Args:
            name: reference from `send`.
            what: description of the slice, for error messages.

        Raises:
            PerceptionError: the worker raised it.
            EngineError: the worker failed otherwise, or was lost too often.
        """
        exceptions = self._ray.exceptions
        try:
            done: Done = self._ray.get(name)
        except exceptions.RayTaskError as exc:
            cause = exc.cause
            if isinstance(cause, PerceptionError):
                raise type(cause)(str(cause)) from exc
            raise EngineError(
                f'{what}: a worker failed ({one_line(cause or exc)}); each machine needs the same '
                f'version of this package. Finished work is kept: continue with --resume'
            ) from exc
        except exceptions.RayError as exc:
            raise EngineError(
                f'{what}: the worker was lost {RETRIES + 1} times ({one_line(exc)}); check that '
                f'its machine has enough memory. Finished work is kept: continue with --resume'
            ) from exc
        return done


def check_address(address: str) -> None:
    """Check that something like a Ray cluster answers at an address.

    Raises:
        SetupError: the address is malformed, or nothing or something else answers.
    """
    host, _, port = address.rpartition(':')
    host = host.strip('[]')
    if not (host and port.isdecimal() and 0 < int(port) < 65536 and '/' not in host):
        raise SetupError(
            f'--ray {address}: expected HOST:PORT, as `ray start --head` prints it; put the '
            f'recordings before --ray'
        )
    try:
        with socket.create_connection((host, int(port)), ANSWER_S) as connection:
            connection.settimeout(ANSWER_S)
            connection.sendall(HTTP2_GREETING)
            answer = connection.recv(9)
    except OSError as exc:
        raise SetupError(
            f'--ray {address}: no Ray cluster answers there ({exc.strerror or exc}); start one '
            f'with `ray start --head`, which prints its address'
        ) from exc
    if len(answer) < 4 or answer[3] != HTTP2_SETTINGS:
        raise SetupError(
            f'--ray {address}: what answers there is not a Ray cluster; give the address that '
            f'`ray start --head` prints'
        )


class FleetRun(Run):
    """A run whose frames are processed by a cluster; the local models only provide their facts.

    Args:
        cluster: the cluster.
        of_run: the arguments of Run.

    Attributes:
        workers: machine and process id of each worker that returned results.
    """

    def __init__(self, cluster: Cluster, *of_run: Any) -> None:
        super().__init__(*of_run)
        self.workers: set[str] = set()
        self._cluster, self._calibration = cluster, self.source.calibration

    def warm_up(self) -> None:
        """Do nothing: the workers warm up themselves."""

    def process(self, tell: Callable[[], None]) -> None:
        """Send slices to the workers and write their results in order."""
        pending: deque[Slice] = deque()
        # A thread of its own: in this one, Ctrl-C could leave half a block in the file.
        writer = ThreadPoolExecutor(1, 'write')
        blocks: list[Block] = []
        pieces: list[list[Piece]] = []
        frames = size = 0
        start = self._calibration

        def send() -> None:
            nonlocal blocks, pieces, frames, size, start
            pending.append(Slice(blocks, self._cluster.send(start, pieces)))
            blocks, pieces, frames, size, start = [], [], 0, 0, self._calibration

        def settle() -> None:
            slice_ = pending.popleft()
            writer.submit(self._settle, slice_, self._answer(slice_)).result()
            tell()

        def passed_over(item: Item) -> None:
            nonlocal start
            self.calibrate(item)
            start = self._calibration

        try:
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
        finally:
            writer.shutdown()

    def calibrate(self, item: Item) -> None:
        """Remember the calibration if an item is one; count one that is damaged."""
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

    def _answer(self, sent: Slice) -> Done:
        first, last = sent.blocks[0][0][1], sent.blocks[-1][-1][1]
        return self._cluster.answer(
            sent.answer, f'what was recorded from {first.stamp_ns} to {last.stamp_ns} ns'
        )

    def _settle(self, sent: Slice, done: Done) -> None:
        self.workers.add(done.worker)
        self.inference_ms += done.inference_ms
        for block, results in zip(sent.blocks, done.results, strict=True):
            self.write(block, results)


def one_line(exc: object) -> str:
    """Return the first line of an exception's text."""
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)[:200]
