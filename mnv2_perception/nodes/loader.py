"""Loader: open another model while the one in use works on."""

from collections.abc import Callable
import threading
import time
from typing import Any, Generic, TypeVar

from mnv2_perception.tasks.pipeline import Pipeline

SLOW_S = 60.0

Model = TypeVar('Model', bound=Pipeline[Any])


class Loader(Generic[Model]):
    """Opens one model at a time, in a thread of its own; thread-safe.

    Args:
        on_ready: called in that thread when there is a model to `take`.
        on_failure: called in that thread with the model's name and the exception.
    """

    def __init__(
        self, on_ready: Callable[[], None], on_failure: Callable[[str, Exception], None]
    ) -> None:
        self._on_ready, self._on_failure = on_ready, on_failure
        self._lock = threading.Lock()
        self._name = ''
        self._opening: object | None = None  # identifies the opening whose result is still wanted
        self._begun_s = 0.0
        self._ready: Model | None = None
        self._thread: threading.Thread | None = None

    @property
    def loading(self) -> str:
        """The name of the model that is being opened, and for how long; empty if none is."""
        with self._lock:
            if self._opening is None:
                return ''
            return f'{self._name} for {time.monotonic() - self._begun_s:.0f} s'

    @property
    def warning(self) -> str:
        """A warning if opening takes so long that it may never end, else empty."""
        loading = self.loading
        slow = loading and time.monotonic() - self._begun_s > SLOW_S
        return f'opening {loading}; the other model stays in use' if slow else ''

    def start(self, name: str, open_model: Callable[[], Model]) -> None:
        """Begin to open a model; check `loading` first for whether another is being opened."""
        opening = object()
        with self._lock:
            self._name, self._opening, self._begun_s = name, opening, time.monotonic()
        self._thread = threading.Thread(
            target=self._run, args=(name, opening, open_model, self._thread), name='loader',
            daemon=True,
        )
        self._thread.start()

    def take(self) -> tuple[str, Model] | None:
        """Take over the model that is ready, with its name; None if there is none."""
        with self._lock:
            ready, self._ready = self._ready, None
            if ready is None:
                return None
            self._opening = None
            return self._name, ready

    def cancel(self) -> None:
        """Cancel the opening; a model that is still being opened is closed when it is ready."""
        with self._lock:
            ready, self._ready, self._opening = self._ready, None, None
        if ready:
            ready.close()

    def join(self) -> None:
        """Wait until no model is being opened: the opening must not outlive Python."""
        if self._thread:
            self._thread.join()

    def _run(
        self, name: str, opening: object, open_model: Callable[[], Model],
        before: threading.Thread | None,
    ) -> None:
        if before:
            before.join()  # a cancelled one holds memory until it has been opened and closed
        try:
            model = open_model()
        except Exception as exc:
            with self._lock:
                wanted = self._opening is opening
                self._opening = None if wanted else self._opening
            if wanted:
                self._on_failure(name, exc)
            return
        with self._lock:
            wanted = self._opening is opening
            self._ready = model if wanted else self._ready
        if wanted:
            self._on_ready()
        else:
            model.close()
