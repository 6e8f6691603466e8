"""What hangs, lies or contradicts itself: told, bounded, and never the end of the others."""

from collections.abc import Iterator
from contextlib import suppress
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from identity_network import identity_spec, write_fake
import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from ros_graph import eventually, free_domain_id, Graph, header
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes.classification_node import ClassificationNode
from mnv2_perception.nodes.costmap_node import CostmapNode
from mnv2_perception.nodes.messages import label_info_to_msg, mask_to_msg, rgb_to_msg
from mnv2_perception.nodes.overrides import check_params_files
from mnv2_perception.nodes.process import spin_until
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.rclpy_private import Executor
from mnv2_perception.nodes.worker import Turns
from mnv2_perception.scenes.bag import draw_bag

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 48, 64
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PICTURE = np.full((HEIGHT, WIDTH, 3), (1, 200, 0), np.uint8)


def model(folder: Path, name: str = 'm.yaml', **keys: Any) -> str:
    """Write the model of a fake engine, which may open slowly or hang."""
    path = write_fake(folder / name, identity_spec(HEIGHT, WIDTH))
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **keys}))
    return str(path)


class Process:
    """Nodes in a process of their own."""

    def __init__(self, module: str, *args: str, domain_id: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-m', f'mnv2_perception.nodes.{module}', '--ros-args', *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, 'ROS_DOMAIN_ID': str(domain_id or free_domain_id())},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        self.lines.extend(iter(self.process.stderr.readline, ''))

    def end(self, *signals: int, within_s: float = 5.0) -> int:
        """Send signals a second apart; return the exit code, which comes in time."""
        begin_s = time.monotonic()
        for number in signals:
            self.process.send_signal(number)
            if number is not signals[-1]:
                time.sleep(1.0)
        try:
            return self.process.wait(within_s - (time.monotonic() - begin_s))
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(5.0)


@pytest.fixture
def costmap() -> Iterator[Graph]:
    graph = Graph(CostmapNode, pose_source='parameters')
    yield graph
    graph.close()


def reports_of(graph: Graph) -> list[DiagnosticArray]:
    return graph.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=50))


def last(reports: list[DiagnosticArray], node: str) -> tuple[bytes, str]:
    for report in reversed(reports):
        if report.status[0].name == f'{node}: frames':
            return report.status[0].level, report.status[0].message
    return b'', ''


class Camera:
    """Publishes images at a rate until it is closed."""

    def __init__(self, graph: Graph, topic: str, message: Any, rate_hz: float = 20.0) -> None:
        self._closing = threading.Event()
        publisher = graph.peer.create_publisher(Image, topic, 5)

        def run() -> None:
            number = 0
            while not self._closing.wait(1.0 / rate_hz):
                number += 1
                publisher.publish(message(number))

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def __enter__(self) -> 'Camera':
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()


def image(number: int) -> Image:
    return rgb_to_msg(PICTURE, header(number))


def mask(number: int) -> Image:
    return mask_to_msg(PICTURE[..., 0].copy(), header(number))


# An engine that hangs


@pytest.mark.parametrize('keys', [{'opening_s': 1e6}, {'hang_after': 0}])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_whose_engine_hangs_while_it_is_opened(
    tmp_path: Path, keys: dict[str, float], number: int
) -> None:
    graph = Graph()
    process = Process(
        'segmentation_node', '-p', 'engine:=fake', '-p', f'model:={model(tmp_path, **keys)}',
        domain_id=graph.domain_id,
    )
    try:
        reports = reports_of(graph)
        eventually(lambda: 'opening the model' in last(reports, 'segmentation_node')[1], 20.0)
        assert process.end(number) == 1
    finally:
        process.end(signal.SIGKILL)
        graph.close()
    assert any('ended by force' in line for line in process.lines)


