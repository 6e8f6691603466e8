"""Losses: how many messages a publisher sent that a subscription never saw."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError


class Lost(Protocol):
    """What the middleware tells when it lost messages; rclpy's class has moved."""

    total_count_change: int


class Matched(Protocol):
    """What the middleware tells when a publisher came or went."""

    current_count: int


class Losses:
    """Counts the messages that a subscription over DDS missed, from the first that arrived.

    Each publisher numbers its messages. Where one publisher alone is heard, a gap is what was
    lost on the way, overwritten in this process's queue, or could not be read. Where there are
    several, or the middleware has no numbers (Humble), it tells only what was lost on the way.

    Args:
        on_lost: called with each number of messages.
        on_mixed: called with how many publishers are heard where there are several.
    """

    def __init__(self, on_lost: Callable[[int], None], on_mixed: Callable[[int], None]) -> None:
        self._on_lost = on_lost
        self._on_mixed = on_mixed
        self._alone = False
        self._last: int | None = None

    def subscribe(self, create: Callable[[SubscriptionEventCallbacks], Any]) -> Any:
        """Create a subscription with the events that this middleware and this rclpy know."""
        lost, matched = {'message_lost': self._on_event}, {'matched': self._on_matched}
        for known in ({**lost, **matched}, lost):
            # Humble's rclpy has no event of matches.
            with suppress(UnsupportedEventTypeError, TypeError):
                return create(SubscriptionEventCallbacks(**known))
        return create(SubscriptionEventCallbacks())

    def on_message(self, info: dict[str, Any]) -> None:
        """Take what the middleware tells of a message; the executor's thread only."""
        number = info.get('publication_sequence_number')
        if not self._alone or number is None:
            return
        last, self._last = self._last, number
        if last is not None and number > last + 1:
            self._on_lost(number - last - 1)

    def _on_matched(self, event: Matched) -> None:
        self._alone = event.current_count == 1
        self._last = None  # numbers of another publisher
        if event.current_count > 1:
            self._on_mixed(event.current_count)

    def _on_event(self, event: Lost) -> None:
        if self._last is None:  # else the gap in the numbers tells it
            self._on_lost(event.total_count_change)
