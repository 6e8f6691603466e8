"""What this package relies on in the rclpy that is installed here, whichever it is."""

from collections.abc import Iterator
import inspect
from pathlib import Path
import time
from typing import Any

from identity_network import identity_spec, write_fake
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from lifecycle_msgs.msg import Transition
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from ros_graph import eventually, Graph, Robot
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes import rclpy_private
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.rclpy_private import Executor, TolerantLifecycleNode

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


@pytest.mark.parametrize('kind', ['publisher', 'lifecycle publisher', 'subscription'])
def test_a_stranger_who_comes_while_a_topic_is_given_up_ends_no_executor(
    graph: Graph, kind: str
) -> None:
    node = TolerantLifecycleNode('node', context=graph.context)
    executor = Executor(context=graph.context)
    executor.add_node(node)
    executor.spin_once(timeout_sec=0.1)
    volatile, latched = QoSProfile(depth=1), LATCHED_QOS
    if kind == 'subscription':
        ours: Any = node.create_subscription(LabelInfo, 'topic', lambda msg: None, latched)
    elif kind == 'publisher':
        ours = node.create_publisher(LabelInfo, 'topic', volatile)
    else:
        ours = node.create_lifecycle_publisher(LabelInfo, 'topic', volatile)
    executor.spin_once(timeout_sec=0.1)
    if kind == 'subscription':
        graph.peer.create_publisher(LabelInfo, 'topic', volatile)
        eventually(lambda: node.count_publishers('topic'))
    else:
        graph.peer.create_subscription(LabelInfo, 'topic', lambda msg: None, latched)
        eventually(lambda: node.count_subscribers('topic'))
    time.sleep(0.3)  # the middleware has told of the other's QoS
    if kind == 'subscription':
        node.destroy_subscription(ours)
    elif kind == 'publisher':
        node.destroy_publisher(ours)
    else:
        node.destroy_lifecycle_publisher(ours)
    for _ in range(10):
        executor.spin_once(timeout_sec=0.05)  # raised InvalidHandle, or crashed
    executor.shutdown()
    node.destroy_node()


def test_no_topic_of_a_node_has_events_that_could_end_the_process(
    robot: Robot, tmp_path: Path
) -> None:
    if rclpy_private.EVENTS_ARE_SAFE:
        pytest.skip('this rclpy has no EventsExecutor')
    model = write_fake(tmp_path / 'm.yaml', identity_spec(48, 64))
    nodes = robot.start_all(['segmentation', 'costmap'], engine='fake', model=str(model))
    robot.cameras('')
    heard = [*nodes[0].publishers, *nodes[0].subscriptions, *nodes[1].subscriptions]
    assert {'/image', '/segmentation/mask'} <= {each.topic_name for each in heard}
    for each in heard:
        assert not each.event_handlers, each.topic_name
