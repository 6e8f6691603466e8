"""Pairing by stamp: queues of messages, and what to do where stamps are of no use."""

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
    """A message with a header, or what was made of one."""

    @property
    def header(self) -> Any:
        """A std_msgs/Header."""


Stamped = TypeVar('Stamped', bound=HasHeader)

# So many frames in a row without a new stamp are no accident.
STANDING_FRAMES = 3
JUMP_S = 1.0  # as tf2
SETTLE_S = 2.0  # what was on its way, or in work, has come by then


def on_jump_back(clock: Clock, callback: Callable[[int], None]) -> JumpHandle:
    """Call back with what is now (ns) when /clock has jumped back, while the handle exists."""
    threshold = JumpThreshold(
        min_forward=None, min_backward=Duration(seconds=-JUMP_S), on_clock_change=True
    )
    return clock.create_jump_callback(
        threshold, post_callback=lambda _: callback(clock.now().nanoseconds)
    )


class StampedQueue(Generic[Stamped]):
    """The latest messages of a topic, to be found by stamp; any thread may use it."""

    def __init__(self, length: int) -> None:
        self._messages: deque[tuple[int, float, Stamped]] = deque(maxlen=length)
        self._lock = threading.Lock()

    def put(self, msg: Stamped) -> None:
        """Keep a message."""
        with self._lock:
            self._messages.append((stamp_to_ns(msg.header.stamp), time.monotonic(), msg))

    def silent_s(self) -> float:
        """Return how long nothing has come; infinite where nothing of this time ever has."""
        with self._lock:
            return time.monotonic() - self._messages[-1][1] if self._messages else math.inf

    def apart_s(self, stamp_ns: int) -> float:
        """Return how far the nearest is from a stamp; infinite where nothing has come."""
        with self._lock:
            apart_ns = [abs(ns - stamp_ns) for ns, _, _ in self._messages]
        return min(apart_ns, default=math.inf) * 1e-9

    def is_empty(self) -> bool:
        """Tell whether nothing has come."""
        return not self._messages

    def forget(self, after_ns: int) -> None:
        """Forget the messages with later stamps, and those that came before them."""
        with self._lock:
            while any(ns > after_ns for ns, _, _ in self._messages):
                self._messages.popleft()

    def find(
        self, stamp_ns: int, tolerance_s: float, arrived_s: float, max_age_s: float | None = None
    ) -> Stamped | None:
        """Return the message nearest to a stamp; of equals that which came when the other did.

        Args:
            stamp_ns: of the other message.
            tolerance_s: largest difference of the stamps.
            arrived_s: when the other came (time.monotonic).
            max_age_s: how long before that the message may have come; None: at any time.
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
    """Tells messages of now from those of before time jumped back, as when a bag begins again.

    Args:
        clock: of the node.

    Attributes:
        until_ns: of what came before the jump, only stamps up to this one belong to now.
    """

    def __init__(self, clock: Clock) -> None:
        self.until_ns = 0
        self._begun_s = 0.0
        self._clock = clock

    def begin(self, now_ns: int) -> None:
        """Take the time to which the clock has jumped back."""
        self._begun_s, self.until_ns = time.monotonic(), now_ns + int(JUMP_S * 1e9)

    def has(self, frame: Frame) -> bool:
        """Tell whether a frame belongs to now; one from before the jump must not be placed."""
        stamp_ns = stamp_to_ns(frame.msg.header.stamp)
        if frame.received_s < self._begun_s:
            return stamp_ns <= self.until_ns
        return self.takes(stamp_ns)

    def takes(self, stamp_ns: int) -> bool:
        """Tell whether a message that comes now belongs to now; it may be late, from before."""
        if time.monotonic() > self._begun_s + SETTLE_S:
            return True
        now_ns = self._clock.now().nanoseconds if self._clock.ros_time_is_active else 0
        return not 0 < now_ns < stamp_ns - JUMP_S * 1e9  # it is 0 until /clock has come


class StampWatch:
    """Notices a camera whose stamps are zero or stand still: nothing can be paired by them.

    Attributes:
        newest_ns: stamp of the frame that came last.
    """

    def __init__(self) -> None:
        self.newest_ns = 0
        self._standing_ns = 0
        self._standing = 0

    def take(self, stamp_ns: int) -> None:
        """Take the stamp of the newest frame."""
        standing = stamp_ns in (0, self.newest_ns)
        if standing:
            self._standing_ns = stamp_ns
        self._standing = self._standing + 1 if standing else 0
        self.newest_ns = stamp_ns

    def is_jump_back(self, stamp_ns: int) -> bool:
        """Tell whether the next frame would be of another time, as when a bag begins again."""
        return stamp_ns < self.newest_ns - JUMP_S * 1e9

    def undecided(self, stamp_ns: int) -> bool:
        """Tell whether several frames came with this stamp."""
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
