"""What a node tells on /diagnostics: how it fares, what became of its frames, its own facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from mnv2_perception.nodes.messages import diagnostics_to_msg

COUNTS = ('received', 'published', 'passed_over', 'rejected', 'lost')
SILENCE_S = 3.0


@dataclass(frozen=True)
class Health:
    """How a node fares.

    Attributes:
        state: of its lifecycle.
        active: whether it processes frames.
        failure: of the last transition, empty if there was none.
        warning: what is wrong although it works, empty if nothing is.
        silent_s: how long no frame has come.
        counts: of frames since it started, by what became of them.
        latencies_ms: of the latest results.
    """

    state: str
    active: bool
    failure: str
    warning: str
    silent_s: float
    counts: Mapping[str, int]
    latencies_ms: Sequence[float]

    @property
    def silent(self) -> bool:
        """Whether frames should be coming, and none does."""
        return self.active and not self.failure and self.silent_s > SILENCE_S


def judge(health: Health, rejected: int) -> tuple[bytes, str]:
    """Return the level of a DiagnosticStatus and its message.

    Args:
        health: of the node.
        rejected: frames since the last report.
    """
    if health.failure:
        return DiagnosticStatus.ERROR, health.failure
    if not health.active:
        return DiagnosticStatus.OK, f'{health.state}, not working'
    if health.silent:
        return DiagnosticStatus.WARN, f'no image for {SILENCE_S:.0f} s or more'
    if rejected:
        return DiagnosticStatus.WARN, f'{rejected} frames rejected, see the log'
    if health.warning:
        return DiagnosticStatus.WARN, health.warning
    return DiagnosticStatus.OK, 'working'


class Diagnostics:
    """Publishes a node's status, and works out what is new since the last one.

    Args:
        node: whose.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._reported_s = time.monotonic()
        self._reported: Mapping[str, int] = {}

    def publish(self, health: Health, facts: Mapping[str, object]) -> None:
        """Publish level and message, counts, rate, latency, and the node's own facts."""
        now_s, counts = time.monotonic(), health.counts
        period_s = max(now_s - self._reported_s, 1e-6)
        new = {name: counts.get(name, 0) - self._reported.get(name, 0) for name in COUNTS}
        self._reported_s, self._reported = now_s, counts
        level, message = judge(health, new['rejected'])
        values: dict[str, object] = {name: counts.get(name, 0) for name in COUNTS}
        values['rate_hz'] = f'{new["published"] / period_s:.1f}'
        if latencies_ms := sorted(health.latencies_ms):
            values['latency_p50_ms'] = f'{latencies_ms[len(latencies_ms) // 2]:.1f}'
            values['latency_p95_ms'] = f'{latencies_ms[int(len(latencies_ms) * 0.95)]:.1f}'
        self._publisher.publish(
            diagnostics_to_msg(
                f'{self._node.get_fully_qualified_name()[1:]}: frames', self._node.get_name(),
                level, message, {**values, **facts}, self._node.get_clock().now().to_msg(),
            )
        )
