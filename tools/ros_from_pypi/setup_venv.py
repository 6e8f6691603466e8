"""Make .venv: this package with everything it needs, on a machine with or without ROS.

    python3 tools/ros_from_pypi/setup_venv.py                   what `make setup` runs
    python3 tools/ros_from_pypi/setup_venv.py --train           also torch, onnx and what else the
                                                                tests need (`make test`)
    python3 tools/ros_from_pypi/setup_venv.py --ray             also Ray, for clusters
    python3 tools/ros_from_pypi/setup_venv.py --distro kilted   another distro, in .venv-kilted

With a ROS distro sourced, .venv sees the distro's packages and gets only what the distro lacks.
Without one, ROS 2 comes from PyPI (Jazzy, or the distro that is named), and vision_msgs and
tf2_msgs, which are not there, are built from the definitions beside this file.

What is done is written down with a hash of its inputs, so a second run does only what changed. A
step that was killed leaves its name behind, and the next run starts from an empty .venv.
"""

from __future__ import annotations  # so that an old Python reads far enough to be told

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
import fcntl
import hashlib
import importlib.util
import json
import os
from pathlib import Path
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# All that differs between the distros that PyPI has stands in these files.
PINS = 'requirements-ros-{}.txt'
DISTROS = sorted(re.findall(PINS.format(r'(\w+)'), ' '.join(p.name for p in HERE.iterdir())))
DEFAULT_DISTRO = 'jazzy'
SITE_PACKAGES = f'lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages'
# The interpreter behind this one, where this one is that of a virtual environment.
PYTHON = getattr(sys, '_base_executable', sys.executable)

PACKAGE = 'mnv2_perception'
# Where torch is without CUDA, which makes up most of PyPI's; TORCH_INDEX names another place.
CPU_TORCH_INDEX = 'https://download.pytorch.org/whl/cpu'
INTERFACE_PACKAGES = ('vision_msgs', 'tf2_msgs')
# A copy from PyPI beside the distro's own would break cv_bridge and launch_testing.
FROM_DISTRO = {
    'numpy': ('numpy', 'python3-numpy'),
    'opencv-python-headless': ('cv2', 'python3-opencv'),
    'pytest': ('pytest', 'python3-pytest'),
    'pyyaml': ('yaml', 'python3-yaml'),
}
# Makes ament_index_python look into .venv, last: a workspace that is sourced goes first.
AMENT_PREFIX_PTH = (
    "import os, sys; p = os.environ.get('AMENT_PREFIX_PATH', ''); sys.prefix in p.split(':') or "
    "os.environ.update(AMENT_PREFIX_PATH=f'{p}:{sys.prefix}' if p else sys.prefix)\n"
)
# What a sourced workspace, another virtual environment or make itself would leak into the build.
LEAKS = (
    'AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH', 'COLCON_PREFIX_PATH', 'MAKEFLAGS', 'MAKELEVEL',
    'MFLAGS', 'PYTHONHOME', 'PYTHONPATH', 'VIRTUAL_ENV',
)


@dataclass(frozen=True)
class Place:
    """A virtual environment, and the distro that it is for: sourced here, or from PyPI."""

    distro: str
    sourced: bool
    venv: Path

    @property
    def python(self) -> str:
        return str(self.venv / 'bin' / 'python')

    @property
    def state(self) -> Path:
        """Where it is written down which steps are done."""
        return self.venv / 'setup.json'


@dataclass(frozen=True)
class Step:
    """One thing to do, and the hash of all that it depends on."""

    name: str
    title: str
    inputs: str
    do: Callable[[], None]


class CommandFailed(Exception):
    """A command ended with an error; the message carries its last lines."""


def sourced_distro() -> str | None:
    """Name the ROS distro that is sourced for this Python, None where there is none."""
    distro = os.environ.get('ROS_DISTRO')
    if not distro:
        return None
    found = subprocess.run([PYTHON, '-c', 'import rclpy'], capture_output=True, check=False)
    return distro if found.returncode == 0 else None


def place_for(asked: str | None = None) -> Place:
    """Choose the distro and its virtual environment.

    Args:
        asked: The distro to take; None for the one that is sourced, or else Jazzy.

    Raises:
        SystemExit: Another one than `asked` is sourced.
    """
    distro = sourced_distro()
    if distro and asked and distro != asked:
        sys.exit(
            f'ROS {distro} is sourced, and {asked} was asked for: use a shell that sources '
            f'{asked}, or none'
        )
    suffix = f'-{asked}' if asked and asked != DEFAULT_DISTRO else ''  # as in the Makefile
    named = asked or distro or DEFAULT_DISTRO
    return Place(named, distro is not None, ROOT / f'.venv{suffix}')


