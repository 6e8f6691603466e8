"""Run the chosen nodes for each camera; arguments that are not given are taken from params_file.

Two robots, each with a tf of its own (/robot1/tf, as Nav2's bringup has it) and two cameras:

    ros2 launch mnv2_perception perception.launch.py namespace:=robot1 tf:=tf cameras:=front,rear
    ros2 launch mnv2_perception perception.launch.py namespace:=robot2 tf:=tf cameras:=front,rear
"""

from pathlib import Path
from typing import Any

from ament_index_python.packages import (
    get_package_prefix,
    get_package_share_directory,
    PackageNotFoundError,
)
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction
from launch.logging import get_logger
from launch_ros.actions import Node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from mnv2_perception.nodes import launching

PACKAGE = 'mnv2_perception'
PARAMS_FILE = f'{get_package_share_directory(PACKAGE)}/config/perception.yaml'
BOOLEANS = ['true', 'false', 'True', 'False']
LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'fatal']
MANAGER = 'nav2_lifecycle_manager'
RVIZ = 'rviz2'
RVIZ_FILE = f'{get_package_share_directory(PACKAGE)}/config/rviz/perception.rviz'
RESPAWN_DELAY_S = 2.0
# The variable of Fast DDS since Kilted, and that of Humble and Jazzy.
PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the nodes."""
    arguments = [
        DeclareLaunchArgument(
            'nodes', default_value='',
            description=f'Nodes to run, comma-separated, out of '
            f'{", ".join(launching.NODE_NAMES)}. Empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'cameras', default_value='',
            description='Names of the cameras, comma-separated; each name is the namespace of the '
            "camera's nodes and results. Empty: as in params_file.",
        ),
        DeclareLaunchArgument(
            'params_file', default_value=PARAMS_FILE,
            description='YAML file with the parameters of the nodes, in sections by node name '
            '(/**/segmentation_node:).',
        ),
        DeclareLaunchArgument(
            'image', default_value='',
            description="Topic of the camera's raw image, also if image_transport is compressed. "
            "{camera} in a topic stands for the camera's name. Empty: image, in the camera's "
            'namespace.',
        ),
        DeclareLaunchArgument(
            'camera_info', default_value='',
            description="Topic of the camera's camera_info. Empty: camera_info in the namespace "
            'of image.',
        ),
        DeclareLaunchArgument(
            'depth_image', default_value='',
            description="Topic of the camera's depth image, for nodes with source: depth. Empty: "
            'depth/image.',
        ),
        DeclareLaunchArgument(
            'depth_camera_info', default_value='',
            description="Topic of the depth image's camera_info. Empty: camera_info in the "
            'namespace of depth_image.',
        ),
        DeclareLaunchArgument(
            'points', default_value='',
            description="Topic of the camera's organised point cloud, for nodes with source: "
            'points. Empty: points.',
        ),
        DeclareLaunchArgument(
            'image_transport', default_value='', choices=['', 'raw', 'compressed'],
            description='Whether the nodes subscribe to the raw or the compressed image. Empty: '
            'as in params_file.',
        ),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of all nodes and their topics.'
        ),
        DeclareLaunchArgument(
            'tf', default_value='',
            description='Topic of tf, with tf_static beside it, for a robot with its own tf; tf '
            'means the one in namespace. Empty: /tf, or as set by SetRemap.',
        ),
        DeclareLaunchArgument(
            'one_process', default_value='true', choices=BOOLEANS,
            description='true: all nodes in one process; false: one process for each node, with '
            'the same topics and parameters.',
        ),
        DeclareLaunchArgument(
            'respawn', default_value='true', choices=BOOLEANS,
            description='true: restart a process that has ended.',
        ),
        DeclareLaunchArgument(
            'lifecycle_manager', default_value='false', choices=BOOLEANS,
            description='true: nav2_lifecycle_manager configures and activates the nodes; after a '
            "restart of a process, its nodes wait for the manager's startup service.",
        ),
        DeclareLaunchArgument(
            'use_sim_time', default_value='', choices=['', *BOOLEANS],
            description='true: use the time from /clock (bags, simulation). Empty: as in '
            'params_file.',
        ),
        DeclareLaunchArgument(
            'autostart', default_value='', choices=['', *BOOLEANS],
            description='true: the nodes configure and activate themselves; false: something else '
            'does. Empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'rviz', default_value='false', choices=BOOLEANS,
            description='true: also start RViz, with config/rviz/perception.rviz and the results '
            'of the first camera.',
        ),
        DeclareLaunchArgument(
            'fastdds_profile', default_value='',
            description='Fast DDS profile for the processes of the nodes, such as '
            "config/fastdds.xml of this package; the camera's driver needs it too. Empty: none.",
        ),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=LOG_LEVELS,
            description='Log level of the nodes and of the libraries below them.',
        ),
    ]
    start = OpaqueFunction(function=start_nodes, args=[[each.name for each in arguments]])
    return LaunchDescription([*arguments, GroupAction([start])])  # its settings end with the group


def start_nodes(context: LaunchContext, known: list[str]) -> list[Node]:
    """Return the processes that the arguments ask for.

    Args:
        context: context of the launch, with the arguments.
        known: names of all arguments of this file.
    """
    arguments = context.launch_configurations
    for warning in launching.misspelt(arguments, known):  # launch accepts any argument
        get_logger('perception.launch.py').warning(warning)
    # If one is missing, launch_ros and Fast DDS only warn, and continue with their defaults.
    for name in ('params_file', 'fastdds_profile'):
        if arguments[name] and not Path(arguments[name]).is_file():
            raise FileNotFoundError(
                f'{name}: no such file: {arguments[name]}; give the path of a file'
            )
    base = prefix_namespace(arguments.get('ros_namespace'), arguments['namespace'])
    namespace = make_namespace_absolute(base).rstrip('/')  # '' is the root
    nodes, cameras = launching.chosen(
        arguments['nodes'], arguments['cameras'], arguments['params_file'], namespace
    )
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
    lists = {
        name: launching.split(arguments[name]) for name in ('nodes', 'cameras') if arguments[name]
    }
    sections = dict.fromkeys(names, given) | {f'{namespace}/perception': given | lists}
    # SetRemap's own rules would take precedence over those of a node.
    context.launch_configurations['ros_remaps'] = launching.tf_remappings(
        arguments['tf'], namespace, arguments.get('ros_remaps', [])
    )

    profile = arguments['fastdds_profile']
    common: dict[str, Any] = {
        'package': PACKAGE,
        'parameters': [arguments['params_file'], *launching.write_parameters(sections)],
        'remappings': launching.camera_remappings(arguments, spaces),
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
    if is_true(arguments['rviz']):
        processes.append(rviz(next(iter(spaces.values())), given, common))
    return [*processes, *([lifecycle_manager(names, namespace or '/')] if managed else [])]


def is_true(boolean: str) -> bool:
    return boolean.lower() == 'true'


def require(package: str, argument: str) -> None:
    """Raise RuntimeError unless the package that an argument needs is installed."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError as exc:
        raise RuntimeError(
            f'{argument} is true, but {package} is not installed; '
            f'apt install ros-$ROS_DISTRO-{package.replace("_", "-")}'
        ) from exc


def rviz(namespace: str, given: dict[str, Any], common: dict[str, Any]) -> Node:
    """Return RViz for a camera's results; the nodes continue when its window is closed."""
    require(RVIZ, 'rviz')
    time = [{name: given[name]} for name in ('use_sim_time',) if name in given]
    return Node(
        package=RVIZ, executable=RVIZ, namespace=namespace or '/', arguments=['-d', RVIZ_FILE],
        parameters=[*common['parameters'], *time], output='screen',
        **{name: common[name] for name in ('remappings', 'additional_env')},
    )


def lifecycle_manager(names: list[str], namespace: str) -> Node:
    """Return a lifecycle manager of the nodes."""
    require(MANAGER, 'lifecycle_manager')
    return Node(
        package=MANAGER,
        executable='lifecycle_manager',
        name='lifecycle_manager_perception',
        namespace=namespace,
        # rclpy nodes have no bond.
        parameters=[{'node_names': names, 'bond_timeout': 0.0, 'autostart': True}],
        output='screen',
    )
