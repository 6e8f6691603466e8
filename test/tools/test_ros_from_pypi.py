"""tools/ros_from_pypi: ROS on a machine that has none."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import importlib.util
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'ros_from_pypi'
SETUP = TOOL / 'setup_venv.py'
FROM_PYPI = not os.environ.get('ROS_DISTRO')

# RIHS01 hashes of vision_msgs 4.1.1 and tf2_msgs (Jazzy), computed by rosidl from the definitions
# that ROS releases; Kilted's (vision_msgs 4.2.0) are the same. DDS peers compare them, so an equal
# hash means equal on the wire.
OFFICIAL: dict[str, str] = json.loads(
    (Path(__file__).parent / 'official_type_hashes.json').read_text()
)


def load(path: Path) -> ModuleType:
    """Import the set-up script of one checkout."""
    spec = importlib.util.spec_from_file_location('setup_venv', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses with postponed annotations look their module up.
    sys.modules['setup_venv'] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Give a checkout that has only the set-up tool and a setup.py, and no .venv yet."""
    shutil.copytree(
        TOOL, tmp_path / 'tools' / TOOL.name, ignore=shutil.ignore_patterns('__pycache__')
    )
    (tmp_path / 'setup.py').write_text('from setuptools import setup\nsetup(name="clone")\n')
    return tmp_path


def script_of(clone: Path) -> Path:
    return clone / 'tools' / TOOL.name / SETUP.name


def bare_environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ('ROS_DISTRO', 'PYTHONPATH')} | more


def hashes_of(package: str) -> dict[str, str]:
    """Read the hashes that rosidl wrote beside the interfaces that are installed."""
    index = pytest.importorskip('ament_index_python', reason='needs ROS: make setup')
    share = Path(index.get_package_share_directory(package))
    described = [json.loads(file.read_text()) for file in share.glob('*/*.json')]
    if not described:
        pytest.skip('this distro is older than type hashes (Humble)')
    found = [entry for description in described for entry in description['type_hashes']]
    return {
        entry['type_name']: entry['hash_string']
        for entry in found
        if entry['type_name'].startswith(f'{package}/')
    }


@pytest.mark.ros
@pytest.mark.parametrize('package', ['vision_msgs', 'tf2_msgs'])
def test_type_hashes_are_the_official_ones(package: str) -> None:
    official = {n: rihs for n, rihs in OFFICIAL.items() if n.startswith(f'{package}/')}
    assert hashes_of(package) == official


@pytest.mark.ros
@pytest.mark.parametrize(
    ('name', 'value'),
    [('NO_ERROR', 0), ('LOOKUP_ERROR', 1), ('CONNECTIVITY_ERROR', 2), ('EXTRAPOLATION_ERROR', 3),
     ('INVALID_ARGUMENT_ERROR', 4), ('TIMEOUT_ERROR', 5), ('TRANSFORM_ERROR', 6)],
)
def test_constants_are_the_official_ones(name: str, value: int) -> None:
    # The hashes above leave constants out.
    assert getattr(pytest.importorskip('tf2_msgs.msg').TF2Error, name) == value


PUBLISHER = """
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from vision_msgs.msg import LabelInfo, VisionClass
rclpy.init()
node = rclpy.create_node('labels')
latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
publisher = node.create_publisher(LabelInfo, 'label_info', latched)
publisher.publish(LabelInfo(threshold=0.5, class_map=[VisionClass(class_id=3, class_name='road')]))
rclpy.spin(node)
"""
SUBSCRIBER = """
import time
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from vision_msgs.msg import LabelInfo
rclpy.init()
node = rclpy.create_node('reader')
got = []
latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_subscription(LabelInfo, 'label_info', got.append, latched)
end = time.monotonic() + 20
while not got and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
print([(c.class_id, c.class_name) for m in got for c in m.class_map], got[0].threshold)
"""


@pytest.mark.ros
def test_label_info_crosses_processes_with_no_environment_set(tmp_path: Path) -> None:
    pytest.importorskip('rclpy', reason='needs ROS: make setup')
    env = {} if FROM_PYPI else dict(os.environ)
    # HOME is where rclpy logs to; the domain keeps other people's nodes out.
    env |= {'HOME': str(tmp_path), 'ROS_DOMAIN_ID': str(10 + os.getpid() % 90)}
    with subprocess.Popen([sys.executable, '-c', PUBLISHER], env=env) as publisher:
        try:
            reader = [sys.executable, '-c', SUBSCRIBER]
            answer = subprocess.run(reader, env=env, capture_output=True, text=True, check=False)
        finally:
            publisher.kill()
    assert answer.stdout.strip() == "[(3, 'road')] 0.5", answer.stderr