def missing(place: Place) -> list[tuple[str, str]]:
    """List what this machine lacks, each with the apt package that brings it."""
    problems = []
    if sys.version_info < (3, 10):  # noqa: UP036
        problems.append((f'Python >= 3.10 (this is {platform.python_version()})', 'python3'))
    if any(importlib.util.find_spec(name) is None for name in ('venv', 'ensurepip')):
        problems.append(("Python's venv and ensurepip", 'python3-venv'))
    if place.sourced:
        for module, package in FROM_DISTRO.values():
            if importlib.util.find_spec(module) is None:
                problems.append((f'the Python module {module}', package))
        return problems

    if sys.version_info >= (3, 15):
        problems.append((f'Python < 3.15 (this is {platform.python_version()})', 'python3'))
    if (platform.system(), platform.machine()) != ('Linux', 'x86_64'):
        machine = f'{platform.system()} {platform.machine()}'
        problems.append((f'Linux on x86-64 (this is {machine}): source a ROS distro', ''))
    if os.environ.get('ROS_DISTRO'):
        distro = os.environ['ROS_DISTRO']
        cure = "use the distro's own python3, or unset ROS_DISTRO"
        problems.append((f'rclpy of ROS {distro} in {PYTHON}: {cure}', f'ros-{distro}-rclpy'))
    header = Path(sysconfig.get_paths()['include']) / 'Python.h'
    if not header.is_file():
        problems.append((f"Python's headers ({header})", 'python3-dev'))
    for tool in ('g++', 'make'):
        if shutil.which(tool) is None:
            problems.append((tool, tool))
    return problems


def hash_of(facts: Iterable[object], paths: Iterable[Path] = ()) -> str:
    """Hash facts, and files with their names; folders count with all they hold."""
    digest = hashlib.sha256(repr(list(facts)).encode())
    for path in paths:
        inside = path.rglob('*') if path.is_dir() else [path]
        for file in sorted(p for p in inside if p.is_file() and '__pycache__' not in p.parts):
            digest.update(f'\n{file.relative_to(ROOT)}\n'.encode() + file.read_bytes())
    return digest.hexdigest()


def environment(place: Place) -> dict[str, str]:
    """Make the environment for the commands of a step."""
    env = dict(os.environ)
    # Set by the ROS wheels' start-up hook of the virtual environment this may be called from.
    if env.pop('_ROS_WHEELS_BOOTSTRAP_COMPLETE', None):
        env.pop('LD_LIBRARY_PATH', None)
    if not place.sourced:
        for name in LEAKS:
            env.pop(name, None)
    env['PATH'] = f'{place.venv / "bin"}:{env.get("PATH", os.defpath)}'
    return env


