"""PerceptionNode: the base class of this package's lifecycle nodes.

Guarded lifecycle transitions, one worker thread on the newest frame, QoS by name, diagnostics.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
import math
import threading
import time
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.timer import Timer
from sensor_msgs.msg import CompressedImage, Image

from mnv2_perception.errors import describe_error
from mnv2_perception.nodes import declare
from mnv2_perception.nodes.advice import incompatible_qos
from mnv2_perception.nodes.diagnostics import Diagnostics, Health, TICK_S
from mnv2_perception.nodes.hooks import Hooks
from mnv2_perception.nodes.messages import stamp_to_ns
from mnv2_perception.nodes.overrides import check_overrides
from mnv2_perception.nodes.parameters import LifecycleParameters
from mnv2_perception.nodes.process import tell
from mnv2_perception.nodes.qos import CAMERA_QOS, RESULT_QOS
from mnv2_perception.nodes.rclpy_private import TolerantLifecycleNode
from mnv2_perception.nodes.shared import Shared
from mnv2_perception.nodes.switch import Switch
from mnv2_perception.nodes.sync import StampWatch
from mnv2_perception.nodes.topics import Publisher, Subscription
from mnv2_perception.nodes.worker import Frame, NewestFrameWorker

LOG_PERIOD_S = 10.0
QOS_PERIOD_S = 5.0
LATENCY_WINDOW = 256
# How long a transition waits for the work under way to end.
IDLE_S = 2.0

Values = TypeVar('Values', bound=LifecycleParameters)


class PerceptionNode(Hooks, TolerantLifecycleNode, Generic[Values]):
    """A lifecycle node that turns a camera's frames into results.

    A subclass sets its parameter class and implements the `Hooks`. `acquire`, `work` and `release`
    run in the worker's thread, `announce` and `subscribe` in the executor's, `greet` and whatever
    the diagnostics ask for in the heartbeat's. `active` tells whether frames are being processed.
    Publishers exist while the node is configured, subscriptions while it is active and not
    switched off by `~/enable`; so otherwise it costs the camera and the network nothing.

    `counts` has: received (frames that reached the callback), published, passed_over (a newer one
    came first, max_rate_hz, held back, or the node was not active), rejected (malformed, or
    processing failed) and lost (never reached the callback, see `Losses`). When idle, received =
    published + passed_over + rejected; and for one camera in another process, received + lost =
    the images that it sent, from the first that arrived.

    Args:
        name: name of the node.
        shared: what the nodes of the process share; None if it is the only node.
        kwargs: passed to LifecycleNode.
    """

    Parameters: type[Values]

    def __init__(self, name: str, shared: Shared | None = None, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._is_alone = shared is None
        self.shared = shared or Shared()
        self.counts: Counter[str] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self.active = False
        self._lock = threading.Lock()
        self._values: Values | None = None
        self._worker: NewestFrameWorker[Frame] | None = None
        self.stamps = StampWatch()
        self._result_publishers: list[Publisher] = []
        self._camera_subscriptions: list[Subscription] = []
        self._next_due_s = 0.0
        self._last_received_s = 0.0
        self._silence_told_s = -math.inf
        self._failure = ''
        self._rejection = ''
        self._passing = ''
        self._told_qos: set[str] = set()
        self._abandoned = False
        # Guards what the diagnostics' thread reads and transitions take away.
        self._facts_lock = threading.Lock()
        declare.declare(self, self.Parameters)
        check_overrides(self, self.Parameters, self._is_alone)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._switch = Switch(self, self._begin_working, self._stop_working)
        self._diagnostics = Diagnostics(self)
        self.shared.heartbeat.add(self.publish_diagnostics)
        self.shared.heartbeat.add(self._greet, TICK_S)
        self.shared.heartbeat.add(self._look_around, QOS_PERIOD_S)
        self._autostart_timer: Timer | None = None
        if self.get_parameter('autostart').value:
            # In the executor, so that a lifecycle manager's requests never run at the same time.
            self._autostart_timer = self.create_steady_timer(0.0, self._autostart)

    @property
    def parameters(self) -> Values:
        """The parameter values of the configured node."""
        assert self._values is not None, 'the node is not configured'
        return self._values

    def take_waiting(self) -> Frame | None:
        """Take the waiting frame, so that another node can process it with its own."""
        return self._worker.take() if self._worker else None

    def create_steady_timer(self, period_s: float, callback: Callable[[], None]) -> Timer:
        """Create a timer that also runs while simulated time stands still."""
        return self.create_timer(
            period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def create_camera_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[[Any], object] | None = None,
        qos: QoSProfile = CAMERA_QOS,
    ) -> Subscription:
        """Subscribe to a camera topic until deactivation; parameters can override its QoS.

        Args:
            msg_type: message type of the topic.
            topic: name of the topic.
            callback: for messages that are not frames, such as camera_info; None: `on_frame`.
            qos: best effort by default.
        """
        subscription = Subscription(
            self, msg_type, topic, callback or self.on_frame,
            (lambda count: None) if callback else self._on_frames_lost, qos,
        )
        self._camera_subscriptions.append(subscription)
        self.shared.topics.subscribe(subscription)
        return subscription

    def create_result_publisher(
        self, msg_type: Any, topic: str, qos: QoSProfile = RESULT_QOS
    ) -> Publisher:
        """Create a publisher, silent until activation; parameters can override its QoS."""
        publisher = Publisher(
            self.shared.topics,
            self.create_lifecycle_publisher(
                msg_type,
                topic,
                copy(qos),  # overrides write into it
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            ),
        )
        self._result_publishers.append(publisher)
        self.shared.topics.add_publisher(publisher)
        return publisher

    def on_frame(self, msg: Image | CompressedImage) -> None:
        """Store a frame for the worker; nothing else happens in the callback."""
        now_s = time.monotonic()
        with self._lock:
            self.counts['received'] += 1
            self._last_received_s = now_s
            self.stamps.take(stamp_to_ns(msg.header.stamp))
            if not self.active:
                self.counts['passed_over'] += 1
                return
            rate_hz = self.parameters.max_rate_hz
            if rate_hz > 0.0:
                if now_s < self._next_due_s:
                    self.counts['passed_over'] += 1
                    return
                self._next_due_s = max(self._next_due_s, now_s - 1.0 / rate_hz) + 1.0 / rate_hz
            assert self._worker
            if self._worker.put(Frame(msg, now_s)):
                self.counts['passed_over'] += 1

    @contextmanager
    def rejecting(self, frame: Frame) -> Iterator[None]:
        """Count the frame as rejected if the block fails: a frame must never end the worker."""
        try:
            yield
        except Exception as exc:
            self.get_logger().error(
                f'frame rejected: {describe_error(exc)}', throttle_duration_sec=LOG_PERIOD_S
            )
            self.count(frame, 'rejected', describe_error(exc))

    def count(self, frame: Frame, outcome: str, reason: str = '') -> None:
        """Count a frame's outcome: published, passed_over or rejected, with the reason."""
        with self._lock:
            self.counts[outcome] += 1
            if outcome == 'rejected':
                self._rejection = reason
            else:
                self._passing = reason
            if outcome == 'published':
                self.latencies_ms.append((time.monotonic() - frame.received_s) * 1000.0)

    def _on_frames_lost(self, count: int) -> None:
        with self._lock:
            self.counts['lost'] += count
        self.get_logger().warning(
            f'{self.counts["lost"]} images were lost: this process was busy, they cannot be read, '
            f'or they need larger transport buffers, see config/fastdds.xml (for both sides)',
            throttle_duration_sec=LOG_PERIOD_S,
        )

    # Lifecycle. rclpy swallows exceptions in these callbacks, so each one is guarded here.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._failure = self._rejection = self._passing = ''
        self._worker = NewestFrameWorker(self.work, self.turns(), self.rank)
        try:
            self._values = declare.read(self, self.Parameters)
            self._worker.run(self.acquire)  # no time limit: building a plan takes minutes
        except Exception as exc:
            self._log_failure('configure', exc)
            self._release_all()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)  # enables the publishers: earlier messages are lost
        try:
            self.announce()
            if self._switch.on:
                self._begin_working()
        except Exception as exc:
            self._log_failure('activate', exc)
            self._stop_working()
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        self._failure = ''
        self.get_logger().info('active' if self._switch.on else 'active, but switched off')
        tell('active', node=self.get_fully_qualified_name())
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_working()  # the diagnostics report an engine that hangs
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        if not self._stop_working():
            return TransitionCallbackReturn.FAILURE  # what is in use cannot be released
        self._release_all()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release_all()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release_all()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        self.shared.heartbeat.remove(self._look_around)
        self.shared.heartbeat.remove(self._greet)
        self.shared.heartbeat.remove(self.publish_diagnostics)
        self._release_all()
        if self._is_alone:
            self.shared.close()
        super().destroy_node()

    @property
    def abandoned(self) -> bool:
        """Whether the engine hung when it was to be released, so the process must be ended."""
        return self._abandoned

    def _begin_working(self) -> None:
        """Begin to receive frames."""
        self.subscribe()
        self._failure = ''
        with self._lock:
            self.active = True
            self._last_received_s = time.monotonic()  # silence is measured from here

    def _stop_working(self) -> bool:
        """Stop receiving; return whether the work under way has ended, too."""
        while self._camera_subscriptions:
            self.shared.topics.unsubscribe(self._camera_subscriptions.pop())
        with self._facts_lock, self._lock:
            self.active = False
        if self._worker:
            if self._worker.take():
                with self._lock:
                    self.counts['passed_over'] += 1
            try:
                self._worker.run(lambda: None, IDLE_S)
            except TimeoutError as exc:
                self._log_failure('waiting for the engine', exc)
                return False
        return True

    def _release_all(self) -> None:
        idle = self._stop_working()
        while self._result_publishers:
            publisher = self._result_publishers.pop()
            self.shared.topics.remove_publisher(publisher)
            self.destroy_lifecycle_publisher(publisher.publisher)
        if self._worker:
            try:
                if idle:
                    self._worker.run(self.release, IDLE_S, turn=True)
            except Exception as exc:
                self._log_failure('release', exc)
                idle = not isinstance(exc, TimeoutError)
            self._worker.close()
        self._abandoned = self._abandoned or not idle
        with self._facts_lock:
            self._worker = None
            self._values = None

    def _log_failure(self, what: str, exc: Exception) -> None:
        self._failure = f'{what} failed: {describe_error(exc)}'
        self.get_logger().error(self._failure)

    def _autostart(self) -> None:
        self.destroy_timer(self._autostart_timer)
        if self.state_label != 'unconfigured':
            return  # a lifecycle manager was first
        success = TransitionCallbackReturn.SUCCESS
        if self.trigger_configure() != success or self.trigger_activate() != success:
            self.get_logger().error(
                f'the node stays {self.state_label}: correct its parameters, then configure and '
                f'activate it (`ros2 lifecycle set`), or restart it'
            )

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        with self._lock:
            self._values, result = declare.change(self._values, changes, self.Parameters)
            self._next_due_s = 0.0  # it was computed with the former max_rate_hz
        return result

    def _greet(self) -> None:
        with self._facts_lock:
            if self.active:
                self.greet()

    def _look_around(self) -> None:
        with self._facts_lock:
            if self.active:
                self.look_around()

    def look_around(self) -> None:
        """Check the other side of the topics every few seconds; warn of what is wrong, once."""
        told, self._told_qos = self._told_qos, set(incompatible_qos(
            self, tuple(self._result_publishers), tuple(self._camera_subscriptions)
        ))
        for text in self._told_qos - told:
            self.get_logger().warning(text)

    def publish_diagnostics(self) -> None:
        """Publish one status: state, counts, rate, latency, and the node's own facts."""
        with self._facts_lock:
            values, worker = self._values, self._worker
            acquired = values is not None and self.state_label in ('active', 'inactive')
            facts = self.describe() if acquired else {}
            fault, waiting, warning = (
                (self.fault(), self.waiting(), self.warning() or self.stamps.warning)
                if acquired else ('', '', '')
            )
        with self._lock:
            silent_s = time.monotonic() - self._last_received_s
            health = Health(
                state=self.state_label, active=self.active, off=not self._switch.on,
                failure=self._failure, fault=fault, waiting=waiting, warning=warning,
                silent_s=silent_s, rejection=self._rejection, passing=self._passing,
                counts=dict(self.counts), latencies_ms=list(self.latencies_ms),
                busy_s=worker.busy_s if worker and self.turns() else 0.0,
                builds=bool(getattr(values, 'build_engine', False)),
                max_rate_hz=values.max_rate_hz if values else 0.0,
                min_rate_hz=values.min_rate_hz if values else 0.0,
            )
        if health.silent and (why := self.explain_silence()):
            health = replace(health, silence=why)
            # rclpy's throttling inspects its caller, which costs more than all the rest of this.
            if (now_s := time.monotonic()) >= self._silence_told_s + 5 * LOG_PERIOD_S:
                self._silence_told_s = now_s
                self.get_logger().warning(why)
        self._diagnostics.publish(health, facts)
