"""Greeting: a mask's names reach each of its subscribers before the first mask does."""

from collections.abc import Callable, Sequence
import threading
import time

from rclpy.node import Node

from mnv2_perception.nodes.topics import Publisher

# A late subscriber has no order between label_info and mask: Nav2's layer dereferences null when
# a mask comes first. So masks wait this long after a subscriber appeared.
HOLD_S = 0.5
# But each hold starves who listened already: those that appear sooner after one get the names
# before the next mask, which waits no longer than this for them to acknowledge them.
HOLD_EVERY_S = 3.0
WAIT_S = 0.1


class Greeting:
    """Sends the names again when a subscriber has appeared, and holds masks back meanwhile.

    Subscribers of this process are not meant: they have the names before any mask.

    Args:
        node: whose topics they are.
        masks: whose subscribers are greeted.
        names: the publisher of label_info.
        publish_names: sends label_info.
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
        """Send the names and begin to hold."""
        with self._lock:
            self._known = self._subscribers()
            self._send()

    def rename(self) -> None:
        """Send other names for the masks that follow; the first waits for them, and briefly."""
        with self._lock:
            self._publish_names()
            self._unheard = True

    def greet(self) -> None:
        """Announce again if a subscriber has appeared.

        The heartbeat calls it, so that the wait is over before a camera starts; and so does each
        frame before its mask goes out.
        """
        with self._lock:
            known, self._known = self._known, self._subscribers()
            if self._known - known:
                self._send()

    def holding(self) -> bool:
        """Greet, and tell whether masks are to be held back now from other processes."""
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
        """Who listens; their number alone would hide one that comes as another goes."""
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