def run(command: list[str], env: dict[str, str], cwd: Path = ROOT) -> None:
    """Run a command, showing the seconds on a terminal and its last lines when it fails.

    Raises:
        CommandFailed: it did not end with 0.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile('w+', errors='replace') as output:
        with subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process:
            while True:
                try:
                    status = process.wait(1)
                    break
                except subprocess.TimeoutExpired:
                    if sys.stdout.isatty():
                        print(f'\r  {time.monotonic() - started:.0f} s ', end='', flush=True)
        if sys.stdout.isatty():
            print('\r', end='')
        if status != 0:
            output.seek(0)
            tail = ''.join(output.readlines()[-25:])
            raise CommandFailed(f'{tail}\nexit status {status}: {" ".join(command)}')


def requirements(file: str) -> list[str]:
    """Read the lines of a requirements file that carry a requirement."""
    lines = (HERE / file).read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def pip_install(place: Place, *arguments: str) -> None:
    """Install into the virtual environment."""
    pip = [place.python, '-m', 'pip', '--disable-pip-version-check', 'install']
    # Most of the modules are never imported: byte code is made for those that are.
    run([*pip, '--no-compile', *arguments], environment(place))


def distros_numpy(place: Place) -> list[str]:
    """Return the requirement that keeps NumPy's major version as the distro's modules need it."""
    if not place.sourced:
        return []
    query = 'import numpy; print(int(numpy.__version__.split(".")[0]) + 1)'
    above = subprocess.run([PYTHON, '-c', query], capture_output=True, text=True, check=True)
    return [f'numpy<{above.stdout.strip()}']


def make_venv(place: Place) -> None:
    """Make an empty virtual environment, whatever was there."""
    see_distro = ['--system-site-packages'] if place.sourced else []
    run([PYTHON, '-m', 'venv', '--clear', *see_distro, str(place.venv)], environment(place))


def install_packages(place: Place) -> None:
    """Install the run-time and test packages, and ROS where no distro brings it."""
    if not place.sourced:
        files = (PINS.format(place.distro), 'requirements.txt', 'requirements-dev.txt')
        pip_install(place, *(argument for file in files for argument in ('-r', str(HERE / file))))
        return
    wanted = requirements('requirements.txt') + requirements('requirements-dev.txt')
    wanted = [line for line in wanted if re.split('[=;]', line)[0].lower() not in FROM_DISTRO]
    pip_install(place, *distros_numpy(place), *wanted)


def build_interfaces(place: Place) -> None:
    """Build vision_msgs and tf2_msgs to where the wheels' own interfaces lie."""
    venv = place.venv
    site_packages = venv / SITE_PACKAGES
    # The wheels name the interpreter of the machine they were built on.
    replacements = (
        (r'/opt/python/[^/]+/include/python3\.\d+', sysconfig.get_paths()['include']),
        (r'/opt/python/[^/]+/lib/python3\.\d+/site-packages', str(site_packages)),
    )
    for file in venv.glob('share/*/cmake/*.cmake'):
        text = rewritten = file.read_text()
        for pattern, path in replacements:
            rewritten = re.sub(pattern, path.replace('\\', r'\\'), rewritten)
        if rewritten != text:
            file.write_text(rewritten)

    # Copied, because colcon passes by the folder of this file: a robot has these from its distro.
    work = venv / 'interfaces'
    shutil.rmtree(work, ignore_errors=True)
    for package in INTERFACE_PACKAGES:
        shutil.copytree(HERE / package, work / 'src' / package)
    env = environment(place) | {'AMENT_PREFIX_PATH': str(venv), 'CMAKE_PREFIX_PATH': str(venv)}
    colcon = [str(venv / 'bin' / 'colcon'), '--log-base', 'log', 'build', '--base-paths', 'src']
    into = ['--build-base', 'build', '--install-base', str(venv), '--merge-install']
    # Debian's Python would have modules in dist-packages, which a virtual environment never reads.
    options = [
        f'-DPython3_EXECUTABLE={venv / "bin" / "python"}', f'-DPYTHON_INSTALL_DIR={SITE_PACKAGES}',
        '-DBUILD_TESTING=OFF',
    ]
    run([*colcon, *into, '--cmake-args', *options], env, work)
    shutil.rmtree(work)

    check = (
        'import rclpy; from vision_msgs.msg import LabelInfo; from tf2_msgs.msg import TFMessage; '
        'LabelInfo.__class__.__import_type_support__(); '
        'TFMessage.__class__.__import_type_support__()'
    )
    run([place.python, '-c', check], environment(place))


def install_repository(place: Place) -> None:
    """Install this repository so that what is edited is what runs."""
    pip_install(place, '--no-deps', '--no-build-isolation', '--editable', str(ROOT))
    # An editable installation leaves out data_files, by which ament finds a package and its share.
    share = place.venv / 'share'
    for link, target in (
        (f'ament_index/resource_index/packages/{PACKAGE}', f'resource/{PACKAGE}'),
        (f'{PACKAGE}/package.xml', 'package.xml'),
        (f'{PACKAGE}/config', 'config'),
        (f'{PACKAGE}/launch', 'launch'),
        (f'{PACKAGE}/models', f'{PACKAGE}/models'),
    ):
        (share / link).parent.mkdir(parents=True, exist_ok=True)
        (share / link).unlink(missing_ok=True)
        (share / link).symlink_to(ROOT / target)
    (place.venv / SITE_PACKAGES / 'ros_ament_prefix.pth').write_text(AMENT_PREFIX_PTH)


def torch_index() -> tuple[str, str]:
    """Choose where torch is taken from: an index beside pip's own, or '', and why."""
    given = os.environ.get('TORCH_INDEX')
    if given is not None:
        return given, f'TORCH_INDEX says {given!r}'
    if shutil.which('nvidia-smi'):
        return '', "an NVIDIA GPU is here: pip's own index, with CUDA (TORCH_INDEX names another)"
    # A process, because no time-out of a socket ends a look-up of the host's name.
    ask = f'import urllib.request as u; u.urlopen({CPU_TORCH_INDEX + "/torch/"!r}, timeout=5)'
    try:
        subprocess.run([PYTHON, '-c', ask], capture_output=True, check=True, timeout=6)
    except subprocess.SubprocessError:
        why = f'{CPU_TORCH_INDEX} does not answer'
        own = "pip's own index, with CUDA (several GB) where that is PyPI"
        return '', f'{why}: {own}; TORCH_INDEX names another'
    return CPU_TORCH_INDEX, f'for the CPU, from {CPU_TORCH_INDEX} (TORCH_INDEX names another)'


def install_training(place: Place) -> None:
    """Install torch, the exporter's packages and the other runtimes."""
    index, why = torch_index()
    print(f'      torch: {why}', flush=True)
    beside = ['--extra-index-url', index] if index else []
    pip_install(place, *beside, *distros_numpy(place), '-r', str(HERE / 'requirements-train.txt'))


