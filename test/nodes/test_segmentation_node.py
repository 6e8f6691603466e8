"""segmentation_node in one process, over real DDS, with the fake engine (red channel = id)."""

from collections.abc import Iterator
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from colcon_workspace import localhost_domain, own_domain_id
import cv2
from identity_network import identity_spec, write_fake
import numpy as np
from numpy.typing import NDArray
import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_graph import eventually, Graph, header, ids_of
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo

from mnv2_perception.engines import Engine
from mnv2_perception.engines.fake import FakeEngine
from mnv2_perception.model_spec import ModelSpec, UNLABELLED
from mnv2_perception.nodes import segmentation_node
from mnv2_perception.nodes.messages import labels_from_compressed_msg, rgb_to_msg, stamp_to_ns
from mnv2_perception.nodes.qos import LATCHED_QOS, RESULT_QOS
from mnv2_perception.nodes.segmentation_node import SegmentationNode

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = 64, 96
SPEC = ModelSpec.from_dict(
    {
        'name': 'identity', 'task': 'segmentation', 'height': HEIGHT, 'width': WIDTH,
        'classes': ['road', 'car', 'tree'], 'mean': [0, 0, 0], 'std': [1, 1, 1],
        'licence': 'CC0-1.0',
    },
    'test',
)


def fake_model(folder: Path, latency_ms: float = 0.0) -> str:
    path = folder / 'identity.yaml'
    path.write_text(
        yaml.safe_dump(
            {
                'height': HEIGHT, 'width': WIDTH, 'latency_ms': latency_ms,
                'metadata': SPEC.to_metadata(),
            }
        ),
        encoding='utf-8',
    )
    return str(path)


