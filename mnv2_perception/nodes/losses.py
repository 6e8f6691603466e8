"""Losses: count the messages that were published but never reached a subscription."""

from collections.abc import Callable, Set
from typing import Any, Protocol


class Lost(Protocol):
    """The middleware's event about lost messages; a protocol because rclpy's class has moved."""

    total_count_change: int


class Losses:
    """Counts the messages that a subscription over DDS missed, from the first that arrived.

    Each publisher numbers its messages. With a single publisher, a gap in the numbers is what was
    lost on the way, overwritten in this process's queue, or could not be read. If the middleware
    has no numbers (Humble), only its events about losses on the way count. With several publishers
    that number their messages nothing is counted: on those distros the events are left out, see
    `rclpy_private`.

    Args:
        on_lost: called with the number of lost messages.
        on_mixed: called with the number of publishers if there are several.
        find_publishers: returns the present publishers. rclpy has events for their coming and
            going, but such an event, waiting while its subscription is destroyed, ends the
            executor.
    """

    def __init__(
        self,
        on_lost: Callable[[int], None],
        on_mixed: Callable[[int], None],
        find_publishers: Callable[[], Set[Any]],
    ) -> None:
        self._on_lost = on_lost
        self._on_mixed = on_mixed
        self._find_publishers = find_publishers
        self._publishers: Set[Any] = frozenset()
        self._last: int | None = None
        self._told = False

    def on_message(self, info: dict[str, Any]) -> None:
        """Evaluate a message's info from the middleware; only in the executor's thread."""
        number = info.get('publication_sequence_number')
        if number is None:
            return
        last, self._last = self._last, number
        if last is not None and number == last + 1:
            return
        known, self._publishers = self._publishers, self._find_publishers()
        if self._publishers != known:
            self._told = False
        elif len(self._publishers) > 1:
            if not self._told:  # a killed publisher sends nothing, but stays known for a while
                self._on_mixed(len(self._publishers))
            self._told = True
        elif self._counts and last is not None and number > last:
            self._on_lost(number - last - 1)

    def on_event(self, event: Lost) -> None:
        """Evaluate an event of lost messages; ignored if the gaps in the numbers are counted."""
        if not self._counts:
            self._on_lost(event.total_count_change)

    @property
    def _counts(self) -> bool:
        return len(self._publishers) == 1
