"""detection_node over real DDS, with a detector that finds the same boxes in every image."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fixed_detector import write_detector
import numpy as np
from numpy.typing import NDArray
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from lifecycle_msgs.msg import Transition
from rclpy.parameter import Parameter
from ros_graph import eventually, Graph, header
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from mnv2_perception.nodes import detection_node
from mnv2_perception.nodes.detection_node import DetectionNode
from mnv2_perception.nodes.messages import rgb_to_msg
from mnv2_perception.nodes.qos import LATCHED_QOS

pytestmark = pytest.mark.ros

IMAGE = np.zeros((40, 80, 3), np.uint8)


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    model = write_detector(tmp_path / 'model.onnx', 32, 64)
    graph = Graph(DetectionNode, model=str(model), threads=1)
    yield graph
    graph.close()


def detect(
    graph: Graph, arrays: list[Any], number: int, image: NDArray[np.uint8] = IMAGE
) -> list[tuple[Any, ...]]:
    """Publish an image; return name, score, centre and size of each detection in it."""
    graph.camera.publish(rgb_to_msg(image, header(number)))
    eventually(lambda: arrays and arrays[-1].header == header(number))
    return [
        (d.results[0].hypothesis.class_id, round(d.results[0].hypothesis.score, 5),
         d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y)
        for d in arrays[-1].detections
    ]


def test_boxes_are_in_the_images_pixels_with_names_and_the_images_header(graph: Graph) -> None:
    arrays = graph.subscribe(Detection2DArray, 'detections')
    graph.start()
    graph.wait_for_topics()
    assert detect(graph, arrays, 1) == [('dog', 0.9, 60, 15, 40, 10), ('car', 0.6, 60, 15, 40, 10)]
    assert detect(graph, arrays, 2, np.zeros((80, 160, 3), np.uint8))[0][2:] == (120, 30, 80, 20)


def test_every_image_gets_an_answer_also_without_objects(graph: Graph) -> None:
    arrays = graph.subscribe(Detection2DArray, 'detections')
    graph.start(min_score=0.95)
    graph.wait_for_topics()
    for number in range(3):
        assert detect(graph, arrays, number) == []
    assert len(arrays) == 3


def test_thresholds_can_be_changed_while_running(graph: Graph) -> None:
    arrays = graph.subscribe(Detection2DArray, 'detections')
    infos = graph.subscribe(LabelInfo, 'detections/label_info', LATCHED_QOS)
    node = graph.start()
    graph.wait_for_topics()
    results = node.set_parameters([
        Parameter('min_score', value=0.1), Parameter('nms_iou', value=0.85),
    ])
    assert all(result.successful for result in results)
    assert [found[1] for found in detect(graph, arrays, 1)] == [0.9, 0.8, 0.6, 0.2]
    eventually(lambda: infos[-1].threshold == pytest.approx(0.1))


@pytest.mark.parametrize('name', ['min_score', 'nms_iou'])
def test_a_threshold_out_of_range_is_refused(graph: Graph, name: str) -> None:
    node = graph.start(autostart=False, wait=False)
    (result,) = node.set_parameters([Parameter(name, value=1.5)])
    assert not result.successful and 'range' in result.reason


def test_boxes_come_back_in_a_tilted_cameras_orientation(graph: Graph) -> None:
    arrays = graph.subscribe(Detection2DArray, 'detections')
    graph.start(rotate=90)
    graph.wait_for_topics()
    assert detect(graph, arrays, 1)[0] == ('dog', 0.9, 30, 10, 20, 20)


def test_label_info_names_the_classes_and_is_latched(graph: Graph) -> None:
    graph.start(min_score=0.25)
    infos = graph.subscribe(LabelInfo, 'detections/label_info', LATCHED_QOS)
    eventually(lambda: infos)
    assert [(c.class_id, c.class_name) for c in infos[0].class_map] == [(0, 'car'), (1, 'dog')]
    assert infos[0].threshold == pytest.approx(0.25)


def test_overlay_is_made_only_while_somebody_watches(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = detection_node.draw_boxes

    def counted(*args: Any) -> Any:
        made.append(1)
        return real(*args)

    monkeypatch.setattr(detection_node, 'draw_boxes', counted)
    arrays = graph.subscribe(Detection2DArray, 'detections')
    graph.start()
    graph.wait_for_topics()
    detect(graph, arrays, 1)
    assert not made
    overlays = graph.subscribe(Image, 'detections/overlay')
    graph.wait_for_topics()
    detect(graph, arrays, 2)
    eventually(lambda: overlays)
    assert (overlays[0].header, overlays[0].encoding) == (header(2), 'rgb8')
    assert any(overlays[0].data)  # the boxes on a black image


def test_a_model_for_another_task_fails_to_configure_with_the_reason(graph: Graph) -> None:
    node = graph.start(wait=False, autostart=False, model='unet_mobilenetv2_camvid')
    assert not graph.transition(Transition.TRANSITION_CONFIGURE)
    assert 'choose a model for detection' in node._failure
    assert node._model is None


def test_in_a_process_of_its_own_it_detects_and_ends_well(tmp_path: Path) -> None:
    model = write_detector(tmp_path / 'model.onnx', 32, 64)
    graph = Graph()
    try:
        arrays = graph.subscribe(Detection2DArray, 'detections')
        infos = graph.subscribe(LabelInfo, 'detections/label_info', LATCHED_QOS)
        with graph.process('detection_node', model=model, threads=1):
            graph.wait_for_topics()
            eventually(lambda: infos)  # before any detection
            assert detect(graph, arrays, 1)[0] == ('dog', 0.9, 60, 15, 40, 10)
    finally:
        graph.close()
