"""`~/enable` over real DDS: work ends and goes on, the model stays, nobody is surprised."""

from collections import Counter
from pathlib import Path
import threading
import time
from typing import Any

from camera_scene import draw_box
from identity_network import identity_spec, write_fake
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetState
from nav_msgs.msg import OccupancyGrid
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_graph import eventually, Graph, header, Robot
from running_nodes import running, wait
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool
from test_costmap_node import BOX_AT, CAMERA, camera_info, PLACED, POSE
from test_health import Camera, image, model, reports_of
from test_health import last as last_report
from test_perception import model as shared_model
from test_perception import picture
from vision_msgs.msg import Classification, Detection2DArray, LabelInfo

from mnv2_perception.nodes.messages import rgb_to_msg
from mnv2_perception.nodes.qos import CAMERA_QOS, LATCHED_QOS
from mnv2_perception.nodes.segmentation_node import SegmentationNode

pytestmark = pytest.mark.ros

OK, ERROR = DiagnosticStatus.OK, DiagnosticStatus.ERROR
OFF = 'switched off by ~/enable'
RESULTS = {
    'segmentation_node': (Image, 'segmentation/mask'),
    'classification_node': (Classification, 'classification'),
    'detection_node': (Detection2DArray, 'detections'),
    'costmap_node': (OccupancyGrid, 'grid'),
}


def enable(graph: Graph, on: bool) -> tuple[bool, str]:
    client = graph.peer.create_client(SetBool, '/segmentation_node/enable')
    assert client.wait_for_service(10.0)
    future = client.call_async(SetBool.Request(data=on))
    eventually(future.done)
    answer = future.result()
    return answer.success, answer.message


def test_each_node_of_a_process_stops_and_goes_on_with_the_model_it_has(tmp_path: Path) -> None:
    spec = identity_spec(CAMERA.height, CAMERA.width, classes=['sky', 'road', 'box'])
    fake = {'model': str(write_fake(tmp_path / 'm.yaml', spec)), 'engine': 'fake'}
    ids, _ = draw_box(CAMERA, POSE, *BOX_AT)
    shown = np.stack([ids, np.full_like(ids, 200), ids], axis=-1)
    with running(tmp_path / 'run', 'perception', {
        'perception': {'nodes': ['segmentation', 'classification', 'detection', 'costmap']},
        'segmentation_node': fake, 'costmap_node': PLACED,
        'classification_node': {'engine': 'onnx_runtime', 'threads': 1},
        'detection_node': {'engine': 'onnx_runtime', 'threads': 1},
    }) as run:
        peer, sent = run.peer, 0
        camera = peer.publisher(Image, 'image')
        calibration = peer.publisher(CameraInfo, 'camera_info')
        seen = {name: peer.stamps(*result) for name, result in RESULTS.items()}
        run.active(4)

        def film(wanted: set[str]) -> set[str]:
            """Film until nodes have results of it, and then a little; return which have some."""
            nonlocal sent
            first = sent
            results = {name: set[tuple[int, int]]() for name in RESULTS}

            def go_on() -> bool:
                nonlocal sent
                sent += 1
                calibration.publish(camera_info())
                camera.publish(rgb_to_msg(shown, header(sent)))
                time.sleep(0.1)
                for name, stamps in seen.items():
                    results[name] = {stamp for stamp in stamps if stamp[0] > 1000 + first}
                return all(results[name] for name in wanted)

            wait(go_on, 30.0, f'results of {wanted}')
            for _ in range(5):
                go_on()
            return {name for name, stamps in results.items() if stamps}

        def status(name: str) -> tuple[str, bytes]:
            peer.counts(name)  # of a new report
            return peer.statuses[name].message, peer.statuses[name].level

        assert film(set(RESULTS)) == set(RESULTS)
        for name in RESULTS:
            answer = peer.call(SetBool, f'/{name}/enable', SetBool.Request(data=False))
            assert answer.success and answer.message.startswith('switched off'), answer
            gone = {name, 'costmap_node'} if name == 'segmentation_node' else {name}
            assert film(set(RESULTS) - gone) == set(RESULTS) - gone
            assert status(name) == (OFF, OK)
            state = peer.call(GetState, f'/{name}/get_state', GetState.Request())
            assert state.current_state.label == 'active'
            answer = peer.call(SetBool, f'/{name}/enable', SetBool.Request(data=True))
            assert (answer.success, answer.message) == (True, 'switched on')
            assert film(set(RESULTS)) == set(RESULTS)
            assert status(name)[0] != OFF
        for name in RESULTS:  # all off: the camera is heard by nobody
            assert peer.call(SetBool, f'/{name}/enable', SetBool.Request(data=False)).success
        wait(lambda: not camera.get_subscription_count(), 10.0, 'nobody hears the camera')
        for name in RESULTS:
            counts = Counter(peer.settled(name))
            ended = counts['published'] + counts['passed_over'] + counts['rejected']
            assert counts['received'] == ended and counts['rejected'] == 0, (name, counts)
        opened = [line for line in run.log().splitlines() if 'licence of the model' in line]
        assert len(opened) == 3, opened


