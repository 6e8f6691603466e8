"""One folder, one heavy dependency: every import of every module, functions' and relative too."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
import importlib.util
from pathlib import Path
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = 'mnv2_perception'

RUNTIMES = {
    'onnx_runtime': {'onnxruntime'}, 'openvino': {'openvino'}, 'tensorrt': {'tensorrt', 'cuda'},
    'torch': {'torch'},
}
ROS = {
    'rclpy', 'cv_bridge', 'tf2_ros', 'ament_index_python', 'builtin_interfaces',
    'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs', 'nav_msgs', 'rcl_interfaces',
    'rosgraph_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs', 'vision_msgs',
}
HEAVY = {'torch', 'onnx', *(root for roots in RUNTIMES.values() for root in roots)}


@dataclass(frozen=True)
class Rule:
    """What a folder or module may import besides the standard library, numpy, cv2 and errors."""

    third_party: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()  # first part below the package, as `vision`
    lazy: bool = False  # third-party roots only inside functions


def rule(third_party: str = '', own: str = '', lazy: bool = False) -> Rule:
    return Rule(frozenset(third_party.split()), frozenset(own.split()), lazy)


NODES = rule(' '.join({*ROS, 'yaml'}), 'nodes tasks vision model_spec')
BAG_NODES = Rule(NODES.third_party, NODES.own | {'bags'})
MEASURING = 'data evaluation scenes tasks bags vision engines model_spec'
ALL = f'{MEASURING} replay report training demo cli'

# The longest matching path counts.
RULES = {
    '': rule('yaml'),
    'vision': rule(own='vision'),
    'engines': rule('yaml', 'engines'),
    **{f'engines.{name}': Rule(frozenset(roots), frozenset({'engines'}), lazy=True)
       for name, roots in RUNTIMES.items()},
    'engines.openvino_passes': rule('openvino', 'engines', lazy=True),
    'engines.tensorrt_api': rule('tensorrt cuda', 'engines', lazy=True),
    'engines.graph': rule('onnx', 'engines', lazy=True),
    'engines.build': rule(own='engines model_spec'),
    'engines.verified': rule('yaml', 'engines model_spec'),
    'engines.builders': rule('tensorrt', 'engines', lazy=True),
    'engines.quantize': rule('onnx onnxruntime', 'engines model_spec', lazy=True),
    'nets': rule('torch onnx', 'nets model_spec'),
    'bags': rule('rosbags backports compression lz4 yaml', 'bags vision'),
    'tasks': rule(own='tasks engines vision model_spec'),
    'data': rule(own=MEASURING),
    'evaluation': rule(own=MEASURING),
    'evaluation.metrics': rule('pycocotools', 'data', lazy=True),
    'report': rule(own=f'report {MEASURING}'),
    'scenes': rule('rosbags', MEASURING),
    'replay': rule(own='replay tasks bags data vision engines model_spec'),
    **{f'replay.{name}': rule('ray', 'replay tasks bags data vision engines model_spec', lazy=True)
       for name in ('fleet', 'fleet_worker')},
    'training': rule(
        'torch tqdm matplotlib',
        'training nets vision data model_spec evaluation scenes',
    ),
    'training.fetch': rule(),
    'demo': rule(own=ALL),
    'cli': rule('yaml', f'{ALL} nets'),
    'nodes': NODES,
    'nodes.bag_player_node': BAG_NODES,
    'nodes.bag_recorder_node': BAG_NODES,
    'nodes.bag_publisher': BAG_NODES,
    'nodes.bag_topics': BAG_NODES,
    'nodes.bag_arguments': BAG_NODES,
    'nodes.foxglove_bridge': BAG_NODES,
    'nodes.foxglove_server': rule('foxglove', 'nodes bags', lazy=True),
}  # fmt: skip


class Import(NamedTuple):
    """An import of a module; `lazy` inside a function, or for types only."""

    target: str
    line: int
    lazy: bool


def modules(root: Path) -> dict[str, Path]:
    """Return the name below the package ('' for itself) and the file of every module."""
    found = {}
    for path in sorted((root / PACKAGE).rglob('*.py')):
        parts = path.relative_to(root / PACKAGE).with_suffix('').parts
        found['.'.join(part for part in parts if part != '__init__')] = path
    return found


def imports(name: str, path: Path) -> Iterator[Import]:
    """Go through the imports of a module, with absolute targets."""
    package = [PACKAGE, *name.split('.')] if name else [PACKAGE]
    if path.name != '__init__.py':
        package.pop()

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, lazy)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                target = '.'.join([*base, *([child.module] if child.module else [])])
                for alias in child.names:
                    yield Import(f'{target}.{alias.name}', child.lineno, lazy)
            match child:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                    inside = True
                case ast.If(test=ast.Name('TYPE_CHECKING')):  # nothing is loaded
                    inside = True
                case _:
                    inside = False
            yield from walk(child, lazy or inside)

    yield from walk(ast.parse(path.read_text(encoding='utf-8')), False)


def rule_of(name: str) -> Rule:
    parts = name.split('.')
    for count in range(len(parts), 0, -1):
        if '.'.join(parts[:count]) in RULES:
            return RULES['.'.join(parts[:count])]
    return RULES['']


def violations(root: Path) -> list[str]:
    """Return what is imported against the rules, as `file:line: reason`."""
    found = []
    for name, path in modules(root).items():
        allowed = rule_of(name)
        for target, line, lazy in imports(name, path):
            first, *rest = target.split('.')
            reason = ''
            if first == PACKAGE:
                own = rest[0] if rest else ''
                if own and own not in allowed.own | {'errors'}:
                    reason = f'imports {own}'
                elif own in ('nets', 'training') and name.startswith('cli') and not lazy:
                    reason = f'imports {own} before a command needs it'
            elif first not in sys.stdlib_module_names | {'numpy', 'cv2'}:
                if first not in allowed.third_party:
                    reason = f'imports {first}'
                elif allowed.lazy and not lazy:
                    reason = f'imports {first} before it is needed'
            if reason:
                found.append(f'{path.relative_to(root)}:{line}: {reason}')
    return found


def circles(root: Path) -> list[str]:
    """Return the circles in which modules import each other, lazily too, as `a → b → a`."""
    files = modules(root)
    graph = {
        name: {
            '.'.join(parts[:count])
            for target, _, _ in imports(name, path) if target.startswith(f'{PACKAGE}.')
            for parts in [target.split('.')[1:]]
            for count in (len(parts), len(parts) - 1)
            if '.'.join(parts[:count]) in files and count
        } - {name}
        for name, path in files.items()
    }
    found, done = [], set()

    def walk(name: str, way: list[str]) -> None:
        if name in way:
            found.append(' → '.join([*way[way.index(name):], name]))
        elif name not in done:
            for target in sorted(graph[name]):
                walk(target, [*way, name])
            done.add(name)

    for name in files:
        walk(name, [])
    return found


def reachable(root: Path, start: str) -> set[str]:
    """Return the third-party roots that importing a module loads, its functions' included."""
    files = modules(root)
    seen, roots, pending = set(), set(), [start]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        for target, _, lazy in imports(name, files[name]):
            first, *rest = target.split('.')
            if first != PACKAGE:
                # Runtimes are imported by the engine that is opened, and by no other.
                if not (lazy and name.startswith('engines.')):
                    roots.add(first)
                continue
            pending += [
                '.'.join(rest[:count])
                for count in range(len(rest) + 1) if '.'.join(rest[:count]) in files
            ]
    return roots


