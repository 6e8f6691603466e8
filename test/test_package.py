"""The package as ROS sees it: manifest, parameter files, launch files, the colcon install."""

import ast
from dataclasses import fields
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
from typing import Any

from colcon_workspace import build_workspace, colcon, localhost_domain, own_domain_id, ROOT
import pytest
import yaml

PACKAGE = 'mnv2_perception'
MODEL = 'unet_mobilenetv2_camvid'
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
PARAMETER_FILES = [
    path for path in sorted((ROOT / 'config').glob('*.yaml'))
    if not path.name.startswith(('nav2_', 'diagnostics_', 'camvid'))  # others', and a choice
    and 'ros__parameters' in path.read_text(encoding='utf-8')
]
# What is imported under another name than package.xml's, and what is taken by choice (README).
ROSDEP_KEYS = {
    'cv2': 'python3-opencv', 'numpy': 'python3-numpy', 'onnxruntime': 'python3-onnxruntime-pip',
    'rosbags': 'python3-rosbags-pip', 'lz4': 'python3-rosbags-pip',  # which brings it
    'backports': 'python3-rosbags-pip', 'compression': 'python3-rosbags-pip',  # zstd's
    'tf2_ros': 'tf2_ros_py', 'yaml': 'python3-yaml',
}
BY_CHOICE = {
    'cuda', 'foxglove', 'matplotlib', 'onnx', 'openvino', 'pycocotools', 'ray', 'tensorrt',
    'torch', 'tqdm',
}


