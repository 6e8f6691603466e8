"""WaitingRoom: let frames wait for the data that belongs to them, without blocking newer ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import time

from mnv2_perception.nodes.worker import Frame

POLL_S = 0.01
# With one frame more, the oldest has to leave.
MOST = 32


@dataclass(frozen=True)
class Lack:
    """Something that a frame lacks.

    Attributes:
        what: what is missing, and the cure.
        wait_s: how long after its arrival a frame may wait for it.
        topic: topic that it comes from, to be put before `what`; empty if `what` is complete.
    """

    what: str
    wait_s: float
    topic: str = ''


class WaitingRoom:
    """Waiting frames, from the oldest to the newest; for use in one thread.

    A frame leaves when it lacks nothing, when it has waited long enough, or when a newer one
    leaves: results never go back in time.

    Args:
        find_lack: returns what a frame lacks now, None if nothing.
    """

    def __init__(self, find_lack: Callable[[Frame], Lack | None]) -> None:
        self._find_lack = find_lack
        self._frames: list[Frame] = []

    def serve(
        self, frame: Frame, take_newer: Callable[[], Frame | None], is_open: Callable[[], bool]
    ) -> Iterator[tuple[Frame, Lack | None]]:
        """Yield frames as their wait ends, with what they still lack, until none waits.

        Args:
            frame: the newest frame.
            take_newer: returns a frame that has come meanwhile, or None.
            is_open: tells whether frames may go on waiting.
        """
        self._frames.append(frame)
        while self._frames:
            yield from self._leaving(is_open())
            if self._frames:
                time.sleep(POLL_S)
                if newer := take_newer():
                    self._frames.append(newer)

    def _leaving(self, is_open: bool) -> list[tuple[Frame, Lack | None]]:
        now_s = time.monotonic()
        found = [(frame, self._find_lack(frame)) for frame in self._frames]
        count = max(0, len(found) - MOST)
        for index, (frame, lack) in enumerate(found):
            if lack is None or not is_open or now_s - frame.received_s > lack.wait_s:
                count = max(count, index + 1)
        self._frames = self._frames[count:]
        return found[:count]