def test_every_import_keeps_to_its_folders_rule() -> None:
    assert len(modules(ROOT)) > 25
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ('module', 'code', 'reason'),
    [
        ('vision/decode.py', 'import torch', 'imports torch'),
        ('vision/decode.py', 'def f():\n    import rclpy.node', 'imports rclpy'),
        ('vision/decode.py', 'from ..nets import unet', 'imports nets'),
        ('vision/deep/er.py', 'from ...engines.base import Engine', 'imports engines'),
        ('engines/onnx_runtime.py', 'import onnxruntime', 'before it is needed'),
        ('engines/fake.py', 'def f():\n    import onnxruntime', 'imports onnxruntime'),
        ('engines/base.py', 'from mnv2_perception.vision import decode', 'imports vision'),
        ('nodes/segmentation_node.py', 'from mnv2_perception import engines', 'imports engines'),
        ('nodes/segmentation_node.py', 'from ..bags.read import BagReader', 'imports bags'),
        ('tasks/models.py', 'try:\n    import torch\nexcept ImportError:\n    0', 'imports torch'),
        ('tasks/pipeline.py', 'class A:\n    def f(self):\n        import rclpy', 'imports rclpy'),
        ('cli/main.py', 'from mnv2_perception.training.data import augment', 'before a command'),
        ('bags/read.py', 'import mnv2_perception.nodes.messages', 'imports nodes'),
        ('training/data.py', 'from onnxruntime import *', 'imports onnxruntime'),
        ('data/folders.py', 'import pandas', 'imports pandas'),
    ],
)
def test_a_violation_is_caught(tmp_path: Path, module: str, code: str, reason: str) -> None:
    path = tmp_path / PACKAGE / module
    path.parent.mkdir(parents=True)
    path.write_text(f'import json\nimport numpy as np\nfrom {PACKAGE}.errors import BagError\n')
    assert violations(tmp_path) == []
    with path.open('a') as file:
        file.write(code)
    found = violations(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f'{PACKAGE}/{module}:') and reason in found[0]


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circles(ROOT) == []


