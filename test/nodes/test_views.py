"""RViz's file, Foxglove's layout and the diagnostics analyzers, beside nodes that publish."""

from collections.abc import Iterator
from dataclasses import is_dataclass
import json
from pathlib import Path
import re
import typing
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from rclpy.qos import (
    DurabilityPolicy,
    qos_check_compatible,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
)
from running_nodes import Running, running, wait
from sensor_msgs.msg import Image

from mnv2_perception.nodes.parameters import CostmapParameters, SHARING_NODES

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / 'config'
RVIZ = yaml.safe_load((CONFIG / 'rviz/perception.rviz').read_text('utf-8'))
LAYOUT = json.loads((CONFIG / 'foxglove/perception.json').read_text('utf-8'))
ANALYZERS = yaml.safe_load((CONFIG / 'diagnostics_analyzers.yaml').read_text('utf-8'))
OPTIONAL = 'vision_msgs_rviz_plugins/Detection3DArray'
# The message of each display, from rviz_default_plugins/plugins_description.xml of ros2/rviz
# (rolling, 2024-10), and plugins_description.xml of vision_msgs_rviz_plugins.
SHOWN_BY = {
    'rviz_default_plugins/Grid': '',
    'rviz_default_plugins/Image': 'sensor_msgs/msg/Image',
    'rviz_default_plugins/LaserScan': 'sensor_msgs/msg/LaserScan',
    'rviz_default_plugins/Map': 'nav_msgs/msg/OccupancyGrid',
    'rviz_default_plugins/PointCloud2': 'sensor_msgs/msg/PointCloud2',
    'rviz_default_plugins/TF': '',  # by the frame transformer, not by a topic of its own
    OPTIONAL: 'vision_msgs/msg/Detection3DArray',
}
OTHER_PLUGINS = {
    *(f'rviz_default_plugins/{name}' for name in (
        'FocusCamera', 'Measure', 'MoveCamera', 'Orbit', 'Select', 'TF',
    )), 'rviz_common/Displays', 'rviz_common/Views',
}
# What Foxglove's panels call themselves in a layout of the app ("Import from file"), and in
# foxglove.layouts, which documents their settings; Tab is arranged otherwise there.
PANELS = {
    '3D': 'ThreeDeeConfig', 'Image': 'ImageConfig', 'Plot': 'PlotConfig',
    'DiagnosticSummary': 'DiagnosticsSummaryConfig', 'Tab': '',
}
OF_TABS = {'activeTabIdx': float, 'tabs': list}
TYPES_OF_3D = {
    'nav_msgs/msg/OccupancyGrid': 'BaseRendererRosOccupancyGridTopicSettings',
    'sensor_msgs/msg/PointCloud2': 'BaseRendererPointCloudTopicSettings',
    'sensor_msgs/msg/LaserScan': 'BaseRendererLaserScanTopicSettings',
}


@pytest.fixture(scope='module')
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run all nodes on a camera, until each has said how it fares."""
    parameters = {
        'perception': {'nodes': list(SHARING_NODES)},
        '/**': {'pose_source': 'parameters', 'camera_z_m': 1.0, 'horizontal_fov_rad': 1.0},
    }
    with running(tmp_path_factory.mktemp('views') / 'robot', 'perception', parameters) as robot:
        robot.active(len(SHARING_NODES))
        camera = robot.peer.publisher(Image, 'image')
        picture = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
        image = Image(height=96, width=128, step=384, encoding='rgb8', data=picture.tobytes())

        def measured() -> bool:
            camera.publish(image)
            statuses = robot.peer.statuses
            return len(statuses) == len(SHARING_NODES) and 'latency_p95_ms' in {
                pair.key for pair in statuses['segmentation_node'].values
            }

        wait(measured, 60.0, 'a latency')
        yield robot


def displays() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = RVIZ['Visualization Manager']['Displays']
    return found


def classes(tree: Any) -> Iterator[str]:
    """Go through the classes that are named anywhere in RViz's file."""
    if isinstance(tree, dict):
        if tree.get('Class'):
            yield tree['Class']
        for value in tree.values():
            yield from classes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from classes(value)


