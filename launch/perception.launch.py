"""Run the chosen nodes for each camera. A value that is not given here is params_file's."""

from collections.abc import Iterator
from pathlib import Path
import re
from tempfile import NamedTemporaryFile
from typing import Any

from ament_index_python.packages import (
    get_package_prefix,
    get_package_share_directory,
    PackageNotFoundError,
)
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace
import yaml

PACKAGE = 'mnv2_perception'
NODES = ('segmentation', 'classification', 'detection', 'costmap')
PARAMS_FILE = f'{get_package_share_directory(PACKAGE)}/config/perception.yaml'
TOPICS = {
    'image': 'image', 'camera_info': 'camera_info', 'depth_image': 'depth/image',
    'depth_camera_info': 'depth/camera_info', 'points': 'points',
}
BOOLEANS = ['true', 'false', 'True', 'False']
LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'fatal']
MANAGER = 'nav2_lifecycle_manager'
RESPAWN_DELAY_S = 2.0
# The first is Fast DDS's name since Kilted, the second the one of Humble and Jazzy.
PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the nodes."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'nodes', default_value='',
            description=f'Which of {", ".join(NODES)}, with commas; empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'cameras', default_value='',
            description='Names of the cameras, with commas; each has its nodes and results in a '
            'namespace of that name. Empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'params_file', default_value=PARAMS_FILE,
            description="The nodes' parameters, YAML, by node name (/**/segmentation_node:).",
        ),
        DeclareLaunchArgument(
            'image', default_value='',
            description="The camera's topic; its raw image's name. {camera} in a topic stands "
            "for the camera's name. Empty: image, in the camera's namespace.",
        ),
        DeclareLaunchArgument(
            'camera_info', default_value='',
            description='Its camera_info, for costmap; empty: the one beside image.',
        ),
        DeclareLaunchArgument(
            'depth_image', default_value='',
            description='Its depth image, for costmap with source: depth; empty: depth/image.',
        ),
        DeclareLaunchArgument(
            'depth_camera_info', default_value='',
            description="The depth image's camera_info; empty: the one beside depth_image.",
        ),
        DeclareLaunchArgument(
            'points', default_value='',
            description='Its organised cloud, for costmap with source: points; empty: points.',
        ),
        DeclareLaunchArgument(
            'image_transport', default_value='', choices=['', 'raw', 'compressed'],
            description='What the camera sends; empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of all nodes and their topics.'
        ),
        DeclareLaunchArgument(
            'one_process', default_value='true', choices=BOOLEANS,
            description='false: a process for each node, with the same topics and parameters.',
        ),
        DeclareLaunchArgument(
            'respawn', default_value='true', choices=BOOLEANS,
            description='true: a process that has ended is started again.',
        ),
        DeclareLaunchArgument(
            'lifecycle_manager', default_value='false', choices=BOOLEANS,
            description='true: nav2_lifecycle_manager configures and activates the nodes; those '
            'of a process that was started again wait for its startup service.',
        ),
        DeclareLaunchArgument(
            'use_sim_time', default_value='', choices=['', *BOOLEANS],
            description='true: time from /clock (bags, simulation); empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'autostart', default_value='', choices=['', *BOOLEANS],
            description='false: somebody else configures and activates the nodes; empty: as in '
            'params_file.',
        ),
        DeclareLaunchArgument(
            'fastdds_profile', default_value='',
            description="Fast DDS profile for the nodes' processes, such as this package's "
            'config/fastdds.xml; the camera needs it too. Empty: none is set.',
        ),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=LOG_LEVELS,
            description='Of the nodes and what lies below them.',
        ),
        OpaqueFunction(function=start_nodes),
    ])


