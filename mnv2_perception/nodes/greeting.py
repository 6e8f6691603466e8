"""Greeting: a mask's names reach each of its subscribers before the first mask does."""

from collections.abc import Callable
import threading
import time

# A late subscriber has no order between label_info and mask: Nav2's layer dereferences null when
# a mask comes first. So masks wait this long after a subscriber appeared.
HOLD_S = 0.5
GREET_PERIOD_S = 0.1


class Greeting:
    """Sends the names again when a subscriber has appeared, and holds masks back meanwhile.

    Args:
        count_subscribers: of the mask.
        publish_names: sends label_info.
    """

    def __init__(
        self, count_subscribers: Callable[[], int], publish_names: Callable[[], None]
    ) -> None:
        self._count_subscribers = count_subscribers
        self._publish_names = publish_names
        self._lock = threading.Lock()
        self._known = 0
        self.hold_until_s = 0.0

    def announce(self) -> None:
        """Send the names and begin to hold."""
        with self._lock:
            self._known = self._count_subscribers()
            self._send()

    def greet(self) -> None:
        """Announce again if a subscriber has appeared.

        A timer does it, so that the wait is over before a camera starts; and so does each frame
        before its mask goes out.
        """
        with self._lock:
            known, self._known = self._known, self._count_subscribers()
            if self._known > known:
                self._send()

    def holding(self) -> bool:
        """Greet, and tell whether masks are to be held back now."""
        self.greet()
        return time.monotonic() < self.hold_until_s

    def _send(self) -> None:
        self._publish_names()
        self.hold_until_s = time.monotonic() + HOLD_S
