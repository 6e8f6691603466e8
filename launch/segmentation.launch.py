"""Run segmentation_node. An argument that is not given leaves params_file's value as it is."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'mnv2_perception'
NODE = 'segmentation_node'
PARAMS_FILE = f'{get_package_share_directory(PACKAGE)}/config/segmentation.yaml'
# The first is Fast DDS's name since Kilted, the second the one of Humble and Jazzy.
PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the node."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'params_file', default_value=PARAMS_FILE, description="The node's parameters, YAML."
        ),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of the node and its topics.'
        ),
        DeclareLaunchArgument(
            'image', default_value='image', description="The camera's topic; its raw image's name."
        ),
        DeclareLaunchArgument(
            'use_sim_time', default_value='',
            description='true: time from /clock (bags, simulation); empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'autostart', default_value='',
            description='false: a lifecycle manager starts the node; empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'fastdds_profile', default_value='',
            description="Fast DDS profile for this node's process, such as this package's "
            'config/fastdds.xml; the camera needs it too. Empty: none is set.',
        ),
        DeclareLaunchArgument(
            'log_level', default_value='info', description='debug, info, warn, error or fatal.'
        ),
        OpaqueFunction(function=start_node),
    ])


def start_node(context: LaunchContext) -> list[Node]:
    """Return the node with what the arguments ask for."""
    params_file = LaunchConfiguration('params_file').perform(context)
    profile = LaunchConfiguration('fastdds_profile').perform(context)
    # Of a missing file launch_ros and Fast DDS only complain, and go on with their defaults.
    for name, file in (('params_file', params_file), ('fastdds_profile', profile)):
        if file and not Path(file).is_file():
            raise FileNotFoundError(f'{name}: there is no file {file}; give the path of one')
    given = {
        name: ParameterValue(LaunchConfiguration(name), value_type=bool)
        for name in ('use_sim_time', 'autostart')
        if LaunchConfiguration(name).perform(context)
    }
    return [
        Node(
            package=PACKAGE,
            executable=NODE,
            name=NODE,
            namespace=LaunchConfiguration('namespace'),
            parameters=[params_file, given] if given else [params_file],
            remappings=[('image', LaunchConfiguration('image'))],
            ros_arguments=['--log-level', LaunchConfiguration('log_level')],
            additional_env=dict.fromkeys(PROFILE_VARIABLES, profile) if profile else None,
            output='screen',
        )
    ]