def start_nodes(context: LaunchContext) -> list[Node]:
    """Return the processes that the arguments ask for."""
    arguments = context.launch_configurations
    # Of a missing file launch_ros and Fast DDS only complain, and go on with their defaults.
    for name in ('params_file', 'fastdds_profile'):
        if arguments[name] and not Path(arguments[name]).is_file():
            raise FileNotFoundError(
                f'{name}: there is no file {arguments[name]}; give the path of one'
            )
    base = prefix_namespace(arguments.get('ros_namespace'), arguments['namespace'])
    namespace = make_namespace_absolute(base).rstrip('/')  # '' is the root
    wanted = chosen(arguments, namespace, 'nodes')
    if unknown := [name for name in wanted if name not in NODES]:
        raise ValueError(
            f'nodes: there is no {", ".join(unknown)}; choose from {", ".join(NODES)}'
        )
    nodes = [name for name in NODES if name in wanted]  # masks come before what places them
    cameras = chosen(arguments, namespace, 'cameras') or ['']
    spaces = {camera: f'{namespace}/{camera}'.rstrip('/') for camera in cameras}
    names = [f'{spaces[camera]}/{name}_node' for camera in cameras for name in nodes]
    managed = is_true(arguments['lifecycle_manager'])

    given: dict[str, Any] = {
        name: is_true(arguments[name])
        for name in ('use_sim_time', 'autostart') if arguments[name]
    }
    if managed:
        given['autostart'] = False
    if arguments['image_transport']:
        given['image_transport'] = arguments['image_transport']
    lists = {name: split(arguments[name]) for name in ('nodes', 'cameras') if arguments[name]}
    # By full name, for such a section goes before params_file's, whatever those match.
    sections = dict.fromkeys(names, given) | {f'{namespace}/perception': given | lists}

    profile = arguments['fastdds_profile']
    common: dict[str, Any] = {
        'package': PACKAGE,
        'parameters': [arguments['params_file'], *write_parameters(sections)],
        'remappings': [
            (f'{space}/{TOPICS[name]}', topic.replace('{camera}', camera))
            for name, topic in given_topics(arguments, cameras).items()
            for camera, space in spaces.items()
        ],
        'ros_arguments': ['--log-level', arguments['log_level']],
        'additional_env': dict.fromkeys(PROFILE_VARIABLES, profile) if profile else None,
        'respawn': is_true(arguments['respawn']),
        'respawn_delay': RESPAWN_DELAY_S,
        'output': 'screen',
    }
    if is_true(arguments['one_process']):
        processes = [
            Node(executable='perception', name='perception', namespace=namespace or '/', **common)
        ]
    else:
        processes = [
            Node(
                executable=f'{name}_node', name=f'{name}_node', namespace=space or '/', **common
            )
            for space in spaces.values() for name in nodes
        ]
    return [*processes, *([lifecycle_manager(names, namespace or '/')] if managed else [])]


def chosen(arguments: dict[str, str], namespace: str, name: str) -> list[str]:
    """Return the argument's list, else params_file's, else that of the package's own file."""
    if arguments[name]:
        return split(arguments[name])
    for file in (arguments['params_file'], PARAMS_FILE):
        if values := read_list(Path(file), f'{namespace}/perception', name):
            return values
    return []


def is_true(boolean: str) -> bool:
    return boolean.lower() == 'true'


def split(names: str) -> list[str]:
    """Return the names between commas."""
    return [name.strip() for name in names.split(',') if name.strip()]


def read_list(file: Path, node: str, name: str) -> list[str]:
    """Return a node's list parameter as rclpy reads it from a file; the empty list without."""

    def sections(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(tree, dict):
            raise ValueError(
                f'params_file: {file} is not made of node names, ros__parameters and values; see '
                f'{PARAMS_FILE}'
            )
        for key, value in tree.items():
            if key == 'ros__parameters':
                yield path, value or {}
            else:
                yield from sections(value, f'{path}/{key}'.replace('//', '/'))

    with file.open(encoding='utf-8') as stream:
        tree = yaml.safe_load(stream)
    values: list[str] = []
    for section, parameters in sections(tree, ''):
        if re.fullmatch(section.replace('/*', r'(/\w+)'), node):
            values = parameters.get(name, values)
    return [value for value in values if value]


def given_topics(arguments: dict[str, str], cameras: list[str]) -> dict[str, str]:
    """Return the topics by argument; a camera_info lies beside its image unless it is given."""
    topics = {name: arguments[name] for name in TOPICS if arguments[name]}
    for image, info in (('image', 'camera_info'), ('depth_image', 'depth_camera_info')):
        if image in topics and info not in topics:
            topics[info] = re.sub('[^/]*$', 'camera_info', topics[image], count=1)
    for name, topic in topics.items():
        if '{camera}' in topic and cameras == ['']:
            raise ValueError(
                f'{name} is {topic}, but no camera has a name; give their names (cameras:=…), or '
                f'a topic without {{camera}}'
            )
        if '{camera}' not in topic and topic.startswith('/') and len(cameras) > 1:
            raise ValueError(
                f'{name} is {topic} for each of the cameras {", ".join(cameras)}; write '
                f'{{camera}} where their names come, as in /{{camera}}{topic}'
            )
    return topics


def write_parameters(sections: dict[str, dict[str, Any]]) -> list[str]:
    """Write a parameter file where launch_ros writes its own; without any value there is none."""
    # Each with a dict of its own: rcl cannot read the alias that YAML has for a shared one.
    tree = {name: {'ros__parameters': dict(values)} for name, values in sections.items() if values}
    if not tree:
        return []
    with NamedTemporaryFile('w', prefix='launch_params_', suffix='.yaml', delete=False) as file:
        yaml.safe_dump(tree, file)
    return [file.name]


def lifecycle_manager(names: list[str], namespace: str) -> Node:
    """Return a manager of the nodes."""
    try:
        get_package_prefix(MANAGER)
    except PackageNotFoundError as exc:
        raise RuntimeError(
            f'lifecycle_manager is true, but {MANAGER} is not installed; '
            f'apt install ros-$ROS_DISTRO-nav2-lifecycle-manager'
        ) from exc
    return Node(
        package=MANAGER,
        executable='lifecycle_manager',
        name='lifecycle_manager_perception',
        namespace=namespace,
        # rclpy nodes have no bond.
        parameters=[{'node_names': names, 'bond_timeout': 0.0, 'autostart': True}],
        output='screen',
    )