def install_ray(place: Place) -> None:
    """Install what hands work to a cluster."""
    pip_install(place, *distros_numpy(place), '-r', str(HERE / 'requirements-ray.txt'))


def steps_for(place: Place, train: bool, ray: bool = False) -> list[Step]:
    """List the steps in order; each one's hash covers those it rests on."""
    name, version = place.venv.name, f'CPython {platform.python_version()}'
    venv = hash_of([sys.version, str(ROOT), place.distro if place.sourced else None])
    files = [HERE / 'requirements.txt', HERE / 'requirements-dev.txt']
    if not place.sourced:
        files.append(HERE / PINS.format(place.distro))
    packages = hash_of([venv], [Path(__file__).resolve(), *files])
    what = 'run-time and test packages'
    distro = place.distro.title()
    what = f'{what} beside ROS {distro}' if place.sourced else f'ROS 2 {distro}, {what}'
    steps = [
        Step('venv', f'{name}, {version}', venv, lambda: make_venv(place)),
        Step('packages', what, packages, lambda: install_packages(place)),
    ]
    if not place.sourced:
        definitions = [HERE / package for package in INTERFACE_PACKAGES]
        interfaces = hash_of([packages], definitions)
        title = f'building {" and ".join(INTERFACE_PACKAGES)}'
        steps.append(Step('interfaces', title, interfaces, lambda: build_interfaces(place)))
    files = [ROOT / f for f in ('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml')]
    repository = hash_of([packages], [file for file in files if file.is_file()])
    title = 'this repository, editable'
    steps.append(Step('repository', title, repository, lambda: install_repository(place)))
    if train:
        inputs = hash_of([venv], [HERE / 'requirements-train.txt'])
        title = 'torch, onnx, openvino and what else training and all tests need'
        steps.append(Step('train', title, inputs, lambda: install_training(place)))
    if ray:
        inputs = hash_of([venv], [HERE / 'requirements-ray.txt'])
        steps.append(Step('ray', 'Ray, for clusters', inputs, lambda: install_ray(place)))
    return steps


def read_state(place: Place) -> dict[str, str]:
    """Read which steps are done, with the hashes of their inputs, and which was cut short."""
    try:
        state: dict[str, str] = json.loads(place.state.read_text())
    except (OSError, ValueError):
        return {}
    return state


def write_state(place: Place, state: dict[str, str]) -> None:
    """Write the state in one piece."""
    place.venv.mkdir(exist_ok=True)
    new = place.state.with_suffix('.new')
    new.write_text(json.dumps(state, indent=1))
    new.replace(place.state)


def main(arguments: list[str] | None = None) -> int:
    """Set up; 0 when the virtual environment is ready, 1 when it cannot be."""
    parser = argparse.ArgumentParser(description='Make .venv with all that this package needs.')
    parser.add_argument(
        '--train', action='store_true', help='also install what training, export and tests need'
    )
    parser.add_argument('--ray', action='store_true', help='also install Ray, for clusters')
    parser.add_argument(
        '--distro', choices=DISTROS,
        help=f'ROS distro (default: the one that is sourced, or {DEFAULT_DISTRO})',
    )
    options = parser.parse_args(arguments)

    lock = os.open(HERE, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # released when this process ends
    started = time.monotonic()
    place = place_for(options.distro)
    name = place.venv.name
    state = read_state(place)
    begun = {*state, state.get('running')}
    train, ray = options.train or 'train' in begun, options.ray or 'ray' in begun
    steps = steps_for(place, train, ray)
    whole = 'running' not in state and Path(place.python).exists()
    if not whole or state.get('venv') != steps[0].inputs:
        state = {}
    todo = [step for step in steps if state.get(step.name) != step.inputs]
    if not todo:
        print(f'{name} is up to date')
        return 0
    problems = missing(place)
    if problems:
        print('This machine lacks what the set-up needs:', file=sys.stderr)
        for what, _ in problems:
            print(f'  {what}', file=sys.stderr)
        packages = sorted({package for _, package in problems if package})
        if packages:
            print(f'Cure: sudo apt install {" ".join(packages)}', file=sys.stderr)
        return 1

    for number, step in enumerate(todo, 1):
        print(f'[{number}/{len(todo)}] {step.title}', flush=True)
        since = time.monotonic()
        write_state(place, state | {'running': step.name})
        try:
            step.do()
        except CommandFailed as failure:
            # What a command that ended by itself left is whole: the next run takes it from here.
            write_state(place, state)
            print(f'{failure}\n{name} is not ready: "{step.title}" failed.', file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print('\nInterrupted; the next run starts over.', file=sys.stderr)
            return 130
        state[step.name] = step.inputs
        write_state(place, state)
        print(f'      {time.monotonic() - since:.0f} s', flush=True)
    print(f'{name} is ready after {time.monotonic() - started:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
