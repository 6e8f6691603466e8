"""The one place that leans on what rclpy keeps private or gets wrong, and why.

rclpy has no public call that tells a lifecycle node its own state, and none that decides what
becomes of a transition that does not start from it. Jazzy raises RCLError there, out of the
service's callback and with it out of spin; Kilted answers with an error. Both go through
LifecycleNodeMixin.__change_state, for services and for trigger_...() alike.
"""

from collections.abc import Callable
import inspect
from typing import Any

from lifecycle_msgs.msg import Transition
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn


class TolerantLifecycleNode(LifecycleNode):
    """A lifecycle node that survives transitions which do not start from its present state."""

    @property
    def state_label(self) -> str:
        """The present state, such as `inactive`."""
        return str(self._state_machine.current_state[1])

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
