"""perception.launch.py: which processes, nodes, topics and parameters come of its arguments."""

from collections.abc import Callable
import importlib.util
import os
from pathlib import Path
import signal
import sys
from typing import Any

from launched import Launched, rviz_prefix
import pytest
import yaml

# Not `launch` itself: without the real one, this folder would pass for it.
pytest.importorskip('launch_ros', reason='needs launch and launch_ros: source a ROS distro')
pytestmark = pytest.mark.launch

ARGUMENTS = {
    'nodes', 'cameras', 'params_file', 'image', 'camera_info', 'depth_image', 'depth_camera_info',
    'points', 'image_transport', 'namespace', 'one_process', 'respawn', 'lifecycle_manager',
    'tf', 'rviz', 'use_sim_time', 'autostart', 'fastdds_profile', 'log_level',
}
PROFILE_VARIABLES = {'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'}
# Of Nav2's manager, what the nodes see.
LIFECYCLE_MANAGER = f"""#!{sys.executable}
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import rclpy

rclpy.init()
node = rclpy.create_node('lifecycle_manager')
names = node.declare_parameter('node_names', ['']).value
assert node.declare_parameter('bond_timeout', 4.0).value == 0.0  # else it waits for a bond
assert node.declare_parameter('autostart', False).value
for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
    for name in names:
        client = node.create_client(ChangeState, name + '/change_state')
        client.wait_for_service()
        request = ChangeState.Request(transition=Transition(id=transition))
        rclpy.spin_until_future_complete(node, client.call_async(request))
"""
# The first as Nav2's bringup has it, the second by the argument.
TWO_ROBOTS = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetRemap


def perception(**arguments):
    arguments |= {{'cameras': 'front', 'nodes': 'costmap', 'one_process': '{one_process}'}}
    source = PythonLaunchDescriptionSource('{perception}')
    return IncludeLaunchDescription(source, launch_arguments=arguments.items())


def generate_launch_description():
    return LaunchDescription([
        GroupAction([
            PushRosNamespace('robot1'), SetRemap('/tf', 'tf'), SetRemap('/tf_static', 'tf_static'),
            perception(),
        ]),
        GroupAction([perception(namespace='robot2', tf='tf')]),
    ])
