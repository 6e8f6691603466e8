"""The int8 file beside a model: when `precision: auto` takes it, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
import logging
import os
from pathlib import Path
import shutil
import threading

import cv2
import numpy as np
from numpy.typing import NDArray
from onnx_graphs import write_convolutions
import pytest
from test_documentation import commands

onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
openvino = pytest.importorskip('openvino', reason='no openvino: run make setup-train')

from mnv2_perception.cli.main import main
from mnv2_perception.engines import Engine, open_engine, plans
from mnv2_perception.engines import openvino as module
from mnv2_perception.engines.plans import sha256
from mnv2_perception.engines.quantize import quantize_model
from mnv2_perception.engines.verified import (
    int8_beside,
    MOST_LOST,
    read_verified,
    Verified,
    write_verified,
)
from mnv2_perception.errors import EngineError, ModelError
from mnv2_perception.evaluation.evaluate import evaluate_model
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.models import find_model, opening, shared_folders
from mnv2_perception.tasks.segmenter import Segmenter
from mnv2_perception.vision.detections import box_iou

pytestmark = pytest.mark.train
HAS_BF16 = 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason='this CPU does not compute in bf16')
VNNI = ['FP32', 'VNNI']
LIKE_FP32 = Verified('miou', fp32=0.7, value=0.7, images=9, data='val', speed=3.0)
SHIPPED = sorted(
    path for folder in shared_folders('models')[:1] for path in folder.glob('*_int8.onnx')
)
Cpu = Callable[[list[str]], None]


def image(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, 16, 24, 3), np.uint8)


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = write_convolutions(tmp_path_factory.mktemp('made') / 'model.onnx')
    quantize_model(model, int8_beside(model), [image(0)], small=True)
    return model


@pytest.fixture
def model(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that was verified in int8, its int8 file beside it, and an empty cache folder."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    path = tmp_path / 'model.onnx'
    shutil.copy(int8_beside(made), int8_beside(path))
    write_verified(made, path, {'int8': replace(LIKE_FP32, sha256=sha256(int8_beside(path)))})
    return path


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Cpu:
    """Pretend a CPU that computes in these by itself."""

    def pretend(capabilities: list[str]) -> None:
        monkeypatch.setattr(module.OpenVINOEngine, '_capabilities', lambda _: capabilities)

    pretend(VNNI)
    return pretend


def outputs(engine: Engine) -> list[NDArray[np.uint8]]:
    return list(engine.infer({'image': image(1)}).values())


@pytest.mark.usefixtures('cpu')
@pytest.mark.parametrize('engine', ['openvino', 'auto'])
@pytest.mark.parametrize('precision', ['auto', 'int8'])
def test_the_verified_int8_file_beside_a_model_is_taken_and_told(
    engine: str, precision: str, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), open_engine(model, engine, precision=precision) as opened:
        assert (opened.name, opened.precision) == ('openvino', 'int8')
        assert opened.model == 'model_int8.onnx'  # what /diagnostics names
        # It is the same model: its names are those that masks and parameters go by.
        assert ModelSpec.from_metadata(opened.metadata, model).name == 'convolutions'
        with open_engine(int8_beside(model), 'openvino', precision='fp32') as expected:
            for one, other in zip(outputs(opened), outputs(expected), strict=True):
                np.testing.assert_array_equal(one, other)
    told = 'model_int8.onnx: runs in int8: miou 0.7000, in fp32 0.7000, on 9 images of val, × 3.0'
    assert (told in caplog.text) == (precision == 'auto')


@pytest.mark.parametrize(
    ('found', 'capabilities'),
    [
        (LIKE_FP32, ['FP32', 'INT8']),  # OpenVINO says so of every CPU
        (replace(LIKE_FP32, value=0.7 - MOST_LOST - 1e-6), VNNI),
        (replace(LIKE_FP32, value=float('nan')), VNNI),
    ],
)
def test_auto_takes_fp32_without_vnni_and_where_too_much_would_be_lost(
    found: Verified, capabilities: list[str], model: Path, cpu: Cpu
) -> None:
    cpu(capabilities)
    write_verified(model, model, {'int8': replace(found, sha256=sha256(int8_beside(model)))})
    with open_engine(model, 'openvino') as engine:
        assert (engine.precision, engine.model) == ('fp32', 'model.onnx')


@needs_bf16
@pytest.mark.parametrize(('speed', 'taken'), [(2.9, 'int8'), (3.1, 'bf16')])
def test_of_bf16_and_int8_auto_takes_the_faster(
    speed: float, taken: str, model: Path, cpu: Cpu
) -> None:
    cpu([*VNNI, 'BF16'])
    write_verified(model, model, {
        'bf16': replace(LIKE_FP32, speed=speed),
        'int8': replace(LIKE_FP32, sha256=sha256(int8_beside(model))),
    })
    with open_engine(model, 'openvino') as engine:
        assert engine.precision == taken


@pytest.mark.usefixtures('cpu')
def test_a_user_without_a_home_keeps_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(plans, 'with_home', lambda path: Path(path))
    monkeypatch.setattr(plans, 'NO_HOME', Path('/dev/null'))  # root could make the other
    with caplog.at_level(logging.INFO), open_engine(model, 'openvino') as engine:
        assert engine.precision == 'int8'
    assert 'cannot be stored, so the model is compiled at each start' in caplog.text


@pytest.mark.usefixtures('cpu')
def test_fp32_stays_one_word_away_from_int8(model: Path) -> None:
    with open_engine(model, precision='fp32') as engine:
        assert (engine.precision, engine.model) == ('fp32', 'model.onnx')


@pytest.mark.usefixtures('cpu')
def test_an_int8_file_of_another_model_is_never_taken(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proto = onnx.load(str(int8_beside(model)))
    proto.producer_version = 'of other weights'
    onnx.save(proto, str(int8_beside(model)))
    with open_engine(model, 'openvino') as engine:
        assert (engine.precision, engine.model) == ('fp32', 'model.onnx')
    told, = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert 'is not the int8 file that model.onnx was verified with' in told.getMessage()
    assert f'is {sha256(int8_beside(model))}, expected' in told.getMessage()
    for name in ('openvino', 'auto'):
        with pytest.raises(EngineError, match=r'is not the int8 file .*make it again'):
            open_engine(model, name, precision='int8')


@pytest.mark.usefixtures('cpu')
def test_an_int8_file_that_nobody_verified_is_not_taken(
    model: Path, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(made, model)
    with caplog.at_level(logging.INFO), open_engine(model, 'openvino') as engine:
        assert engine.precision == 'fp32'
    told = 'model.onnx: was not verified with model_int8.onnx beside it; run mnv2 verify'
    assert told in caplog.text
    with pytest.raises(EngineError, match='was not verified with model_int8'):
        open_engine(model, 'openvino', precision='int8')


@pytest.mark.usefixtures('cpu')
def test_int8_without_its_file_is_refused_with_the_commands_that_make_it(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    int8_beside(model).unlink()
    for name in ('openvino', 'auto'):
        with pytest.raises(EngineError, match=(
            r'has no model_int8\.onnx beside it; make it: mnv2 quantize .*model\.onnx '
            r'--calibrate IMAGES --out .*model_int8\.onnx, then mnv2 verify .*model\.onnx DATA'
        )):
            open_engine(model, name, precision='int8')
    caplog.clear()
    with caplog.at_level(logging.INFO), open_engine(model, 'openvino') as engine:
        assert engine.precision == 'fp32'
    assert 'has no model_int8.onnx beside it' in caplog.text
    assert not [each for each in caplog.records if each.levelno > logging.INFO]  # nothing is wrong


def test_int8_on_a_cpu_without_it_is_refused(model: Path, cpu: Cpu) -> None:
    cpu(['FP32', 'INT8'])
    with pytest.raises(EngineError, match='no hardware support for int8'):
        open_engine(model, 'openvino', precision='int8')


def test_onnx_runtime_has_no_int8_of_its_own(model: Path) -> None:
    with open_engine(model, 'onnx_runtime') as engine:
        assert (engine.precision, engine.model) == ('fp32', 'model.onnx')
    with pytest.raises(EngineError, match='onnx_runtime computes in fp32'):
        open_engine(model, 'onnx_runtime', precision='int8')


@pytest.mark.parametrize(
    ('flags', 'has_it'),
    [('fpu avx2 avx512f', False), ('fpu avx_vnni', True), ('fpu avx512_vnni', True),
     ('fpu amx_tile amx_int8', True)],
)
def test_the_flags_of_the_cpu_say_whether_it_has_vnni(
    flags: str, has_it: bool, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, 'cpu_flags', lambda: set(flags.split()))
    with open_engine(model, 'openvino') as engine:
        assert (engine.precision == 'int8') == has_it


@pytest.mark.usefixtures('cpu')
def test_int8_is_compiled_once_and_a_damaged_copy_is_never_loaded(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> list[NDArray[np.uint8]]:
        with open_engine(model, 'openvino') as engine:
            assert engine.precision == 'int8'
            return outputs(engine)

    first = run()
    kept, = (tmp_path / 'cache/mnv2_perception/openvino').iterdir()
    whole = kept.read_bytes()
    made_ns = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(first, run())
    assert kept.stat().st_mtime_ns == made_ns and 'damaged' not in caplog.text
    for damaged in (b'', whole[:1000], whole[:-50] + b'weights' * 7 + whole[-1:]):
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(first, run())
        assert 'is damaged' in caplog.text and len(kept.read_bytes()) > 1000
        caplog.clear()
        np.testing.assert_array_equal(first, run())
        assert 'is damaged' not in caplog.text


@pytest.mark.usefixtures('cpu')
def test_a_cache_that_cannot_be_written_costs_time_only(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / 'cache').write_text('a file in its place')
    with caplog.at_level(logging.INFO), open_engine(model, 'openvino') as engine:
        assert engine.precision == 'int8'
    assert 'cannot be stored, so the model is compiled at each start' in caplog.text


@pytest.mark.usefixtures('cpu')
def test_nodes_that_start_together_all_keep_what_they_compiled(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsync, others = os.fsync, [threading.Thread(target=lambda: open_engine(model).close())]

    def slow_disk(file: int) -> None:
        fsync(file)
        if others:  # a node that starts while the first one's disk is at work
            other = others.pop()
            other.start()
            other.join()

    monkeypatch.setattr(os, 'fsync', slow_disk)
    with caplog.at_level(logging.INFO), open_engine(model) as engine:
        assert engine.precision == 'int8' and not others
    assert 'cannot be stored' not in caplog.text
    kept, = (tmp_path / 'cache/mnv2_perception/openvino').iterdir()
    assert kept.suffix == '.blob'


@pytest.mark.usefixtures('cpu')
def test_compiled_copies_of_models_that_were_replaced_do_not_fill_the_disk(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, 'KEPT', 3)
    folder = tmp_path / 'cache/mnv2_perception/openvino'
    for threads in range(1, 6):  # as good as other models
        open_engine(model, 'openvino', threads).close()
        newest = max(folder.iterdir(), key=lambda each: each.stat().st_mtime_ns)
        os.utime(newest, (threads, threads))
    assert sorted(each.stat().st_mtime for each in folder.iterdir()) == [3, 4, 5]


@pytest.mark.usefixtures('cpu')
def test_a_link_to_a_model_leads_to_its_int8_file(model: Path, tmp_path: Path) -> None:
    link = tmp_path / 'current.onnx'
    link.symlink_to(model)
    for precision in ('auto', 'int8'):
        with open_engine(link, 'openvino', precision=precision) as engine:
            assert (engine.precision, engine.model) == ('int8', 'model_int8.onnx')
    write_verified(link, link, {})  # as verify does
    with open_engine(model, 'openvino') as engine:
        assert engine.precision == 'fp32' and link.is_symlink()
    shutil.copy(int8_beside(model), tmp_path / 'current_int8.onnx')
    assert int8_beside(link) == tmp_path / 'current_int8.onnx'


@needs_bf16
def test_verify_measures_the_int8_file_and_writes_which_it_was(
    model: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(made, model)
    data = tmp_path / 'val'
    for kind in ('images', 'labels'):
        (data / kind).mkdir(parents=True)
    with open_engine(made, 'onnx_runtime') as exact:
        for seed in range(3):  # what fp32 says is the truth: its figure is 1
            ids = exact.infer({'image': image(seed)})['class_ids'][0]
            cv2.imwrite(str(data / f'images/{seed}.png'), image(seed)[0, ..., ::-1])
            cv2.imwrite(str(data / f'labels/{seed}.png'), ids)
    assert main(['verify', str(model), str(data)]) == 0
    with open_engine(model, 'openvino', precision='fp32') as engine:
        found = read_verified(engine.metadata, Path('model.onnx'))
    assert set(found) == {'bf16', 'int8'}
    int8 = found['int8']
    assert int8.sha256 == sha256(int8_beside(model)) and found['bf16'].sha256 == ''
    assert int8.fp32 == pytest.approx(1.0) and int8.speed > 0
    assert f'int8  {int8}' in capsys.readouterr().out
    # What is float in the file may be computed in either: the worse one counts.
    values = []
    for precision in ('fp32', 'bf16'):
        with opening(int8_beside(model), 'openvino', precision=precision) as (engine, spec):
            values.append(evaluate_model(engine, spec, data)['miou'])
        engine.close()
    assert int8.value == min(values) < found['bf16'].value


def test_verify_measures_int8_on_a_cpu_without_bf16(
    model: Path, tmp_path: Path, cpu: Cpu, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind, value in (('images', image(0)[0]), ('labels', image(0)[0, ..., 0] % 3)):
        (tmp_path / 'val' / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f'val/{kind}/0.png'), value)
    arguments = ['verify', str(model), str(tmp_path / 'val')]
    cpu(['FP32', 'INT8'])
    before = model.read_bytes()
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert 'no precision except fp32 can be measured: this CPU has no hardware' in told
    assert 'this CPU has no hardware support for int8 (VNNI, AMX)' in told
    assert model.read_bytes() == before
    cpu(VNNI)
    monkeypatch.setattr(f'{Verified.__module__}.MOST_LOST', 1.0)  # random weights lose much
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert 'bf16  not measured: this CPU has no hardware support for bf16' in told
    assert 'auto  int8, if the CPU supports it' in told
    with open_engine(model, 'openvino') as engine:
        assert engine.precision == 'int8'
        assert set(read_verified(engine.metadata, Path('model.onnx'))) == {'int8'}


@needs_bf16
def test_bf16_that_was_not_measured_is_not_used_in_the_int8_file(model: Path, cpu: Cpu) -> None:
    cpu([*VNNI, 'BF16'])
    with (
        open_engine(int8_beside(model), 'openvino', precision='fp32') as in_fp32,
        open_engine(int8_beside(model), 'openvino', precision='bf16') as in_bf16,
    ):
        with open_engine(model, 'openvino') as engine:
            assert engine.precision == 'int8'
            np.testing.assert_array_equal(outputs(engine), outputs(in_fp32))
        int8 = replace(LIKE_FP32, sha256=sha256(int8_beside(model)))
        write_verified(model, model, {'int8': int8, 'bf16': replace(LIKE_FP32, speed=1.0)})
        with open_engine(model, 'openvino') as engine:
            assert engine.precision == 'int8'
            np.testing.assert_array_equal(outputs(engine), outputs(in_bf16))
        assert not np.array_equal(outputs(in_fp32), outputs(in_bf16))


@needs_bf16
def test_verify_refuses_an_int8_file_of_other_classes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(str(int8_beside(model)))
    spec = ModelSpec.from_metadata({p.key: p.value for p in proto.metadata_props}, model)
    other = replace(spec, classes=('x', *spec.classes[1:]))
    onnx.helper.set_model_props(proto, other.to_metadata())
    onnx.save(proto, str(int8_beside(model)))
    for kind, value in (('images', image(0)[0]), ('labels', image(0)[0, ..., 0] % 3)):
        (tmp_path / 'val' / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f'val/{kind}/0.png'), value)
    before = model.read_bytes()
    assert main(['verify', str(model), str(tmp_path / 'val')]) == 1
    assert 'its input or output differs from that of model.onnx' in capsys.readouterr().err
    assert model.read_bytes() == before


@pytest.mark.usefixtures('cpu')
def test_the_commands_of_contributing_replace_a_shipped_model(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in commands('CONTRIBUTING.md') if 'models/NAME.onnx' in line]
    assert [line.split()[:2] for line in lines] == [['mnv2', 'quantize'], ['mnv2', 'verify']]
    monkeypatch.chdir(tmp_path)
    model = tmp_path / 'mnv2_perception/models/NAME.onnx'
    model.parent.mkdir(parents=True)
    shutil.copy(made, model)
    int8_beside(model).write_bytes(b'of the weights before')
    for kind, value in (('images', image(0)[0]), ('labels', image(0)[0, ..., 0] % 3)):
        for part in ('train', 'val'):
            (tmp_path / 'ground' / part / kind).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / 'ground' / part / kind / '0.png'), value)
    for line in lines:
        assert main(line.split()[1:]) == 0
    with open_engine(model, 'openvino', precision='int8') as engine:
        assert (engine.precision, engine.model) == ('int8', 'NAME_int8.onnx')


@needs_bf16
def test_what_is_quantised_without_out_is_what_verify_measures(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'models').mkdir()
    model = Path(shutil.copy(made, tmp_path / 'models/model.onnx'))
    for kind, value in (('images', image(0)[0]), ('labels', image(0)[0, ..., 0] % 3)):
        (tmp_path / 'val' / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f'val/{kind}/0.png'), value)
    monkeypatch.chdir(tmp_path)
    assert main(['verify', 'models/model.onnx', 'val', '--out', 'without.onnx']) == 0
    assert 'not measured: there is no model_int8.onnx beside' in capsys.readouterr().out
    assert main(['quantize', 'models/model.onnx', '--calibrate', 'val/images']) == 0
    assert 'after: mnv2 verify models/model.onnx DATA' in capsys.readouterr().out
    assert int8_beside(model).is_file()
    monkeypatch.setattr(f'{Verified.__module__}.MOST_LOST', 1.0)  # random weights lose much
    assert main(['verify', 'models/model.onnx', 'val', '--out', 'copy.onnx']) == 0
    told = 'used if model_int8.onnx lies beside it as copy_int8.onnx'
    assert told in capsys.readouterr().out


@pytest.mark.usefixtures('cpu')
def test_info_says_what_runs_here(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['info', str(model)]) == 0
    assert 'model_int8.onnx, in openvino int8' in capsys.readouterr().out
    int8_beside(model).unlink()
    assert main(['info', str(model)]) == 0
    assert 'its file model_int8.onnx is missing beside it' in capsys.readouterr().out


# The shipped files


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_int8_file_is_the_one_that_its_model_was_verified_with(path: Path) -> None:
    model = path.with_name(f'{path.stem.removesuffix("_int8")}.onnx')
    proto = onnx.load(str(model))
    found = read_verified({pair.key: pair.value for pair in proto.metadata_props}, model)
    assert found['int8'].sha256 == sha256(path) and found['int8'].good
    assert found['int8'].speed > found['bf16'].speed > 1
    card = model.with_suffix('.md').read_text(encoding='utf-8')
    int8 = found['int8']
    assert f'| {int8.figure} {int8.value:.4f}, in fp32 {int8.fp32:.4f}' in card
    assert sha256(path) in card


def test_the_default_models_are_shipped_in_int8_and_not_listed_as_models_of_their_own() -> None:
    assert {path.stem for path in SHIPPED} >= {
        'unet_mobilenetv2_ground_int8', 'unet_mobilenetv2_ground_fast_int8',
        'ssdlite_mobilenetv2_ground_int8',
    }
    with pytest.raises(ModelError, match='shipped models: ') as caught:
        find_model('nothing')
    assert 'unet_mobilenetv2_ground_fast' in str(caught.value)
    assert '_int8' not in str(caught.value)


def pictures(data: Path) -> list[NDArray[np.uint8]]:
    paths = sorted((data / 'ground/val/images').iterdir())[::14]
    return [np.ascontiguousarray(cv2.imread(str(path))[..., ::-1]) for path in paths]


@pytest.mark.usefixtures('cpu')
@pytest.mark.parametrize('name', ['unet_mobilenetv2_ground', 'unet_mobilenetv2_ground_fast'])
def test_on_real_pictures_masks_are_those_of_fp32(name: str, mnv2_data: Path) -> None:
    int8, fp32 = Segmenter.open(name), Segmenter.open(name, precision='fp32')
    assert (int8.engine.precision, fp32.engine.precision) == ('int8', 'fp32')
    same = [np.mean(int8(rgb).class_ids == fp32(rgb).class_ids) for rgb in pictures(mnv2_data)]
    int8.close()
    fp32.close()
    assert len(same) > 5 and np.mean(same) > 0.985 and min(same) > 0.95


@pytest.mark.usefixtures('cpu')
def test_on_real_pictures_boxes_are_those_of_fp32(mnv2_data: Path) -> None:
    name = 'ssdlite_mobilenetv2_ground'
    int8, fp32 = Detector.open(name), Detector.open(name, precision='fp32')
    assert (int8.engine.precision, fp32.engine.precision) == ('int8', 'fp32')
    found = []
    for rgb in pictures(mnv2_data):
        expected, boxes = fp32(rgb), int8(rgb).boxes
        for box in expected.boxes[expected.scores > 0.5]:
            found.append(box_iou(box[None], boxes).max(initial=0.0) > 0.7)
    int8.close()
    fp32.close()
    assert len(found) > 10 and np.mean(found) > 0.95


@needs_bf16
def test_verify_writes_over_the_model_by_any_name_and_over_others_by_force(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind, value in (('images', image(0)[0]), ('labels', image(0)[0, ..., 0] % 3)):
        (tmp_path / 'val' / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f'val/{kind}/0.png'), value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert main(['verify', '~/model.onnx', 'val']) == 0
    assert main(['verify', 'model.onnx', 'val', '--out', 'model.onnx']) == 0
    copy = ['verify', 'model.onnx', 'val', '--out', 'copy.onnx']
    assert [main(copy), main(copy), main([*copy, '--force'])] == [0, 1, 0]
    int8, before = int8_beside(model), int8_beside(model).read_bytes()
    assert main(['verify', 'model.onnx', 'val', '--out', int8.name, '--force']) == 1
    assert 'is named twice' in capsys.readouterr().err
    assert main(['verify', int8.name, 'val']) == 1
    assert f'verify {model} instead: that measures both' in capsys.readouterr().err
    assert int8.read_bytes() == before