@pytest.mark.parametrize('state', ['active', 'deactivating'])
def test_a_signal_ends_a_process_whose_engine_hangs_at_an_image(
    tmp_path: Path, state: str
) -> None:
    graph = Graph()
    process = Process(
        'segmentation_node', '-p', 'engine:=fake',
        '-p', f'model:={model(tmp_path, hang_after=1)}', domain_id=graph.domain_id,
    )
    try:
        with Camera(graph, 'image', image):
            reports = reports_of(graph)
            eventually(
                lambda: 'the engine has not answered' in last(reports, 'segmentation_node')[1],
                30.0,
            )
            assert last(reports, 'segmentation_node')[0] == ERROR
            if state == 'deactivating':
                client = graph.peer.create_client(ChangeState, '/segmentation_node/change_state')
                assert client.wait_for_service(5.0)
                client.call_async(ChangeState.Request(
                    transition=Transition(id=Transition.TRANSITION_DEACTIVATE)
                ))
                time.sleep(0.3)
            assert process.end(signal.SIGTERM) == 1
    finally:
        process.end(signal.SIGKILL)
        graph.close()


def test_a_second_signal_ends_a_hanging_process_at_once(tmp_path: Path) -> None:
    graph = Graph()
    process = Process(
        'segmentation_node', '-p', 'engine:=fake',
        '-p', f'model:={model(tmp_path, opening_s=1e6)}', domain_id=graph.domain_id,
    )
    try:
        reports = reports_of(graph)
        eventually(lambda: 'opening the model' in last(reports, 'segmentation_node')[1], 30.0)
        assert process.end(signal.SIGINT, signal.SIGTERM, within_s=2.7) == 1
    finally:
        process.end(signal.SIGKILL)
        graph.close()
    assert any('second signal' in line for line in process.lines)


def test_a_hanging_engine_is_told_deactivates_in_time_and_stays_unreleased(
    graph: Graph, tmp_path: Path
) -> None:
    reports = reports_of(graph)
    graph.start(model=model(tmp_path, hang_after=1))
    with Camera(graph, 'image', image):
        eventually(lambda: 'has not answered for' in last(reports, 'segmentation_node')[1], 20.0)
        begin_s = time.monotonic()
        assert graph.transition(Transition.TRANSITION_DEACTIVATE)
        assert not graph.transition(Transition.TRANSITION_CLEANUP)
        assert time.monotonic() - begin_s < 6.0
    assert graph.state() == 'inactive'
    assert last(reports, 'segmentation_node')[0] == ERROR


def test_configuring_one_node_stops_neither_masks_nor_diagnostics_of_another(
    tmp_path: Path
) -> None:
    graph = Graph()
    process = Process(
        'perception', '-p', 'nodes:=[segmentation]', '-p', 'cameras:=[front, rear]',
        '-p', 'engine:=fake', '-p', f'model:={model(tmp_path)}', domain_id=graph.domain_id,
    )
    try:
        arrived_s: list[float] = []
        graph.peer.create_subscription(
            Image, '/front/segmentation/mask', lambda _: arrived_s.append(time.monotonic()), 5
        )
        reports = reports_of(graph)
        with Camera(graph, '/front/image', image):
            eventually(lambda: len(arrived_s) > 20, 30.0)

            def ask(service: Any, name: str, request: Any) -> Any:
                client = graph.peer.create_client(service, f'/rear/segmentation_node/{name}')
                assert client.wait_for_service(10.0)
                return client.call_async(request)

            def change(transition: int) -> Any:
                return ask(ChangeState, 'change_state', ChangeState.Request(
                    transition=Transition(id=transition)
                ))

            for each in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
                done = change(each)
                eventually(done.done)
                assert done.result().success
            slow = model(tmp_path, 'slow.yaml', opening_s=2.5)
            done = ask(SetParameters, 'set_parameters', SetParameters.Request(
                parameters=[Parameter('model', value=slow).to_parameter_msg()]
            ))
            eventually(done.done)
            del arrived_s[:-1]
            reports.clear()
            begin_s = time.monotonic()
            done = change(Transition.TRANSITION_CONFIGURE)
            eventually(done.done)
            assert done.result().success and time.monotonic() - begin_s > 2.4
            gaps_s = np.diff(arrived_s)
            told = {report.status[0].name for report in reports}
        assert len(gaps_s) > 30 and gaps_s.max() < 0.3, gaps_s.max()
        assert told == {'front/segmentation_node: frames', 'rear/segmentation_node: frames'}
        assert process.end(signal.SIGINT) == 0
    finally:
        process.end(signal.SIGKILL)
        graph.close()