def test_a_circle_is_caught(tmp_path: Path) -> None:
    for module, code in {
        '__init__.py': '', 'a.py': 'def f():\n    from mnv2_perception import b',
        'b.py': 'from .c import C', 'c.py': 'from mnv2_perception.a import A',
    }.items():
        path = tmp_path / PACKAGE / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    assert circles(tmp_path) == ['a → b → c → a']


def test_the_root_holds_what_everything_shares() -> None:
    root = {path.name for path in (ROOT / PACKAGE).glob('*.py')}
    assert root == {'__init__.py', 'errors.py', 'model_spec.py'}


def test_files_stay_short() -> None:
    lengths = {
        name: len(path.read_text(encoding='utf-8').splitlines())
        for name, path in modules(ROOT).items()
    }
    limits = {
        name: 220 if name.startswith('nodes.') and name.endswith('_node') else 400
        for name in lengths
    }
    assert {name: length for name, length in lengths.items() if length > limits[name]} == {}


@pytest.mark.parametrize('name', [name for name in modules(ROOT) if name.startswith('nodes.')])
def test_no_node_reaches_torch_or_a_runtime(name: str) -> None:
    assert reachable(ROOT, name) & HEAVY == set()


def test_reaching_torch_by_detours_is_seen(tmp_path: Path) -> None:
    for module, code in {
        '__init__.py': '', 'nodes/__init__.py': '', 'nodes/a.py': 'from ..tasks import pipeline',
        'tasks/__init__.py': '',
        'tasks/pipeline.py': 'def f():\n    from mnv2_perception.nets.unet import UNet',
        'nets/__init__.py': '', 'nets/unet.py': 'import torch.nn',
    }.items():
        path = tmp_path / PACKAGE / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    assert 'torch' in reachable(tmp_path, 'nodes.a')


def loaded(code: str) -> set[str]:
    """Run code in a process of its own and return which heavy packages it loaded."""
    end = f'\nimport sys\nprint(*(set({sorted(HEAVY)!r}) & sys.modules.keys()))'
    result = subprocess.run(
        [sys.executable, '-c', code + end],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )
    return set(result.stdout.splitlines()[-1].split())


def test_the_walk_agrees_with_what_a_process_loads() -> None:
    assert loaded('import mnv2_perception.engines, mnv2_perception.tasks.models') == set()
    if importlib.util.find_spec('onnx'):
        assert loaded('import onnx') == {'onnx'}


@pytest.mark.ros
def test_a_node_process_loads_neither_torch_nor_a_runtime() -> None:
    pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
    tasks = ('segmentation', 'classification', 'detection', 'costmap', 'detection3d')
    assert loaded('\n'.join(f'import mnv2_perception.nodes.{t}_node' for t in tasks)) == set()


def test_a_command_that_needs_no_torch_loads_none() -> None:
    code = (
        'from mnv2_perception.cli import main as cli\n'
        "cli.main(['info', 'unet_mobilenetv2_camvid', '--json'])"
    )
    assert 'torch' not in loaded(code)
