"""`model` set on a node that works: no gap, names first; where it fails, the old one works on."""

from itertools import pairwise
import os
from pathlib import Path
import signal
import time
from typing import Any

from fixed_detector import write_detector
from identity_network import identity_spec, write_fake, write_onnx
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from ros_graph import eventually, Graph, header, Robot
from running_nodes import running, wait
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from test_costmap_node import PLACED
from test_enable import enable
from test_health import Camera, image, model, Process, reports_of
from test_health import last as last_report
from test_perception import picture
from vision_msgs.msg import Detection2DArray, LabelInfo

from mnv2_perception.engines.fake import FakeEngine
from mnv2_perception.nodes.costmap_node import CostmapNode
from mnv2_perception.nodes.detection_node import DetectionNode
from mnv2_perception.nodes.messages import label_info_to_msg, mask_to_msg, rgb_to_msg
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.segmentation_node import SegmentationNode
from mnv2_perception.tasks.segmenter import Segmenter

pytestmark = pytest.mark.ros

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
HEIGHT, WIDTH = 48, 64
OLD, NEW = 'unet_mobilenetv2_camvid_fast', 'unet_mobilenetv2_ground_fast'


def change(node: Any, name: object) -> tuple[bool, str]:
    (result,) = node.set_parameters([Parameter('model', value=str(name))])
    return result.successful, result.reason


def other(folder: Path, name: str = 'other', classes: tuple[str, ...] = ('a', 'b', 'c')) -> Path:
    spec = identity_spec(HEIGHT, WIDTH, name=name, classes=list(classes))
    return write_fake(folder / f'{name}.yaml', spec)


def names_of(info: LabelInfo) -> list[str]:
    return [item.class_name for item in info.class_map]


def facts_of(reports: list[Any]) -> dict[str, str]:
    eventually(lambda: reports)
    return {pair.key: pair.value for pair in reports[-1].status[0].values}


