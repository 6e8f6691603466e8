"""Pair messages by stamp: queues, jumps of time, and cameras whose stamps are useless."""

from collections import deque
from collections.abc import Callable
import math
import threading
import time
from typing import Any, Generic, Protocol, TypeVar

from rclpy.clock import Clock, JumpHandle, JumpThreshold
from rclpy.duration import Duration

from mnv2_perception.nodes.messages import stamp_to_ns
from mnv2_perception.nodes.worker import Frame


class HasHeader(Protocol):
    """A message with a header, or something made from one."""

    @property
    def header(self) -> Any:
        """A std_msgs/Header."""


Stamped = TypeVar('Stamped', bound=HasHeader)

# This many frames in a row without a new stamp are no coincidence.
STANDING_FRAMES = 3
JUMP_S = 1.0  # the same threshold as tf2
SETTLE_S = 2.0  # by then, messages that were in transit or in work have arrived


def on_jump_back(clock: Clock, callback: Callable[[int], None]) -> JumpHandle:
    """Call back with the new time (ns) whenever /clock jumps back, while the handle exists."""
    threshold = JumpThreshold(
        min_forward=None, min_backward=Duration(seconds=-JUMP_S), on_clock_change=True
    )
    return clock.create_jump_callback(
        threshold, post_callback=lambda _: callback(clock.now().nanoseconds)
    )


class StampedQueue(Generic[Stamped]):
    """The latest messages of a topic, searchable by stamp; thread-safe."""

    def __init__(self, length: int) -> None:
        self._messages: deque[tuple[int, float, Stamped]] = deque(maxlen=length)
        self._lock = threading.Lock()

    def put(self, msg: Stamped) -> None:
        """Store a message."""
        with self._lock:
            self._messages.append((stamp_to_ns(msg.header.stamp), time.monotonic(), msg))

    def silent_s(self) -> float:
        """Return the seconds since the last message came; infinite if the queue is empty."""
        with self._lock:
            return time.monotonic() - self._messages[-1][1] if self._messages else math.inf

    def apart_s(self, stamp_ns: int) -> float:
        """Return the seconds from a stamp to that of the nearest message; infinite if empty."""
        with self._lock:
            apart_ns = [abs(ns - stamp_ns) for ns, _, _ in self._messages]
        return min(apart_ns, default=math.inf) * 1e-9

    def is_empty(self) -> bool:
        """Tell whether the queue holds no message."""
        return not self._messages

    def forget(self, after_ns: int) -> None:
        """Remove every message up to the last one whose stamp is later than `after_ns`."""
        with self._lock:
            while any(ns > after_ns for ns, _, _ in self._messages):
                self._messages.popleft()

    def find(
        self, stamp_ns: int, tolerance_s: float, arrived_s: float, max_age_s: float | None = None
    ) -> Stamped | None:
        """Return the message nearest to a stamp, None if there is none within the tolerance.

        Of several with the same difference, the one that arrived closest to `arrived_s` counts.

        Args:
            stamp_ns: stamp of the other message.
            tolerance_s: largest difference of the two stamps.
            arrived_s: when the other message arrived (time.monotonic).
            max_age_s: how long before that the message may have arrived; None: any time.
        """
        with self._lock:
            kept = list(self._messages)
        off_ns = min((abs(ns - stamp_ns) for ns, _, _ in kept), default=0)
        if off_ns > tolerance_s * 1e9:
            return None
        equals = [(came_s, msg) for ns, came_s, msg in kept if abs(ns - stamp_ns) == off_ns]
        came_s, found = min(
            equals, key=lambda pair: abs(pair[0] - arrived_s), default=(0.0, None)
        )
        if max_age_s is not None and came_s < arrived_s - max_age_s:
            return None
        return found


class Present:
    """Tells current messages from those of before a jump back in time, as when a bag starts again.

    Args:
        clock: clock of the node.

    Attributes:
        until_ns: latest stamp at which a message that arrived before the jump is still current.
    """

    def __init__(self, clock: Clock) -> None:
        self.until_ns = 0
        self._begun_s = 0.0
        self._clock = clock

    def begin(self, now_ns: int) -> None:
        """Note that the clock has jumped back, to `now_ns`."""
        self._begun_s, self.until_ns = time.monotonic(), now_ns + int(JUMP_S * 1e9)

    def has(self, frame: Frame) -> bool:
        """Tell whether a frame is current; one from before the jump must not be placed."""
        stamp_ns = stamp_to_ns(frame.msg.header.stamp)
        if frame.received_s < self._begun_s:
            return stamp_ns <= self.until_ns
        return self.takes(stamp_ns)

    def takes(self, stamp_ns: int) -> bool:
        """Tell whether a message that arrives now is current, not a late one from before."""
        if time.monotonic() > self._begun_s + SETTLE_S:
            return True
        now_ns = self._clock.now().nanoseconds if self._clock.ros_time_is_active else 0
        return not 0 < now_ns < stamp_ns - JUMP_S * 1e9  # now_ns is 0 until the first /clock


class StampWatch:
    """Notices a camera whose stamps are zero or never change, so that they cannot pair anything.

    Attributes:
        newest_ns: stamp of the latest frame.
    """

    def __init__(self) -> None:
        self.newest_ns = 0
        self._standing_ns = 0
        self._standing = 0

    def take(self, stamp_ns: int) -> None:
        """Take note of the latest frame's stamp."""
        standing = stamp_ns in (0, self.newest_ns)
        if standing:
            self._standing_ns = stamp_ns
        self._standing = self._standing + 1 if standing else 0
        self.newest_ns = stamp_ns

    def is_jump_back(self, stamp_ns: int) -> bool:
        """Tell whether a frame with this stamp would be of an earlier time, as a restarted bag."""
        return stamp_ns < self.newest_ns - JUMP_S * 1e9

    def undecided(self, stamp_ns: int) -> bool:
        """Tell whether several frames have come with this stamp."""
        return stamp_ns in (0, self._standing_ns)

    @property
    def warning(self) -> str:
        """What is wrong and the cure, empty if nothing is."""
        if self._standing < STANDING_FRAMES:
            return ''
        what = f'stay at {self.newest_ns * 1e-9:.9f}' if self.newest_ns else 'are zero'
        return (
            f'the stamps of the images {what}, so pairing by stamp and tf are unreliable; '
            f"make the camera's driver stamp its images"
        )
