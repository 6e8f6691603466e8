"""What launch files ask before there is a node: lists of nodes and cameras, topics, tf."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

import rclpy

from mnv2_perception.errors import ParameterError
from mnv2_perception.nodes import launching, overrides
from mnv2_perception.nodes.parameters import CLASS_LISTS
from mnv2_perception.nodes.perception import NODE_CLASSES, Perception
from mnv2_perception.tasks.models import opening

pytestmark = pytest.mark.ros

SHIPPED = str(Path(__file__).resolve().parents[2] / 'config/perception.yaml')
NO_TOPICS = dict.fromkeys(launching.TOPICS, '')
FRONT = {'front': '/robot/front'}
ONE, TWO = {'': '/robot'}, {'front': '/robot/front', 'rear': '/robot/rear'}


def test_the_nodes_to_choose_from_are_those_of_perception() -> None:
    assert tuple(NODE_CLASSES) == launching.NODE_NAMES


@pytest.mark.parametrize(
    'text',
    [
        '/**: {ros__parameters: {nodes: [detection]}}',
        '/**/perception: {ros__parameters: {nodes: [detection]}}',
        '/*/perception: {ros__parameters: {nodes: [detection]}}',
        'robot: {perception: {ros__parameters: {nodes: [detection]}}}',
        'robot/perception: {ros__parameters: {nodes: [detection]}}',
        'perception: {ros__parameters: {nodes: [detection]}}',
        '/front/perception: {ros__parameters: {nodes: [detection]}}',
        '/**/perception: {ros__parameters: {nodes: [costmap]}}\n'
        '/**: {ros__parameters: {nodes: [detection]}}',
        '/**: {ros__parameters: {cameras: [front, rear]}}',
    ],
)
@pytest.mark.parametrize('namespace', ['', '/robot'])
def test_lists_are_read_as_perception_reads_them(
    tmp_path: Path, text: str, namespace: str
) -> None:
    path = tmp_path / 'robot.yaml'
    path.write_text(text)
    context = rclpy.Context()
    rclpy.init(context=context)
    perception = Perception(
        namespace=namespace, context=context,
        cli_args=['--ros-args', '--params-file', str(path)],
    )
    names = tuple(name for name in NODE_CLASSES if name in perception.names)
    expected = names, perception.cameras or ('',)
    perception.destroy_node()
    rclpy.shutdown(context=context)
    assert launching.chosen('', '', str(path), namespace) == expected


def test_arguments_go_before_the_file_and_nodes_keep_their_order() -> None:
    assert launching.chosen('costmap, detection', 'front,rear', SHIPPED, '') == (
        ('detection', 'costmap'), ('front', 'rear')
    )


def test_a_file_that_empties_the_list_of_nodes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'robot.yaml'
    path.write_text('/**: {ros__parameters: {nodes: []}}')
    with pytest.raises(ParameterError, match=r'nodes is empty in .*one or more of segmentation'):
        launching.chosen('', '', str(path), '')


@pytest.mark.parametrize(
    ('nodes', 'cameras', 'message'),
    [
        ('depth', '', "nodes has 'depth'; expected segmentation"),
        ('costmap,costmap', '', "nodes has 'costmap'; .* each once"),
        ('', 'front,front', "cameras has 'front'; .* each once"),
        ('', 'front left', "cameras has 'front left'; expected"),
    ],
)
def test_names_that_perception_refuses_are_refused_before_there_is_a_process(
    nodes: str, cameras: str, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        launching.chosen(nodes, cameras, SHIPPED, '')


@pytest.mark.parametrize('text', ['nodes: [segmentation]\n', 'a: [', '[1, 2]'])
def test_a_file_that_holds_no_parameters_is_refused_with_its_name(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / 'robot.yaml'
    path.write_text(text)
    with pytest.raises(ParameterError, match=r'robot\.yaml is not a file of parameters: .*Error'):
        launching.chosen('', '', str(path), '')


def test_a_list_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / 'robot.yaml'
    path.write_text('/**: {ros__parameters: {nodes: 3}}')
    with pytest.raises(ParameterError, match='perception, parameter nodes'):
        launching.chosen('', '', str(path), '')


def test_a_double_without_its_point_is_refused_with_node_and_cure(tmp_path: Path) -> None:
    path = tmp_path / 'robot.yaml'
    path.write_text('/**/detection_node: {ros__parameters: {max_rate_hz: 5}}')
    context = rclpy.Context()
    rclpy.init(args=['--ros-args', '--params-file', str(path)], context=context)
    try:
        with pytest.raises(ParameterError, match=(
            r'detection_node, parameter max_rate_hz: .* write a double with a point: 4\.0, not 4'
        )):
            NODE_CLASSES['detection'](context=context)
    finally:
        rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    ('spaces', 'given', 'rules'),
    [
        (ONE, {}, []),
        (
            ONE, {'image': '/camera/image_raw'},
            [('/robot/image', '/camera/image_raw'), ('/robot/camera_info', '/camera/camera_info')],
        ),
        (ONE, {'image': 'raw', 'camera_info': '/info'},
         [('/robot/image', 'raw'), ('/robot/camera_info', '/info')]),
        (
            ONE, {'depth_image': '/depth/image_rect', 'points': 'cloud'},
            [('/robot/depth/image', '/depth/image_rect'), ('/robot/points', 'cloud'),
             ('/robot/depth/camera_info', '/depth/camera_info')],
        ),
        (
            TWO, {'camera_info': '/{camera}/info'},
            [('/robot/front/camera_info', '/front/info'),
             ('/robot/rear/camera_info', '/rear/info')],
        ),
        (TWO, {'points': 'cloud'},
         [('/robot/front/points', 'cloud'), ('/robot/rear/points', 'cloud')]),
    ],
)
def test_topics_go_to_each_camera_s_nodes(
    spaces: dict[str, str], given: dict[str, str], rules: list[tuple[str, str]]
) -> None:
    assert launching.camera_remappings(NO_TOPICS | given, spaces) == rules


@pytest.mark.parametrize(
    ('spaces', 'given', 'message'),
    [
        (ONE, {'image': '/{camera}/image'}, 'image is /{camera}/image, but the cameras have no'),
        (TWO, {'points': '/points'}, 'points is /points for all cameras, front, rear'),
    ],
)
def test_topics_that_do_not_fit_the_cameras_are_refused(
    spaces: dict[str, str], given: dict[str, str], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        launching.camera_remappings(NO_TOPICS | given, spaces)


@pytest.mark.parametrize(
    ('tf', 'outside', 'topics'),
    [
        ('', [], ('/tf', '/tf_static')),
        ('tf', [], ('/robot/tf', '/robot/tf_static')),
        ('/fleet/robot/tf', [], ('/fleet/robot/tf', '/fleet/robot/tf_static')),
        ('', [('/tf', 'tf'), ('/tf_static', 'tf_static')], ('/robot/tf', '/robot/tf_static')),
        ('/own/tf', [('/tf', 'tf'), ('/tf_static', 'tf_static')], ('/own/tf', '/own/tf_static')),
        ('', [('/tf', '/all/tf'), ('/image', 'raw')], ('/all/tf', '/tf_static')),
    ],
)
def test_tf_is_the_robot_s_in_a_camera_s_namespace(
    tf: str, outside: list[tuple[str, str]], topics: tuple[str, str]
) -> None:
    rules = launching.tf_remappings(tf, '/robot', outside)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node(
        'costmap_node', namespace='/robot/front', context=context,
        cli_args=['--ros-args', *(part for a, b in rules for part in ('-r', f'{a}:={b}'))],
    )
    found = node.resolve_topic_name('/tf'), node.resolve_topic_name('/tf_static')
    node.destroy_node()
    rclpy.shutdown(context=context)
    assert found == topics


def test_the_parameters_for_streets_are_known_and_name_classes_of_their_models() -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    file = Path(SHIPPED).with_name('camvid.yaml')
    for section, values in overrides.read_sections(str(file)):
        overrides.check_section(str(file), section, values)
    tree = yaml.safe_load(file.read_text(encoding='utf-8'))
    of = {name.rpartition('/')[2]: values['ros__parameters'] for name, values in tree.items()}
    specs = {}
    for task in ('segmentation', 'classification', 'detection'):
        with opening(of[f'{task}_node']['model'], 'onnx_runtime') as (engine, specs[task]):
            engine.close()
    lists = [value for name, value in of['costmap_node'].items() if name.endswith('_classes')]
    named = {name for names in lists for name in names if name}
    assert named and named <= set(specs['segmentation'].classes)
    assert {task: spec.task for task, spec in specs.items()} == {task: task for task in specs}
    assert {spec.licence for spec in specs.values()} == {'CC-BY-NC-4.0'}
    # A list that is left out would keep the names of the default model.
    assert {name for name in of['costmap_node'] if name.endswith('_classes')} == set(CLASS_LISTS)


def test_a_node_gets_only_what_it_has() -> None:
    given = {'image_transport': 'compressed', 'use_sim_time': True, 'autostart': False}
    names = ('/a/segmentation_node', '/a/costmap_node', '/a/perception')
    file, = launching.write_parameters(dict.fromkeys(names, given))
    for section, values in overrides.read_sections(file):
        overrides.check_section(file, section, values)
    written = {name: set(values) for name, values in overrides.read_sections(file)}
    Path(file).unlink()
    assert written == {
        '/a/segmentation_node': {'image_transport', 'use_sim_time', 'autostart'},
        '/a/costmap_node': {'use_sim_time', 'autostart'}, '/a/perception': {'use_sim_time'},
    }


def test_an_argument_that_is_nearly_one_is_told_and_what_an_including_file_has_is_not() -> None:
    known = ['image', 'cameras', 'namespace', 'params_file']
    given = ['image', 'imag', 'param_file', 'ros_namespace', 'use_rviz', 'map']
    told = launching.misspelt(given, known)
    assert [text.rpartition(' ')[2] for text in told] == ['image?', 'params_file?']


@pytest.mark.parametrize(
    'topic', ['/camera//image', 'image-raw', '/camera/image ', '/image/', '/{cam}/image', '/1/a']
)
def test_a_topic_that_rcl_would_refuse_at_each_start_is_refused_before(topic: str) -> None:
    with pytest.raises(ParameterError, match=r'image is .* not a valid topic name'):
        launching.camera_remappings(NO_TOPICS | {'image': topic}, FRONT)
    with pytest.raises(ParameterError, match=r'tf is .* not a valid topic name'):
        launching.tf_remappings(topic, '', [])


@pytest.mark.parametrize('topic', ['image', '/a/b_1', '~/image', '{camera}/i', '/{camera}_2/i'])
def test_a_topic_as_rcl_takes_it_is_taken(topic: str) -> None:
    assert launching.camera_remappings(NO_TOPICS | {'image': topic}, FRONT)