def test_a_hanging_engine_silences_no_other_node_of_its_process(tmp_path: Path) -> None:
    graph = Graph()
    file = tmp_path / 'robot.yaml'
    file.write_text(yaml.safe_dump({
        f'/{name}/segmentation_node': {'ros__parameters': {'engine': 'fake', 'model': path}}
        for name, path in (('front', model(tmp_path)),
                           ('rear', model(tmp_path, 'hangs.yaml', hang_after=1)))
    }))
    process = Process(
        'perception', '-p', 'nodes:=[segmentation]', '-p', 'cameras:=[front, rear]',
        '--params-file', str(file), domain_id=graph.domain_id,
    )
    try:
        masks: list[Image] = graph.subscribe(Image, '/front/segmentation/mask')
        reports = reports_of(graph)
        with Camera(graph, '/front/image', image), Camera(graph, '/rear/image', image):
            eventually(
                lambda: 'has not answered' in last(reports, 'rear/segmentation_node')[1], 30.0
            )
            client = graph.peer.create_client(ChangeState, '/rear/segmentation_node/change_state')
            assert client.wait_for_service(10.0)
            done = client.call_async(ChangeState.Request(
                transition=Transition(id=Transition.TRANSITION_DEACTIVATE)
            ))
            eventually(done.done)
            assert done.result().success
            masks.clear()
            reports.clear()
            eventually(lambda: len(masks) > 20)
            eventually(lambda: len(reports) >= 4)
            told = {report.status[0].name for report in reports}
        assert told == {'front/segmentation_node: frames', 'rear/segmentation_node: frames'}
        assert process.end(signal.SIGTERM) == 1
    finally:
        process.end(signal.SIGKILL)
        graph.close()


def test_who_hangs_loses_its_turn() -> None:
    turns, hanging, had = Turns(), threading.Event(), threading.Event()

    def hang() -> None:
        with turns.turn():
            had.set()
            hanging.wait(20.0)

    thread = threading.Thread(target=hang)
    thread.start()
    had.wait(5.0)
    begin_s = time.monotonic()
    for _ in range(3):
        with turns.turn(patience_s=0.3):
            pass
    assert 0.2 < time.monotonic() - begin_s < 0.6
    hanging.set()
    thread.join()
    with turns.turn():
        pass


# Health by what leaves


def test_a_costmap_that_waits_is_an_error_that_names_what_for(costmap: Graph) -> None:
    reports = reports_of(costmap)
    costmap.start()
    with Camera(costmap, 'segmentation/mask', mask):
        eventually(lambda: last(reports, 'costmap_node')[0] == ERROR, 20.0)
    text = last(reports, 'costmap_node')[1]
    assert '/segmentation/label_info, /camera_info' in text and 'remap' in text


def test_frames_that_are_all_rejected_are_an_error_with_the_last_reason(graph: Graph) -> None:
    reports = reports_of(graph)
    graph.start()
    with Camera(graph, 'image', lambda number: Image(header=header(number), encoding='rgb8')):
        eventually(lambda: last(reports, 'segmentation_node')[0] == ERROR, 20.0)
    text = last(reports, 'segmentation_node')[1]
    assert 'no result of' in text and 'correct the camera driver' in text