def offers(robot: Running, topic: str) -> list[Any]:
    return list(robot.peer.node.get_publishers_info_by_topic(topic))


def test_rviz_s_classes_are_rviz_s_own_but_for_one_that_is_optional() -> None:
    assert set(classes(RVIZ)) == {*SHOWN_BY, *OTHER_PLUGINS}
    assert [each['Class'] for each in displays() if not each['Enabled']].count(OPTIONAL) == 1
    names = [each['Name'] for each in displays()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    'display', [each for each in displays() if 'Topic' in each], ids=lambda each: each['Name']
)
def test_each_display_hears_a_topic_of_its_type(robot: Running, display: dict[str, Any]) -> None:
    topic = display['Topic']
    name, shown = topic['Value'], SHOWN_BY[display['Class']]
    assert not name.startswith('/')  # else a namespace could not go before it
    asked = QoSProfile(
        depth=topic['Depth'],
        reliability=ReliabilityPolicy[topic['Reliability Policy'].upper().replace(' ', '_')],
        durability=DurabilityPolicy[topic['Durability Policy'].upper().replace(' ', '_')],
    )
    if name == 'image':  # the camera's, of whatever QoS
        assert asked.reliability == ReliabilityPolicy.BEST_EFFORT
        infos = robot.peer.node.get_subscriptions_info_by_topic(name)
        assert {info.topic_type for info in infos} == {shown}
        return
    publisher, = offers(robot, f'/{name}')
    assert publisher.topic_type == shown
    compatibility, reason = qos_check_compatible(publisher.qos_profile, asked)
    assert compatibility != QoSCompatibility.ERROR, reason
    # What is latched is there as soon as RViz is.
    assert asked.durability == publisher.qos_profile.durability


def test_rviz_s_fixed_frame_is_the_grid_s() -> None:
    frame = RVIZ['Visualization Manager']['Global Options']['Fixed Frame']
    assert frame == CostmapParameters().grid_frame


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    """Return the settings of the layout's panels of a kind."""
    panels: dict[str, dict[str, Any]] = LAYOUT['configById']
    return {name: each for name, each in panels.items() if name.partition('!')[0] == kind}


def leaves(tree: Any) -> Iterator[str]:
    """Go through the panels that are placed in a layout, those in tabs included."""
    if isinstance(tree, str):
        yield tree
        for tab in LAYOUT['configById'][tree].get('tabs', []):
            yield from leaves(tab['layout'])
    else:
        assert set(tree) == {'direction', 'first', 'second', 'splitPercentage'}
        assert tree['direction'] in ('row', 'column') and 0 < tree['splitPercentage'] < 100
        yield from leaves(tree['first'])
        yield from leaves(tree['second'])


def test_the_layout_has_the_form_that_foxglove_exports() -> None:
    # As the layouts beside the examples of foxglove-sdk, which its README has one import.
    assert set(LAYOUT) == {
        'configById', 'globalVariables', 'layout', 'playbackConfig', 'userNodes'
    }
    assert {name.partition('!')[0] for name in LAYOUT['configById']} == set(PANELS)
    placed = list(leaves(LAYOUT['layout']))
    assert len(placed) == len(set(placed)) and set(placed) == set(LAYOUT['configById'])


def settings_of(kind: Any) -> dict[str, Any]:
    """Return the types of a class's settings, by the names that they have in JSON."""
    return {
        re.sub('_(.)', lambda found: found[1].upper(), name): hint
        for name, hint in typing.get_type_hints(kind).items()
    }


