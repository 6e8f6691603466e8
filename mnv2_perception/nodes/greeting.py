"""Greeting: make sure that each subscriber has the class names before the first mask."""

from collections.abc import Callable, Sequence
import threading
import time

from rclpy.node import Node

from mnv2_perception.nodes.topics import Publisher

# The order of label_info and mask is undefined for a late subscriber, and Nav2's layer
# dereferences null when a mask comes first. So masks are held back this long after a subscriber
# appeared.
HOLD_S = 0.5
# But each hold keeps masks from the other subscribers. A subscriber that appears sooner after a
# hold gets the names before the next mask, which waits at most WAIT_S until they are acknowledged.
HOLD_EVERY_S = 3.0
WAIT_S = 0.1


class Greeting:
    """Publishes the names again when a subscriber appears, and holds masks back meanwhile.

    Subscribers of this process do not count: they get the names before any mask.

    Args:
        node: node that owns the topics.
        masks: publishers whose subscribers need the names.
        names: publisher of label_info.
        publish_names: function that publishes label_info.
    """

    def __init__(
        self, node: Node, masks: Sequence[Publisher], names: Publisher,
        publish_names: Callable[[], None],
    ) -> None:
        self._node = node
        self._masks = masks
        self._names = names
        self._publish_names = publish_names
        self._lock = threading.Lock()
        self._known: set[tuple[int, ...]] = set()
        self._unheard = False
        self.hold_until_s = 0.0

    def announce(self) -> None:
        """Publish the names and begin to hold masks back."""
        with self._lock:
            self._known = self._subscribers()
            self._send()

    def rename(self) -> None:
        """Publish new names for the masks that follow; the first mask waits for them, briefly."""
        with self._lock:
            self._publish_names()
            self._unheard = True

    def greet(self) -> None:
        """Announce again if a subscriber has appeared.

        The heartbeat calls it, so that the hold is over before a camera starts; each frame calls
        it too before its mask is published.
        """
        with self._lock:
            known, self._known = self._known, self._subscribers()
            if self._known - known:
                self._send()

    def holding(self) -> bool:
        """Greet; return whether masks are now to be held back from other processes."""
        self.greet()
        if time.monotonic() < self.hold_until_s:
            return True
        with self._lock:
            unheard, self._unheard = self._unheard, False
        if unheard:
            listeners = sum(mask.count_elsewhere() for mask in self._masks)
            self._names.wait_until_heard(listeners, WAIT_S)
        return False

    def _subscribers(self) -> set[tuple[int, ...]]:
        """Return the subscribers' gids; a mere count would miss one that comes as another goes."""
        return {
            tuple(info.endpoint_gid) for mask in self._masks if mask.count_elsewhere()
            for info in self._node.get_subscriptions_info_by_topic(mask.topic_name)
        }

    def _send(self) -> None:
        self._publish_names()
        self._unheard = True
        now_s = time.monotonic()
        if now_s >= self.hold_until_s - HOLD_S + HOLD_EVERY_S:
            self.hold_until_s = now_s + HOLD_S
