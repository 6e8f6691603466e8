"""Schedule a bag's messages and the ticks of /clock between them, and read slightly ahead."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

from mnv2_perception.bags.read import BagMessage

# What remains of a gap that is too long, for example because the recorder's clock was set.
PAUSE_NS = 1_000_000_000
# Messages. Reading a 1080p image takes 6 ms, but now and then the disk needs much longer.
READ_AHEAD = 4


class Step(NamedTuple):
    """What is due at one moment.

    Attributes:
        after_ns: time since playing began.
        stamp_ns: the bag's time at this moment, for /clock.
        message: message to publish; None if only the clock advances.
        gap_ns: bag time that was skipped before this step; 0 for none.
    """

    after_ns: int
    stamp_ns: int
    message: BagMessage | None
    gap_ns: int = 0


def schedule(
    messages: Iterator[BagMessage], rate: float, clock_hz: float, max_gap_s: float = 0.0
) -> Iterator[Step]:
    """Yield the steps of playing a bag, in time order.

    Times count from the first message, not from the previous one, so delays do not add up.

    Args:
        messages: messages of the bag, in its order.
        rate: bag seconds per second, above 0.
        clock_hz: rate in real time at which the clock advances between messages that are far
            apart; 0: it advances only with messages.
        max_gap_s: a longer gap in the bag's time is shortened to one second, and the clock jumps;
            0: no gap is shortened.
    """
    period_ns = round(1e9 * rate / clock_hz) if clock_hz else 0  # in bag time
    begin_ns: int | None = None
    for message in messages:
        if begin_ns is None:
            begin_ns = clock_ns = message.stamp_ns
        gap_ns = left_out_ns(message.stamp_ns - clock_ns, max_gap_s)
        begin_ns += gap_ns
        while period_ns and not gap_ns and clock_ns + period_ns < message.stamp_ns:
            clock_ns += period_ns
            yield Step(round((clock_ns - begin_ns) / rate), clock_ns, None)
        clock_ns = message.stamp_ns
        yield Step(round((clock_ns - begin_ns) / rate), clock_ns, message, gap_ns)


def left_out_ns(gap_ns: int, max_gap_s: float) -> int:
    """Return how much of the time between two messages is skipped."""
    return max(0, gap_ns - PAUSE_NS) if 0 < max_gap_s < gap_ns / 1e9 else 0


def played_s(stamps_ns: Sequence[int], max_gap_s: float) -> float:
    """Return how long messages with these times, in order, take to play at rate 1, in seconds."""
    gaps_ns = [later - earlier for earlier, later in pairwise(stamps_ns)]
    return sum(gap_ns - left_out_ns(gap_ns, max_gap_s) for gap_ns in gaps_ns) / 1e9


def read_ahead(messages: Iterator[BagMessage]) -> Iterator[BagMessage]:
    """Read the next few messages in a thread, so that a slow disk delays none.

    Args:
        messages: messages to read; from now on the caller must use only the result.

    Returns:
        The same messages in the same order.
    """
    with ThreadPoolExecutor(1) as thread:
        pending = deque(thread.submit(next, messages, None) for _ in range(READ_AHEAD))
        while (message := pending.popleft().result()) is not None:
            pending.append(thread.submit(next, messages, None))
            yield message
