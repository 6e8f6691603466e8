"""When each message of a bag is due, and /clock between them; reading runs a little ahead."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

from mnv2_perception.bags.read import BagMessage

# Of a gap that is no pause, as where the clock of the recording machine was set.
PAUSE_NS = 1_000_000_000
# A 1080p image takes 6 ms to read, and now and then the disk much longer.
READ_AHEAD = 4


class Step(NamedTuple):
    """What is due at one moment.

    Attributes:
        after_ns: time since playing began.
        stamp_ns: the bag's time by then, for /clock.
        message: to be published; None where the clock alone moves on.
        gap_ns: time before it that was left out; 0: none.
    """

    after_ns: int
    stamp_ns: int
    message: BagMessage | None
    gap_ns: int = 0


def schedule(
    messages: Iterator[BagMessage], rate: float, clock_hz: float, max_gap_s: float = 0.0
) -> Iterator[Step]:
    """Go through a bag in the order of time.

    Times count from the first message, not from the one before, so lateness never adds up.

    Args:
        messages: of the bag, in its order.
        rate: bag seconds per second, above 0.
        clock_hz: how often the clock moves on in real time between far-apart messages; 0: never.
        max_gap_s: of a longer gap in the bag's time a second is left, and the clock jumps; 0: no
            gap is too long.
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
    """Return how much of the time between two messages is not waited for."""
    return max(0, gap_ns - PAUSE_NS) if 0 < max_gap_s < gap_ns / 1e9 else 0


def played_s(stamps_ns: Sequence[int], max_gap_s: float) -> float:
    """Return how long messages of these times, in order, take to play at rate 1."""
    gaps_ns = [later - earlier for earlier, later in pairwise(stamps_ns)]
    return sum(gap_ns - left_out_ns(gap_ns, max_gap_s) for gap_ns in gaps_ns) / 1e9


def read_ahead(messages: Iterator[BagMessage]) -> Iterator[BagMessage]:
    """Read the next few messages in a thread, so that a slow disk delays none.

    Args:
        messages: What to read; from now on only through the result.

    Returns:
        The same messages in the same order.
    """
    with ThreadPoolExecutor(1) as thread:
        pending = deque(thread.submit(next, messages, None) for _ in range(READ_AHEAD))
        while (message := pending.popleft().result()) is not None:
            pending.append(thread.submit(next, messages, None))
            yield message
