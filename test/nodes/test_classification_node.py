"""classification_node over real DDS, with a network whose scores are the mean colour."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx_graphs import node as graph_node
from onnx_graphs import write_graph, write_mean_colour
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from lifecycle_msgs.msg import Transition
from rclpy.parameter import Parameter
from ros_graph import eventually, Graph, header
from vision_msgs.msg import Classification, LabelInfo

from mnv2_perception.nodes.classification_node import ClassificationNode
from mnv2_perception.nodes.messages import rgb_to_msg
from mnv2_perception.nodes.qos import LATCHED_QOS

pytestmark = pytest.mark.ros

RED, GREEN = (204, 102, 51), (51, 153, 102)  # their scores × 255


def plain(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((20, 40, 3), colour, np.uint8)


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    model = write_mean_colour(tmp_path / 'model.onnx')
    graph = Graph(ClassificationNode, model=str(model), threads=1)
    yield graph
    graph.close()


class Asker:
    """Publishes one image after the other and waits for what is said of each."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.number = 0
        self.messages = graph.subscribe(Classification, 'classification')

    def __call__(self, image: NDArray[np.uint8]) -> list[tuple[str, float]]:
        self.number += 1
        self.graph.camera.publish(rgb_to_msg(image, header(self.number)))
        eventually(lambda: len(self.messages) == self.number)
        assert self.messages[-1].header == header(self.number)
        return [(result.class_id, round(result.score, 3)) for result in self.messages[-1].results]


def started(graph: Graph, **parameters: Any) -> tuple[ClassificationNode, Asker]:
    ask = Asker(graph)
    node = graph.start(**parameters)
    graph.wait_for_topics()
    return node, ask


def test_names_come_best_first_with_the_images_header(graph: Graph) -> None:
    _, ask = started(graph)
    assert ask(plain(RED)) == [('red', 0.8), ('green', 0.4), ('blue', 0.2)]
    assert ask(plain(GREEN)) == [('green', 0.6), ('blue', 0.4), ('red', 0.2)]


def test_top_k_and_min_confidence_can_be_changed_while_running(graph: Graph) -> None:
    node, ask = started(graph, top_k=2)
    assert ask(plain(RED)) == [('red', 0.8), ('green', 0.4)]
    for name, value in (('top_k', 3), ('min_confidence', 0.3)):
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert result.successful, result.reason
    assert ask(plain(RED)) == [('red', 0.8), ('green', 0.4)]
    node.set_parameters([Parameter('min_confidence', value=0.9)])
    assert ask(plain(RED)) == []  # published all the same


@pytest.mark.parametrize(
    ('name', 'value'), [('top_k', 0), ('min_confidence', 1.5), ('debounce_frames', 0)]
)
def test_a_value_out_of_range_is_refused(graph: Graph, name: str, value: Any) -> None:
    node = graph.start(autostart=False, wait=False)
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful and 'range' in result.reason


def test_label_info_names_the_classes_and_is_latched(graph: Graph) -> None:
    node = graph.start(min_confidence=0.5)
    infos = graph.subscribe(LabelInfo, 'classification/label_info', LATCHED_QOS)
    eventually(lambda: infos)
    found = {item.class_id: item.class_name for item in infos[0].class_map}
    assert found == {0: 'red', 1: 'green', 2: 'blue'}
    assert infos[0].threshold == pytest.approx(0.5)
    node.set_parameters([Parameter('min_confidence', value=0.25)])
    eventually(lambda: infos[-1].threshold == pytest.approx(0.25))


def test_a_class_is_first_only_after_it_won_debounce_frames(graph: Graph) -> None:
    node, ask = started(graph, debounce_frames=2, top_k=2)
    assert ask(plain(RED)) == []
    assert ask(plain(RED)) == [('red', 0.8), ('green', 0.4)]
    assert ask(plain(GREEN)) == [('red', 0.2)]  # green and blue score above it
    assert ask(plain(RED)) == [('red', 0.8), ('green', 0.4)]
    ask(plain(GREEN))
    assert ask(plain(GREEN)) == [('green', 0.6), ('blue', 0.4)]
    assert graph.transition(Transition.TRANSITION_DEACTIVATE)
    assert graph.transition(Transition.TRANSITION_ACTIVATE)
    graph.wait_for_topics()
    assert ask(plain(GREEN)) == []  # activation begins anew
    node.set_parameters([Parameter('debounce_frames', value=1)])
    assert ask(plain(RED))[0] == ('red', 0.8)


def test_a_region_is_all_that_is_looked_at(graph: Graph) -> None:
    image = plain(RED)
    image[10:, 10:30] = GREEN
    _, ask = started(graph, region=[0.25, 0.5, 0.75, 1.0])
    assert ask(image) == [('green', 0.6), ('blue', 0.4), ('red', 0.2)]


def test_an_impossible_region_fails_to_configure_with_the_reason(graph: Graph) -> None:
    node = graph.start(wait=False, autostart=False, region=[0.5, 0.0, 0.5, 1.0])
    assert not graph.transition(Transition.TRANSITION_CONFIGURE)
    assert 'x1 of region is 0.5 and x2 is 0.5, expected the first below' in node._failure


def test_rotate_sets_the_image_upright_for_the_network(graph: Graph, tmp_path: Path) -> None:
    model = write_graph(
        tmp_path / 'flat.onnx', [graph_node('Flatten', 'image', 'scores')],
        ('float32', (1, 1, 2, 3)), {'scores': ('float32', (1, 6))}, task='classification',
        height=1, width=2, classes=['left r', 'left g', 'left b', 'right r', 'right g', 'right b'],
        input='float_nhwc', output='logits',
    )
    image = np.zeros((20, 10, 3), np.uint8)
    image[10:, :, 1] = 200  # what is below is on the left after 90 degrees clockwise
    _, ask = started(graph, model=str(model), rotate=90, top_k=1)
    assert ask(image) == [('left g', 1.0)]


def test_in_a_process_of_its_own_it_classifies_and_ends_well(tmp_path: Path) -> None:
    model = write_mean_colour(tmp_path / 'model.onnx')
    graph = Graph()
    try:
        ask = Asker(graph)
        infos = graph.subscribe(LabelInfo, 'classification/label_info', LATCHED_QOS)
        with graph.process('classification_node', model=model, region='[0.0, 0.0, 1.0, 0.5]'):
            graph.wait_for_topics()
            eventually(lambda: infos)  # before any classification
            assert ask(plain(RED))[0] == ('red', 0.8)
    finally:
        graph.close()