def test_off_and_on_as_often_as_one_likes_each_frame_is_counted_once(
    tmp_path: Path
) -> None:
    graph = Graph(SegmentationNode, engine='fake', model=model(tmp_path, latency_ms=20.0))
    try:
        node = graph.start()
        stamps = graph.subscribe(Image, 'segmentation/mask')
        graph.wait_for_topics()
        with Camera(graph, 'image', image, 100.0):
            for _ in range(10):
                assert enable(graph, False)[0]
                published = node.counts['published']
                time.sleep(0.1)
                assert node.counts['published'] == published  # nothing after the answer
                assert enable(graph, True)[0]
                eventually(lambda n=published: node.counts['published'] > n)
        eventually(lambda: node.counts['received'] == (
            node.counts['published'] + node.counts['passed_over']
        ))
        time.sleep(0.3)
        assert len(stamps) <= node.counts['published']
        assert node.counts['received'] == node.counts['published'] + node.counts['passed_over']
    finally:
        graph.close()


@pytest.mark.parametrize('state', ['unconfigured', 'inactive'])
def test_what_is_asked_for_before_activation_holds_from_it_on(graph: Graph, state: str) -> None:
    reports = reports_of(graph)
    infos = graph.subscribe(LabelInfo, 'segmentation/label_info', LATCHED_QOS)
    node = graph.start(wait=False, autostart=False)
    if state == 'inactive':
        assert graph.transition(Transition.TRANSITION_CONFIGURE)
    assert enable(graph, False) == (
        True, f'switched off from the next activation on, for the node is {state}'
    )
    eventually(lambda: last_report(reports, 'segmentation_node') == (OK, f'{state}, {OFF}'))
    if state == 'unconfigured':
        assert graph.transition(Transition.TRANSITION_CONFIGURE)
    assert graph.transition(Transition.TRANSITION_ACTIVATE)
    assert graph.state() == 'active' and not node.active
    eventually(lambda: infos)  # a consumer that starts now has the names
    assert graph.camera.get_subscription_count() == 0
    # It holds through transitions, too.
    for each in (
        Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE,
    ):
        assert graph.transition(each)
    assert not node.active
    assert enable(graph, True) == (True, 'switched on')
    assert enable(graph, True) == (True, 'it is already on')
    masks = graph.subscribe(Image, 'segmentation/mask')
    with Camera(graph, 'image', image):
        eventually(lambda: masks)


