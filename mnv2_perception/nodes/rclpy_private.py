"""The one place that uses private parts of rclpy, or works around its faults, and why.

rclpy has no public call that tells a lifecycle node its own state, and none that decides what
happens on a transition that is impossible in it. There, Jazzy raises RCLError, out of the
service's callback and so out of spin; Kilted answers with an error. Both pass through
LifecycleNodeMixin.__change_state, for services as well as for trigger_...().

Nor does it tell which initial values of a node nobody declared: `_parameter_overrides` has all.

Its EventsExecutor crashes, with a segmentation fault or InvalidHandle, on an event of a publisher
or subscription that is being destroyed (https://github.com/ros2/rclpy/issues/1644). Each has such
events unless told otherwise, to warn of incompatible QoS. So anyone who subscribes while a node is
cleaned up could end the process.
"""

from collections.abc import Callable
import inspect
from typing import Any

from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import ParameterType, SetParametersResult
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks
try:
    from rclpy.experimental import EventsExecutor

    Executor, EVENTS_ARE_SAFE = EventsExecutor, False
except ImportError:  # Humble; with many nodes this executor takes several times the CPU time
    Executor, EVENTS_ARE_SAFE = SingleThreadedExecutor, True

TYPES = range(ParameterType.PARAMETER_NOT_SET, ParameterType.PARAMETER_STRING_ARRAY + 1)


def undeclared_overrides(node: Node) -> list[str]:
    """Return the names of initial parameter values that the node does not declare, sorted."""
    return sorted(name for name in node._parameter_overrides if not node.has_parameter(name))


def answer_failure(request: Any, response: Any, reason: str) -> Any:
    """Return a service's response with the reason of a failure, if its type has a field for it."""
    failed = SetParametersResult(successful=False, reason=reason)
    if hasattr(response, 'results'):  # one result per parameter; some may have been set already
        left = len(request.parameters) - len(response.results)
        response.results = [*response.results, *[failed] * left]
    elif isinstance(getattr(response, 'result', None), SetParametersResult):
        response.result = failed
    elif hasattr(response, 'message'):  # std_srvs
        response.success, response.message = False, reason
    return response


class ToughNode(Node):
    """A node that survives faulty service requests.

    An exception in a service's callback would leave spin, and so end the process.
    """

    def create_service(
        self, srv_type: Any, srv_name: str, callback: Callable[[Any, Any], Any], **kwargs: Any
    ) -> Any:
        def guarded(request: Any, response: Any) -> Any:
            try:
                wrong = [
                    each for each in getattr(request, 'parameters', [])
                    if each.value.type not in TYPES
                ]
                if wrong:
                    raise ValueError(
                        f'{wrong[0].name[:80]!r} has type {wrong[0].value.type}, expected one of '
                        f'rcl_interfaces/ParameterType, 0 to {TYPES[-1]}; nothing was set'
                    )
                return callback(request, response)
            except Exception as exc:
                self.get_logger().warning(
                    f'{srv_name}: request refused: {type(exc).__name__}: {str(exc)[:300]!r}',
                    throttle_duration_sec=10.0,
                )
                return answer_failure(request, response, str(exc)[:300])

        return super().create_service(srv_type, srv_name, guarded, **kwargs)

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters, except those that already have their value, so that a dump loads."""
        changes = [
            each for each in parameter_list
            if not self.has_parameter(each.name) or not _is_same(self, each)
        ]
        if not changes:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changes)


def _no_events(callbacks: type[Any]) -> dict[str, Any]:
    """Return the keyword arguments that create a publisher or subscription without events."""
    if EVENTS_ARE_SAFE:
        return {}
    return {'event_callbacks': callbacks(use_default_callbacks=False)}


def telling_losses(callback: Callable[[Any], None]) -> dict[str, Any]:
    """Return the keyword arguments of a subscription that reports lost messages, where safe."""
    if EVENTS_ARE_SAFE:
        return {'event_callbacks': SubscriptionEventCallbacks(message_lost=callback)}
    return {}


def _is_same(node: Node, given: Parameter) -> bool:
    known = node.get_parameter_or(given.name, Parameter(given.name))
    if known.type_ != given.type_:
        return False
    if known.value is None or isinstance(known.value, str | bool | int | float):
        return bool(known.value == given.value)
    return list(known.value) == list(given.value)


class UneventfulNode(ToughNode):
    """A node that can create and destroy topics while others subscribe or publish."""

    def create_publisher(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_publisher(*args, **kwargs, **_no_events(PublisherEventCallbacks))

    def create_subscription(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_subscription(
            *args, **{**_no_events(SubscriptionEventCallbacks), **kwargs}
        )


class TolerantLifecycleNode(UneventfulNode, LifecycleNode):
    """A lifecycle node that survives requests for transitions that are impossible in its state."""

    @property
    def state_label(self) -> str:
        """The present state, such as `inactive`."""
        return str(self._state_machine.current_state[1])

    def create_lifecycle_publisher(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_lifecycle_publisher(
            *args, **kwargs, **_no_events(PublisherEventCallbacks)
        )

    def _LifecycleNodeMixin__change_state(
        self, transition_id: int
    ) -> TransitionCallbackReturn:
        """Answer transitions that do not start from the present state, instead of raising.

        Autostart and a lifecycle manager together cause them. A manager that asks for a transition
        wants the node in its target state, so it gets that; anything else fails without effect.
        """
        state = self.state_label
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


class WithMessageInfo:
    """A subscription callback that also gets the middleware's information about the message.

    rclpy counts the arguments that a callback takes. Its EventsExecutor (Jazzy, Kilted) then
    passes both as one tuple, the other executors as two arguments.

    Args:
        callback: takes a message and a dictionary; Humble's has no sequence numbers.
    """

    __signature__ = inspect.signature(lambda msg, info: None)

    def __init__(self, callback: Callable[[Any, dict[str, Any]], None]) -> None:
        self._callback = callback

    def __call__(self, *arguments: Any) -> None:
        self._callback(*(arguments if len(arguments) == 2 else arguments[0]))
