"""Play a bag through the nodes of perception.launch.py with the bag's time, then end them."""

import importlib.util
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.logging import get_logger
from launch_ros.actions import Node

from mnv2_perception.nodes.launching import misspelt, split

PACKAGE = 'mnv2_perception'
PERCEPTION = f'{get_package_share_directory(PACKAGE)}/launch/perception.launch.py'
START_TIMEOUT_S = '60'


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments that perception.launch.py does not, and start player and nodes."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'bag', description='Bag to play: a folder, or a single .mcap or .db3 file.'
        ),
        DeclareLaunchArgument(
            'rate', default_value='', description='Playing speed, bag seconds per second. Empty: '
            '1.0, real time.'
        ),
        DeclareLaunchArgument(
            'loop', default_value='false', choices=['true', 'false', 'True', 'False'],
            description='true: start again at the end of the bag, until Ctrl-C.',
        ),
        DeclareLaunchArgument(
            'image', default_value='',
            description="Topic of the bag's images, raw or compressed; {camera} in it stands for "
            "the camera's name. Empty: the topic whose first image looks most like a camera's.",
        ),
        DeclareLaunchArgument(
            'cameras', default_value='',
            description='Names of the cameras, comma-separated; each name is the namespace of the '
            "camera's nodes and results.",
        ),
        # The end of the bag ends the nodes, and the end of a node ends the replay.
        RegisterEventHandler(OnProcessExit(on_exit=[Shutdown(reason='a process has ended')])),
        OpaqueFunction(function=start_player),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(PERCEPTION),
            launch_arguments={'use_sim_time': 'true', 'respawn': 'false'}.items(),
        ),
    ])


def start_player(context: LaunchContext) -> list[Any]:
    """Return the player, and set the nodes' arguments that follow from the bag."""
    if importlib.util.find_spec('rosbags') is None:
        raise RuntimeError('a replay needs rosbags to read the bag: pip install rosbags')
    # Imported only here: `--show-args` needs neither rosbags nor OpenCV.
    from mnv2_perception.bags.camera import find_camera
    from mnv2_perception.bags.results import own_results, RESULTS

    arguments = context.launch_configurations
    for warning in misspelt(arguments, ('bag', 'rate', 'loop')):  # else perception.launch.py
        get_logger('replay.launch.py').warning(warning)
    bag, image, cameras = Path(arguments['bag']), arguments['image'], split(arguments['cameras'])
    if '{camera}' in image and not cameras:
        raise ValueError(f'image is {image}, but the cameras have no names; give their names '
                         f'(cameras:=…)')
    found = [
        find_camera(bag, image.replace('{camera}', name), 'image:=…')
        for name in cameras or ('',)
    ]
    # Otherwise subscribers would get the nodes' results twice, recorded and new ones.
    spaces = [f'/{arguments.get("namespace", "")}/{name}' for name in cameras or ('',)]
    own = own_results(bag, split(arguments.get('nodes', '')) or tuple(RESULTS), spaces)
    # The nodes subscribe to the topic that image_transport publishes.
    misnamed = [
        camera.image for camera in found
        if camera.compressed and not camera.image.endswith('/compressed')
    ]
    told = LogInfo(msg=f'not played, because the nodes publish them: {", ".join(own)}')
    return [
        *([told] if own else []),
        SetLaunchConfiguration('image', (image or found[0].image).removesuffix('/compressed')),
        SetLaunchConfiguration('image_transport', 'compressed' if found[0].compressed else 'raw'),
        Node(
            package=PACKAGE,
            executable='bag_player_node',
            name='bag_player',
            arguments=[
                str(bag),
                *(['--rate', arguments['rate']] if arguments['rate'] else []),
                *(['--loop'] if arguments['loop'].lower() == 'true' else []),
                *(['--exclude', *own] if own else []),
                *(['--remap', *(f'{n}:={n}/compressed' for n in misnamed)] if misnamed else []),
                '--wait-for-subscribers', START_TIMEOUT_S,
                '--wait-for-topics', *(camera.image for camera in found),
            ],
            output='screen',
        ),
    ]