def test_a_finalized_node_answers_no(graph: Graph) -> None:
    graph.start(wait=False, autostart=False)
    assert graph.transition(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert enable(graph, True) == (False, 'the node is finalized and cannot be switched')


def test_what_fails_is_answered_and_can_be_asked_for_again(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = graph.start()
    assert enable(graph, False)[0]

    def fail() -> None:
        raise RuntimeError('of a test')

    with monkeypatch.context() as patched:
        patched.setattr(node, 'subscribe', fail)
        assert enable(graph, True) == (False, 'it stays off: of a test')
    with monkeypatch.context() as patched:
        patched.setattr(node._switch, '_set', lambda on: fail())
        assert enable(graph, True) == (False, 'of a test')
    assert graph.state() == 'active' and not node.active
    assert enable(graph, True)[0] and node.active


def test_an_engine_that_hangs_can_be_switched_off_and_stays_an_error(tmp_path: Path) -> None:
    graph = Graph(SegmentationNode, engine='fake', model=model(tmp_path, hang_after=1))
    try:
        reports = reports_of(graph)
        node = graph.start()
        graph.wait_for_topics()
        graph.camera.publish(image(1))
        eventually(lambda: node.counts['received'])
        success, message = enable(graph, False)
        assert success and message.endswith('the engine does not answer')
        eventually(lambda: last_report(reports, 'segmentation_node')[0] == ERROR)
    finally:
        graph.close()


def test_who_knows_the_names_waits_for_no_mask_and_who_came_meanwhile_hears_them_first(
    graph: Graph,
) -> None:
    node = graph.start()
    masks = graph.subscribe(Image, 'segmentation/mask')
    graph.wait_for_topics()
    with Camera(graph, 'image', image):
        eventually(lambda: masks)
        held_until_s = node.greeting.hold_until_s
        assert enable(graph, False)[0]
        assert enable(graph, True)[0]
        masks.clear()
        eventually(lambda: masks)
        assert node.greeting.hold_until_s == held_until_s
        assert enable(graph, False)[0]
        heard: list[str] = []
        late = Node('late', context=graph.context)
        late.create_subscription(
            Image, 'segmentation/mask', lambda _: heard.append('mask'), CAMERA_QOS
        )
        late.create_subscription(
            LabelInfo, 'segmentation/label_info', lambda _: heard.append('names'), LATCHED_QOS
        )
        graph.spin(late)
        (result,) = node.set_parameters([Parameter('min_confidence', value=0.5)])
        assert result.successful
        assert enable(graph, True)[0]
        eventually(lambda: 'mask' in heard)
        assert heard[0] == 'names'


def test_label_info_follows_a_change_while_the_node_is_off(graph: Graph) -> None:
    infos = graph.subscribe(LabelInfo, 'segmentation/label_info', LATCHED_QOS)
    node = graph.start()
    assert enable(graph, False)[0]
    node.set_parameters([Parameter('min_confidence', value=0.25)])
    eventually(lambda: infos and infos[-1].threshold == pytest.approx(0.25))


def test_a_frame_in_another_camera_s_batch_ends_before_the_answer(
    robot: Robot, tmp_path: Path
) -> None:
    front, rear = robot.start_all(
        ['segmentation'], ('front', 'rear'), model=shared_model(tmp_path, 500.0, None),
        engine='fake',
    )
    of_front, of_rear = robot.cameras('front', 'rear')
    time.sleep(0.3)
    of_front.publish(rgb_to_msg(picture(1), header(1)))
    eventually(lambda: front._worker.busy_s > 0.1)
    of_front.publish(rgb_to_msg(picture(1), header(2)))
    eventually(lambda: front.counts['received'] == 2)
    of_rear.publish(rgb_to_msg(picture(1), header(1)))
    # The turn is the rear's, whose worker has both frames now.
    eventually(lambda: front.counts['published'] == 1 and rear._worker.busy_s > 0.1)
    assert front.take_waiting() is None
    answer: list[tuple[bool, str]] = []
    asking = threading.Thread(target=lambda: answer.append(front._switch._set(False)))
    asking.start()
    asking.join(10.0)
    assert answer[0][0] and front.counts['published'] == 2


def test_off_costs_the_camera_nothing_of_any_topic(robot: Robot, tmp_path: Path) -> None:
    segmentation, costmap = robot.start_all(
        ['segmentation', 'costmap'], model=shared_model(tmp_path), engine='fake', **PLACED
    )

    def subscribed() -> dict[str, int]:
        names = ('image', 'camera_info', 'segmentation/mask', 'segmentation/label_info')
        return {name: robot.peer.count_subscribers(name) for name in names}

    eventually(lambda: subscribed()['image'] == 1 and subscribed()['camera_info'] == 1)
    nodes: list[Any] = [segmentation, costmap]
    for node in nodes:
        assert node._switch._set(False)[0]
    eventually(lambda: set(subscribed().values()) == {0})
    for node in nodes:
        assert node._switch._set(True)[0]
    eventually(lambda: subscribed()['image'] == 1 and subscribed()['camera_info'] == 1)
