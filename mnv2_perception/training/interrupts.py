"""Ctrl-C while a network is trained: it must end the run, whoever swallows it first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import signal
import threading
from types import FrameType


@contextmanager
def heeding_interrupts() -> Iterator[Callable[[], None]]:
    """Yield what raises KeyboardInterrupt if Ctrl-C was pressed, even where Python swallowed it.

    It does so in destructors, and those of a DataLoader's iterator take long.
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
