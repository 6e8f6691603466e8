"""Switch: `~/enable` stops and resumes a node's work while its model stays loaded."""

from collections.abc import Callable

from std_srvs.srv import SetBool

from mnv2_perception.nodes.rclpy_private import TolerantLifecycleNode


class Switch:
    """Answers `~/enable` in every state of a node's lifecycle, without changing that state.

    The latest request holds until the process ends, through all transitions.

    Args:
        node: the node to switch.
        begin: function that subscribes and starts the work.
        end: function that stops both; returns whether the work under way has ended, too.

    Attributes:
        on: whether the node is to work while it is active.
    """

    def __init__(
        self, node: TolerantLifecycleNode, begin: Callable[[], None], end: Callable[[], bool]
    ) -> None:
        self.on = True
        self._node, self._begin, self._end = node, begin, end
        node.create_service(SetBool, '~/enable', self._answer)

    def _answer(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success, response.message = self._set(bool(request.data))
        self._node.get_logger().info(f'~/enable: {response.message}')
        return response

    def _set(self, on: bool) -> tuple[bool, str]:
        """Return whether the request was carried out, and what that means."""
        state, before = self._node.state_label, self.on
        if state == 'finalized':
            return False, 'the node is finalized and cannot be switched'
        self.on = on
        if state != 'active':
            word = 'on' if on else 'off'
            return True, f'switched {word} from the next activation on, for the node is {state}'
        if not on:
            if self._end():
                return True, 'switched off: it receives no images; what it opened stays open'
            return True, 'switched off: it receives no images; the engine does not answer'
        if before:
            return True, 'it is already on'
        try:
            self._begin()
        except Exception as exc:  # e.g. because of a QoS override that was set meanwhile
            self._end()
            self.on = False
            return False, f'it stays off: {exc}'
        return True, 'switched on'
