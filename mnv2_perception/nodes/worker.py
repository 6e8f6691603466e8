"""NewestFrameWorker: one thread on the newest frame; what is older and waits is dropped."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass
import logging
import queue
import threading
import time
from typing import Any, Generic, TypeVar

from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

# Longer than any inference takes: what is at work for so long is taken to hang.
HANG_S = 5.0
# How long what must not run beside others' work waits for it where a node is being released.
PATIENCE_S = 1.0
# How long a worker waits for others of lower rank, which go first.
OVERDUE_S = 1.0

LOGGER = logging.getLogger(__name__)

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True)
class Frame:
    """A message to process, and when it came (time.monotonic)."""

    msg: Image | CompressedImage | Detection2DArray
    received_s: float


@dataclass(frozen=True, eq=False)
class Waiting:
    """Who waits for a turn: its rank, and since when (time.monotonic)."""

    rank: int
    since_s: float


class Turns:
    """Workers' turns: one works at a time, of equal rank in the order in which they began to wait.

    The lowest rank goes first. A worker that has waited for longer than `OVERDUE_S` goes with the
    lowest, so that it then waits for one item of each other at most. One that hangs loses its
    turn: the others go on without it.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._line: list[Waiting] = []
        self._at_work: Waiting | None = None
        self._begun_s = 0.0

    @contextmanager
    def turn(self, patience_s: float = HANG_S, rank: int = 0) -> Iterator[None]:
        """Wait for a turn, and hold it during the block.

        A turn of others that has lasted for `patience_s` is taken from them.
        """
        me = Waiting(rank, time.monotonic())
        with self._condition:
            self._line.append(me)
            if self._at_work is None:
                self._hand_over()
            while self._at_work is not me:
                left_s = self._begun_s + patience_s - time.monotonic()
                if left_s <= 0.0:
                    self._hand_over()
                else:
                    self._condition.wait(left_s)
        try:
            yield
        finally:
            with self._condition:
                if self._at_work is me:
                    self._hand_over()

    def _hand_over(self) -> None:
        self._begun_s = now_s = time.monotonic()
        self._at_work = min(
            self._line, default=None,
            key=lambda each: 0 if now_s - each.since_s > OVERDUE_S else each.rank,
        )
        if self._at_work:
            self._line.remove(self._at_work)
            self._condition.notify_all()


class NewestFrameWorker(Generic[Item]):
    """Works on the newest item in a thread; an older one that still waits is dropped.

    So a result is never older than the work under way plus its own. The same thread opens, uses
    and closes what belongs to a thread, as a CUDA context does. It is a daemon: a process can end
    although its runtime hangs.

    Args:
        work: called with each item that is taken; must not raise.
        turns: of the workers that must not work at once, and of which each takes what is newest
            when its turn has come; None where it need not wait for others.
        rank: in these turns.
    """

    def __init__(
        self, work: Callable[[Item], None], turns: Turns | None = None, rank: int = 0
    ) -> None:
        self._work = work
        self._turns = turns or Turns()
        self._rank = rank
        self._lock = threading.Lock()
        self._waiting: Item | None = None
        self._in_line = False
        self._begun_s: float | None = None
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name='worker', daemon=True).start()

    @property
    def busy_s(self) -> float:
        """For how long it has been at one item or function; 0 where it is idle."""
        begun_s = self._begun_s
        return 0.0 if begun_s is None else time.monotonic() - begun_s

    def put(self, item: Item) -> bool:
        """Hand over an item; return whether one that still waited was dropped for it."""
        with self._lock:
            dropped = self._waiting is not None
            self._waiting = item
            in_line, self._in_line = self._in_line, True
        if not in_line:  # it may be where an item was taken: turns must not pile up
            self._tasks.put(self._have_turn)
        return dropped

    def take(self) -> Item | None:
        """Take the item that waits, if there is one; it is no longer this worker's."""
        with self._lock:
            item, self._waiting = self._waiting, None
        return item

    def post(self, function: Callable[[], None]) -> None:
        """Have a function run in the worker's thread after the work under way, in a turn."""
        def task() -> None:
            with self._at_work(PATIENCE_S):
                function()

        self._tasks.put(task)

    def run(
        self, function: Callable[[], Result], timeout_s: float | None = None, turn: bool = False
    ) -> Result:
        """Run a function in the worker's thread after the work under way; return its result.

        Args:
            function: to run.
            timeout_s: how long to wait for it; None waits for ever.
            turn: whether it must not run beside the work of others.

        Raises:
            TimeoutError: it has not ended in time; it is not begun any more.
        """
        future: Future[Any] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                with self._at_work(PATIENCE_S if turn else None):
                    result = function()
            except BaseException as exc:
                future.set_exception(exc)
            else:
                future.set_result(result)

        self._tasks.put(task)
        try:
            found: Result = future.result(timeout_s)
        except FutureTimeoutError:
            if future.cancel() or not future.done():
                raise TimeoutError(
                    f'the work under way did not finish within {timeout_s} s'
                ) from None
            raise
        return found

    def close(self) -> None:
        """Let the thread end after the work under way."""
        self.take()
        self._tasks.put(None)

    @contextmanager
    def _at_work(self, patience_s: float | None) -> Iterator[None]:
        if patience_s is not None:
            with self._turns.turn(patience_s, self._rank), self._at_work(None):
                yield
            return
        self._begun_s = time.monotonic()
        try:
            yield
        finally:
            self._begun_s = None

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception:  # what ends it ends the node's work
                LOGGER.exception('unexpected')

    def _have_turn(self) -> None:
        with self._at_work(HANG_S):
            with self._lock:
                self._in_line = False
            item = self.take()
            if item is not None:
                self._work(item)