def wrong(value: Any, hint: Any, where: str) -> list[str]:
    """Return in what a value of the layout is not of the documented type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        known = settings_of(hint)
        found = [f'{where}.{name} is unknown' for name in value if name not in known]
        for name in set(value) & set(known):
            found += wrong(value[name], known[name], f'{where}.{name}')
        return found
    if origin in (list, tuple) and isinstance(value, list):
        return [text for each in value for text in wrong(each, parts[0], where)]
    if origin is typing.Literal:
        fits = value in parts
    elif hint is float:
        fits = type(value) in (int, float)
    elif isinstance(hint, type):
        fits = type(value) is hint
    else:  # one of several, as with None
        return min((wrong(value, part, where) for part in parts), key=len)
    return [] if fits else [f'{where}: {value!r} is not of {hint}']


def test_each_setting_of_the_layout_is_a_documented_one(robot: Running) -> None:
    fl = pytest.importorskip(
        'foxglove.layouts', reason='no foxglove-sdk: run make setup-train'
    )
    found = []
    for kind, documented in PANELS.items():
        for name, config in of_kind(kind).items():
            settings = settings_of(getattr(fl, documented)) if documented else OF_TABS
            for key, value in config.items():
                where = f'{name}.{key}'
                if key == 'topics':
                    for topic, each in value.items():
                        shown = getattr(fl, TYPES_OF_3D[offers(robot, topic)[0].topic_type])
                        found += wrong(each, shown, f'{where}.{topic}')
                elif key == 'layers':
                    for layer, each in value.items():
                        found += wrong(each, fl.BaseRendererGridLayerSettings, f'{where}.{layer}')
                elif key in settings and value != {}:
                    found += wrong(value, settings[key], where)
                elif (kind, key) != ('3D', 'imageMode') and key not in settings:
                    found.append(f'{where} is unknown')
    assert found == []


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        ({'pointSise': 2}, 'x.pointSise is unknown'),
        ({'colorMode': 'red'}, "x.colorMode: 'red' is not of"),
        ({'pointSize': '2'}, "x.pointSize: '2' is not of"),
    ],
)
def test_a_setting_that_is_none_is_seen(value: dict[str, Any], text: str) -> None:
    fl = pytest.importorskip(
        'foxglove.layouts', reason='no foxglove-sdk: run make setup-train'
    )
    found, = wrong(value, fl.BaseRendererPointCloudTopicSettings, 'x')
    assert found.startswith(text)


def test_each_topic_of_the_layout_is_published_with_a_type_that_its_panel_shows(
    robot: Running
) -> None:
    named: list[tuple[str, set[str]]] = [
        *((each['imageMode']['imageTopic'], {'sensor_msgs/msg/Image'})
          for each in of_kind('Image').values()),
        *((each['topicToRender'], {'diagnostic_msgs/msg/DiagnosticArray'})
          for each in of_kind('DiagnosticSummary').values()),
        *((topic, set(TYPES_OF_3D)) for each in of_kind('3D').values()
          for topic in each['topics']),
    ]
    assert len(named) == 8
    for topic, shown in named:
        found = {info.topic_type for info in offers(robot, topic)}
        assert found and found <= shown, topic


def test_each_curve_of_the_layout_follows_what_a_node_reports(robot: Running) -> None:
    pattern = (
        r'/diagnostics\.status\[:\]\{name=="(\w+): frames"\}'
        r'\.values\[:\]\{key=="(\w+)"\}\.value'
    )
    paths = [path['value'] for each in of_kind('Plot').values() for path in each['paths']]
    assert len(paths) == 4
    for path in paths:
        found = re.fullmatch(pattern, path)
        assert found, path
        values = {pair.key: pair.value for pair in robot.peer.statuses[found[1]].values}
        assert float(values[found[2]]) >= 0.0 or found[1] != 'segmentation_node'


def test_each_node_of_each_camera_is_in_one_group_of_the_analyzers(robot: Running) -> None:
    groups = {
        name: each['contains'] for name, each in ANALYZERS['analyzers']['ros__parameters'].items()
        if isinstance(each, dict)
    }
    names = [status.name for status in robot.peer.statuses.values()]
    assert len(names) == len(SHARING_NODES) == len(groups)
    for name in names:
        for full in (name, f'front/{name}', f'robot/rear/{name}'):
            matching = [
                group for group, parts in groups.items() if any(part in full for part in parts)
            ]
            assert len(matching) == 1, full
