"""PerceptionNode: what every node of this package does besides its own work.

Guarded lifecycle transitions, one worker thread on the newest frame, QoS by name, diagnostics.
"""

from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
import logging
import signal
import sys
import threading
import time
from typing import Any, Generic, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions

from mnv2_perception.errors import PerceptionError
from mnv2_perception.nodes import parameters
from mnv2_perception.nodes.messages import diagnostics_to_msg

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

# Best effort matches every camera; a reliable subscription hears nothing of most of them. The
# callback only stores the message, so a depth of 5 is no queue: it bridges the moments in which
# Python does something else, and what was passed over is counted, not lost.
CAMERA_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# Reliable serves RViz, which asks for it, and Nav2's semantic layer, which does not.
RESULT_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

LOG_PERIOD_S = 5.0
LATENCY_WINDOW = 256
SILENCE_S = 3.0

Item = TypeVar('Item')
Result = TypeVar('Result')


class NewestFrameWorker(Generic[Item]):
    """One thread that works on the newest item; an older one that still waits is dropped.

    So a result is never older than the work under way plus its own. The same thread opens, uses
    and closes what belongs to a thread, as a CUDA context does.

    Args:
        work: called with each item that is taken; must not raise.
    """

    def __init__(self, work: Callable[[Item], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: Item | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='worker')

    def put(self, item: Item) -> bool:
        """Hand over an item; return whether one that still waited was dropped for it."""
        with self._lock:
            dropped = self._waiting is not None
            self._waiting = item
        if not dropped:
            self._thread.submit(self._take)
        return dropped

    def drop_waiting(self) -> bool:
        """Drop the item that waits; return whether there was one."""
        with self._lock:
            dropped = self._waiting is not None
            self._waiting = None
        return dropped

    def run(self, function: Callable[[], Result]) -> Result:
        """Run a function in the worker's thread after the work under way; return its result."""
        return self._thread.submit(function).result()

    def close(self) -> None:
        """Finish the work under way and end the thread."""
        self.drop_waiting()
        self._thread.shutdown()

    def _take(self) -> None:
        with self._lock:
            item, self._waiting = self._waiting, None
        if item is not None:
            self._work(item)


class PerceptionNode(LifecycleNode):
    """A lifecycle node that turns a camera's frames into results.

    A subclass gives its parameter class and implements `acquire`, `release`, `announce`,
    `subscribe`, `process` and `describe`. `acquire`, `process` and `release` run in the worker's
    thread, the rest in the executor's. `active` tells whether frames are being processed. Its
    publishers live while it is configured, its subscriptions while it is active: an inactive
    node costs the camera and the network nothing.

    Counted in `counts`: received (frames that reached the callback), published, passed_over
    (a newer one came first, max_rate_hz, held back, or the node was not active), rejected
    (malformed, or processing failed) and lost (the middleware says that it lost them before the
    callback). Once idle, received = published + passed_over + rejected.

    `Parameters` has at least `autostart` and `max_rate_hz`.
    """

    Parameters: type[Any]

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.counts: Counter[str] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self.parameters: Any = None
        self._lock = threading.Lock()
        self._worker: NewestFrameWorker[tuple[Any, float]] | None = None
        self._result_publishers: list[Any] = []
        self._camera_subscriptions: list[Any] = []
        self.active = False
        self._next_due_s = 0.0
        self._last_received_s = 0.0
        self._reported: tuple[float, dict[str, int]] = (time.monotonic(), {})
        self._failure = ''
        parameters.declare(self, self.Parameters)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_steady_timer(1.0, self.publish_diagnostics)
        if self.get_parameter('autostart').value:
            # From the executor, so that a lifecycle manager's requests never run beside it.
            self._autostart_timer = self.create_steady_timer(0.0, self._autostart)

    @abstractmethod
    def acquire(self) -> None:
        """Open what the node needs and create its publishers."""

    @abstractmethod
    def release(self) -> None:
        """Give back, in reverse, what `acquire` opened; it may have failed half-way."""

    @abstractmethod
    def announce(self) -> None:
        """Publish what consumers must know before the first result."""

    @abstractmethod
    def subscribe(self) -> None:
        """Create the subscriptions."""

    @abstractmethod
    def process(self, msg: Any) -> bool:
        """Turn one frame into results and publish them; return whether that was done.

        Raises:
            PerceptionError: the frame cannot be processed.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return facts for the diagnostics."""

    def create_steady_timer(self, period_s: float, callback: Callable[[], None]) -> Any:
        """Create a timer that also runs while simulated time stands still."""
        return self.create_timer(
            period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def create_camera_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[[Any], None] | None = None,
        qos: QoSProfile = CAMERA_QOS,
    ) -> Any:
        """Subscribe to a camera topic until deactivation; parameters can override its QoS.

        Args:
            msg_type: of the topic.
            topic: its name.
            callback: for what belongs to frames and is none; `on_frame` when None.
            qos: best effort unless told otherwise.
        """
        # Overrides write into the profile.
        arguments = (msg_type, topic, callback or self.on_frame, copy(qos))
        overriding = QoSOverridingOptions.with_default_policies()
        try:
            subscription = self.create_subscription(
                *arguments,
                qos_overriding_options=overriding,
                event_callbacks=SubscriptionEventCallbacks(message_lost=self._on_lost),
            )
        except UnsupportedEventTypeError:  # not every middleware tells what it lost
            subscription = self.create_subscription(*arguments, qos_overriding_options=overriding)
        self._camera_subscriptions.append(subscription)
        return subscription

    def create_result_publisher(
        self, msg_type: Any, topic: str, qos: QoSProfile = RESULT_QOS
    ) -> Any:
        """Create a publisher, silent until activation; parameters can override its QoS."""
        publisher = self.create_lifecycle_publisher(
            msg_type,
            topic,
            copy(qos),  # overrides write into it
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._result_publishers.append(publisher)
        return publisher

    def on_frame(self, msg: Any) -> None:
        """Store a frame for the worker; nothing else happens in the callback."""
        now_s = time.monotonic()
        with self._lock:
            self.counts['received'] += 1
            self._last_received_s = now_s
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
            if self._worker.put((msg, now_s)):
                self.counts['passed_over'] += 1

    def _work(self, item: tuple[Any, float]) -> None:
        msg, received_s = item
        try:
            outcome = 'published' if self.process(msg) else 'passed_over'
        except PerceptionError as exc:
            outcome = 'rejected'
            self.get_logger().error(
                f'frame rejected: {exc}', throttle_duration_sec=LOG_PERIOD_S
            )
        except Exception as exc:  # a frame must never end the worker
            outcome = 'rejected'
            self.get_logger().error(
                f'frame rejected: unexpected {type(exc).__name__}: {exc}',
                throttle_duration_sec=LOG_PERIOD_S,
            )
        with self._lock:
            self.counts[outcome] += 1
            if outcome == 'published':
                self.latencies_ms.append((time.monotonic() - received_s) * 1000.0)

    def _on_lost(self, event: Any) -> None:
        with self._lock:
            self.counts['lost'] += event.total_count_change
        self.get_logger().warning(
            f'{event.total_count} images lost before they arrived: images between processes '
            f'need larger transport buffers, see config/fastdds.xml (both sides need it)',
            throttle_duration_sec=LOG_PERIOD_S,
        )

    # Lifecycle. rclpy swallows exceptions of these callbacks, so each is guarded here.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._failure = ''
        self._worker = NewestFrameWorker(self._work)
        try:
            self.parameters = parameters.read(self, self.Parameters)
            self._worker.run(self.acquire)
        except Exception as exc:
            self._log_failure('configure', exc)
            self._release_all()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)  # enables the publishers: what comes before is lost
        try:
            self.announce()
            self.subscribe()
        except Exception as exc:
            self._log_failure('activate', exc)
            self._stop_working()
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        self._failure = ''
        with self._lock:
            self.active = True
            self._last_received_s = time.monotonic()  # silence is counted from here
        self.get_logger().info('active')
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_working()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release_all()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release_all()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release_all()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        self._release_all()
        super().destroy_node()

    def _stop_working(self) -> None:
        while self._camera_subscriptions:
            self.destroy_subscription(self._camera_subscriptions.pop())
        with self._lock:
            self.active = False
        if self._worker:
            if self._worker.drop_waiting():
                with self._lock:
                    self.counts['passed_over'] += 1
            self._worker.run(lambda: None)

    def _release_all(self) -> None:
        self._stop_working()
        while self._result_publishers:
            self.destroy_lifecycle_publisher(self._result_publishers.pop())
        if self._worker:
            try:
                self._worker.run(self.release)
            except Exception as exc:
                self._log_failure('release', exc)
            self._worker.close()
        self._worker = None
        self.parameters = None

    def _log_failure(self, what: str, exc: Exception) -> None:
        kind = '' if isinstance(exc, PerceptionError) else f'unexpected {type(exc).__name__}: '
        self._failure = f'{what} failed: {kind}{exc}'
        self.get_logger().error(self._failure)

    def _autostart(self) -> None:
        self.destroy_timer(self._autostart_timer)
        if self._state_machine.current_state[1] != 'unconfigured':
            return  # a lifecycle manager was first
        success = TransitionCallbackReturn.SUCCESS
        if self.trigger_configure() != success or self.trigger_activate() != success:
            self.get_logger().error(
                f'the node stays {self._state_machine.current_state[1]}: correct its parameters, '
                f'then configure and activate it (`ros2 lifecycle set`), or start it again'
            )

    def _LifecycleNodeMixin__change_state(
        self, transition_id: int
    ) -> TransitionCallbackReturn:
        """Answer transitions that do not start from the present state instead of dying of them.

        rclpy raises RCLError out of the service's callback, and with it out of spin. Autostart
        and a lifecycle manager together make it happen. A manager that asks for a state wants the
        node in that state, so that is what it gets; anything else fails without effect.
        """
        state = self._state_machine.current_state[1]
        if transition_id == Transition.TRANSITION_CONFIGURE:
            if state == 'active':
                return self.trigger_deactivate()
            if state == 'inactive':
                return TransitionCallbackReturn.SUCCESS
        if transition_id == Transition.TRANSITION_ACTIVATE and state == 'active':
            return TransitionCallbackReturn.SUCCESS
        possible = [found[0] for found in self._state_machine.available_transitions]
        if transition_id not in possible:
            self.get_logger().warning(f'transition {transition_id} ignored: the node is {state}')
            return TransitionCallbackReturn.FAILURE
        return super()._LifecycleNodeMixin__change_state(transition_id)

    def _on_set_parameters(self, changes: list[Any]) -> Any:
        self.parameters, result = parameters.change(self.parameters, changes, self.Parameters)
        with self._lock:
            self._next_due_s = 0.0  # of the old max_rate_hz
        return result

    def publish_diagnostics(self) -> None:
        """Publish one status: state, counts, rate, latency, and the node's own facts."""
        now_s = time.monotonic()
        with self._lock:
            counts = dict(self.counts)
            latencies_ms = sorted(self.latencies_ms)
            silent_s = now_s - self._last_received_s
            active = self.active
        reported_s, reported = self._reported
        self._reported = (now_s, counts)

        def new(name: str) -> int:
            return counts.get(name, 0) - reported.get(name, 0)

        level, message = DiagnosticStatus.OK, 'working'
        if self._failure:
            level, message = DiagnosticStatus.ERROR, self._failure
        elif not active:
            message = f'{self._state_machine.current_state[1]}, not working'
        elif silent_s > SILENCE_S:
            level, message = DiagnosticStatus.WARN, f'no image for {SILENCE_S:.0f} s or more'
            self.get_logger().warning(
                self.explain_silence(), throttle_duration_sec=10 * LOG_PERIOD_S
            )
        elif new('rejected'):
            level = DiagnosticStatus.WARN
            message = f'{new("rejected")} frames rejected, see the log'
        values: dict[str, object] = {
            name: counts.get(name, 0)
            for name in ('received', 'published', 'passed_over', 'rejected', 'lost')
        }
        values['rate_hz'] = f'{new("published") / max(now_s - reported_s, 1e-6):.1f}'
        if latencies_ms:
            values['latency_p50_ms'] = f'{latencies_ms[len(latencies_ms) // 2]:.1f}'
            values['latency_p95_ms'] = f'{latencies_ms[int(len(latencies_ms) * 0.95)]:.1f}'
        if self.parameters:
            values |= self.describe()
        self._diagnostics.publish(
            diagnostics_to_msg(
                f'{self.get_fully_qualified_name()[1:]}: frames', self.get_name(), level,
                message, values, self.get_clock().now().to_msg(),
            )
        )

    def explain_silence(self) -> str:
        """Return why no frame may be arriving, and what to do."""
        return 'no image arrives'


class RosLogHandler(logging.Handler):
    """Hands what modules below the nodes log to a node's logger."""

    def __init__(self, node: PerceptionNode) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        # rclpy wants one severity for each line of code.
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())


def spin(create: Callable[[], PerceptionNode], args: list[str] | None = None) -> int:
    """Run one node until SIGINT or SIGTERM; return the process's exit code.

    rclpy's own handlers would end the context under the callbacks that still run.
    """
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as exc:  # rclpy's RCLError is private
        print(f'error: the ROS arguments cannot be used: {exc}', file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = create()
        package_logger = logging.getLogger('mnv2_perception')
        package_logger.setLevel(logging.INFO)
        package_logger.addHandler(RosLogHandler(node))
        try:
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            # Not spin_until_future_complete: on Jazzy each spin adds a callback to the future.
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.2)
            executor.shutdown()
        finally:
            node.destroy_node()
    except PerceptionError as exc:
        print(f'error: {exc}', file=sys.stderr)
        return 1
    finally:
        rclpy.shutdown()
    return 0
