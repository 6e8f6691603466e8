"""What this package relies on in the rclpy that is installed here, whichever it is."""

from collections.abc import Iterator
import inspect

import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from lifecycle_msgs.msg import Transition
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from ros_graph import Graph

from mnv2_perception.nodes.rclpy_private import TolerantLifecycleNode

pytestmark = pytest.mark.ros

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph(lambda **kwargs: TolerantLifecycleNode('node', **kwargs))
    yield graph
    graph.close()


def test_it_overrides_what_rclpy_has() -> None:
    name = '_LifecycleNodeMixin__change_state'
    theirs, ours = getattr(LifecycleNode, name), getattr(TolerantLifecycleNode, name)
    assert ours is not theirs
    assert inspect.signature(ours).parameters.keys() == inspect.signature(theirs).parameters.keys()


def test_it_knows_its_own_state(graph: Graph) -> None:
    node = graph.start(wait=False)
    for trigger, state in (
        (None, 'unconfigured'), (node.trigger_configure, 'inactive'),
        (node.trigger_activate, 'active'), (node.trigger_deactivate, 'inactive'),
        (node.trigger_cleanup, 'unconfigured'), (node.trigger_shutdown, 'finalized'),
    ):
        assert trigger is None or trigger() == SUCCESS
        assert node.state_label == graph.state() == state


def test_a_transition_to_where_it_is_succeeds_by_service_and_by_trigger(graph: Graph) -> None:
    node = graph.start(wait=False)
    assert graph.transition(Transition.TRANSITION_CONFIGURE)
    assert graph.transition(Transition.TRANSITION_CONFIGURE)
    assert node.trigger_configure() == SUCCESS
    assert graph.transition(Transition.TRANSITION_ACTIVATE)
    assert graph.transition(Transition.TRANSITION_ACTIVATE)
    assert node.trigger_activate() == SUCCESS
    assert graph.state() == 'active'
    assert graph.transition(Transition.TRANSITION_CONFIGURE)  # a manager that begins anew
    assert graph.state() == 'inactive'


def test_an_impossible_transition_fails_without_effect_and_the_node_goes_on(
    graph: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    node = graph.start(wait=False)
    assert not graph.transition(Transition.TRANSITION_ACTIVATE)
    assert node.trigger_cleanup() == FAILURE
    assert graph.state() == 'unconfigured'
    assert capfd.readouterr().err.count('ignored: the node is unconfigured') == 2
    assert graph.transition(Transition.TRANSITION_CONFIGURE)