def test_masks_that_are_held_back_all_the_time_are_an_error(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = reports_of(graph)
    node = graph.start()
    monkeypatch.setattr(node.greeting, 'holding', lambda: True)
    with Camera(graph, 'image', image):
        eventually(lambda: last(reports, 'segmentation_node')[0] == ERROR, 20.0)
    assert 'held back' in last(reports, 'segmentation_node')[1]


def test_a_slow_rate_is_no_fault(graph: Graph) -> None:
    reports = reports_of(graph)
    node = graph.start(max_rate_hz=0.4)
    with Camera(graph, 'image', image):
        eventually(lambda: node.counts['published'])
        reports.clear()
        time.sleep(9.0)
        levels = {report.status[0].level for report in reports}
    assert levels == {OK}


def test_a_node_that_falls_behind_says_so_until_less_is_asked_of_it(
    graph: Graph, tmp_path: Path
) -> None:
    reports = reports_of(graph)
    slow = write_fake(tmp_path / 'slow.yaml', identity_spec(HEIGHT, WIDTH), latency_ms=400.0)
    node = graph.start(model=str(slow), min_rate_hz=5.0)
    with Camera(graph, 'image', image):
        eventually(lambda: 'expected 5 (min_rate_hz): use a faster' in last(
            reports, 'segmentation_node')[1], 20.0)
        assert last(reports, 'segmentation_node')[0] == WARN
        node.set_parameters([Parameter('min_rate_hz', value=1.0)])
        eventually(lambda: last(reports, 'segmentation_node') == (OK, 'working'), 20.0)


# Parameters


CONTRADICTIONS = [
    ({'min_rate_hz': 5.0, 'max_rate_hz': 4.0}, 'min_rate_hz is 5 and max_rate_hz is 4'),
    ({'min_height_m': 1.0, 'max_height_m': 0.5}, 'min_height_m'),
    ({'scan_angle_min_rad': 1.0, 'scan_angle_max_rad': -1.0}, 'scan_angle'),
    ({'traversable_classes': ['floor', 'stairs']}, "'stairs' is 2 times in traversable_classes"),
    ({'traversable_classes': ['']}, 'traversable_classes is empty'),
    ({'camera_z_m': -0.5}, 'camera_z_m'),
    ({'grid_size_m': 1000.0, 'grid_resolution_m': 0.005}, 'cells'),
    ({'grid_size_m': 0.1, 'grid_resolution_m': 10.0}, 'cells'),
    ({'base_frame': ''}, 'base_frame is empty'),
    ({'base_frame': '/base_link'}, "base_frame is '/base_link', but frames of tf2"),
    ({'grid_frame': '/odom'}, "grid_frame is '/odom', but frames of tf2"),
    ({'source': 'depth', 'horizontal_fov_rad': 1.0}, 'horizontal_fov_rad'),
]


@pytest.mark.parametrize(('values', 'reason'), CONTRADICTIONS)
def test_parameters_that_contradict_each_other_fail_configure(
    costmap: Graph, values: dict[str, Any], reason: str
) -> None:
    node = costmap.start(wait=False, autostart=False, **values)
    assert not costmap.transition(Transition.TRANSITION_CONFIGURE)
    assert reason in node._failure


def test_a_live_change_that_contradicts_another_value_is_refused(costmap: Graph) -> None:
    node = costmap.start()
    (result,) = node.set_parameters([Parameter('min_height_m', value=3.0)])
    assert not result.successful and 'max_height_m' in result.reason
    assert node.parameters.min_height_m == 0.05
    result = node.set_parameters_atomically([
        Parameter('min_height_m', value=3.0), Parameter('max_height_m', value=4.0)
    ])
    assert result.successful, result.reason


@pytest.mark.parametrize('region', [[0.5, 0.0, 0.5, 1.0], [0.0, 0.9, 1.0, 0.1], [0.0, 1.0]])
def test_a_region_without_an_area_fails_configure(
    tmp_path: Path, region: list[float]
) -> None:
    graph = Graph(ClassificationNode, region=region, model=model(tmp_path), engine='fake')
    node = graph.start(wait=False, autostart=False)
    assert not graph.transition(Transition.TRANSITION_CONFIGURE)
    graph.close()
    assert 'region' in node._failure


def test_a_misspelt_class_of_the_masks_is_an_error_that_names_the_nearest(
    costmap: Graph
) -> None:
    reports = reports_of(costmap)
    infos = costmap.peer.create_publisher(LabelInfo, 'segmentation/label_info', LATCHED_QOS)
    costmap.start(obstacle_classes=['pedestrain'])
    infos.publish(label_info_to_msg(['floor', 'pedestrian', 'car'], Header(), 0.0))
    eventually(lambda: last(reports, 'costmap_node')[0] == ERROR)
    text = last(reports, 'costmap_node')[1]
    assert "no class 'pedestrain', did you mean 'pedestrian'?" in text
    assert 'sidewalk' not in text and 'stairs' not in text


def test_a_misspelt_detection_class_is_refused_with_the_nearest(graph: Graph) -> None:
    node = graph.start(wait=False, autostart=False, detection_classes=['clas_77'])
    assert not graph.transition(Transition.TRANSITION_CONFIGURE)
    assert "no class clas_77; did you mean 'class_77'?" in node._failure


@pytest.mark.parametrize('module', ['segmentation_node', 'perception'])
def test_a_misspelt_parameter_ends_the_start_with_the_nearest(module: str) -> None:
    process = Process(module, '-p', 'autostart:=false', '-p', 'max_rate_hertz:=5.0')
    assert process.process.wait(20.0) == 1
    process.end(signal.SIGKILL)
    (line,) = [line for line in process.lines if line.startswith('error')]
    assert "no parameter 'max_rate_hertz': did you mean 'max_rate_hz'?" in line or (
        module == 'perception' and "no parameter 'max_rate_hertz'" in line
    )


@pytest.mark.parametrize(('module', 'given', 'told'), [
    ('bag_player_node', 'rtae:=2.0', "bag_player has no parameter 'rtae': did you mean 'rate'?"),
    ('bag_recorder_node', 'topic:=[/a]',
     "bag_recorder has no parameter 'topic': did you mean 'topics'?"),
])
def test_a_misspelt_parameter_of_a_bag_node_ends_the_start(
    module: str, given: str, told: str
) -> None:
    process = Process(module, '-p', given)
    assert process.process.wait(20.0) == 1
    process.end(signal.SIGKILL)
    assert [line for line in process.lines if told in line and line.startswith('error')]


@pytest.mark.parametrize(('section', 'values', 'told'), [
    ('bag_player', {'rtae': 2.0}, "bag_player has no parameter 'rtae': did you mean 'rate'?"),
    ('bag_player_node', {'rate': 2.0}, "no node is called 'bag_player_node', so its section has "
     "no effect; did you mean 'bag_player'?"),
])
def test_a_section_of_a_bag_node_has_its_own_name_and_parameters(
    tmp_path: Path, section: str, values: dict[str, float], told: str
) -> None:
    file = tmp_path / 'robot.yaml'
    file.write_text(yaml.safe_dump({section: {'ros__parameters': values}}))
    for module in ('bag_player_node', 'segmentation_node'):
        process = Process(module, '--params-file', str(file))
        assert process.process.wait(20.0) == 1
        process.end(signal.SIGKILL)
        assert any(told in line for line in process.lines), process.lines


@pytest.mark.parametrize(('section', 'told'), [
    ('/**/segmentaton_node', "did you mean 'segmentation_node'?"),
    ('segmentation', "did you mean 'segmentation_node'?"),
])
def test_a_section_that_is_nearly_a_node_s_ends_the_start(
    tmp_path: Path, section: str, told: str
) -> None:
    file = tmp_path / 'robot.yaml'
    file.write_text(yaml.safe_dump({section: {'ros__parameters': {'max_rate_hz': 5.0}}}))
    process = Process('segmentation_node', '--params-file', str(file))
    assert process.process.wait(20.0) == 1
    process.end(signal.SIGKILL)
    assert any(told in line and 'robot.yaml' in line for line in process.lines)


@pytest.mark.parametrize('below', [True, False])
def test_a_camera_s_section_above_the_one_for_all_is_told_for_that_one_wins(
    graph: Graph, tmp_path: Path, below: bool
) -> None:
    node = graph.start('-r', '__ns:=/front')
    one, every = '/front/segmentation_node', '/**/segmentation_node'
    file = tmp_path / 'robot.yaml'
    file.write_text(yaml.safe_dump({
        name: {'ros__parameters': {'max_rate_hz': 5.0}}
        for name in ([every, one] if below else [one, every])
    }, sort_keys=False))
    told = check_params_files(['--params-file', str(file)], [node])
    assert told == ([] if below else [
        f'{file}: {every} comes after {one} and overrides its max_rate_hz; move {one} below it'
    ])


def test_a_section_of_the_name_that_a_node_had_before_is_told(
    graph: Graph, tmp_path: Path
) -> None:
    node = graph.start('-r', '__node:=front_seg')
    shipped = ROOT / 'config/segmentation.yaml'
    (told,) = check_params_files(['--params-file', str(shipped)], [node])
    assert '/**/segmentation_node matches none of /front_seg' in told
    assert 'write /**/front_seg' in told
    copy = tmp_path / 'copy.yaml'
    copy.write_text(shipped.read_text().replace('/**/segmentation_node:', '/**/front_seg:'))
    assert not check_params_files(['--params-file', str(copy)], [node])


def test_sections_of_others_are_left_alone_and_a_wrong_namespace_is_told(tmp_path: Path) -> None:
    file = tmp_path / 'robot.yaml'
    file.write_text(yaml.safe_dump({
        '/**': {'ros__parameters': {'use_sim_time': False, 'rotate': 0}},
        'local_costmap': {'local_costmap': {'ros__parameters': {'width': 3}}},
        'bag_player': {'ros__parameters': {'bag': 'drive', 'loop': True}},
        '/**/costmap_node': {'ros__parameters': {
            'grid_size_m': 5.0, 'qos_overrides': {'/grid': {'publisher': {'depth': 1}}},
        }},
        'segmentation_node': {'ros__parameters': {'engine': 'fake', 'model': model(tmp_path)}},
    }))
    process = Process(
        'segmentation_node', '-r', '__ns:=/robot', '-p', 'engine:=fake',
        '-p', f'model:={model(tmp_path)}', '--params-file', str(file),
    )
    assert process.process.stdout
    assert json.loads(process.process.stdout.readline())['event'] == 'active'
    assert process.end(signal.SIGINT) == 0
    text = ''.join(process.lines)
    assert '/segmentation_node matches none of /robot/segmentation_node' in text
    assert 'local_costmap' not in text and 'did you mean' not in text


def test_a_node_s_own_dump_can_be_loaded_while_it_is_active(graph: Graph) -> None:
    node = graph.start()
    names = graph.call(
        ListParameters, 'list_parameters', ListParameters.Request()
    ).result.names
    values = graph.call(
        GetParameters, 'get_parameters', GetParameters.Request(names=names)
    ).values
    assert len(names) > 10
    answer = graph.call(SetParameters, 'set_parameters', SetParameters.Request(parameters=[
        ParameterMsg(name=name, value=value) for name, value in zip(names, values, strict=True)
    ]))
    assert [result.reason for result in answer.results if not result.successful] == []
    assert node.active


# Services


def hostile(kind: int) -> list[ParameterMsg]:
    return [
        ParameterMsg(name='max_rate_hz', value=ParameterValue(type=3, double_value=1.0)),
        ParameterMsg(name='max_rate_hz', value=ParameterValue(type=kind)),
    ]


@pytest.mark.parametrize('kind', [0, 1, 9, 10, 99, 255])
def test_no_parameter_type_ends_the_process(graph: Graph, kind: int) -> None:
    node = graph.start()
    results = graph.call(
        SetParameters, 'set_parameters', SetParameters.Request(parameters=hostile(kind))
    ).results
    assert len(results) == 2 and not results[1].successful and results[1].reason
    result = graph.call(
        SetParametersAtomically, 'set_parameters_atomically',
        SetParametersAtomically.Request(parameters=hostile(kind)),
    ).result
    assert not result.successful and result.reason
    assert node.parameters.max_rate_hz == (0.0 if kind > 9 else 1.0)


@pytest.mark.parametrize(('module', 'node', 'given'), [
    ('perception', 'perception', ['nodes:=[costmap]']),
    ('bag_recorder_node', 'bag_recorder', ['topics:=[/a]', 'out:={tmp}/out']),
    ('bag_player_node', 'bag_player', ['loop:=true', 'bag:={tmp}/bag']),
])
def test_no_parameter_type_ends_a_process_of_whatever_node(
    tmp_path: Path, module: str, node: str, given: list[str]
) -> None:
    draw_bag(tmp_path / 'bag', duration_s=0.2, height=64, width=64)
    graph = Graph()
    values = [part for each in given for part in ('-p', each.format(tmp=tmp_path))]
    process = Process(module, *values, domain_id=graph.domain_id)
    try:
        client = graph.peer.create_client(SetParameters, f'/{node}/set_parameters')
        assert client.wait_for_service(20.0)
        for kind in (99, 255):
            for _ in range(4):  # the answer to a client that it has just met may be lost
                done = client.call_async(SetParameters.Request(parameters=hostile(kind)))
                with suppress(AssertionError):
                    eventually(done.done, 5.0)
                    break
            results = done.result().results
            assert [each.successful for each in results] == [False, False]
            assert f'has type {kind}, expected' in results[1].reason
        assert process.end(signal.SIGINT) == 0
    finally:
        process.end(signal.SIGKILL)
        graph.close()


@pytest.mark.parametrize('name', ['', ' ', '\n\x1b[31m', 'a' * 100_000, '..', '/', 'größe', '\0'])
def test_no_name_in_a_request_ends_the_node(graph: Graph, name: str) -> None:
    graph.start(wait=False, autostart=False)
    for service, call, request in (
        (GetParameters, 'get_parameters', GetParameters.Request(names=[name])),
        (GetParameterTypes, 'get_parameter_types', GetParameterTypes.Request(names=[name])),
        (DescribeParameters, 'describe_parameters', DescribeParameters.Request(names=[name])),
        (ListParameters, 'list_parameters', ListParameters.Request(prefixes=[name], depth=7)),
        (SetParameters, 'set_parameters',
         SetParameters.Request(parameters=[ParameterMsg(name=name)])),
        (ChangeState, 'change_state',
         ChangeState.Request(transition=Transition(id=99, label=name))),
    ):
        assert graph.call(service, call, request) is not None
    assert graph.state() == 'unconfigured'


def test_an_exception_in_a_callback_ends_no_process_of_nodes() -> None:
    graph = Graph()
    node = Node('node', context=graph.context)
    stop, calls = threading.Event(), []

    def fail() -> None:
        calls.append(None)
        if len(calls) < 3:
            raise RuntimeError('of a test')
        stop.set()

    node.create_timer(0.05, fail)
    thread = threading.Thread(
        target=spin_until, args=(stop, node, Executor(context=graph.context)), daemon=True
    )
    thread.start()
    thread.join(10.0)
    assert len(calls) >= 3
    node.destroy_node()
    graph.close()


def test_a_camera_info_is_waited_for_no_longer_once_it_has_come(costmap: Graph) -> None:
    reports = reports_of(costmap)
    calibration = costmap.peer.create_publisher(CameraInfo, 'camera_info', 1)
    node = costmap.start()
    eventually(calibration.get_subscription_count)
    eventually(lambda: '/camera_info' in last(reports, 'costmap_node')[1])
    calibration.publish(CameraInfo())
    eventually(lambda: node.inputs.camera_info is not None)
    eventually(lambda: '/camera_info' not in last(reports, 'costmap_node')[1])