"""

one_or_more_processes = pytest.mark.parametrize('one_process', ['true', 'false'])


def write_params(path: Path, **sections: dict[str, Any]) -> str:
    tree = {name: {'ros__parameters': values} for name, values in sections.items()}
    path.write_text(yaml.safe_dump(tree))
    return f'params_file:={path}'


def launch_module(share: Path) -> Any:
    path = share / 'launch/perception.launch.py'
    spec = importlib.util.spec_from_file_location('perception_launch', path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_argument_is_described(share: Path) -> None:
    from launch.launch_description_sources import (
        get_launch_description_from_python_launch_file,
    )

    path = str(share / 'launch/perception.launch.py')
    arguments = get_launch_description_from_python_launch_file(path).get_launch_arguments()
    assert {argument.name for argument in arguments} == ARGUMENTS
    for argument in arguments:
        assert argument.description != 'no description given'
        assert argument.default_value is not None  # `ros2 launch` alone works


def test_without_arguments_the_default_nodes_come_up_active_in_one_process(
    launch: Callable[..., Launched]
) -> None:
    launched = launch('perception')
    launched.wait_until_active('/segmentation_node', '/costmap_node')
    assert launched.parameters('/segmentation_node', 'use_sim_time') == [False]
    launched.wait_until_subscribed('/image', '/segmentation_node')
    launched.wait_until_subscribed('/camera_info', '/costmap_node')
    assert not PROFILE_VARIABLES & launched.environment('perception').keys()
    assert launched.interrupt().count('process started') == 1


def test_a_node_comes_up_active_in_a_process_of_its_own(launch: Callable[..., Launched]) -> None:
    launched = launch('perception', 'one_process:=false', 'nodes:=segmentation')
    launched.wait_until_active('/segmentation_node')
    launched.wait_until_subscribed('/image', '/segmentation_node')
    assert len(launched.pids('segmentation_node')) == 1
    assert launched.interrupt().count('process started') == 1


@one_or_more_processes
def test_arguments_reach_the_nodes_of_every_camera(
    launch: Callable[..., Launched], share: Path, one_process: str
) -> None:
    profile = str(share / 'config/fastdds.xml')
    launched = launch(
        'perception', f'one_process:={one_process}', 'namespace:=robot', 'cameras:=front,rear',
        'nodes:=segmentation,costmap', 'image:=/{camera}/color/image_raw', 'use_sim_time:=true',
        'image_transport:=compressed', f'fastdds_profile:={profile}', 'log_level:=debug',
    )
    for camera in ('front', 'rear'):
        for name, topic in (('segmentation', 'image_raw/compressed'), ('costmap', 'camera_info')):
            node = f'/robot/{camera}/{name}_node'
            launched.wait_until_active(node)
            assert launched.parameters(node, 'use_sim_time') == [True]
            launched.wait_until_subscribed(f'/{camera}/color/{topic}', node)
    executable = 'perception' if one_process == 'true' else 'segmentation_node'
    environment = launched.environment(executable)
    assert {environment.get(name) for name in PROFILE_VARIABLES} == {profile}
    printed = launched.interrupt()
    assert '[DEBUG]' in printed
    assert printed.count('process started') == (1 if one_process == 'true' else 4)


@one_or_more_processes
def test_a_relative_topic_lies_in_each_camera_s_namespace(
    launch: Callable[..., Launched], one_process: str
) -> None:
    launched = launch(
        'perception', f'one_process:={one_process}', 'cameras:=front,rear', 'nodes:=costmap',
        'camera_info:=color/info',
    )
    for camera in ('front', 'rear'):
        launched.wait_until_subscribed(f'/{camera}/color/info', f'/{camera}/costmap_node')
    launched.interrupt()


@one_or_more_processes
def test_what_is_not_given_stays_as_in_params_file(
    launch: Callable[..., Launched], tmp_path: Path, one_process: str
) -> None:
    params_file = write_params(tmp_path / 'robot.yaml', **{
        '/**': {'autostart': False, 'use_sim_time': True, 'nodes': ['detection']},
        '/**/perception': {'cameras': ['left']},
        '/left/detection_node': {'max_rate_hz': 7.5},
    })
    launched = launch('perception', f'one_process:={one_process}', params_file)
    names = ('autostart', 'use_sim_time', 'max_rate_hz')
    assert launched.parameters('/left/detection_node', *names) == [False, True, 7.5]
    assert launched.state('/left/detection_node') == 'unconfigured'
    launched.interrupt()


@one_or_more_processes
@pytest.mark.parametrize(
    'section', ['/**', '/**/segmentation_node', '/robot/left/segmentation_node']
)
def test_argument_goes_before_params_file(
    launch: Callable[..., Launched], tmp_path: Path, one_process: str, section: str
) -> None:
    params_file = write_params(tmp_path / 'robot.yaml', **{
        section: {'autostart': True, 'threads': 1},
        '/robot/perception': {'nodes': ['detection'], 'cameras': ['left']},
    })
    launched = launch(
        'perception', f'one_process:={one_process}', params_file, 'namespace:=robot',
        'nodes:=segmentation', 'autostart:=False',
    )
    node = '/robot/left/segmentation_node'
    assert launched.parameters(node, 'autostart', 'threads') == [False, 1]
    assert launched.state(node) == 'unconfigured'
    launched.interrupt()


@one_or_more_processes
def test_of_two_robots_each_camera_hears_its_own_robot_s_tf(
    launch: Callable[..., Launched], share: Path, tmp_path: Path, tf2: str, one_process: str
) -> None:
    (tmp_path / 'robots.launch.py').write_text(TWO_ROBOTS.format(
        perception=share / 'launch/perception.launch.py', one_process=one_process
    ))
    launched = launch(tmp_path / 'robots.launch.py', code=tf2)
    for robot in ('robot1', 'robot2'):
        node = f'/{robot}/front/costmap_node'
        launched.wait_until_active(node)
        for topic in ('tf', 'tf_static'):
            launched.wait_until_subscribed(f'/{robot}/{topic}', node)
    assert not launched.observer.get_subscriptions_info_by_topic('/tf')
    launched.interrupt()


@one_or_more_processes
def test_a_lifecycle_manager_activates_all_nodes(
    launch: Callable[..., Launched], tmp_path: Path, one_process: str
) -> None:
    prefix = tmp_path / 'nav2'
    for name, text in {
        'share/ament_index/resource_index/packages/nav2_lifecycle_manager': '',
        'lib/nav2_lifecycle_manager/lifecycle_manager': LIFECYCLE_MANAGER,
    }.items():
        (prefix / name).parent.mkdir(parents=True)
        (prefix / name).write_text(text)
        (prefix / name).chmod(0o755)
    launched = launch(
        'perception', f'one_process:={one_process}', 'lifecycle_manager:=true', 'namespace:=robot',
        'cameras:=front,rear', 'nodes:=segmentation,costmap', prefix=str(prefix),
    )
    for camera in ('front', 'rear'):
        nodes = [f'/robot/{camera}/{name}_node' for name in ('segmentation', 'costmap')]
        launched.wait_until_active(*nodes)
        for node in nodes:
            assert launched.parameters(node, 'autostart') == [False]
    launched.wait_for(
        'end of the manager', lambda: 'process has finished cleanly' in launched.log.read_text()
    )
    launched.interrupt()


@one_or_more_processes
def test_a_process_that_died_is_started_again(
    launch: Callable[..., Launched], one_process: str
) -> None:
    launched = launch('perception', f'one_process:={one_process}', 'nodes:=segmentation')
    launched.wait_until_active('/segmentation_node')
    executable = 'perception' if one_process == 'true' else 'segmentation_node'
    os.kill(launched.pids(executable)[0], signal.SIGKILL)
    # Not by its services: those of the dead one are still announced.
    launched.wait_for(
        'second active node',
        lambda: launched.log.read_text().count('[segmentation_node]: active') == 2,
    )
    assert len(launched.pids(executable)) == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['params_file:=/missing'], 'params_file: no such file: /missing'),
        (['fastdds_profile:=/missing'], 'fastdds_profile: no such file: /missing'),
        (['nodes:=depth'], "nodes has 'depth'; expected segmentation|classification"),
        (['cameras:=front,front', 'one_process:=false'], "cameras has 'front'; expected"),
        (['one_process:=perhaps'], '"one_process" provided value "perhaps" is not valid'),
        (['image:=/{camera}/image'], 'image is /{camera}/image, but the cameras have no names'),
        (['cameras:=front,rear', 'image:=/image'], 'put {camera} where the camera'),
        (['image:=/camera//image'], "image is '/camera//image', which is not a valid topic name"),
        (['tf:=my-tf'], "tf is 'my-tf', which is not a valid topic name"),
    ],
)
def test_wrong_arguments_end_the_launch_with_a_cure(
    launch: Callable[..., Launched], arguments: list[str], message: str
) -> None:
    printed = launch('perception', *arguments).error()
    assert message in printed
    assert 'process started' not in printed


def test_a_misspelt_argument_is_told_with_the_nearest(launch: Callable[..., Launched]) -> None:
    launched = launch('perception', 'imag:=/camera/image', 'nodes:=costmap', 'namespace:=robot')
    launched.wait_until_active('/robot/costmap_node')
    said = [line for line in launched.interrupt().splitlines() if 'not an argument of' in line]
    assert said == [
        '[WARNING] [perception.launch.py]: imag is not an argument of this launch file and has no '
        'effect; did you mean image?'
    ]


@one_or_more_processes
@pytest.mark.parametrize('name', ['perception', 'costmap', 'segmentation', 'detection'])
def test_a_shipped_params_file_warns_of_nothing_and_stops_no_other_node(
    launch: Callable[..., Launched], share: Path, name: str, one_process: str
) -> None:
    launched = launch(
        'perception', f'params_file:={share}/config/{name}.yaml', f'one_process:={one_process}'
    )
    launched.wait_until_active('/segmentation_node', '/costmap_node')
    printed = launched.interrupt()
    assert 'parameter of other nodes' not in printed and 'failed' not in printed


@pytest.mark.parametrize(
    ('argument', 'package'),
    [('lifecycle_manager', 'nav2-lifecycle-manager'), ('rviz', 'rviz2')],
)
def test_without_an_optional_package_the_launch_says_how_to_get_it(
    share: Path, monkeypatch: pytest.MonkeyPatch, argument: str, package: str
) -> None:
    from ament_index_python.packages import PackageNotFoundError

    def no_package(name: str) -> str:
        raise PackageNotFoundError(name)

    module = launch_module(share)
    monkeypatch.setattr(module, 'get_package_prefix', no_package)
    start = {
        'lifecycle_manager': lambda: module.lifecycle_manager(['/segmentation_node'], '/'),
        'rviz': lambda: module.rviz('', {}, {}),
    }[argument]
    said = rf'{argument} is true, but .* apt install ros-\$ROS_DISTRO-{package}$'
    with pytest.raises(RuntimeError, match=said):
        start()


def test_rviz_shows_the_first_camera_and_the_nodes_outlive_it(
    launch: Callable[..., Launched], tmp_path: Path, share: Path
) -> None:
    launched = launch(
        'perception', 'rviz:=true', 'namespace:=robot', 'cameras:=front,rear', 'tf:=tf',
        'nodes:=segmentation', 'image:=/{camera}/image_raw', 'use_sim_time:=true',
        prefix=rviz_prefix(tmp_path, stays=False),
    )
    launched.wait_for(
        "RViz's end", lambda: 'process has finished cleanly' in launched.log.read_text()
    )
    said = launched.log.read_text()
    assert f'file {share}/config/rviz/perception.rviz' in said
    for name, topic in {
        'grid': '/robot/front/grid', 'image': '/front/image_raw', '/tf': '/robot/tf'
    }.items():
        assert f'{name} is {topic}\n' in said
    assert 'simulated time: True' in said
    launched.wait_until_active('/robot/front/segmentation_node')
    launched.interrupt()


def test_a_file_that_holds_no_parameters_ends_the_launch(
    launch: Callable[..., Launched], tmp_path: Path
) -> None:
    (tmp_path / 'robot.yaml').write_text('nodes: [segmentation]\n')
    printed = launch('perception', f'params_file:={tmp_path}/robot.yaml').error()
    assert 'robot.yaml is not a file of parameters' in printed
