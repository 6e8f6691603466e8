"""The one place that leans on what rclpy keeps private or gets wrong, and why.

rclpy has no public call that tells a lifecycle node its own state, and none that decides what
becomes of a transition that does not start from it. Jazzy raises RCLError there, out of the
service's callback and with it out of spin; Kilted answers with an error. Both go through
LifecycleNodeMixin.__change_state, for services and for trigger_...() alike.

Nor does it tell which values of a node's start nobody declared: `_parameter_overrides` holds all.

Its EventsExecutor dies, with a segmentation fault or InvalidHandle, of an event of a publisher or
subscription that is destroyed meanwhile (https://github.com/ros2/rclpy/issues/1644). Every one has
such events unless told otherwise, for the warning of an incompatible QoS, so any stranger that
subscribes while a node is cleaned up could end the process.
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
except ImportError:  # Humble; with many nodes this one takes a multiple of the CPU time
    Executor, EVENTS_ARE_SAFE = SingleThreadedExecutor, True

TYPES = range(ParameterType.PARAMETER_NOT_SET, ParameterType.PARAMETER_STRING_ARRAY + 1)


def undeclared_overrides(node: Node) -> list[str]:
    """Return the names of the values that a node was started with and does not declare."""
    return sorted(name for name in node._parameter_overrides if not node.has_parameter(name))


def answer_failure(request: Any, response: Any, reason: str) -> Any:
    """Return a service's response that says why, where it has a place for that."""
    failed = SetParametersResult(successful=False, reason=reason)
    if hasattr(response, 'results'):  # one for each parameter; some may have been set
        left = len(request.parameters) - len(response.results)
        response.results = [*response.results, *[failed] * left]
    elif isinstance(getattr(response, 'result', None), SetParametersResult):
        response.result = failed
    elif hasattr(response, 'message'):  # std_srvs
        response.success, response.message = False, reason
    return response


class ToughNode(Node):
    """A node that no service request ends.

    What rclpy raises in a service's callback leaves spin, and with it ends the process.
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
        """Set parameters; those that have the value already are no changes, so a dump loads."""
        changes = [
            each for each in parameter_list
            if not self.has_parameter(each.name) or not _is_same(self, each)
        ]
        if not changes:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changes)


def _no_events(callbacks: type[Any]) -> dict[str, Any]:
    """Return the arguments that a publisher or subscription without events is made with."""
    if EVENTS_ARE_SAFE:
        return {}
    return {'event_callbacks': callbacks(use_default_callbacks=False)}


def telling_losses(callback: Callable[[Any], None]) -> dict[str, Any]:
    """Return the arguments of a subscription that tells what it lost, where that is safe."""
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
    """A node whose topics come and go: nobody who subscribes or publishes meanwhile ends it."""

    def create_publisher(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_publisher(*args, **kwargs, **_no_events(PublisherEventCallbacks))

    def create_subscription(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_subscription(
            *args, **{**_no_events(SubscriptionEventCallbacks), **kwargs}
        )


class TolerantLifecycleNode(UneventfulNode, LifecycleNode):
    """A lifecycle node that survives transitions which do not start from its present state."""

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
        """Answer transitions that do not start from the present state instead of dying of them.

        Autostart and a lifecycle manager together make it happen. A manager that asks for a state
        wants the node in that state, so that is what it gets; anything else fails without effect.
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
    """A subscription's callback that is given what the middleware tells of the message, too.

    rclpy counts the arguments that a callback takes. Its EventsExecutor (Jazzy, Kilted) then
    hands both over as one tuple, the other executors as two arguments.

    Args:
        callback: of a message and a dictionary; Humble's has no sequence numbers.
    """

    __signature__ = inspect.signature(lambda msg, info: None)

    def __init__(self, callback: Callable[[Any, dict[str, Any]], None]) -> None:
        self._callback = callback

    def __call__(self, *arguments: Any) -> None:
        self._callback(*(arguments if len(arguments) == 2 else arguments[0]))
