"""Building plans: built once, kept whole, for exactly one file, version and GPU."""

from collections.abc import Iterator
import json
import logging
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any

from identity_network import identity_spec, write_onnx
import pytest
import yaml

onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')

from pretend_gpu import GPU, install, TensorRT, VERSION
from slow_builder import PLAN, SlowBuilder

from mnv2_perception.cli import main as cli
from mnv2_perception.engines import plans
from mnv2_perception.engines.build import build_plan, Options, Progress
from mnv2_perception.engines.builders import TensorRTBuilder
from mnv2_perception.engines.graph import precision_of
from mnv2_perception.errors import EngineError, ModelError
from mnv2_perception.model_spec import ModelSpec

HERE = Path(__file__).parent
HEIGHT, WIDTH = 5, 7


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_onnx(tmp_path / 'identity.onnx', identity_spec(HEIGHT, WIDTH))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / 'plans'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / 'built'


def start(model: Path, folder: Path, log: Path, seconds: float) -> 'subprocess.Popen[str]':
    """Build in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(HERE / 'slow_builder.py'), str(model), str(folder), str(log),
         str(seconds)],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': str(HERE.parents[1])},
    )


def wait_for(path: Path) -> None:
    end_s = time.monotonic() + 30.0
    while not path.exists():
        assert time.monotonic() < end_s, f'{path} never came'
        time.sleep(0.01)


def change(model: Path, **changes: Any) -> None:
    """Give an ONNX file an open first side, half weights, a Q/DQ node, or no metadata."""
    proto = onnx.load(str(model))
    if changes.get('open_batch'):
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = 'n'
    if changes.get('open_size'):
        proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = 'h'
    if changes.get('half'):
        proto.graph.initializer.append(
            onnx.helper.make_tensor('w', onnx.TensorProto.FLOAT16, [], [1.0])
        )
    if changes.get('quantised'):
        for tensor in (
            onnx.helper.make_tensor('x', onnx.TensorProto.FLOAT, [], [1.0]),
            onnx.helper.make_tensor('zero', onnx.TensorProto.INT8, [], [0]),
        ):
            proto.graph.initializer.append(tensor)
        proto.graph.node.append(
            onnx.helper.make_node('QuantizeLinear', ['x', 'x', 'zero'], ['q'])
        )
    if changes.get('bare'):
        del proto.metadata_props[:]
    onnx.save(proto, str(model))


# What is kept


def test_a_plan_is_built_once_and_says_what_it_is(model: Path, folder: Path, log: Path) -> None:
    for _ in range(2):
        plan = build_plan(model, Options(), folder, SlowBuilder(log))
        assert plan.blob == PLAN
    assert log.read_text() == 'fp16\n'
    path = folder / plan.key.file_name(model)
    assert path.read_bytes() == PLAN and path.name.startswith('identity-fp16-')
    facts = json.loads(path.with_suffix('.json').read_text())
    assert facts['key'] == {
        'onnx_sha256': plans.sha256(model), 'tensorrt': '10.3.0', 'gpu': 'Test 8.7 (8 SMs)',
        'precision': 'fp16', 'shapes': ['image 1x5x7x3'], 'dla': None, 'builder': plans.BUILDER,
    }
    assert facts['metadata'] == facts['spec'] == identity_spec(HEIGHT, WIDTH).to_metadata()
    assert sorted(file.suffix for file in folder.iterdir()) == ['.json', '.lock', '.plan']


def test_all_that_matters_makes_another_plan(model: Path, folder: Path, log: Path) -> None:
    build_plan(model, Options(), folder, SlowBuilder(log))
    build_plan(model, Options('fp32'), folder, SlowBuilder(log))
    build_plan(model, Options(dla=0), folder, SlowBuilder(log))
    build_plan(model, Options(), folder, SlowBuilder(log, tensorrt='10.13.3'))
    change(model, half=True)
    build_plan(model, Options(), folder, SlowBuilder(log))
    assert log.read_text().split() == ['fp16', 'fp32', 'fp16', 'fp16', 'fp16']
    assert len(list(folder.glob('*.plan'))) == 5


def test_the_spec_beside_a_foreign_file_travels_with_the_plan(
    model: Path, folder: Path, log: Path
) -> None:
    change(model, bare=True)
    with pytest.raises(ModelError, match='write these facts to'):
        build_plan(model, Options(), folder, SlowBuilder(log))
    values = {'name': 'mine', 'task': 'segmentation', 'height': HEIGHT, 'width': WIDTH,
              'classes': ['road'], 'mean': [0, 0, 0], 'std': [1, 1, 1], 'fit': 'letterbox',
              'pad': 99}
    model.with_suffix('.yaml').write_text(yaml.safe_dump(values))
    plan = build_plan(model, Options(), folder, SlowBuilder(log))
    assert plan.metadata == {}
    spec = ModelSpec.from_metadata(plan.spec, model)
    assert (spec.name, spec.fit, spec.pad) == ('mine', 'letterbox', (99, 99, 99))


# What goes wrong


def test_a_killed_build_leaves_nothing_that_is_taken_for_a_plan(
    model: Path, folder: Path, log: Path
) -> None:
    with start(model, folder, log, 60.0) as process:
        wait_for(log)
        process.send_signal(signal.SIGKILL)
    assert list(folder.glob('*.plan')) == list(folder.glob('*.json')) == []
    begin_s = time.monotonic()
    build_plan(model, Options(), folder, SlowBuilder(log))
    assert time.monotonic() - begin_s < 5.0  # the lock died with the process
    assert log.read_text() == 'fp16\nfp16\n'


def test_of_two_builds_at_once_one_builds_and_one_waits(
    model: Path, folder: Path, log: Path
) -> None:
    with start(model, folder, log, 1.0) as first, start(model, folder, log, 1.0) as second:
        results = [process.communicate()[0] for process in (first, second)]
        assert first.returncode == second.returncode == 0
    assert log.read_text() == 'fp16\n'
    assert results[0] == results[1] and Path(results[0].strip()).read_bytes() == PLAN


@pytest.mark.parametrize('damage', ['cut', 'no JSON', 'broken JSON', 'empty JSON', 'foreign'])
def test_a_plan_that_cannot_be_used_is_built_again(
    damage: str, model: Path, folder: Path, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = build_plan(model, Options(), folder, SlowBuilder(log))
    path = folder / plan.key.file_name(model)
    beside = path.with_suffix('.json')
    if damage == 'cut':
        path.write_bytes(PLAN[:-1])
    elif damage == 'no JSON':  # killed between the two
        beside.unlink()
    elif damage == 'foreign':
        plans.write_plan(path, plans.Plan(plan.key, {}, {}, plan.built, b'nonsense'))
    else:
        beside.write_text('{}' if damage == 'empty JSON' else '{"key"')
    again = build_plan(model, Options(), folder, SlowBuilder(log))
    assert again.blob == PLAN == path.read_bytes()
    assert log.read_text() == 'fp16\nfp16\n'
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and 'building it again' in caplog.text
    assert plans.read_plan(path).blob == PLAN


def test_a_half_written_file_of_a_killed_process_is_overwritten(
    model: Path, folder: Path, log: Path
) -> None:
    plan = build_plan(model, Options(), folder, SlowBuilder(log))
    path = folder / plan.key.file_name(model)
    path.unlink()
    (folder / f'{path.name}.partial').write_bytes(b'half a ')
    build_plan(model, Options(), folder, SlowBuilder(log))
    assert path.read_bytes() == PLAN and not list(folder.glob('*.partial'))


@pytest.fixture
def full_folder(model: Path, tmp_path: Path, log: Path) -> Path:
    """A folder on which the plan's own file finds no space."""
    if not Path('/dev/full').exists():
        pytest.skip('needs /dev/full, which Linux has')
    elsewhere = build_plan(model, Options(), tmp_path / 'elsewhere', SlowBuilder(log))
    folder = tmp_path / 'full'
    folder.mkdir()
    (folder / f'{elsewhere.key.file_name(model)}.partial').symlink_to('/dev/full')
    return folder


