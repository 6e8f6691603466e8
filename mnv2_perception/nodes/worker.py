"""NewestFrameWorker: one thread on the newest frame; what is older and waits is dropped."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import threading
from typing import Generic, TypeVar

from sensor_msgs.msg import CompressedImage, Image

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True)
class Frame:
    """A message to process, and when it came (time.monotonic)."""

    msg: Image | CompressedImage
    received_s: float


class NewestFrameWorker(Generic[Item]):
    """Works on the newest item in a thread; an older one that still waits is dropped.

    So a result is never older than the work under way plus its own. The same thread opens, uses
    and closes what belongs to a thread, as a CUDA context does.

    Several workers may share a thread. Each then has its turn in the order in which they began
    to wait, and takes what is newest then: none waits for more than one item of each other.

    Args:
        work: called with each item that is taken; must not raise.
        thread: of one worker thread; None makes one of its own.
    """

    def __init__(
        self, work: Callable[[Item], None], thread: ThreadPoolExecutor | None = None
    ) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: Item | None = None
        self._in_line = False
        self._owns_thread = thread is None
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix='worker')

    def put(self, item: Item) -> bool:
        """Hand over an item; return whether one that still waited was dropped for it."""
        with self._lock:
            dropped = self._waiting is not None
            self._waiting = item
            in_line, self._in_line = self._in_line, True
        if not in_line:  # it may be where an item was taken: turns must not pile up
            self._thread.submit(self._turn)
        return dropped

    def take(self) -> Item | None:
        """Take the item that waits, if there is one; it is no longer this worker's."""
        with self._lock:
            item, self._waiting = self._waiting, None
        return item

    def run(self, function: Callable[[], Result]) -> Result:
        """Run a function in the worker's thread after the work under way; return its result."""
        return self._thread.submit(function).result()

    def close(self) -> None:
        """Finish the work under way and end the thread, if it is this worker's own."""
        self.take()
        if self._owns_thread:
            self._thread.shutdown()

    def _turn(self) -> None:
        with self._lock:
            self._in_line = False
        item = self.take()
        if item is not None:
            self._work(item)
