"""NewestFrameWorker: a thread that works on the newest frame; older waiting frames are dropped."""

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

# Longer than any inference takes: work that lasts longer is considered hung.
HANG_S = 5.0
# How long a task that needs a turn, such as releasing a node, waits for other workers to finish.
PATIENCE_S = 1.0
# After waiting this long, a worker gets the rank of those that go first.
OVERDUE_S = 1.0

LOGGER = logging.getLogger(__name__)

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True)
class Frame:
    """A message to process, and when it arrived (time.monotonic)."""

    msg: Image | CompressedImage | Detection2DArray
    received_s: float


@dataclass(frozen=True, eq=False)
class Waiting:
    """A worker that waits for its turn: its rank, and since when (time.monotonic)."""

    rank: int
    since_s: float


class Turns:
    """Turns of workers: one works at a time, those of equal rank in the order of their waiting."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._line: list[Waiting] = []
        self._at_work: Waiting | None = None
        self._begun_s = 0.0

    @contextmanager
    def turn(self, patience_s: float = HANG_S, rank: int = 0) -> Iterator[None]:
        """Wait for a turn, and hold it during the block.

        Args:
            patience_s: a turn of another worker that lasts longer is taken away from it.
            rank: rank of the caller; the lowest goes first.
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

    So the latency of a result is at most the work under way plus its own. The same thread opens,
    uses and closes what is bound to a thread, such as a CUDA context. It is a daemon thread: the
    process can end even if its runtime hangs.

    Args:
        work: function that is called with each item; must not raise.
        turns: turns that it shares with the workers that must not work at the same time; an item
            is taken only when the turn has come, so it is the newest. None: it never waits.
        rank: its rank in these turns.
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
        """Seconds that it has been at its present item or function; 0 if it is idle."""
        begun_s = self._begun_s
        return 0.0 if begun_s is None else time.monotonic() - begun_s

    def put(self, item: Item) -> bool:
        """Hand over an item; return whether it replaced one that was still waiting."""
        with self._lock:
            dropped = self._waiting is not None
            self._waiting = item
            in_line, self._in_line = self._in_line, True
        if not in_line:  # it may be queued although its item was taken: turns must not pile up
            self._tasks.put(self._have_turn)
        return dropped

    def take(self) -> Item | None:
        """Take the waiting item away from this worker, None if there is none."""
        with self._lock:
            item, self._waiting = self._waiting, None
        return item

    def post(self, function: Callable[[], None]) -> None:
        """Run a function in the worker's thread after the work under way, without waiting."""
        def task() -> None:
            with self._at_work(PATIENCE_S):
                function()

        self._tasks.put(task)

    def run(
        self, function: Callable[[], Result], timeout_s: float | None = None, turn: bool = False
    ) -> Result:
        """Run a function in the worker's thread after the work under way, and return its result.

        Args:
            function: function to run.
            timeout_s: how long to wait for its end, in seconds; None: for ever.
            turn: whether it must wait for a turn, so as not to run beside other workers.

        Raises:
            TimeoutError: it has not ended in time; if it has not begun by then, it never will.
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
        """End the thread after the work under way."""
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
            except Exception:  # an exception would end the thread, and with it the node's work
                LOGGER.exception('unexpected')

    def _have_turn(self) -> None:
        with self._at_work(HANG_S):
            with self._lock:
                self._in_line = False
            item = self.take()
            if item is not None:
                self._work(item)
