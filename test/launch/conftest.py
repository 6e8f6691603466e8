"""Fixtures that really launch launch files from a colcon install."""

from collections.abc import Callable, Iterator
import importlib.util
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

from colcon_workspace import build_workspace, free_domain_id, localhost_domain
from launched import Launched
import pytest

PACKAGE = 'mnv2_perception'
PROFILE_VARIABLES = {'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'}
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


@pytest.fixture(scope='session')
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a workspace built by colcon, without a transport profile."""
    pytest.importorskip('colcon_core', reason='needs colcon: make setup, or a ROS distro')
    built = build_workspace(tmp_path_factory.mktemp('workspace'))
    return {name: value for name, value in built.items() if name not in PROFILE_VARIABLES}


@pytest.fixture
def share(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the installed share folder, as `ros2 launch` finds it."""
    from ament_index_python.packages import get_package_share_directory

    monkeypatch.setenv('AMENT_PREFIX_PATH', environment['AMENT_PREFIX_PATH'])
    return Path(get_package_share_directory(PACKAGE))


@pytest.fixture
def tf2(tmp_path: Path) -> str:
    """Return a folder of Python modules with a replacement for tf2_ros; '' if that exists."""
    if importlib.util.find_spec('tf2_ros'):
        return ''
    folder = tmp_path / 'tf2'
    folder.mkdir()
    shutil.copy(Path(__file__).parents[1] / 'tf2_stand_in.py', folder / 'tf2_ros.py')
    return str(folder)


@pytest.fixture
def launch(
    environment: dict[str, str], share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Launched]]:
    """Return a function that launches a file with arguments `name:=value`.

    The file is one of the package, given by name, or another, given by path; `prefix` is an
    additional ament prefix, `code` an additional folder of Python modules.
    """
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    domain = localhost_domain(free_domain_id())
    for name, value in domain.items():
        monkeypatch.setenv(name, value)
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    observer = rclpy.create_node('observer', context=context)
    executor.add_node(observer)
    started: list[subprocess.Popen[str]] = []
    log = tmp_path / 'launch.log'

    def start(name: str | Path, *arguments: str, prefix: str = '', code: str = '') -> Launched:
        path = name if isinstance(name, Path) else share / f'launch/{name}.launch.py'
        command = [sys.executable, '-c', LAUNCH, str(path)]
        further = {
            name: os.pathsep.join(filter(None, [folder, environment.get(name)]))
            for name, folder in (('AMENT_PREFIX_PATH', prefix), ('PYTHONPATH', code))
        }
        with log.open('w') as output:
            started.append(subprocess.Popen(
                [*command, *arguments], cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT,
                text=True, start_new_session=True,
                # launch_ros leaves its parameter files behind.
                env={**environment, **domain, **further, 'TMPDIR': str(tmp_path)},
            ))
        return Launched(started[-1], log, executor)

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its nodes too
            process.wait()
    executor.shutdown()
    observer.destroy_node()
    rclpy.shutdown(context=context)
