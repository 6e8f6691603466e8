"""segmentation.launch.py, really launched from a colcon install."""

from collections.abc import Callable, Iterator
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any

from colcon_workspace import build_workspace, localhost_domain, own_domain_id
import pytest

# Not `launch` itself: without the real one, this folder would pass for it.
pytest.importorskip('launch_ros', reason='needs launch and launch_ros: source a ROS distro')
pytestmark = pytest.mark.launch

PACKAGE = 'mnv2_perception'
ARGUMENTS = {
    'params_file', 'namespace', 'image', 'use_sim_time', 'autostart', 'fastdds_profile',
    'log_level',
}
PROFILE_VARIABLES = {'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'}
TIMEOUT_S = 60.0
# What `ros2 launch` does, without ros2cli.
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[argument.split(':=', 1) for argument in sys.argv[2:]],
)]))
sys.exit(service.run())
"""


class Launched:
    """A launch under way, and a node beside it that asks the launched one."""

    def __init__(self, process: 'subprocess.Popen[str]', log: Path, executor: Any) -> None:
        self.process = process
        self.log = log
        self.executor = executor
        self.observer = executor.get_nodes()[0]

    def wait_for(self, what: str, value: Callable[[], Any]) -> Any:
        """Return a value as soon as there is one."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not (found := value()):
            assert time.monotonic() < deadline_s, f'no {what}:\n{self.log.read_text()}'
            assert self.process.poll() is None, self.log.read_text()
            self.executor.spin_once(timeout_sec=0.05)
        return found

    def call(self, service: str, service_type: Any, request: Any) -> Any:
        client = self.observer.create_client(service_type, service)
        self.wait_for(f'service {service}', client.service_is_ready)
        future = client.call_async(request)
        self.wait_for(f'answer of {service}', future.done)
        self.observer.destroy_client(client)
        return future.result()

    def state(self, node: str) -> str:
        from lifecycle_msgs.srv import GetState

        label: str = self.call(
            f'{node}/get_state', GetState, GetState.Request()
        ).current_state.label
        return label

    def wait_until_active(self, node: str) -> None:
        self.wait_for('active node', lambda: self.state(node) == 'active')

    def parameters(self, node: str, *names: str) -> list[Any]:
        from rcl_interfaces.srv import GetParameters
        from rclpy.parameter import parameter_value_to_python

        request = GetParameters.Request(names=names)
        answer = self.call(f'{node}/get_parameters', GetParameters, request)
        return [parameter_value_to_python(value) for value in answer.values]

    def subscribed_images(self, node: str) -> set[str]:
        namespace, _, name = node.rpartition('/')
        found = self.observer.get_subscriber_names_and_types_by_node(name, namespace or '/')
        return {topic for topic, types in found if types == ['sensor_msgs/msg/Image']}

    def node_environment(self) -> dict[str, str]:
        started = re.search(r'process started with pid \[(\d+)\]', self.log.read_text())
        assert started
        entries = Path('/proc', started[1], 'environ').read_text().split('\0')
        return dict(entry.split('=', 1) for entry in entries if entry)

    def interrupt(self) -> str:
        """End the launch as Ctrl-C in its terminal does; return what was printed."""
        os.killpg(self.process.pid, signal.SIGINT)
        returncode = self.process.wait(TIMEOUT_S)
        printed = self.log.read_text()
        assert returncode == 0, printed
        assert 'process has finished cleanly' in printed
        return printed


@pytest.fixture(scope='module')
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a workspace that colcon built, without a transport profile."""
    pytest.importorskip('colcon_core', reason='needs colcon: make setup, or a ROS distro')
    built = build_workspace(tmp_path_factory.mktemp('workspace'))
    inherited = {name: value for name, value in built.items() if name not in PROFILE_VARIABLES}
    return {**inherited, **localhost_domain(own_domain_id())}


@pytest.fixture
def share(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installed share folder, as `ros2 launch` finds it."""
    from ament_index_python.packages import get_package_share_directory

    monkeypatch.setenv('AMENT_PREFIX_PATH', environment['AMENT_PREFIX_PATH'])
    return Path(get_package_share_directory(PACKAGE))