def test_a_real_model_takes_the_place_of_another_without_a_gap_and_after_its_names(
    tmp_path: Path,
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    shown = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    ids = {name: Segmenter.open(name, 'onnx_runtime')(shown).class_ids for name in (OLD, NEW)}
    assert not np.array_equal(ids[OLD], ids[NEW])
    with running(tmp_path / 'run', 'segmentation_node', {
        'segmentation_node': {'model': OLD, 'engine': 'onnx_runtime', 'threads': 1},
    }) as run:
        peer = run.peer
        heard: list[tuple[int, str]] = []  # stamp and whose mask, or 0 and whose names

        def on_mask(msg: Image) -> None:
            pixels = np.frombuffer(msg.data, np.uint8).reshape(240, 320)
            whose = [name for name in ids if np.array_equal(ids[name], pixels)]
            heard.append((msg.header.stamp.sec - 1000, whose[0] if whose else 'neither'))

        peer.node.create_subscription(
            LabelInfo, 'segmentation/label_info',
            lambda msg: heard.append((0, f'{len(msg.class_map)} names')), LATCHED_QOS,
        )
        peer.node.create_subscription(Image, 'segmentation/mask', on_mask, QoSProfile(depth=10))
        camera = peer.publisher(Image, 'image')
        run.active(1)
        client = peer.node.create_client(SetParameters, '/segmentation_node/set_parameters')
        assert client.wait_for_service(10.0)
        wait(camera.get_subscription_count, 10.0, 'the camera is heard')
        sent, asked = 0, None

        def film(period_s: float = 0.2) -> None:
            nonlocal sent
            sent += 1
            camera.publish(rgb_to_msg(shown, header(sent)))
            time.sleep(period_s)

        wait(lambda: (film(), any(whose == OLD for _, whose in heard))[1], 10.0, 'a mask')
        for _ in range(5):
            film()
        asked = client.call_async(SetParameters.Request(
            parameters=[Parameter('model', value=NEW).to_parameter_msg()]
        ))
        first = sent - 3
        wait(lambda: (film(), any(whose == NEW for _, whose in heard))[1], 20.0, 'the new one')
        for _ in range(10):
            film()
        time.sleep(0.5)
        assert asked.done() and asked.result().results[0].successful
        counts = peer.counts('segmentation_node')
        values = {pair.key: pair.value for pair in peer.statuses['segmentation_node'].values}
        assert (values['model'], values['model_file']) == (NEW, f'{NEW}.onnx')
        assert counts['rejected'] == 0
    of_masks = [whose for _, whose in heard if 'names' not in whose]
    assert set(of_masks) == {OLD, NEW} and sum(a != b for a, b in pairwise(of_masks)) == 1
    place = [whose for _, whose in heard].index(NEW)
    assert heard[place - 1] == (0, '6 names')
    stamps = [stamp for stamp, whose in heard if 'names' not in whose and stamp >= first]
    assert max(np.diff(stamps)) <= 3, stamps  # at most two frames in a row were passed over


@pytest.mark.parametrize('state', ['active', 'inactive', 'off'])
def test_the_names_and_the_facts_are_those_of_the_model_in_use(
    graph: Graph, tmp_path: Path, state: str
) -> None:
    reports = reports_of(graph)
    infos = graph.subscribe(LabelInfo, 'segmentation/label_info', LATCHED_QOS)
    node = graph.start()
    eventually(lambda: infos and len(names_of(infos[-1])) == 255)
    if state == 'inactive':
        assert graph.transition(Transition.TRANSITION_DEACTIVATE)
    elif state == 'off':
        assert enable(graph, False)[0]
    former = node.model
    assert change(node, other(tmp_path)) == (True, '')
    eventually(lambda: node.model is not former)
    eventually(lambda: facts_of(reports)['model'] == 'other')
    assert facts_of(reports)['model_file'] == 'other.yaml' and facts_of(reports)['opening'] == ''
    eventually(lambda: former.engine.closed)
    assert node.get_parameter('model').value == str(tmp_path / 'other.yaml')
    if state == 'inactive':
        assert names_of(infos[-1]) != ['a', 'b', 'c']
        assert graph.transition(Transition.TRANSITION_ACTIVATE)
    eventually(lambda: names_of(infos[-1]) == ['a', 'b', 'c'])


def test_an_unconfigured_node_opens_nothing(graph: Graph, tmp_path: Path) -> None:
    node = graph.start(wait=False, autostart=False)
    assert change(node, other(tmp_path)) == (True, '') and node._loader.loading == ''
    assert graph.transition(Transition.TRANSITION_CONFIGURE)
    assert node.model.spec.name == 'other'


def test_what_a_file_tells_of_itself_is_refused_at_once(tmp_path: Path) -> None:
    graph = Graph(
        SegmentationNode, engine='onnx_runtime', detection_classes=['class_1'],
        model=str(write_onnx(tmp_path / 'identity.onnx', identity_spec(HEIGHT, WIDTH))),
    )
    try:
        node = graph.start()
        model_before, value = node.model, node.get_parameter('model').value
        (tmp_path / 'garbage.onnx').write_bytes(b'no model at all' * 100)
        write_detector(tmp_path / 'detector.onnx', HEIGHT, WIDTH)
        write_onnx(
            tmp_path / 'others.onnx', identity_spec(HEIGHT, WIDTH, name='others', classes=['a'])
        )
        for name, reason in (
            ('no_such_model', 'is neither a model file nor a shipped model'),
            ('', 'is neither a model file nor a shipped model'),
            ('a' * 10_000, 'too long'),
            (tmp_path / 'garbage.onnx', 'is not a readable ONNX file'),
            (tmp_path / 'detector.onnx', 'is for detection; choose a model for segmentation'),
            (tmp_path / 'others.onnx', 'others has no class class_1'),
        ):
            successful, why = change(node, name)
            assert not successful and reason in why, why
        assert node.model is model_before and node.get_parameter('model').value == value
        assert node._loader.loading == '' and node.parameters.model == value
    finally:
        graph.close()


def test_what_only_the_runtime_finds_out_is_told_and_the_parameter_goes_back(
    graph: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reports = reports_of(graph)
    node = graph.start()
    masks = graph.subscribe(Image, 'segmentation/mask')
    graph.wait_for_topics()
    before, value = node.model, node.get_parameter('model').value
    (tmp_path / 'broken.yaml').write_text('height: 3\n')
    with Camera(graph, 'image', image):
        assert change(node, tmp_path / 'broken.yaml') == (True, '')
        eventually(lambda: node.get_parameter('model').value == value)
        assert node.model is before and node.parameters.model == value
        masks.clear()
        eventually(lambda: masks)
        eventually(lambda: last_report(reports, 'segmentation_node')[0] == WARN)
    message = last_report(reports, 'segmentation_node')[1]
    assert message == facts_of(reports)['last_refusal']
    assert f'{tmp_path}/broken.yaml was not accepted, {value} stays in use: ' in message
    assert 'the fake engine takes a YAML file' in message and message in capfd.readouterr().err
    # Another try is free.
    assert change(node, other(tmp_path)) == (True, '')
    eventually(lambda: node.model is not before)


def test_an_engine_other_than_the_one_in_use_is_refused(graph: Graph, tmp_path: Path) -> None:
    node = graph.start()
    value = node.get_parameter('model').value
    node.model.engine.name = 'tensorrt'  # as where auto found a plan for the first model only
    assert change(node, other(tmp_path)) == (True, '')
    eventually(lambda: node._refusal)
    assert 'would run in fake, but the model in use runs in tensorrt' in node._refusal
    eventually(lambda: node.get_parameter('model').value == value)


def test_no_plan_is_built_while_a_node_works(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[bool] = []
    real = FakeEngine.__init__

    def watched(self: FakeEngine, path: Path, how: Any) -> None:
        builds.append(how.build)
        real(self, path, how)

    monkeypatch.setattr(FakeEngine, '__init__', watched)
    node = graph.start(build_engine=True)
    before = node.model
    assert change(node, other(tmp_path)) == (True, '')
    eventually(lambda: node.model is not before)
    assert builds == [True, False]


def test_while_one_is_being_opened_the_old_one_works_and_another_is_refused(
    graph: Graph, tmp_path: Path
) -> None:
    reports = reports_of(graph)
    node = graph.start()
    masks = graph.subscribe(Image, 'segmentation/mask')
    graph.wait_for_topics()
    before, value = node.model, node.get_parameter('model').value
    slow = model(tmp_path, 'slow.yaml', opening_s=3.0)
    with Camera(graph, 'image', image):
        begin_s = time.monotonic()
        assert change(node, slow) == (True, '')
        assert time.monotonic() - begin_s < 1.0
        eventually(lambda: f'{slow} for ' in facts_of(reports)['opening'])
        successful, reason = change(node, other(tmp_path))
        assert not successful and f'{slow} for ' in reason and f'to {value} to cancel it' in reason
        number = len(masks)
        assert change(node, value) == (True, '')  # called off
        assert node._loader.loading == ''
        time.sleep(3.5)
        assert node.model is before and len(masks) > number + 40  # of 70
        assert change(node, slow) == (True, '')
        eventually(lambda: node.model is not before)


@pytest.mark.parametrize('how', ['cleanup', 'end'])
def test_a_node_that_ends_while_a_model_is_being_opened_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    opened: list[FakeEngine] = []
    real = FakeEngine.__init__

    def watched(self: FakeEngine, path: Path, how: Any) -> None:
        opened.append(self)
        real(self, path, how)

    monkeypatch.setattr(FakeEngine, '__init__', watched)
    graph = Graph(SegmentationNode, engine='fake', model=model(tmp_path))
    try:
        node = graph.start()
        assert change(node, model(tmp_path, 'slow.yaml', opening_s=1.0)) == (True, '')
        if how == 'cleanup':
            assert graph.transition(Transition.TRANSITION_DEACTIVATE)
            assert graph.transition(Transition.TRANSITION_CLEANUP)
            eventually(lambda: len(opened) == 2 and all(each.closed for each in opened))
            assert graph.transition(Transition.TRANSITION_CONFIGURE)  # with what was asked for
            assert node.model.engine.model == 'slow.yaml'
    finally:
        graph.close()
    assert len(opened) >= 2 and all(each.closed for each in opened)


def test_a_signal_ends_a_process_that_is_opening_another_model(tmp_path: Path) -> None:
    graph = Graph()
    process = Process(
        'segmentation_node', '-p', 'engine:=fake', '-p', f'model:={model(tmp_path)}',
        domain_id=graph.domain_id,
    )
    try:
        client = graph.peer.create_client(SetParameters, '/segmentation_node/set_parameters')
        reports = reports_of(graph)
        eventually(lambda: 'no image' in last_report(reports, 'segmentation_node')[1], 30.0)
        slow = model(tmp_path, 'slow.yaml', opening_s=2.0)
        done = client.call_async(SetParameters.Request(
            parameters=[Parameter('model', value=slow).to_parameter_msg()]
        ))
        eventually(done.done)
        assert done.result().results[0].successful
        assert process.end(signal.SIGINT) == 0, process.lines
    finally:
        if process.process.poll() is None:
            os.kill(process.process.pid, signal.SIGKILL)
        graph.close()


def test_a_model_that_two_cameras_share_stays_open_for_the_other(
    robot: Robot, tmp_path: Path
) -> None:
    value = str(write_fake(tmp_path / 'm.yaml', identity_spec(HEIGHT, WIDTH), batch=None))
    front, rear = robot.start_all(
        ['segmentation'], ('front', 'rear'), model=value, engine='fake'
    )
    cameras = robot.cameras('front', 'rear')
    shared = front.model.engine
    assert shared is rear.model.engine
    assert change(front, other(tmp_path)) == (True, '')
    eventually(lambda: front.model.engine is not shared)
    assert not shared.closed and rear.model.engine is shared
    for camera in cameras:
        camera.publish(rgb_to_msg(picture(1), header(1)))
    eventually(lambda: front.counts['published'] + front.counts['passed_over'] == 1)
    eventually(lambda: rear.counts['published'] + rear.counts['passed_over'] == 1)
    assert change(rear, tmp_path / 'other.yaml') == (True, '')
    eventually(lambda: rear.model.engine is front.model.engine)
    eventually(lambda: shared.closed)


def test_a_detector_s_boxes_have_the_names_of_the_model_that_found_them(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    first = write_detector(tmp_path / 'first.onnx', 32, 32)
    second = write_detector(tmp_path / 'second.onnx', 32, 32, classes=['cat', 'cow'])
    graph = Graph(DetectionNode, engine='onnx_runtime', threads=1, model=str(first))
    try:
        infos = graph.subscribe(LabelInfo, 'detections/label_info', LATCHED_QOS)
        found = graph.subscribe(Detection2DArray, 'detections', QoSProfile(depth=10))
        node = graph.start()
        graph.wait_for_topics()
        with Camera(graph, 'image', image):
            eventually(lambda: found)
            assert change(node, second) == (True, '')
            eventually(lambda: names_of(infos[-1]) == ['cat', 'cow'])
            number = len(found)
            eventually(lambda: len(found) > number + 3)
        named = [
            {result.hypothesis.class_id for each in msg.detections for result in each.results}
            for msg in found
        ]
        assert named[0] == {'dog', 'car'} and named[-1] == {'cow', 'cat'}
        assert all(names in ({'dog', 'car'}, {'cow', 'cat'}) for names in named)
    finally:
        graph.close()


def test_costmap_node_places_no_mask_by_the_names_of_another_model() -> None:
    graph = Graph(CostmapNode, horizontal_fov_rad=1.1, **PLACED)
    try:
        names = graph.peer.create_publisher(LabelInfo, 'segmentation/label_info', LATCHED_QOS)
        masks = graph.peer.create_publisher(Image, 'segmentation/mask', 5)
        grids = graph.subscribe(OccupancyGrid, 'grid')
        node = graph.start()
        graph.heard(masks)
        ids = np.zeros((240, 320), np.uint8)

        def name(*classes: str) -> None:
            names.publish(label_info_to_msg(classes, Header(), 0.0))
            eventually(lambda: names_of(node.inputs.label_info or LabelInfo()) == list(classes))

        name('road', 'box')
        with node._worker._turns.turn():  # a mask waits
            masks.publish(mask_to_msg(ids, header(1)))
            eventually(lambda: node.counts['received'] == 1)
            name('box', 'road')
        eventually(lambda: node.counts['passed_over'] == 1)
        masks.publish(mask_to_msg(ids, header(2)))
        eventually(lambda: grids)
        assert [grid.header.stamp for grid in grids] == [header(2).stamp]
    finally:
        graph.close()
