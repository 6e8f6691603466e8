"""The /diagnostics of a node: its health, counts of its frames, and facts that it adds itself."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import logging
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from mnv2_perception.nodes.messages import diagnostics_to_msg
from mnv2_perception.nodes.worker import HANG_S

COUNTS = ('received', 'published', 'passed_over', 'rejected', 'lost')
SILENCE_S = 3.0
WINDOW_S = 5.0
PERIOD_S = 1.0
TICK_S = 0.25
SLOW_OPENING_S = 10.0
HUNG_OPENING_S = 60.0
RESTART = 'if this persists, restart the process (a second SIGTERM ends it at once)'

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Health:
    """The condition of a node, as `judge` needs it.

    Attributes:
        state: state of its lifecycle, such as `inactive`.
        active: whether it processes frames.
        failure: why the last transition failed, empty if it did not.
        warning: what is wrong although it works, empty if nothing is.
        silent_s: time since the last frame came.
        counts: frames since the node started, by what became of them.
        latencies_ms: latencies of the latest results.
        fault: what makes its results wrong, empty if nothing does.
        waiting: what it lacks to make results, and the cure; empty if it lacks nothing.
        rejection: why the last frame was rejected.
        passing: why the last frame was passed over, if not because a newer one came.
        busy_s: how long its worker has been busy with one frame, or opening or closing the model.
        builds: whether opening the model may take minutes, because it builds an engine.
        max_rate_hz: the most frames that it processes per second; 0: all.
        min_rate_hz: the fewest results that it has to publish per second; 0: no minimum.
        silence: why frames may be missing, and what to do.
        off: whether `~/enable` has switched it off.
    """

    state: str
    active: bool
    failure: str
    warning: str
    silent_s: float
    counts: Mapping[str, int]
    latencies_ms: Sequence[float]
    fault: str = ''
    waiting: str = ''
    rejection: str = ''
    passing: str = ''
    busy_s: float = 0.0
    builds: bool = False
    max_rate_hz: float = 0.0
    min_rate_hz: float = 0.0
    silence: str = ''
    off: bool = False

    @property
    def window_s(self) -> float:
        """Seconds that it takes to judge a rate: three periods of the lowest rate that is set."""
        return max([WINDOW_S, *(3.0 / hz for hz in (self.max_rate_hz, self.min_rate_hz) if hz)])

    @property
    def silent(self) -> bool:
        """Whether frames are expected but none comes."""
        return self.active and not self.failure and self.silent_s > SILENCE_S


def judge(health: Health, new: Mapping[str, int], over_s: float) -> tuple[bytes, str]:
    """Return the level of a DiagnosticStatus and its message; docs/topics.md has the table.

    Args:
        health: condition of the node.
        new: counts of the frames of the last seconds, by what became of them.
        over_s: number of these seconds.
    """
    if health.state in ('configuring', 'unconfigured') and health.busy_s:
        text = f'opening the model for {health.busy_s:.0f} s'
        if health.busy_s > HUNG_OPENING_S and not health.builds:
            return DiagnosticStatus.ERROR, f'{text}: the engine does not answer; {RESTART}'
        slow = health.busy_s > SLOW_OPENING_S and not health.builds
        return DiagnosticStatus.WARN if slow else DiagnosticStatus.OK, text
    if health.busy_s > HANG_S:
        text = f'the engine has not answered for {health.busy_s:.0f} s'
        return DiagnosticStatus.ERROR, f'{text}; {RESTART}'
    if health.failure:
        return DiagnosticStatus.ERROR, health.failure
    if not health.active:
        off = 'switched off by ~/enable' if health.off else 'not working'
        return DiagnosticStatus.OK, off if health.state == 'active' else f'{health.state}, {off}'
    if health.fault:
        return DiagnosticStatus.ERROR, health.fault
    if health.silent:
        cause = f': {health.silence}' if health.silence else ''
        return DiagnosticStatus.WARN, f'no image for {SILENCE_S:.0f} s or more{cause}'
    received, published, rejected = new['received'], new['published'], new['rejected']
    reasons = [
        f'it waits for {health.waiting}' if health.waiting else '',
        f'{rejected} rejected, the last: {health.rejection}' if rejected else '',
        health.passing if new['passed_over'] and health.passing not in health.waiting else '',
    ]
    reason = '; '.join(text for text in reasons if text)
    judged = over_s > health.window_s - PERIOD_S / 2.0
    if received and not published and judged:
        text = f'no result of {received} images in {over_s:.0f} s'
        return DiagnosticStatus.ERROR, f'{text}: {reason or "no image has been processed"}'
    if health.waiting or rejected or (health.passing and new['passed_over']):
        return DiagnosticStatus.WARN, f'{published} results of {received} images: {reason}'
    due = health.min_rate_hz * over_s - 1.0  # the next one may be about to come
    if judged and published <= due:
        few = received <= due
        return DiagnosticStatus.WARN, (
            f'{published / over_s:.1f} results of {received / over_s:.1f} images per second, '
            f'expected {health.min_rate_hz:g} (min_rate_hz): '
            f'{"too few images arrive" if few else "use a faster model or free the processor"}'
        )
    if health.warning:
        return DiagnosticStatus.WARN, health.warning
    return DiagnosticStatus.OK, 'working'


class Diagnostics:
    """Publishes a node's status, with the counts and rates since the previous ones.

    Args:
        node: the node to report on.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._reported: deque[tuple[float, Mapping[str, int]]] = deque([(time.monotonic(), {})])
        self._was_active = False

    def publish(self, health: Health, facts: Mapping[str, object]) -> None:
        """Publish level, message, counts, rate and latency, and the node's own facts."""
        now_s, counts = time.monotonic(), health.counts
        if health.active and not self._was_active:
            self._reported = deque([self._reported[-1]])  # count only from its activation on
        self._was_active = health.active
        enough_s = health.window_s - PERIOD_S / 2.0
        while len(self._reported) > 1 and now_s - self._reported[1][0] > enough_s:
            self._reported.popleft()
        before_s, before = self._reported[0]
        new = {name: counts.get(name, 0) - before.get(name, 0) for name in COUNTS}
        if not new['received']:
            self._reported.clear()  # a rate is measured from the first image on
        self._reported.append((now_s, counts))
        level, message = judge(health, new, now_s - before_s)
        values: dict[str, object] = {name: counts.get(name, 0) for name in COUNTS}
        values['rate_hz'] = f'{new["published"] / max(now_s - before_s, 1e-6):.1f}'
        if latencies_ms := sorted(health.latencies_ms):
            values['latency_p50_ms'] = f'{latencies_ms[len(latencies_ms) // 2]:.1f}'
            values['latency_p95_ms'] = f'{latencies_ms[int(len(latencies_ms) * 0.95)]:.1f}'
        values['last_rejection'] = health.rejection
        self._publisher.publish(
            diagnostics_to_msg(
                f'{self._node.get_fully_qualified_name()[1:]}: frames', self._node.get_name(),
                level, message, {**values, **facts}, self._node.get_clock().now().to_msg(),
            )
        )


class Heartbeat:
    """Calls functions at fixed periods in one thread, such as those that publish diagnostics.

    So an executor that is stuck in a transition, or a node whose engine hangs, silences no other
    node; and one thread for all nodes costs less than a timer in the executor of each.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._every: dict[Callable[[], None], int] = {}
        threading.Thread(target=self._run, name='diagnostics', daemon=True).start()

    def add(self, call: Callable[[], None], period_s: float = PERIOD_S) -> None:
        """Call a function periodically from now on; the period is a multiple of 0.25 s."""
        with self._lock:
            self._every[call] = round(period_s / TICK_S)

    def remove(self, call: Callable[[], None]) -> None:
        """Stop calling a function; when this returns, no call of it is under way any more."""
        with self._lock:
            self._every.pop(call, None)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _run(self) -> None:
        ticks = 0
        while not self._closed.wait(TICK_S):
            ticks += 1
            with self._lock:
                for call, every in self._every.items():
                    try:
                        if ticks % every == 0:
                            call()
                    except Exception:  # one node's error must not silence the others
                        LOGGER.exception('diagnostics')