@pytest.fixture(scope='module', params=['copied', 'symlinked'])
def workspace(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """Folder and environment of a workspace that colcon built."""
    pytest.importorskip('colcon_core', reason='needs colcon: make setup, or a ROS distro')
    folder = tmp_path_factory.mktemp(request.param)
    options = ['--symlink-install'] if request.param == 'symlinked' else []
    return folder, build_workspace(folder, *options)


@pytest.fixture
def manifest() -> Any:
    """package.xml, parsed and checked by the rules of its format."""
    catkin_pkg = pytest.importorskip(
        'catkin_pkg.package', reason='needs catkin_pkg, which comes with colcon'
    )
    warnings: list[str] = []
    package = catkin_pkg.parse_package(str(ROOT / 'package.xml'), warnings=warnings)
    assert warnings == []
    return package


def run(command: list[str], environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def executable(workspace: tuple[Path, dict[str, str]], name: str) -> str:
    """Return what `ros2 run mnv2_perception NAME` runs."""
    return str(workspace[0] / 'install' / PACKAGE / 'lib' / PACKAGE / name)


# package.xml, CHANGELOG.rst


def test_bloom_can_read_the_changelog(manifest: Any) -> None:
    changelog = pytest.importorskip('catkin_pkg.changelog').get_changelog_from_path(str(ROOT))
    versions = [version for version, _, _ in changelog.foreach_version()]
    assert versions[0] == '0.1.0' and manifest.version in versions
    assert all(date for _, date, _ in changelog.foreach_version())


def test_manifest_names_all_licences(manifest: Any) -> None:
    assert manifest.package_format == 3
    licences = [str(licence) for licence in manifest.licenses]
    assert licences == ['Apache-2.0', 'CC-BY-NC-4.0', 'CC-BY-4.0']
    assert all((ROOT / f'LICENSES/{licence}.txt').is_file() for licence in licences)
    assert manifest.licenses[0].file == 'LICENSE'
    assert (ROOT / 'LICENSE').is_file()


def test_manifest_agrees_with_setup(manifest: Any) -> None:
    asked = ('--name', '--version', '--license', '--url', '--maintainer', '--maintainer-email')
    facts = run([sys.executable, 'setup.py', *asked], dict(os.environ), ROOT).splitlines()
    urls = {url.type: url.url for url in manifest.urls}
    (maintainer,) = manifest.maintainers
    assert facts[-6:] == [
        manifest.name, manifest.version, str(manifest.licenses[0]), urls['repository'],
        maintainer.name, maintainer.email,
    ]
    assert urls['bugtracker'] == f'{urls["repository"]}/issues'
    assert manifest.get_build_type() == 'ament_python'
    newest = re.search(r'^(\d+\.\d+\.\d+)\b', (ROOT / 'CHANGELOG.rst').read_text(), re.MULTILINE)
    assert newest and newest[1] == manifest.version


@pytest.mark.parametrize('distro', ['humble', 'jazzy', 'kilted', 'lyrical'])
def test_rosdep_brings_onnxruntime_where_it_leaves_numpy_alone(
    manifest: Any, distro: str
) -> None:
    # Humble has NumPy 1.21.5, and onnxruntime takes 1.21.6 or newer: pip would replace it.
    manifest.evaluate_conditions({'ROS_DISTRO': distro})
    keys = {item.name for item in manifest.exec_depends if item.evaluated_condition}
    assert ('python3-onnxruntime-pip' in keys) is (distro != 'humble')
    assert {'python3-rosbags-pip', 'tf2_ros_py'} <= keys


def test_manifest_depends_on_all_that_is_imported(manifest: Any) -> None:
    imported: set[str] = set()
    for path in [*(ROOT / PACKAGE).rglob('*.py'), *LAUNCH_FILES]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition('.')[0])
    assert {'rclpy', 'launch_ros', 'cv2'} <= imported
    foreign = imported - sys.stdlib_module_names - BY_CHOICE - {PACKAGE}
    needed = {ROSDEP_KEYS.get(name, name) for name in foreign}
    assert needed <= {dependency.name for dependency in manifest.exec_depends}


# config/ and launch/


@pytest.mark.ros
@pytest.mark.parametrize('path', PARAMETER_FILES, ids=lambda path: path.name)
def test_parameter_file_holds_the_defaults(path: Path) -> None:
    pytest.importorskip('rclpy', reason='needs rclpy: make setup, or source a ROS distro')
    from mnv2_perception.nodes import parameters

    declared = fields(getattr(parameters, f'{path.stem.title().replace("_", "")}Parameters'))
    text = path.read_text(encoding='utf-8')
    # Not of every node: values of costmap_node's file would be those of segmentation_node too.
    node = path.stem if path.stem == 'perception' else f'{path.stem}_node'
    (section, content), = yaml.safe_load(text).items()
    given = content['ros__parameters']
    assert section == f'/**/{node}'
    assert {name: (type(value), value) for name, value in given.items()} == {
        item.name: (type(default), default)
        for item in declared for default in [parameters.ros_default(item)]
    }
    for item in declared:
        meaning = re.escape(item.metadata['meaning'])
        assert re.search(rf'# {meaning}.*(\n +#.*)?\n +{item.name}:', text), item.name


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_uses_only_described_arguments(path: Path) -> None:
    declared, used = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        match node:
            case ast.Call(ast.Name('DeclareLaunchArgument'), [ast.Constant(name)], keywords):
                assert 'description' in {keyword.arg for keyword in keywords}, name
                declared.add(name)
            case ast.Subscript(ast.Name('arguments'), ast.Constant(name)):
                used.add(name)
    assert declared and used
    assert used <= declared


@pytest.mark.parametrize('name', ['Dockerfile', 'Dockerfile.jetson'])
def test_a_container_that_is_stopped_ends_its_nodes_too(name: str) -> None:
    # launch that gets SIGTERM, docker's own, ends and leaves its nodes to be killed.
    assert '\nSTOPSIGNAL SIGINT\n' in (ROOT / name).read_text(encoding='utf-8')


# The install


@pytest.mark.ros
def test_colcon_finds_no_other_package(tmp_path: Path) -> None:
    pytest.importorskip('colcon_core', reason='needs colcon: make setup, or a ROS distro')
    names = ('list', '--names-only', '--base-paths')
    assert colcon(tmp_path, *names, ROOT).split() == [PACKAGE]
    # A robot has vision_msgs from its distro; a second one would hide that.
    assert colcon(tmp_path, *names, ROOT / 'tools').split() == []


@pytest.mark.ros
@pytest.mark.parametrize('workspace', ['copied'], indirect=True)
def test_colcon_test_runs_the_tests(workspace: tuple[Path, dict[str, str]]) -> None:
    folder, _ = workspace
    colcon(folder, 'test', '--pytest-args', 'test/test_model_spec.py')
    summary = colcon(folder, 'test-result')
    counts = re.search(r'Summary: (\d+) tests, 0 errors, 0 failures', summary)
    assert counts and int(counts[1]) > 0, summary


@pytest.mark.ros
def test_installed_files_are_found_from_anywhere(
    workspace: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    pytest.importorskip('ament_index_python', reason='needs a ROS distro, or make setup')
    folder, environment = workspace
    code = (
        'import json, mnv2_perception\n'
        'from ament_index_python.packages import get_package_share_directory\n'
        'from mnv2_perception.tasks.models import find_model, find_shared_file\n'
        f'share = get_package_share_directory({PACKAGE!r})\n'
        f'found = [share, mnv2_perception.__file__, find_model({MODEL!r}),\n'
        "         find_shared_file('config/fastdds.xml')]\n"
        'print(json.dumps([str(path) for path in found]))\n'
    )
    found = json.loads(run([sys.executable, '-c', code], environment, tmp_path))
    assert all(folder in Path(path).parents for path in found)
    assert Path(found[0]) == folder / 'install' / PACKAGE / 'share' / PACKAGE
    folders = ('launch/*.launch.py', 'config/*', 'config/rviz/*', 'config/foxglove/*')
    for shared in (*folders, f'{PACKAGE}/models/*'):
        names = {path.name for path in ROOT.glob(shared) if path.is_file()}
        assert names, shared
        installed = Path(found[0], shared.removeprefix(f'{PACKAGE}/')).parent
        assert {path.name for path in installed.iterdir() if path.is_file()} == names


@pytest.mark.ros
def test_installed_commands_tell_their_use(
    workspace: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    pytest.importorskip('rclpy', reason='needs rclpy: make setup, or source a ROS distro')
    usage = run([executable(workspace, 'mnv2'), '--help'], workspace[1], tmp_path)
    assert usage.startswith(f'usage: ros2 run {PACKAGE} mnv2 ')
    for name, option in (('bag_player_node', '--rate'), ('bag_recorder_node', '--storage')):
        assert option in run([executable(workspace, name), '--help'], workspace[1], tmp_path)


@pytest.mark.ros
def test_installed_command_opens_the_shipped_model(
    workspace: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    command = [executable(workspace, 'mnv2'), 'info', MODEL, '--json']
    facts = json.loads(run(command, workspace[1], tmp_path))
    assert (facts['name'], facts['task']) == (MODEL, 'segmentation')
    assert workspace[0] in Path(facts['file']).parents


@pytest.mark.ros
def test_installed_node_takes_its_parameter_file(
    workspace: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    pytest.importorskip('rclpy', reason='needs rclpy: make setup, or source a ROS distro')
    folder, environment = workspace
    params_file = folder / 'install' / PACKAGE / 'share' / PACKAGE / 'config/segmentation.yaml'
    command = [executable(workspace, 'segmentation_node'), '--ros-args', '--params-file']
    with subprocess.Popen(
        [*command, str(params_file)], env={**environment, **localhost_domain(own_domain_id())},
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.endswith(': active\n'):
                process.send_signal(signal.SIGINT)
        assert process.wait() == 0, lines
    assert any(line.endswith(': active\n') for line in lines), lines
