"""When each message of a bag is due, and /clock between them; reading runs a little ahead."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mnv2_perception.bags.read import BagMessage

# A 1080p image takes 6 ms to read, and now and then the disk much longer.
READ_AHEAD = 4


class Step(NamedTuple):
    """What is due at one moment.

    Attributes:
        after_ns: time since playing began.
        stamp_ns: the bag's time by then, for /clock.
        message: to be published; None where the clock alone moves on.
    """

    after_ns: int
    stamp_ns: int
    message: BagMessage | None


def schedule(messages: Iterator[BagMessage], rate: float, clock_hz: float) -> Iterator[Step]:
    """Go through a bag in the order of time.

    Times count from the first message, not from the one before, so lateness never adds up.

    Args:
        messages: of the bag, in its order.
        rate: bag seconds per second, above 0.
        clock_hz: how often the clock moves on in real time between far-apart messages; 0: never.
    """
    period_ns = round(1e9 * rate / clock_hz) if clock_hz else 0  # in bag time
    first_ns: int | None = None
    for message in messages:
        if first_ns is None:
            first_ns = clock_ns = message.stamp_ns
        while period_ns and clock_ns + period_ns < message.stamp_ns:
            clock_ns += period_ns
            yield Step(round((clock_ns - first_ns) / rate), clock_ns, None)
        clock_ns = message.stamp_ns
        yield Step(round((clock_ns - first_ns) / rate), clock_ns, message)


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
