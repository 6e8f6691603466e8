"""StampedQueue: messages of one topic, to be paired with those of another."""

from collections import deque
import threading
from typing import Generic, TypeVar

from sensor_msgs.msg import Image, PointCloud2

from mnv2_perception.nodes.messages import stamp_to_ns

Stamped = TypeVar('Stamped', Image, PointCloud2, Image | PointCloud2)


class StampedQueue(Generic[Stamped]):
    """The latest messages of a topic, to be found by stamp; any thread may use it."""

    def __init__(self, length: int) -> None:
        self._messages: deque[tuple[int, Stamped]] = deque(maxlen=length)
        self._arrived = threading.Condition()

    def put(self, msg: Stamped) -> None:
        """Keep a message."""
        with self._arrived:
            self._messages.append((stamp_to_ns(msg.header.stamp), msg))
            self._arrived.notify_all()

    def find(self, stamp_ns: int, tolerance_s: float, wait_s: float) -> Stamped | None:
        """Return the message nearest to a stamp, or None if none comes in time."""
        found: Stamped | None = None

        def look() -> bool:
            nonlocal found
            off = [(abs(ns - stamp_ns), msg) for ns, msg in self._messages]
            off_ns, found = min(off, key=lambda pair: pair[0], default=(0, None))
            if off_ns > tolerance_s * 1e9:
                found = None
            return found is not None

        with self._arrived:
            self._arrived.wait_for(look, wait_s)
        return found