def picture(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Return an image whose red channel holds ids 0 to 2 and whose green one the confidence."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :, 0] = 1
    image[height // 2 :, :, 0] += 1
    image[..., 1] = 200
    return image


def ready(graph: Graph, node: SegmentationNode) -> None:
    """Wait until the camera is heard and the hold after a new subscriber is over."""
    graph.wait_for_topics()
    eventually(lambda: time.monotonic() > node.greeting.hold_until_s)


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    graph = Graph(SegmentationNode, model=fake_model(tmp_path), engine='fake')
    yield graph
    graph.close()


def test_mask_and_confidence_have_the_image_s_header_and_size_without_padding(
    graph: Graph,
) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    confidences = graph.subscribe(Image, 'segmentation/confidence')
    ready(graph, graph.start())
    image = picture(2 * HEIGHT, 2 * WIDTH)
    graph.camera.publish(rgb_to_msg(image, header(1)))
    eventually(lambda: masks and confidences)
    for msg in (masks[0], confidences[0]):
        assert msg.header == header(1)
        assert (msg.encoding, msg.height, msg.width) == ('mono8', 2 * HEIGHT, 2 * WIDTH)
        assert msg.step == msg.width and len(msg.data) == msg.height * msg.width
    assert np.array_equal(ids_of(masks[0]), image[..., 0])
    assert np.array_equal(ids_of(confidences[0]), image[..., 1])


def test_the_model_has_run_once_before_the_first_image(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[Any] = []
    infer = Engine.infer

    def record(self: Engine, tensors: Any) -> Any:
        images.append(tensors)
        return infer(self, tensors)

    monkeypatch.setattr(Engine, 'infer', record)
    node = graph.start()
    assert len(images) == 1 and node.counts['received'] == 0
    assert images[0]['image'].shape == (1, HEIGHT, WIDTH, 3)


def test_zero_stamp_and_empty_frame_id_pass_through(graph: Graph) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    ready(graph, graph.start())
    graph.camera.publish(rgb_to_msg(picture(), Header()))
    eventually(lambda: masks)
    assert masks[0].header == Header()


def test_label_info_names_the_classes_and_is_latched(graph: Graph) -> None:
    ready(graph, graph.start(min_confidence=0.5))
    infos = graph.subscribe(LabelInfo, 'segmentation/label_info', LATCHED_QOS)
    eventually(lambda: infos)
    found = {item.class_id: item.class_name for item in infos[0].class_map}
    assert found == {0: 'road', 1: 'car', 2: 'tree'}
    assert infos[0].threshold == pytest.approx(0.5)


def test_a_late_mask_subscriber_hears_label_info_before_its_first_mask(graph: Graph) -> None:
    node = graph.start()
    ready(graph, node)
    stop = threading.Event()

    def run_camera() -> None:
        number = 0
        while not stop.wait(0.03):
            graph.camera.publish(rgb_to_msg(picture(), header(number := number + 1)))

    camera = threading.Thread(target=run_camera)
    camera.start()
    try:
        eventually(lambda: node.counts['published'] > 3)
        heard: list[str] = []
        late = Node('late', context=graph.context)
        late.create_subscription(
            LabelInfo, 'segmentation/label_info', lambda _: heard.append('label_info'), LATCHED_QOS
        )
        late.create_subscription(
            Image, 'segmentation/mask', lambda _: heard.append('mask'), RESULT_QOS
        )
        graph.spin(late)
        eventually(lambda: 'mask' in heard)
    finally:
        stop.set()
        camera.join()
    assert heard[0] == 'label_info'


def test_masks_are_reliable_and_volatile_of_depth_one(graph: Graph) -> None:
    ready(graph, graph.start())
    for topic in ('mask', 'confidence', 'overlay'):
        name = f'/segmentation/{topic}'
        eventually(lambda name=name: len(graph.peer.get_publishers_info_by_topic(name)) == 1)
        (info,) = graph.peer.get_publishers_info_by_topic(name)
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert info.qos_profile.durability == DurabilityPolicy.VOLATILE


def test_qos_of_a_topic_can_be_overridden_by_parameters(graph: Graph) -> None:
    key = 'qos_overrides./segmentation/mask.publisher.reliability'
    ready(graph, graph.start('-p', f'{key}:=best_effort'))
    for topic in ('mask', 'confidence'):
        name = f'/segmentation/{topic}'
        eventually(lambda name=name: graph.peer.get_publishers_info_by_topic(name))
    (info,) = graph.peer.get_publishers_info_by_topic('/segmentation/mask')
    assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    (other,) = graph.peer.get_publishers_info_by_topic('/segmentation/confidence')
    assert other.qos_profile.reliability == ReliabilityPolicy.RELIABLE


@pytest.mark.parametrize('reliability', ['RELIABLE', 'BEST_EFFORT'])
def test_cameras_of_either_reliability_are_heard(graph: Graph, reliability: str) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    ready(graph, graph.start())
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability])
    camera = graph.peer.create_publisher(Image, 'image', qos)
    graph.heard(camera)
    time.sleep(0.3)
    for number in range(5):
        camera.publish(rgb_to_msg(picture(), header(number)))
        time.sleep(0.05)
    eventually(lambda: masks)


def test_compressed_images_come_on_the_remapped_topic_of_image_transport(graph: Graph) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    camera = graph.peer.create_publisher(CompressedImage, '/front/image_raw/compressed', 5)
    node = graph.start('-r', 'image:=/front/image_raw', image_transport='compressed')
    graph.heard(camera)
    eventually(lambda: time.monotonic() > node.greeting.hold_until_s)
    time.sleep(0.6)
    image = picture()
    _, png = cv2.imencode('.png', image[..., ::-1])
    camera.publish(CompressedImage(header=header(3), format='png', data=png.tobytes()))
    eventually(lambda: masks)
    assert np.array_equal(ids_of(masks[0]), image[..., 0])


def test_overlay_is_made_only_while_somebody_watches(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = segmentation_node.blend_mask

    def counted(*args: Any) -> Any:
        made.append(1)
        return real(*args)

    monkeypatch.setattr(segmentation_node, 'blend_mask', counted)
    node = graph.start()
    ready(graph, node)
    graph.camera.publish(rgb_to_msg(picture(), header(1)))
    eventually(lambda: node.counts['published'] == 1)
    assert not made
    overlays = graph.subscribe(Image, 'segmentation/overlay')
    eventually(lambda: graph.peer.count_subscribers('/segmentation/overlay'))
    time.sleep(0.3)
    graph.camera.publish(rgb_to_msg(picture(), header(2)))
    eventually(lambda: overlays)
    assert made and overlays[0].encoding == 'rgb8' and overlays[0].header == header(2)


def test_masks_as_png_are_what_image_transport_s_plugin_would_send(graph: Graph) -> None:
    masks = graph.subscribe(Image, '/robot/mask')
    pngs = graph.subscribe(CompressedImage, '/robot/mask/compressed')
    node = graph.start('-r', 'segmentation/mask:=/robot/mask')
    ready(graph, node)
    graph.camera.publish(rgb_to_msg(picture(2 * HEIGHT, 2 * WIDTH), header(4)))
    eventually(lambda: masks and pngs)
    assert pngs[0].header == masks[0].header == header(4)
    # compressed_publisher.cpp: the message's encoding, and of the PNG's colours nothing; what
    # reads it takes the encoding from before the semicolon.
    assert pngs[0].format == 'mono8; png compressed '
    ids = cv2.imdecode(np.frombuffer(pngs[0].data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert ids.dtype == np.uint8 and np.array_equal(ids, ids_of(masks[0]))
    assert np.array_equal(labels_from_compressed_msg(pngs[0]), ids)
    assert len(pngs[0].data) < len(masks[0].data) / 10


def test_masks_become_png_only_while_somebody_listens_and_after_their_names(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = segmentation_node.mask_to_png_msg

    def counted(*args: Any) -> Any:
        made.append(1)
        return real(*args)

    monkeypatch.setattr(segmentation_node, 'mask_to_png_msg', counted)
    node = graph.start()
    ready(graph, node)
    graph.camera.publish(rgb_to_msg(picture(), header(1)))
    eventually(lambda: node.counts['published'] == 1)
    assert not made
    heard: list[str] = []
    late = Node('late', context=graph.context)
    late.create_subscription(
        CompressedImage, 'segmentation/mask/compressed', lambda _: heard.append('mask'), RESULT_QOS
    )
    late.create_subscription(
        LabelInfo, 'segmentation/label_info', lambda _: heard.append('names'), LATCHED_QOS
    )
    graph.spin(late)
    number = 1

    def film() -> bool:
        nonlocal number
        graph.camera.publish(rgb_to_msg(picture(), header(number := number + 1)))
        time.sleep(0.03)
        return 'mask' in heard

    eventually(film)
    assert heard[0] == 'names' and made


def test_a_malformed_image_is_rejected_counted_and_forgotten(graph: Graph) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    node = graph.start()
    ready(graph, node)
    broken = rgb_to_msg(picture(), header(1))
    broken.step = 5
    graph.camera.publish(broken)
    graph.camera.publish(Image(header=header(2), encoding='rgb8'))
    eventually(lambda: node.counts['rejected'] + node.counts['passed_over'] == 2)
    assert node.counts['rejected'] >= 1
    graph.camera.publish(rgb_to_msg(picture(), header(3)))
    eventually(lambda: masks)
    assert masks[0].header == header(3)


def test_with_a_slow_engine_the_newest_frame_wins_and_no_queue_grows(
    tmp_path: Path,
) -> None:
    inference_s = 0.5  # so long that a busy machine's hundredths do not count
    model = fake_model(tmp_path, 1000 * inference_s)
    graph = Graph(SegmentationNode, model=model, engine='fake')
    try:
        arrived_s: dict[int, float] = {}
        graph.peer.create_subscription(
            Image, 'segmentation/mask',
            lambda msg: arrived_s.__setitem__(stamp_to_ns(msg.header.stamp), time.monotonic()),
            RESULT_QOS,
        )
        node = graph.start()
        ready(graph, node)
        sent_s: dict[int, float] = {}
        for number in range(150):
            message = rgb_to_msg(picture(), header(number))
            sent_s[stamp_to_ns(message.header.stamp)] = time.monotonic()
            graph.camera.publish(message)
            time.sleep(1 / 30)
        eventually(
            lambda: node.counts['published'] + node.counts['passed_over']
            == node.counts['received']
        )
        time.sleep(0.3)
    finally:
        graph.close()
    latencies_s = [arrived_s[stamp] - sent_s[stamp] for stamp in arrived_s]
    assert len(latencies_s) >= 6
    assert np.quantile(latencies_s, 0.95) < 2.2 * inference_s
    assert node.counts['passed_over'] > node.counts['published']
    assert list(arrived_s) == sorted(arrived_s)


def test_the_model_is_opened_used_and_closed_in_one_thread_that_is_not_the_executor_s(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, int] = {}

    def watch(name: str) -> None:
        real = getattr(FakeEngine, name)

        def watched(*args: Any) -> Any:
            threads[name] = threading.get_ident()
            return real(*args)

        monkeypatch.setattr(FakeEngine, name, watched)

    for name in ('__init__', '_infer', '_release'):
        watch(name)
    node = graph.start()
    ready(graph, node)
    graph.camera.publish(rgb_to_msg(picture(), header(1)))
    eventually(lambda: node.counts['published'] == 1)
    assert graph.transition(Transition.TRANSITION_DEACTIVATE)
    assert graph.transition(Transition.TRANSITION_CLEANUP)
    assert len(threads) == 3 and len(set(threads.values())) == 1
    executors = {thread.ident for thread in graph._threads}
    assert not executors & set(threads.values())


def test_with_sim_time_it_starts_and_works_before_a_clock_is_there(graph: Graph) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    ready(graph, graph.start(use_sim_time=True))
    graph.camera.publish(rgb_to_msg(picture(), header(1)))
    eventually(lambda: masks)


def test_max_rate_hz_limits_the_rate_on_average(graph: Graph) -> None:
    node = graph.start(max_rate_hz=10.0)
    ready(graph, node)
    start_s = time.monotonic()
    while time.monotonic() - start_s < 2.0:
        graph.camera.publish(rgb_to_msg(picture(), header(1)))
        time.sleep(0.02)
    assert 14 <= node.counts['published'] <= 22


def test_rotate_turns_the_image_for_the_network_and_the_mask_back(graph: Graph) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    ready(graph, graph.start(rotate=90))
    image = picture(2 * WIDTH, 2 * HEIGHT)
    graph.camera.publish(rgb_to_msg(image, header(1)))
    eventually(lambda: masks)
    assert np.array_equal(ids_of(masks[0]), image[..., 0])


def test_ignore_mask_gives_its_pixels_no_class(graph: Graph, tmp_path: Path) -> None:
    bumper = np.zeros((HEIGHT, WIDTH), np.uint8)
    bumper[-10:] = 255
    cv2.imwrite(str(tmp_path / 'bumper.png'), bumper)
    masks = graph.subscribe(Image, 'segmentation/mask')
    ready(graph, graph.start(ignore_mask=str(tmp_path / 'bumper.png')))
    graph.camera.publish(rgb_to_msg(picture(), header(1)))
    eventually(lambda: masks)
    ids = ids_of(masks[0])
    assert (ids[-10:] == UNLABELLED).all() and (ids[:-10] < 3).all()


def test_components_of_chosen_classes_are_detections(graph: Graph) -> None:
    arrays = graph.subscribe(Detection2DArray, 'detections')
    node = graph.start(detection_classes=['tree', 'car'], detection_min_area=100)
    ready(graph, node)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[10:20, 30:60] = (1, 102, 0)  # car, 0.4
    image[40:60, 0:10] = (2, 204, 0)  # tree, 0.8
    image[0:9, 0:11] = 2  # 99 pixels of tree
    graph.camera.publish(rgb_to_msg(image, header(1)))
    eventually(lambda: arrays)
    assert arrays[0].header == header(1)
    found = [
        (d.results[0].hypothesis.class_id, d.bbox.center.position.x, d.bbox.center.position.y,
         d.bbox.size_x, d.bbox.size_y)
        for d in arrays[0].detections
    ]
    assert found == [('tree', 5, 50, 10, 20), ('car', 45, 15, 30, 10)]
    (result,) = node.set_parameters([Parameter('detection_min_area', value=10**6)])
    assert result.successful
    graph.camera.publish(rgb_to_msg(image, header(2)))
    eventually(lambda: len(arrays) == 2)
    assert (arrays[1].header, arrays[1].detections) == (header(2), [])


@pytest.mark.parametrize('given', [[], ['-p', 'detection_classes:=[]']])
def test_without_detection_classes_there_are_no_detections(
    graph: Graph, given: list[str]
) -> None:
    node = graph.start(*given)
    assert node.parameters.detection_classes == ()
    assert node.count_publishers('/detections') == 0


def test_an_unknown_detection_class_is_refused_with_those_there_are(graph: Graph) -> None:
    node = graph.start(wait=False, autostart=False, detection_classes=['car', 'dog'])
    assert not graph.transition(Transition.TRANSITION_CONFIGURE)
    assert 'identity has no class dog; it has road, car, tree' in node._failure


def test_a_failed_configure_cleans_up_and_can_be_tried_again(graph: Graph) -> None:
    node = graph.start(wait=False, autostart=False, model='no_such_model')
    assert not graph.transition(Transition.TRANSITION_CONFIGURE)
    assert graph.state() == 'unconfigured'
    (result,) = node.set_parameters([Parameter('model', value=graph.parameters['model'])])
    assert result.successful, result.reason
    assert graph.transition(Transition.TRANSITION_CONFIGURE)
    assert graph.transition(Transition.TRANSITION_ACTIVATE)
    assert graph.state() == 'active'


def test_a_failed_activation_leaves_the_node_inactive_with_the_reason(graph: Graph) -> None:
    key = 'qos_overrides./image.subscription.reliability'
    node = graph.start('-p', f'{key}:=nonsense', wait=False)
    eventually(lambda: node._failure)
    assert 'activate failed' in node._failure and 'nonsense' in node._failure
    assert graph.state() == 'inactive'
    assert graph.camera.get_subscription_count() == 0


def test_a_lifecycle_manager_beside_autostart_does_no_harm(graph: Graph) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    node = graph.start()
    # What nav2_lifecycle_manager does: ask, then compare the state with the one asked for.
    assert graph.transition(Transition.TRANSITION_CONFIGURE)
    assert graph.state() == 'inactive'
    assert graph.transition(Transition.TRANSITION_CONFIGURE)
    assert graph.transition(Transition.TRANSITION_ACTIVATE)
    assert graph.transition(Transition.TRANSITION_ACTIVATE)
    assert graph.state() == 'active'
    assert not graph.transition(Transition.TRANSITION_CLEANUP)
    assert graph.state() == 'active'
    ready(graph, node)
    graph.camera.publish(rgb_to_msg(picture(), header(1)))
    eventually(lambda: masks)


def test_an_inactive_node_publishes_nothing_and_can_be_activated_again(graph: Graph) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    node = graph.start()
    ready(graph, node)
    assert graph.transition(Transition.TRANSITION_DEACTIVATE)
    eventually(lambda: graph.camera.get_subscription_count() == 0)
    graph.camera.publish(rgb_to_msg(picture(), header(1)))
    assert graph.transition(Transition.TRANSITION_CLEANUP)
    assert node._model is None
    assert graph.peer.count_publishers('/segmentation/mask') == 0
    assert graph.transition(Transition.TRANSITION_CONFIGURE)
    assert graph.transition(Transition.TRANSITION_ACTIVATE)
    ready(graph, node)
    graph.camera.publish(rgb_to_msg(picture(), header(2)))
    eventually(lambda: masks)
    assert [msg.header for msg in masks] == [header(2)]


def test_min_confidence_can_be_changed_while_running(graph: Graph) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    node = graph.start()
    ready(graph, node)
    (result,) = node.set_parameters([Parameter('min_confidence', value=0.9)])
    assert result.successful
    graph.camera.publish(rgb_to_msg(picture(), header(1)))  # its confidence is 200 / 255
    eventually(lambda: masks)
    assert (ids_of(masks[0]) == UNLABELLED).all()


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [('engine', 'onnx_runtime', 'clean up'), ('model', 'other', 'neither a model file'),
     ('min_confidence', 1.5, 'range')],
)
def test_an_impossible_change_is_refused_with_the_reason(
    graph: Graph, name: str, value: Any, reason: str
) -> None:
    node = graph.start()
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful
    assert reason in result.reason


def test_a_value_that_is_no_choice_is_refused_before_configuring(graph: Graph) -> None:
    node = graph.start(wait=False, autostart=False)
    (result,) = node.set_parameters([Parameter('rotate', value=45)])
    assert not result.successful
    assert '(0, 90, 180, 270)' in result.reason


def test_diagnostics_tell_counts_latency_engine_and_licence(graph: Graph) -> None:
    reports = graph.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    node = graph.start()
    ready(graph, node)
    graph.camera.publish(rgb_to_msg(picture(), header(1)))
    eventually(lambda: node.counts['published'] == 1)
    reports.clear()
    eventually(lambda: reports)
    (status,) = reports[0].status
    values = {pair.key: pair.value for pair in status.values}
    assert status.name == 'segmentation_node: frames'
    assert (values['received'], values['published'], values['rejected']) == ('1', '1', '0')
    assert float(values['latency_p95_ms']) > 0
    assert (values['engine'], values['licence']) == ('fake', 'CC0-1.0')


@pytest.mark.parametrize(
    ('facts', 'told'),
    [
        ({'licence': 'CC-BY-NC-4.0', 'attribution': 'Ada, from her pictures'},
         'CC-BY-NC-4.0 (not for commercial use); made by Ada, from her pictures\n'),
        ({'licence': 'unknown'}, 'not stated\n'),
    ],
)
def test_the_log_names_the_model_s_licence_and_whom_it_asks_to_be_named(
    graph: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str], facts: dict[str, str],
    told: str,
) -> None:
    model = write_fake(tmp_path / 'm.yaml', identity_spec(HEIGHT, WIDTH, **facts))
    graph.start(model=str(model))
    log = ''.join(capfd.readouterr())
    assert f'licence of the model identity: {told}' in log


def test_label_info_follows_a_changed_min_confidence(graph: Graph) -> None:
    infos = graph.subscribe(LabelInfo, 'segmentation/label_info', LATCHED_QOS)
    node = graph.start()
    eventually(lambda: infos)
    node.set_parameters([Parameter('min_confidence', value=0.25)])
    eventually(lambda: infos[-1].threshold == pytest.approx(0.25))


def test_a_failed_configure_is_an_error_in_the_diagnostics(graph: Graph) -> None:
    reports = graph.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    graph.start(wait=False, model='no_such_model')
    eventually(lambda: reports and reports[-1].status[0].level == b'\x02')
    assert 'no_such_model' in reports[-1].status[0].message


def test_rejected_frames_are_a_warning_in_the_diagnostics(graph: Graph) -> None:
    reports = graph.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    ready(graph, graph.start())
    graph.camera.publish(Image(header=header(1), encoding='rgb8'))
    eventually(lambda: any('rejected' in report.status[0].message for report in reports))


def test_a_camera_without_stamps_is_a_warning(graph: Graph) -> None:
    reports = graph.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    node = graph.start()
    ready(graph, node)
    for count in range(1, 4):
        graph.camera.publish(rgb_to_msg(picture(), Header()))
        eventually(lambda count=count: node.counts['published'] == count)
    told = 'the stamps of the images are zero, so pairing by stamp and tf are unreliable'
    eventually(lambda: any(told in report.status[0].message for report in reports))
    assert reports[-1].status[0].level == b'\x01'


def test_silence_of_the_camera_is_a_warning(graph: Graph) -> None:
    reports = graph.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    graph.start()
    eventually(lambda: reports and reports[-1].status[0].level == b'\x01')
    assert 'no image' in reports[-1].status[0].message


def test_what_an_engine_logs_is_in_the_node_s_log(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    environment = {
        **os.environ, **localhost_domain(own_domain_id()), 'XDG_CACHE_HOME': str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, '-m', 'mnv2_perception.nodes.segmentation_node'], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.endswith(': active\n'):
                process.send_signal(signal.SIGINT)
    told = [line for line in lines if 'no TensorRT plan of it' in line]
    assert len(told) == 1 and '[INFO]' in told[0] and '[segmentation_node]' in told[0], lines


def test_images_that_a_busy_process_overwrites_or_cannot_read_are_counted_as_lost(
    graph: Graph,
) -> None:
    node = graph.start()
    ready(graph, node)

    def show(number: int) -> None:
        graph.camera.publish(rgb_to_msg(picture(), header(number)))

    show(0)
    eventually(lambda: node.counts['received'] == 1)
    busy, go_on = threading.Event(), threading.Event()
    timer = node.create_steady_timer(0.0, lambda: (busy.set(), go_on.wait(20.0), timer.cancel()))
    assert busy.wait(10.0)
    for number in range(1, 40):  # for a queue of 5
        show(number)
    graph.camera.publish(b'\x00\x01\x00\x00 no image at all')
    show(41)
    time.sleep(0.3)
    go_on.set()
    eventually(lambda: node.counts['received'] + node.counts['lost'] == 42)
    assert 30 <= node.counts['lost'] < 41
    graph.camera.publish(b'\x00\x01\x00\x00 no image at all')
    show(43)
    eventually(lambda: node.counts['received'] + node.counts['lost'] == 44)
    counts = node.counts
    eventually(lambda: counts['published'] + counts['passed_over'] == counts['received'])


def test_a_second_camera_on_the_topic_is_told_and_no_loss_is_made_up(
    graph: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    node = graph.start()
    ready(graph, node)
    other = graph.peer.create_publisher(Image, 'image', 5)
    eventually(other.get_subscription_count)
    for number in range(5):
        graph.camera.publish(rgb_to_msg(picture(), header(2 * number)))
        eventually(lambda n=number: node.counts['received'] == 4 * n + 1)
        for _ in range(3):
            seen = node.counts['received']
            other.publish(rgb_to_msg(picture(), header(2 * number + 1)))
            eventually(lambda n=seen: node.counts['received'] == n + 1)
    assert node.counts['lost'] == 0
    assert capfd.readouterr().err.count('has 2 publishers: their messages are mixed') == 1


def test_a_camera_that_starts_anew_has_lost_nothing(graph: Graph) -> None:
    node = graph.start()
    ready(graph, node)
    for number in range(3):
        seen = node.counts['received']
        for count in range(3 + 5 * number):  # each time more than the last one sent
            graph.camera.publish(rgb_to_msg(picture(), header(count)))
            eventually(lambda n=seen + count + 1: node.counts['received'] == n)
        graph.peer.destroy_publisher(graph.camera)
        eventually(lambda: node.count_publishers('image') == 0)
        graph.camera = graph.peer.create_publisher(Image, 'image', 5)
        eventually(graph.camera.get_subscription_count)
        time.sleep(0.3)
    assert node.counts['lost'] == 0