@pytest.fixture
def launch(
    environment: dict[str, str], share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Launched]]:
    """Launch with arguments `name:=value`."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    for name, value in localhost_domain(own_domain_id()).items():
        monkeypatch.setenv(name, value)
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    observer = rclpy.create_node('observer', context=context)
    executor.add_node(observer)
    started: list[subprocess.Popen[str]] = []
    log = tmp_path / 'launch.log'

    def start(*arguments: str) -> Launched:
        command = [sys.executable, '-c', LAUNCH, str(share / 'launch/segmentation.launch.py')]
        with log.open('w') as output:
            started.append(subprocess.Popen(
                [*command, *arguments], env=environment, cwd=tmp_path, stdout=output,
                stderr=subprocess.STDOUT, text=True, start_new_session=True,
            ))
        return Launched(started[-1], log, executor)

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its node too
            process.wait()
    executor.shutdown()
    observer.destroy_node()
    rclpy.shutdown(context=context)


def write_params(path: Path, node: str, **values: str) -> Path:
    lines = ''.join(f'    {name}: {value}\n' for name, value in values.items())
    path.write_text(f'{node}:\n  ros__parameters:\n{lines}')
    return path


@pytest.mark.parametrize('name', ['segmentation', 'classification', 'detection'])
def test_every_argument_is_described(share: Path, name: str) -> None:
    from launch.launch_description_sources import (
        get_launch_description_from_python_launch_file,
    )

    path = str(share / f'launch/{name}.launch.py')
    arguments = get_launch_description_from_python_launch_file(path).get_launch_arguments()
    assert {argument.name for argument in arguments} == ARGUMENTS
    for argument in arguments:
        assert argument.description != 'no description given'
        assert argument.default_value is not None  # `ros2 launch` alone works


def test_node_comes_up_active_without_arguments(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.wait_until_active('/segmentation_node')
    assert launched.parameters('/segmentation_node', 'use_sim_time') == [False]
    assert launched.subscribed_images('/segmentation_node') == {'/image'}
    assert not PROFILE_VARIABLES & launched.node_environment().keys()
    launched.interrupt()


def test_arguments_reach_the_node(launch: Callable[..., Launched], share: Path) -> None:
    profile = str(share / 'config/fastdds.xml')
    launched = launch(
        'namespace:=robot', 'image:=/camera/image_raw', 'use_sim_time:=true',
        f'fastdds_profile:={profile}', 'log_level:=debug',
    )
    launched.wait_until_active('/robot/segmentation_node')
    assert launched.parameters('/robot/segmentation_node', 'use_sim_time') == [True]
    assert launched.subscribed_images('/robot/segmentation_node') == {'/camera/image_raw'}
    node_environment = launched.node_environment()
    assert {node_environment.get(name) for name in PROFILE_VARIABLES} == {profile}
    assert '[DEBUG]' in launched.interrupt()


def test_what_is_not_given_stays_as_in_params_file(
    launch: Callable[..., Launched], tmp_path: Path
) -> None:
    params_file = write_params(
        tmp_path / 'robot.yaml', '/**', autostart='false', use_sim_time='true', max_rate_hz='7.5'
    )
    launched = launch(f'params_file:={params_file}')
    assert launched.parameters(
        '/segmentation_node', 'autostart', 'use_sim_time', 'max_rate_hz'
    ) == [False, True, 7.5]
    assert launched.state('/segmentation_node') == 'unconfigured'


@pytest.mark.parametrize('node', ['/**', '/robot/segmentation_node'])
def test_argument_goes_before_params_file(
    launch: Callable[..., Launched], tmp_path: Path, node: str
) -> None:
    params_file = write_params(tmp_path / 'robot.yaml', node, autostart='true', threads='1')
    launched = launch(f'params_file:={params_file}', 'namespace:=robot', 'autostart:=False')
    assert launched.parameters('/robot/segmentation_node', 'autostart', 'threads') == [False, 1]
    assert launched.state('/robot/segmentation_node') == 'unconfigured'


@pytest.mark.parametrize('argument', ['params_file', 'fastdds_profile'])
def test_missing_file_ends_the_launch(
    launch: Callable[..., Launched], tmp_path: Path, argument: str
) -> None:
    missing = tmp_path / 'missing'
    launched = launch(f'{argument}:={missing}')
    assert launched.process.wait(TIMEOUT_S) == 1
    assert f'{argument}: there is no file {missing}' in launched.log.read_text()
