"""When the messages of a bag are due, and reading ahead of them."""

import threading

from mnv2_perception.bags.playback import played_s, READ_AHEAD, read_ahead, schedule
from mnv2_perception.bags.read import BagMessage

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


def message(after_ms: int) -> BagMessage:
    return BagMessage('/count', 'std_msgs/msg/UInt32', START_NS + after_ms * MS, b'')


def test_each_message_is_due_by_its_distance_from_the_first_at_the_rate() -> None:
    messages = [message(after_ms) for after_ms in (0, 10, 10, 250)]
    for rate in (1.0, 4.0, 0.5):
        steps = list(schedule(iter(messages), rate, 0.0))
        assert [step.message for step in steps] == messages
        assert [step.after_ns for step in steps] == [
            round(after_ms * MS / rate) for after_ms in (0, 10, 10, 250)
        ]


def test_the_clock_runs_on_between_messages_that_are_far_apart() -> None:
    steps = list(schedule(iter([message(0), message(95)]), 2.0, 100.0))
    # 100 Hz of real time at twice the speed: every 20 ms of the bag.
    assert [(step.stamp_ns - START_NS) // MS for step in steps] == [0, 20, 40, 60, 80, 95]
    assert [step.after_ns // MS for step in steps] == [0, 10, 20, 30, 40, 47]
    assert [step.message is None for step in steps] == [False, True, True, True, True, False]


def test_the_clock_is_not_sent_twice_where_a_message_brings_it() -> None:
    steps = list(schedule(iter([message(0), message(20), message(40)]), 1.0, 50.0))
    assert all(step.message for step in steps)


def test_of_a_gap_longer_than_a_pause_one_second_is_left_and_the_clock_jumps() -> None:
    day_ms = 86_400_000
    messages = [message(after_ms) for after_ms in (0, 900, day_ms, day_ms + 2000)]
    steps = list(schedule(iter(messages), 2.0, 10.0, 2.0))
    played = [step for step in steps if step.message]
    assert [step.after_ns // MS for step in played] == [0, 450, 950, 1950]
    assert [step.gap_ns // MS for step in played] == [0, 0, day_ms - 1900, 0]
    assert [step.stamp_ns for step in played] == [each.stamp_ns for each in messages]
    assert len(steps) < 20  # no clock through the day
    stamps_ns = [each.stamp_ns for each in messages]
    assert played_s(stamps_ns, 2.0) == 3.9
    for no_limit in (0.0, 1e6):
        assert played_s(stamps_ns, no_limit) == 86_402.0


def test_an_empty_bag_has_nothing_due() -> None:
    assert list(schedule(iter([]), 1.0, 100.0)) == []


def test_a_few_messages_are_read_before_they_are_asked_for() -> None:
    read, enough = [], threading.Event()

    def slow_disk():  # type: ignore[no-untyped-def]
        for number in range(10):
            read.append(number)
            if len(read) == 1 + READ_AHEAD:
                enough.set()
            yield message(number)

    ahead = read_ahead(slow_disk())
    assert next(ahead) == message(0)
    assert enough.wait(10.0)
    assert list(ahead) == [message(number) for number in range(1, 10)]
