"""Recorded results, read back: detections, classes, grids, diagnostics."""

from pathlib import Path
import re

import numpy as np
import pytest

from mnv2_perception.bags.definitions import jazzy_types
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.results import (
    DETECTIONS,
    GRID,
    is_result,
    own_results,
    read_classifications,
    read_detections,
    read_grids,
    read_last_diagnostics,
    RESULTS,
)
from mnv2_perception.bags.write import BagWriter
from mnv2_perception.errors import BagError


@pytest.fixture
def results_bag(tmp_path: Path) -> Path:
    pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
    from results_bag import write_results_bag

    return write_results_bag(tmp_path / 'results')


def test_the_topics_of_the_nodes_in_the_documentation_are_their_results() -> None:
    page = (Path(__file__).parents[2] / 'docs' / 'topics.md').read_text(encoding='utf-8')
    for node, results in RESULTS.items():
        section = page.partition(f'## {node}_node')[2].partition('\n## ')[0]
        rows = section.rpartition('It publishes:')[2].splitlines()
        names = {
            name for row in rows if row.startswith('| `')
            for name in re.findall('`(.*?)`', row.split('|')[1])
        }
        assert names - {'/diagnostics'} == results.keys()


@pytest.mark.ros
def test_results_of_any_namespace_are_known_and_those_of_some_are_found(
    results_bag: Path
) -> None:
    image, scan = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/LaserScan'
    for topic, type_name, result in (
        ('/segmentation/mask', image, True), ('/front/segmentation/overlay', image, True),
        ('/camera/image_raw', image, False), ('/scan', image, False), ('/scan', scan, True),
        ('/lidarscan', scan, False),
    ):
        assert is_result(topic, type_name) == result
    assert own_results(results_bag, RESULTS, ['']) == ['/classification', '/detections', '/grid']
    assert own_results(results_bag, ['costmap', 'unknown'], ['//']) == ['/grid']
    assert own_results(results_bag, RESULTS, ['/front']) == []


@pytest.mark.ros
def test_detections_are_read_as_boxes_scores_and_names(results_bag: Path) -> None:
    (stamp_ns, found), (_, none) = read_detections(results_bag, '/detections')
    assert stamp_ns == 1_000_000_005
    np.testing.assert_allclose(found.boxes, [[1.5, 2, 30, 20.25], [0, 0, 5, 5]])
    assert found.scores.tolist() == [0.75, 0.5] and found.names == ('dog', 'car')
    assert none.boxes.shape == (0, 4) and none.scores.shape == (0,) and none.names == ()


@pytest.mark.ros
def test_classifications_are_read_as_names_and_scores(results_bag: Path) -> None:
    assert list(read_classifications(results_bag, '/classification')) == [
        (1_000_000_005, [('grass', 0.75), ('road', 0.5)]), (2_000_000_005, []),
    ]


@pytest.mark.ros
def test_grids_come_back_as_they_were_published(results_bag: Path) -> None:
    (stamp_ns, grid), (later_ns, _) = read_grids(results_bag, '/grid')
    assert (stamp_ns, later_ns) == (1_000_000_005, 2_000_000_005)
    assert grid.cells.dtype == np.int8
    assert grid.cells.tolist() == np.arange(-1, 99).reshape(4, 25).tolist()
    assert (grid.origin_x_m, grid.origin_y_m, grid.resolution_m) == (-3.25, 1.5, 0.25)


@pytest.mark.ros
def test_a_topic_of_another_type_is_refused(results_bag: Path) -> None:
    with pytest.raises(BagError, match='is of type nav_msgs/msg/OccupancyGrid, expected vision'):
        next(read_detections(results_bag, '/grid'))


def test_the_last_diagnostics_of_the_node_count(tmp_path: Path) -> None:
    types = jazzy_types()
    time = types.types['builtin_interfaces/msg/Time'](sec=0, nanosec=0)
    header = types.types['std_msgs/msg/Header'](stamp=time, frame_id='')
    pair = types.types['diagnostic_msgs/msg/KeyValue']
    status = types.types['diagnostic_msgs/msg/DiagnosticStatus']
    array = types.types['diagnostic_msgs/msg/DiagnosticArray']
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray')
        for stamp_ns, name, value in ((1, 'node: frames', '1'), (2, 'node: frames', '2'),
                                      (3, 'other: frames', '3')):
            message = array(header=header, status=[status(
                level=0, name=name, message='', hardware_id='',
                values=[pair(key='received', value=value)],
            )])
            cdr = types.serialize_cdr(message, 'diagnostic_msgs/msg/DiagnosticArray')
            bag.write('/diagnostics', stamp_ns, bytes(cdr))
    values = read_last_diagnostics(tmp_path / 'bag', '/diagnostics', 'node')
    assert values == {'received': '2'}
    with pytest.raises(BagError, match='no status of absent'):
        read_last_diagnostics(tmp_path / 'bag', '/diagnostics', 'absent')


@pytest.mark.ros
def test_results_that_contradict_themselves_are_refused(results_bag: Path, tmp_path: Path) -> None:
    from nav_msgs.msg import OccupancyGrid
    from rclpy.serialization import deserialize_message, serialize_message
    from vision_msgs.msg import Detection2DArray

    with BagReader(results_bag) as whole, BagWriter(tmp_path / 'bag') as bag:
        for topic, type_name in (('/detections', DETECTIONS), ('/grid', GRID)):
            bag.add_topic(topic, type_name)
        for message in whole.messages(['/detections', '/grid']):
            kind = {'/detections': Detection2DArray, '/grid': OccupancyGrid}[message.topic]
            msg = deserialize_message(message.cdr, kind)
            if message.topic == '/grid':
                msg.info.height += 1
            elif msg.detections:
                msg.detections[0].results = []
            bag.write(message.topic, message.stamp_ns, serialize_message(msg))
    with pytest.raises(BagError, match='/detections has a detection without a class'):
        list(read_detections(tmp_path / 'bag', '/detections'))
    with pytest.raises(BagError, match='/grid has a grid of 100 cells, expected 5 × 25'):
        list(read_grids(tmp_path / 'bag', '/grid'))
