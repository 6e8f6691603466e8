"""config/sros2_policy.xml allows each node what it really has in a running graph, and no more.

That SROS2 takes the file, and that the nodes run under it, is not tested here: it needs sros2.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
import xml.etree.ElementTree as ET

import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from rclpy.node import Node
from ros_graph import Graph
from test_segmentation_node import fake_model

from mnv2_perception.nodes.classification_node import ClassificationNode
from mnv2_perception.nodes.costmap_node import CostmapNode
from mnv2_perception.nodes.detection3d_node import Detection3DNode
from mnv2_perception.nodes.detection_node import DetectionNode
from mnv2_perception.nodes.segmentation_node import SegmentationNode

pytestmark = pytest.mark.ros

POLICY = Path(__file__).resolve().parents[2] / 'config/sros2_policy.xml'
# What only tf2_ros brings: the transforms, and their listener's part of the parameters.
OF_TF = {('subscribe', '/tf'), ('subscribe', '/tf_static')}
Access = set[tuple[str, str]]  # publish, subscribe, reply or request; full name


def allowed() -> dict[str, Access]:
    """Return what the policy allows each node, private names written out."""
    found: dict[str, Access] = defaultdict(set)
    for profile in ET.parse(POLICY).getroot().iter('profile'):
        node = profile.attrib['node']
        assert profile.attrib['ns'] == '/'
        for group in profile:
            (verb, permission), = group.attrib.items()
            assert permission == 'ALLOW'
            for item in group:
                assert item.text
                name = item.text.replace('~', f'/{node}')
                found[node].add((verb, name if name.startswith('/') else f'/{name}'))
    return found


def used(node: Node) -> Access:
    """Return what a node has in the graph."""
    own = node.get_name(), node.get_namespace()
    lists = {
        'publish': node.get_publisher_names_and_types_by_node(*own),
        'subscribe': node.get_subscriber_names_and_types_by_node(*own),
        'reply': node.get_service_names_and_types_by_node(*own),
        'request': node.get_client_names_and_types_by_node(*own),
    }
    return {(verb, name) for verb, entries in lists.items() for name, _ in entries}


@pytest.fixture
def graphs() -> Iterator[list[Graph]]:
    found: list[Graph] = []
    yield found
    for graph in found:
        graph.close()


def variants(folder: Path) -> dict[type, list[dict[str, Any]]]:
    fake = {'model': fake_model(folder), 'engine': 'fake', 'use_sim_time': True}
    placing = {'pose_source': 'parameters', 'use_sim_time': True}
    return {
        SegmentationNode: [
            {**fake, 'detection_classes': ['car']}, {**fake, 'image_transport': 'compressed'},
        ],
        ClassificationNode: [{'engine': 'onnx_runtime'}, {'image_transport': 'compressed'}],
        DetectionNode: [{'engine': 'onnx_runtime'}, {'image_transport': 'compressed'}],
        CostmapNode: [{**placing, 'source': name} for name in ('ground', 'depth', 'points')],
        Detection3DNode: [{**placing, 'source': name} for name in ('depth', 'points')],
    }


@pytest.mark.parametrize(
    'node_class',
    [SegmentationNode, ClassificationNode, DetectionNode, CostmapNode, Detection3DNode],
)
def test_a_node_has_what_the_policy_allows_it_and_nothing_else(
    node_class: type, tmp_path: Path, graphs: list[Graph]
) -> None:
    found: Access = set()
    name = ''
    for parameters in variants(tmp_path)[node_class]:
        graphs.append(Graph(node_class))
        node = graphs[-1].start(**{'use_sim_time': True, **parameters})
        name = node.get_name()
        found |= used(node)
    assert found == allowed()[name] - OF_TF


def test_the_process_itself_has_what_the_policy_allows_it(graphs: list[Graph]) -> None:
    from mnv2_perception.nodes.perception import Perception

    graphs.append(Graph(Perception))
    node = graphs[-1].start(wait=False)
    # A simulated clock may be asked of any node.
    assert used(node) | {('subscribe', '/clock')} == allowed()['perception']
