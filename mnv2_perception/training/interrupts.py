"""Let Ctrl-C end a training run even if Python swallows the exception."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import signal
import threading
from types import FrameType


@contextmanager
def heeding_interrupts() -> Iterator[Callable[[], None]]:
    """Yield a function that raises KeyboardInterrupt if Ctrl-C was pressed during the block.

    Python swallows the original exception in destructors, and those of DataLoader iterators take
    long. Outside of the main thread, or with another handler, the function does nothing.
    """
    came = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    def heed() -> None:
        if came:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield heed
        return
    signal.signal(signal.SIGINT, on_signal)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