def test_all_that_is_missing_is_named_before_anything_starts(clone: Path) -> None:
    without_headers = (
        'import runpy, sys, sysconfig; sys.argv = ["setup"]; sys.modules["ensurepip"] = None; '
        f'paths = sysconfig.get_paths() | {{"include": {str(clone)!r}}}; '
        f'sysconfig.get_paths = lambda: paths; '
        f'runpy.run_path({str(script_of(clone))!r}, run_name="__main__")'
    )
    env = bare_environment(PATH=str(clone))
    command = [sys.executable, '-c', without_headers]
    answer = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert answer.returncode == 1
    for what in ('g++', 'make', 'ensurepip', f'{clone}/Python.h'):
        assert what in answer.stderr
    assert 'apt install g++ make python3-dev python3-venv' in answer.stderr
    assert answer.stdout == ''
    assert not (clone / '.venv').exists()


def test_where_a_distro_is_sourced_nothing_of_pypis_ros_is_used(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands in for a distro's rclpy: whether it can be imported is all that is asked.
    (clone / 'rclpy.py').touch()
    monkeypatch.setenv('PYTHONPATH', str(clone))
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    monkeypatch.setenv('PATH', '')
    tool = load(script_of(clone))

    place = tool.place_for()
    assert (place.distro, place.sourced, place.venv.name) == ('jazzy', True, '.venv')
    steps = [step.name for step in tool.steps_for(place, False)]
    assert steps == ['venv', 'packages', 'repository']
    assert not {'g++', 'make', 'python3-dev'} & {package for _, package in tool.missing(place)}
    with pytest.raises(SystemExit, match='ROS jazzy is sourced, and kilted was asked for'):
        tool.place_for('kilted')


def test_a_sourced_distro_whose_rclpy_this_python_cannot_load_is_refused(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('PYTHONPATH', raising=False)
    monkeypatch.setenv('ROS_DISTRO', 'nonesuch')
    tool = load(script_of(clone))

    assert 'ros-nonesuch-rclpy' in [package for _, package in tool.missing(tool.place_for())]


@pytest.mark.parametrize(
    ('asked', 'distro', 'venv'),
    [(None, 'jazzy', '.venv'), ('jazzy', 'jazzy', '.venv'), ('kilted', 'kilted', '.venv-kilted')],
)
def test_each_distro_from_pypi_has_pins_and_an_environment_of_its_own(
    clone: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, distro: str, venv: str
) -> None:
    monkeypatch.delenv('ROS_DISTRO', raising=False)
    tool = load(script_of(clone))
    place = tool.place_for(asked)
    assert (place.distro, place.sourced, place.venv) == (distro, False, clone / venv)
    pins = tool.requirements(f'requirements-ros-{distro}.txt')
    assert any(line.startswith('ros-rclpy') for line in pins)
    packages = {step.name: step.inputs for step in tool.steps_for(place, False)}['packages']
    with (clone / f'tools/ros_from_pypi/requirements-ros-{distro}.txt').open('a') as stream:
        stream.write('# changed\n')
    assert packages != {s.name: s.inputs for s in tool.steps_for(place, False)}['packages']


def make(*arguments: str) -> list[str]:
    """Return the commands that `make` would run."""
    command = ['make', '--dry-run', '--no-print-directory', *arguments]
    env = bare_environment()
    answer = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    return answer.stdout.splitlines()


@pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
@pytest.mark.parametrize(
    ('distro', 'venv', 'option'),
    [('', '.venv', ''), ('jazzy', '.venv', ' --distro jazzy'),
     ('kilted', '.venv-kilted', ' --distro kilted')],
)
def test_make_test_installs_what_its_tests_need_and_make_demo_stays_light(
    distro: str, venv: str, option: str
) -> None:
    set_up = f'python3 tools/ros_from_pypi/setup_venv.py{option}'
    first, tests = make('test', f'DISTRO={distro}')
    assert first.split() == f'{set_up} --train'.split()
    assert tests.startswith(f'{venv}/bin/python -m pytest')
    first, demo = make('demo', f'DISTRO={distro}')
    assert first.split() == set_up.split()
    assert demo.startswith(f'{venv}/bin/mnv2 demo ')


class Index(BaseHTTPRequestHandler):
    """Answers as a package index that has torch."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == '/whl/torch/' else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def torch_index(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, str]]:
    """The set-up script, which asks a server of this test for torch; and that server's index."""
    monkeypatch.delenv('TORCH_INDEX', raising=False)
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    tool = load(script_of(clone))
    monkeypatch.setattr(tool.shutil, 'which', lambda name: None)  # no nvidia-smi
    with ThreadingHTTPServer(('127.0.0.1', 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f'http://127.0.0.1:{server.server_port}/whl'
        monkeypatch.setattr(tool, 'CPU_TORCH_INDEX', index)
        yield tool, index
        server.shutdown()


def test_torch_comes_without_cuda_where_its_index_answers(
    torch_index: tuple[ModuleType, str]
) -> None:
    tool, index = torch_index
    assert tool.torch_index()[0] == index


def test_an_index_that_does_not_answer_is_said_and_passed_by(
    torch_index: tuple[ModuleType, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, index = torch_index
    monkeypatch.setattr(tool, 'CPU_TORCH_INDEX', f'{index}/nowhere')
    taken, why = tool.torch_index()
    assert taken == ''
    assert f'{index}/nowhere does not answer' in why and 'TORCH_INDEX' in why


def test_an_index_that_is_named_is_taken_unasked_and_a_gpu_gets_cuda(
    torch_index: tuple[ModuleType, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, _ = torch_index
    monkeypatch.setattr(tool.shutil, 'which', lambda name: f'/usr/bin/{name}')
    assert tool.torch_index()[0] == ''
    monkeypatch.setenv('TORCH_INDEX', 'https://index.example/simple')
    assert tool.torch_index()[0] == 'https://index.example/simple'


@pytest.mark.parametrize(
    ('file', 'redone'),
    [
        ('tools/ros_from_pypi/vision_msgs/msg/LabelInfo.msg', {'interfaces'}),
        ('tools/ros_from_pypi/requirements.txt', {'packages', 'interfaces', 'repository'}),
        ('tools/ros_from_pypi/setup_venv.py', {'packages', 'interfaces', 'repository'}),
        ('tools/ros_from_pypi/requirements-train.txt', {'train'}),
        ('tools/ros_from_pypi/requirements-ray.txt', {'ray'}),
        ('setup.py', {'repository'}),
    ],
)
def test_a_changed_input_redoes_what_rests_on_it(clone: Path, file: str, redone: set[str]) -> None:
    tool = load(script_of(clone))
    place = tool.Place('jazzy', False, clone / '.venv')
    before = {step.name: step.inputs for step in tool.steps_for(place, True, True)}
    with (clone / file).open('a') as stream:
        stream.write('# changed\n')

    after = {step.name: step.inputs for step in tool.steps_for(place, True, True)}
    assert {name for name in after if after[name] != before[name]} == redone


@contextmanager
def running_setup(clone: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the set-up of a clone, and kill it with all its children."""
    with subprocess.Popen(
        [sys.executable, str(script_of(clone))], env=bare_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_running(clone: Path, step: str) -> None:
    tool = load(script_of(clone))
    end = time.monotonic() + 60
    while tool.read_state(tool.place_for()).get('running') != step:
        assert time.monotonic() < end, f'step {step} never began'
        time.sleep(0.05)


@pytest.mark.skipif(
    not (
        shutil.which('g++')
        and shutil.which('make')
        and (Path(sysconfig.get_paths()['include']) / 'Python.h').exists()
        and importlib.util.find_spec('ensurepip')
    ),
    reason='needs g++, make, python3-dev and python3-venv',
)
def test_a_killed_run_is_repaired_by_the_next(clone: Path) -> None:
    with running_setup(clone):
        wait_until_running(clone, 'packages')
    half_done = clone / '.venv' / 'lib' / 'half_done'
    half_done.touch()

    with running_setup(clone) as again:
        assert again.stdout is not None
        assert again.stdout.readline().startswith('[1/4] .venv, CPython')
        assert again.stdout.readline().endswith(' s\n')
        assert not half_done.exists()


@pytest.mark.ros
def test_a_second_run_is_fast_and_changes_nothing() -> None:
    tool = load(SETUP)
    distro = Path(sys.prefix).name.removeprefix('.venv-')
    asked = distro if distro in tool.DISTROS else None
    place = tool.place_for(asked)
    state = tool.read_state(place)
    steps = tool.steps_for(place, 'train' in state)
    if any(state.get(step.name) != step.inputs for step in steps):
        pytest.skip(f'{place.venv.name} is not up to date: make setup')
    venv = place.venv
    watched = [place.state, venv, venv / 'bin', venv / tool.SITE_PACKAGES]
    before = [path.stat().st_mtime_ns for path in watched]

    started = time.monotonic()
    options = ['--distro', asked] if asked else []
    answer = subprocess.run(
        [sys.executable, str(SETUP), *options], capture_output=True, text=True, check=False
    )
    assert time.monotonic() - started < 5.0
    assert (answer.returncode, answer.stdout) == (0, f'{venv.name} is up to date\n')
    assert [path.stat().st_mtime_ns for path in watched] == before


@pytest.mark.parametrize('file', sorted(TOOL.glob('requirements*.txt')), ids=lambda p: p.name)
def test_requirements_are_pinned_exactly(file: Path) -> None:
    lines = load(SETUP).requirements(file.name)
    assert lines
    pin = re.compile(
        r"[\w.-]+(\[\w+\])?==\d+(\.\d+)*"
        r"(; (python_version (<|>=) '3\.\d+'|platform_machine == '\w+'))?"
    )
    assert [line for line in lines if not pin.fullmatch(line)] == []


def test_a_workspace_build_passes_the_definitions_by() -> None:
    colcon = shutil.which('colcon', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    if colcon is None:
        pytest.skip('needs colcon: make setup')
    command = [colcon, '--log-base', os.devnull, 'list', '--names-only', '--base-paths', str(ROOT)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ['mnv2_perception']
