"""PerceptionNode: what every node of this package does besides its own work.

Guarded lifecycle transitions, one worker thread on the newest frame, QoS by name, diagnostics.
"""

from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
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
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions

from mnv2_perception.errors import PerceptionError
from mnv2_perception.nodes import parameters
from mnv2_perception.nodes.messages import diagnostics_to_msg
from mnv2_perception.nodes.shared import Shared
from mnv2_perception.nodes.topics import Publisher, Subscription

try:
    from rclpy.experimental import EventsExecutor as Executor
except ImportError:  # Humble; with many nodes it takes a multiple of the CPU time
    from rclpy.executors import SingleThreadedExecutor as Executor

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


@dataclass(frozen=True)
class Frame:
    """A message to process, and when it came (time.monotonic)."""

    msg: Any
    received_s: float


class NewestFrameWorker(Generic[Item]):
    """Works on the newest item in a thread; an older one that still waits is dropped.

    So a result is never older than the work under way plus its own. The same thread opens, uses
    and closes what belongs to a thread, as a CUDA context does.

    Several workers may share a thread. Each then has its turn in the order in which they began
    to wait, and takes what is newest then: none waits for more than one item of each other.

    Args:
        work: called with each item that is taken; must not raise.
        thread: of one worker thread; None makes one of its own.
    """

    def __init__(
        self, work: Callable[[Item], None], thread: ThreadPoolExecutor | None = None
    ) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: Item | None = None
        self._in_line = False
        self._owns_thread = thread is None
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix='worker')

    def put(self, item: Item) -> bool:
        """Hand over an item; return whether one that still waited was dropped for it."""
        with self._lock:
            dropped = self._waiting is not None
            self._waiting = item
            in_line, self._in_line = self._in_line, True
        if not in_line:  # it may be where an item was taken: turns must not pile up
            self._thread.submit(self._turn)
        return dropped

    def take(self) -> Item | None:
        """Take the item that waits, if there is one; it is no longer this worker's."""
        with self._lock:
            item, self._waiting = self._waiting, None
        return item

    def run(self, function: Callable[[], Result]) -> Result:
        """Run a function in the worker's thread after the work under way; return its result."""
        return self._thread.submit(function).result()

    def close(self) -> None:
        """Finish the work under way and end the thread, if it is this worker's own."""
        self.take()
        if self._owns_thread:
            self._thread.shutdown()

    def _turn(self) -> None:
        with self._lock:
            self._in_line = False
        item = self.take()
        if item is not None:
            self._work(item)


class PerceptionNode(LifecycleNode):
    """A lifecycle node that turns a camera's frames into results.

    A subclass gives its parameter class and implements `acquire`, `release`, `announce`,
    `subscribe`, `work` and `describe`. `acquire`, `work` and `release` run in the worker's
    thread, the rest in the executor's. `active` tells whether frames are being processed. Its
    publishers live while it is configured, its subscriptions while it is active: an inactive
    node costs the camera and the network nothing.

    Counted in `counts`: received (frames that reached the callback), published, passed_over
    (a newer one came first, max_rate_hz, held back, or the node was not active), rejected
    (malformed, or processing failed) and lost (the middleware says that it lost them before the
    callback). Once idle, received = published + passed_over + rejected.

    `Parameters` has at least `autostart` and `max_rate_hz`.

    Args:
        name: of the node.
        shared: what the nodes of its process share; None where it is the only one.
        kwargs: for LifecycleNode.
    """

    Parameters: type[Any]

    def __init__(self, name: str, shared: Shared | None = None, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._is_alone = shared is None
        self.shared = shared or Shared()
        self.counts: Counter[str] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self.parameters: Any = None
        self._lock = threading.Lock()
        self._worker: NewestFrameWorker[Frame] | None = None
        self._result_publishers: list[Publisher] = []
        self._camera_subscriptions: list[Subscription] = []
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
    def work(self, frame: Frame) -> None:
        """Turn a frame into results and publish them, `rejecting` it where that fails.

        Each frame is to be counted once.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return facts for the diagnostics."""

    def thread(self) -> ThreadPoolExecutor | None:
        """Return where the worker works; None: in a thread of its own."""
        return None

    def take_waiting(self) -> Frame | None:
        """Take the frame that waits, to process it together with another node's."""
        return self._worker.take() if self._worker else None

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
    ) -> Subscription:
        """Subscribe to a camera topic until deactivation; parameters can override its QoS.

        Args:
            msg_type: of the topic.
            topic: its name.
            callback: for what belongs to frames and is none; `on_frame` when None.
            qos: best effort unless told otherwise.
        """
        subscription = Subscription(
            self, msg_type, topic, callback or self.on_frame, self._on_lost, qos
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
            if self._worker.put(Frame(msg, now_s)):
                self.counts['passed_over'] += 1

    @contextmanager
    def rejecting(self, frame: Frame) -> Iterator[None]:
        """Count the frame as rejected if the block fails: a frame must never end the worker."""
        try:
            yield
        except Exception as exc:
            kind = '' if isinstance(exc, PerceptionError) else f'unexpected {type(exc).__name__}: '
            self.get_logger().error(
                f'frame rejected: {kind}{exc}', throttle_duration_sec=LOG_PERIOD_S
            )
            self.count(frame, 'rejected')

    def count(self, frame: Frame, outcome: str) -> None:
        """Count how a frame ended: published, passed_over or rejected."""
        with self._lock:
            self.counts[outcome] += 1
            if outcome == 'published':
                self.latencies_ms.append((time.monotonic() - frame.received_s) * 1000.0)

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
        self._worker = NewestFrameWorker(self.work, self.thread())
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
        if self._is_alone:
            self.shared.close()
        super().destroy_node()

    def _stop_working(self) -> None:
        while self._camera_subscriptions:
            self.shared.topics.unsubscribe(self._camera_subscriptions.pop())
        with self._lock:
            self.active = False
        if self._worker:
            if self._worker.take():
                with self._lock:
                    self.counts['passed_over'] += 1
            self._worker.run(lambda: None)

    def _release_all(self) -> None:
        self._stop_working()
        while self._result_publishers:
            publisher = self._result_publishers.pop()
            self.shared.topics.remove_publisher(publisher)
            self.destroy_lifecycle_publisher(publisher.publisher)
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

    def __init__(self, node: Node) -> None:
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


def spin(create: Callable[[], Node | list[Node]], args: list[str] | None = None) -> int:
    """Run one node, or several, until SIGINT or SIGTERM; return the process's exit code.

    rclpy's own handlers would end the context under the callbacks that still run. Nodes are
    destroyed in reverse order.
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
        created = create()
        nodes = created if isinstance(created, list) else [created]
        package_logger = logging.getLogger('mnv2_perception')
        package_logger.setLevel(logging.INFO)
        package_logger.addHandler(RosLogHandler(nodes[0]))
        try:
            executor = Executor()
            for node in nodes:
                executor.add_node(node)
            # Not spin_until_future_complete: on Jazzy each spin adds a callback to the future.
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.2)
            executor.shutdown()
        finally:
            for node in reversed(nodes):
                node.destroy_node()
    except PerceptionError as exc:
        print(f'error: {exc}', file=sys.stderr)
        return 1
    finally:
        rclpy.shutdown()
    return 0