@pytest.fixture
def unwritable_folder(tmp_path: Path) -> Path:
    """A folder that cannot be made; root writes to those that are only read-only."""
    (tmp_path / 'file').touch()
    return tmp_path / 'file/plans'


@pytest.mark.parametrize(
    ('where', 'told'),
    [('full_folder', 'built, but could not be stored .*No space left'),
     ('unwritable_folder', 'cannot be stored there .*Not a directory')],
)
def test_a_folder_that_takes_no_plan_is_told(
    where: str, told: str, model: Path, log: Path, request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = request.getfixturevalue(where)
    with pytest.raises(EngineError, match=f'^{folder}: .*{told}.*--cache$'):
        build_plan(model, Options(), folder, SlowBuilder(log))
    if where == 'full_folder':
        assert not list(folder.glob('*.plan')) and not list(folder.glob('*.partial'))
        partial = next((folder.parent / 'elsewhere').glob('*.plan')).name + '.partial'
        (folder / partial).symlink_to('/dev/full')
    caplog.clear()
    # A node goes on with the plan that it built.
    plan = build_plan(model, Options(), folder, SlowBuilder(log), keep=False)
    assert plan.blob == PLAN
    assert [record.levelname for record in caplog.records if record.levelno > 20] == ['WARNING']
    assert 'only this process uses the plan' in caplog.text


# What fits the file


@pytest.mark.parametrize(
    ('file', 'options', 'expected'),
    [
        ({}, Options(), 'fp16'),
        ({}, Options('fp32'), 'fp32'),
        ({'half': True}, Options(), 'fp16'),
        ({'quantised': True}, Options(), 'int8'),
        ({'quantised': True}, Options('int8'), 'int8'),
        ({}, Options(dla=1), 'fp16'),
    ],
)
def test_the_precision_is_what_the_file_holds_or_fp16(
    file: dict[str, bool], options: Options, expected: str, model: Path, folder: Path, log: Path
) -> None:
    change(model, **file)
    plan = build_plan(model, options, folder, SlowBuilder(log))
    assert (plan.key.precision, plan.key.dla) == (expected, options.dla)


@pytest.mark.parametrize(
    ('file', 'options', 'told'),
    [
        ({}, Options('int8'), r'float weights.*mnv2 quantize .*identity\.onnx$'),
        ({}, Options('fp64'), "'fp64', expected one of"),
        ({'quantised': True}, Options('fp16'), 'is int8, but fp16 was requested'),
        ({'half': True}, Options('fp32'), 'is fp16, but fp32 was requested'),
        ({'quantised': True}, Options(dla=0), 'the DLA refuses Q/DQ nodes'),
        ({}, Options('fp32', dla=0), 'the DLA computes in fp16'),
        ({}, Options(batch=4), 'takes image 1x5x7x3, but a batch of 4 images'),
        ({'open_size': True}, Options(), 'takes image 1xanyx7x3; export it with a fixed height'),
    ],
)
def test_what_a_file_cannot_become_is_refused_with_the_cure(
    file: dict[str, bool], options: Options, told: str, model: Path, folder: Path, log: Path
) -> None:
    change(model, **file)
    with pytest.raises((EngineError, ModelError), match=told):
        build_plan(model, options, folder, SlowBuilder(log))
    assert not log.exists()


def test_an_open_first_side_takes_the_batch(model: Path, folder: Path, log: Path) -> None:
    change(model, open_batch=True)
    for batch in (1, 4):
        plan = build_plan(model, Options(batch=batch), folder, SlowBuilder(log))
        assert plan.key.shapes == (f'image {batch}x5x7x3',)
    assert plans.build_command(model, plan.key).endswith('--precision fp16 --batch 4')


# Progress


def test_a_build_says_again_and_again_what_it_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress('unet', period_s=0.02) as progress:
        progress.step = ', Timing 1 of 4'
        deadline_s = time.monotonic() + 20.0
        while len(caplog.records) < 6 and time.monotonic() < deadline_s:
            time.sleep(0.02)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith('unet: building')
    assert re.fullmatch(r'unet: built in \d+ s.*', lines[-1])
    # On a busy machine the first of them may come before there was a step.
    assert len(lines) > 5
    assert all(
        re.fullmatch(r'unet: building for \d+ s, Timing 1 of 4', line) for line in lines[2:-1]
    )


# TensorRT itself, pretended


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRT:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return install(monkeypatch)


@pytest.mark.parametrize(
    ('version', 'options', 'network', 'flags'),
    [
        ('8.6.1', Options('fp32'), 1 << 0, []),
        ('8.6.1', Options('fp16'), 1 << 0, ['fp16']),
        ('10.3.0', Options('fp32'), 1 << 1, []),
        ('10.3.0', Options('fp16'), 1 << 1, []),
        ('11.4.0', Options('fp16'), 1 << 1, []),
        ('8.6.1', Options(dla=1), 1 << 0, ['fp16', 'gpu_fallback']),
        ('10.3.0', Options(dla=1), 0, ['fp16', 'gpu_fallback']),
        ('11.4.0', Options(dla=1), 1 << 1, ['gpu_fallback']),
    ],
)
def test_each_release_gets_its_precision_its_own_way(
    version: str, options: Options, network: int, flags: list[str], model: Path, folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trt = install(monkeypatch, version)
    build_plan(model, options, folder, TensorRTBuilder(model, folder))
    assert trt.networks[-1].flags == network
    assert trt.configs[-1].flags == flags
    if options.dla is not None:
        assert (trt.configs[-1].default_device_type, trt.configs[-1].DLA_core) == ('dla', 1)


@pytest.mark.parametrize('precision', ['fp16', 'fp32'])
def test_strong_typing_gets_the_precision_in_the_weights(
    precision: str, folder: Path, trt: TensorRT
) -> None:
    from mnv2_perception.tasks.models import find_model

    model = find_model('unet_mobilenetv2_camvid')
    build_plan(model, Options(precision), folder, TensorRTBuilder(model, folder))
    assert precision_of(onnx.ModelProto.FromString(trt.networks[-1].content)) == precision


def test_a_later_build_starts_from_the_timings_of_the_first(
    model: Path, folder: Path, trt: TensorRT
) -> None:
    for precision in ('fp16', 'fp32'):
        build_plan(model, Options(precision), folder, TensorRTBuilder(model, folder))
    timings = folder / 'timing-10.3.0-Pretended-8.7-16-SMs-.cache'
    assert timings.read_bytes() == b'timings timings '


@pytest.mark.parametrize(
    ('refuse', 'options', 'told'),
    [
        ('parse', Options(), 'TensorRT cannot read it: unknown operator'),
        ('build', Options(), 'cannot be built: no kernel for this GPU'),
        ('', Options(dla=2), r'DLA core 2 was requested, but Pretended.* has 2 .*leave out --dla'),
    ],
)
def test_a_refusal_is_told_with_its_reason(
    refuse: str, options: Options, told: str, model: Path, folder: Path, trt: TensorRT
) -> None:
    trt.refuse = refuse
    with pytest.raises(EngineError, match=told):
        build_plan(model, options, folder, TensorRTBuilder(model, folder))
    assert not list(folder.glob('*.plan'))


# mnv2 build


@pytest.fixture
def keep_sigint() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures('keep_sigint')
def test_the_command_prints_the_path_that_the_engine_then_opens(
    model: Path, trt: TensorRT, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(['build', str(model)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == plans.cache_folder()
    assert plans.choose_plan(model, plans.cache_folder(), VERSION, GPU)[0] == path
    assert cli.main(['info', str(model), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['name'] == 'identity'


@pytest.mark.usefixtures('keep_sigint')
def test_the_command_names_all_that_is_missing_and_where_to_get_it(
    model: Path, trt: TensorRT, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ('tensorrt', 'onnx'):
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(['build', str(model)]) == 1
    err = capsys.readouterr().err
    assert 'import of tensorrt halted' in err and 'import of onnx halted' in err
    assert 'pip install onnx "cuda-python<13"' in err
    assert 'pip install tensorrt cuda-python onnx' in err


@pytest.mark.usefixtures('keep_sigint')
def test_the_command_takes_its_options(
    model: Path, folder: Path, trt: TensorRT, capsys: pytest.CaptureFixture[str]
) -> None:
    change(model, open_batch=True)
    timings = folder.parent / 'timings'
    args = ['--precision', 'fp16', '--dla', '1', '--batch', '2', '--cache', str(folder),
            '--timing-cache', str(timings)]
    assert cli.main(['build', str(model), *args]) == 0
    plan = plans.read_plan(Path(capsys.readouterr().out.strip()))
    assert (plan.key.precision, plan.key.dla, plan.key.batch) == ('fp16', 1, 2)
    assert timings.exists() and list(folder.glob('*.plan'))


@pytest.mark.usefixtures('keep_sigint')
@pytest.mark.parametrize(
    ('args', 'told'),
    [(['--precision', 'int8'], 'mnv2 quantize'), (['--dla', '7'], 'leave out --dla')],
)
def test_the_command_s_error_is_one_line(
    args: list[str], told: str, model: Path, trt: TensorRT, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(['build', str(model), *args]) == 1
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('error: ') and err.count('\n') == 1 and told in err
