"""What our TensorRT files call exists, with these arguments, in every supported release."""

from pathlib import Path
import subprocess
import sys

import pytest

pytest.importorskip('mypy', reason='no mypy: run make setup')

from real_api import (
    disagreements,
    ROOT,
    unpack_wheels,
    version_guards,
    write_cuda_stub,
    write_tensorrt_stub,
)

# JetPack 6.0 has 8.6, JetPack 6.1 and 6.2 have 10.3, JetPack 7 has 10.13.
TENSORRT = [
    'tensorrt-bindings==8.6.1',
    'tensorrt-cu12-bindings==10.0.1',
    'tensorrt-cu12-bindings==10.3.0',
    'tensorrt-cu12-bindings==10.13.3.9',
    'tensorrt-cu12-bindings==10.16.1.11',
    'tensorrt-cu12-bindings==11.4.0.106',
]
RTX = 'tensorrt-rtx-cu13-bindings==1.7.1.116'
CUDA = {
    'cuda.cudart': ['cuda-python==12.2.1'],
    'cuda.bindings.runtime': ['cuda-bindings==13.5.0', 'cuda-pathfinder==1.9.0'],
}
NEWEST = TENSORRT[-1]


@pytest.fixture(scope='module')
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mypy's cache, for all releases."""
    return tmp_path_factory.mktemp('mypy')


@pytest.fixture(scope='module')
def newest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bool]]:
    """Stubs of the newest release, and which guards hold there."""
    folder = tmp_path_factory.mktemp('newest')
    wheel = unpack_wheels(folder / 'wheel', NEWEST)
    return folder / 'stubs', write_tensorrt_stub(wheel, folder / 'stubs')


@pytest.fixture(scope='module')
def rtx(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bool]]:
    """Stubs of TensorRT for RTX, and which guards hold there."""
    folder = tmp_path_factory.mktemp('rtx')
    wheel = unpack_wheels(folder / 'wheel', RTX)
    return folder / 'stubs', write_tensorrt_stub(wheel, folder / 'stubs')


@pytest.mark.parametrize('release', [*TENSORRT, RTX])
def test_tensorrt_has_what_we_call(release: str, tmp_path: Path, cache: Path) -> None:
    wheel = unpack_wheels(tmp_path / 'wheel', release)
    guards = write_tensorrt_stub(wheel, tmp_path / 'stubs')
    assert disagreements(tmp_path / 'stubs', cache, guards) == []


@pytest.mark.parametrize('module', CUDA)
def test_cuda_python_has_what_we_call(module: str, tmp_path: Path, cache: Path) -> None:
    wheel = unpack_wheels(tmp_path / 'wheel', *CUDA[module])
    write_cuda_stub(wheel, module, tmp_path / 'stubs')
    assert disagreements(tmp_path / 'stubs', cache, {}) == []
    code = ('from mnv2_perception.engines.tensorrt_api import import_cudart\n'
            'print(import_cudart().__name__)')
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True,
        env={'PYTHONPATH': f'{wheel}:{ROOT}'},
    )
    assert done.stdout.strip() == module


@pytest.mark.parametrize(
    ('right', 'wrong', 'told'),
    [
        ('.create_network(flags)', '.create_netwrok(flags)', 'create_netwrok'),
        ('ignore_mismatch=False', 'ignore=False', 'Unexpected keyword argument "ignore"'),
        ('.build_serialized_network(network, config)', '.build_serialized_network(network)',
         'build_serialized_network'),
        ('trt.DeviceType.DLA', 'trt.DeviceType.NPU', 'NPU'),
        ('config.DLA_core = key.dla', 'config.dla_core = key.dla', 'dla_core'),
        ('if has_flags and not typed:', 'if True:', 'FP16'),  # 11 has no such flag
        ('error.desc()', 'error.text()', 'text'),
        ('phase_name: str, step: int', 'step: int', 'step_complete'),
    ],
)
def test_a_call_that_a_release_lacks_is_found(
    right: str, wrong: str, told: str, newest: tuple[Path, dict[str, bool]], tmp_path: Path,
    cache: Path,
) -> None:
    stubs, guards = newest
    source = (ROOT / 'mnv2_perception/engines/builders.py').read_text(encoding='utf-8')
    assert right in source
    path = tmp_path / 'wrong_builders.py'
    path.write_text(source.replace(right, wrong))
    found = disagreements(stubs, cache, guards, (path,))
    assert any(told in line for line in found)


@pytest.mark.parametrize(
    ('file', 'right', 'wrong', 'told'),
    [
        ('builders.py', '.set_compute_capability(target, index)',
         '.set_compute_capability(target)', 'set_compute_capability'),
        ('builders.py', '.get_engine_validity(blob)', '.get_validity(blob)', 'get_validity'),
        ('tensorrt.py', '.execute_async_v3(', '.execute_async_v4(', 'execute_async_v4'),
    ],
)
def test_a_call_that_tensorrt_for_rtx_lacks_is_found(
    file: str, right: str, wrong: str, told: str, rtx: tuple[Path, dict[str, bool]],
    tmp_path: Path, cache: Path,
) -> None:
    stubs, guards = rtx
    assert guards['has_targets']
    source = (ROOT / 'mnv2_perception/engines' / file).read_text(encoding='utf-8')
    assert right in source
    (tmp_path / f'wrong_{file}').write_text(source.replace(right, wrong))
    found = disagreements(stubs, cache, guards, (tmp_path / f'wrong_{file}',))
    assert any(told in line for line in found)


def test_each_guard_is_a_plain_question_to_the_release() -> None:
    guards = version_guards()
    assert set(guards) == {'has_typing', 'has_flags', 'has_monitor', 'has_targets'}
    assert all(text.startswith('hasattr(trt') for text in guards.values())
