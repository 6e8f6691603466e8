"""Losses: how many messages a publisher sent that a subscription never saw."""

from collections.abc import Callable, Set
from typing import Any, Protocol


class Lost(Protocol):
    """What the middleware tells when it lost messages; rclpy's class has moved."""

    total_count_change: int


class Losses:
    """Counts the messages that a subscription over DDS missed, from the first that arrived.

    Each publisher numbers its messages. Where one publisher alone is heard, a gap is what was
    lost on the way, overwritten in this process's queue, or could not be read. Where the
    middleware has no numbers (Humble), it tells only what was lost on the way; of several
    publishers with numbers nothing is counted, for that event is left out, see `rclpy_private`.

    Args:
        on_lost: called with each number of messages.
        on_mixed: called with how many publishers are heard where there are several.
        find_publishers: returns who publishes now. rclpy could tell who comes and goes, too, but
            such an event, waiting while its subscription is destroyed, ends the executor.
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
        """Take what the middleware tells of a message; the executor's thread only."""
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
            if not self._told:  # of one that was killed nothing comes, but it is known for a while
                self._on_mixed(len(self._publishers))
            self._told = True
        elif self._counts and last is not None and number > last:
            self._on_lost(number - last - 1)

    def on_event(self, event: Lost) -> None:
        """Take what the middleware lost; the gap in the numbers tells it where there are any."""
        if not self._counts:
            self._on_lost(event.total_count_change)

    @property
    def _counts(self) -> bool:
        return len(self._publishers) == 1
