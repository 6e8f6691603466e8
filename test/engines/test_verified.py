"""`mnv2 verify` and `precision: auto`: the faster arithmetic, where it was measured."""

from dataclasses import asdict, replace
import json
from pathlib import Path
import sys

import cv2
from identity_network import identity_spec, write_onnx
import numpy as np
from onnx_graphs import node, write_graph
import pytest
import yaml

onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
openvino = pytest.importorskip('openvino', reason='no openvino: run make setup-train')

from mnv2_perception.cli.main import main
from mnv2_perception.data.coco import BoxSample, write_coco
from mnv2_perception.data.images import write_image
from mnv2_perception.engines import open_engine
from mnv2_perception.engines.verified import (
    ENOUGH_IMAGES,
    METADATA_KEY,
    MOST_LOST,
    read_verified,
    Verified,
    write_verified,
)
from mnv2_perception.errors import EngineError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.scenes.street import draw_scene
from mnv2_perception.tasks.models import find_model, opening

MODEL = 'unet_mobilenetv2_camvid_fast'
HAS_BF16 = 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason='this CPU does not compute in bf16')


def verified(tmp_path: Path, value: float) -> Path:
    model = tmp_path / 'model.onnx'
    write_verified(find_model(MODEL), model, {
        'bf16': Verified('miou', fp32=0.7, value=value, images=9, data='val'),
    })
    return model


def unmeasured(tmp_path: Path) -> Path:
    model = tmp_path / 'unmeasured.onnx'
    write_verified(find_model(MODEL), model, {})
    return model


@needs_bf16
def test_auto_takes_bf16_where_it_loses_next_to_nothing(tmp_path: Path) -> None:
    with open_engine(verified(tmp_path, 0.7 - MOST_LOST + 1e-6), 'openvino') as engine:
        assert engine.precision == 'bf16'


@pytest.mark.parametrize('value', [0.7 - MOST_LOST - 1e-6, float('nan')])
def test_auto_takes_fp32_where_too_much_would_be_lost(tmp_path: Path, value: float) -> None:
    with open_engine(verified(tmp_path, value), 'openvino') as engine:
        assert engine.precision == 'fp32'


def test_auto_takes_fp32_where_nothing_was_measured(tmp_path: Path) -> None:
    with open_engine(unmeasured(tmp_path), 'openvino') as engine:
        assert engine.precision == 'fp32'


def test_fp32_stays_one_word_away(tmp_path: Path) -> None:
    with open_engine(verified(tmp_path, 0.7), 'openvino', precision='fp32') as engine:
        assert engine.precision == 'fp32'


def test_auto_takes_fp32_on_a_cpu_without_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        'mnv2_perception.engines.openvino.OpenVINOEngine._capabilities', lambda _: ['FP32']
    )
    with open_engine(verified(tmp_path, 0.7), 'openvino') as engine:
        assert engine.precision == 'fp32'


@pytest.mark.parametrize('wrong', [{'fp32': '0.7'}, {'value': None}, {'speed': 'fast'}, {'of': 1}])
def test_an_entry_that_cannot_be_read_is_named(wrong: dict[str, object]) -> None:
    entry = asdict(Verified('miou', fp32=0.7, value=0.7, images=9, data='val')) | wrong
    with pytest.raises(EngineError, match=r'm\.onnx: metadata .*verified cannot be used'):
        read_verified({METADATA_KEY: json.dumps({'bf16': entry})}, Path('m.onnx'))


@needs_bf16
def test_the_command_measures_and_writes_into_a_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ('images', 'labels'):
        (tmp_path / 'street' / kind).mkdir(parents=True)
    for seed in range(3):
        image, label = draw_scene(seed, 0.0, 240, 320)
        cv2.imwrite(str(tmp_path / f'street/images/{seed}.png'), image[..., ::-1])
        cv2.imwrite(str(tmp_path / f'street/labels/{seed}.png'), label.astype(np.uint8))
    model, out = unmeasured(tmp_path), tmp_path / 'out.onnx'
    before = model.read_bytes()
    assert main(['verify', str(model), str(tmp_path / 'street'), '--out', str(out)]) == 0
    assert model.read_bytes() == before
    with open_engine(out, 'openvino') as engine:
        found = read_verified(engine.metadata, Path('out.onnx'))['bf16']
        assert (found.images, found.data, found.figure) == (
            3, f'{tmp_path.name}/street', 'miou'
        )
        assert abs(found.fp32 - found.value) < 0.05 and found.fp32 > 0.2
        assert engine.precision == ('bf16' if found.good else 'fp32')
    main(['info', str(out)])
    assert str(found) in capsys.readouterr().out


def foreign_model(tmp_path: Path) -> tuple[Path, ModelSpec]:
    """Write a model with a YAML beside it, and a labelled picture, `street`."""
    foreign = tmp_path / 'foreign.onnx'
    proto = onnx.load(str(unmeasured(tmp_path)))
    pairs = {pair.key: pair.value for pair in proto.metadata_props}
    spec = ModelSpec.from_metadata(pairs, foreign)
    del proto.metadata_props[:]
    onnx.save(proto, str(foreign))
    foreign.with_suffix('.yaml').write_text(json.dumps(asdict(spec)))  # JSON is YAML
    for kind, value in zip(('images', 'labels'), draw_scene(0, 0.0, 240, 320), strict=True):
        (tmp_path / 'street' / kind).mkdir(parents=True)
        write_image(tmp_path / f'street/{kind}/0.png', value)
    return foreign, spec


@needs_bf16
def test_the_copy_of_a_foreign_model_says_what_the_yaml_beside_the_model_said(
    tmp_path: Path,
) -> None:
    (foreign, spec), out = foreign_model(tmp_path), tmp_path / 'out.onnx'
    assert main(['verify', str(foreign), str(tmp_path / 'street'), '--out', str(out)]) == 0
    with opening(out, 'openvino') as (engine, found):
        assert found == spec and set(read_verified(engine.metadata, Path('out.onnx'))) == {'bf16'}
    engine.close()
    assert main(['verify', str(foreign), str(tmp_path / 'street')]) == 0  # its YAML counts on
    pairs = {pair.key for pair in onnx.load(str(foreign)).metadata_props}
    assert pairs == {METADATA_KEY}


@needs_bf16
def test_what_was_measured_by_another_yaml_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    foreign, spec = foreign_model(tmp_path)
    assert main(['verify', str(foreign), str(tmp_path / 'street')]) == 0
    with open_engine(foreign, 'openvino') as engine:
        (found,) = read_verified(engine.metadata, foreign).values()
    corrected = replace(spec, mean=(0.0, 0.0, 0.0))
    foreign.with_suffix('.yaml').write_text(json.dumps(asdict(corrected)))
    with open_engine(foreign, 'openvino') as engine:
        assert engine.precision == 'fp32' and not read_verified(engine.metadata, foreign)
    assert 'foreign.yaml has changed since; run mnv2 verify' in caplog.text
    capsys.readouterr()
    assert main(['info', str(foreign)]) == 0 and str(found) not in capsys.readouterr().out
    assert main(['verify', str(foreign), str(tmp_path / 'street')]) == 0
    assert main(['info', str(foreign)]) == 0 and 'in bf16 ' in capsys.readouterr().out


@needs_bf16
def test_what_was_measured_by_another_file_of_class_names_does_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign, spec = foreign_model(tmp_path)
    (names := tmp_path / 'names.txt').write_text('\n'.join(spec.classes))
    foreign.with_suffix('.yaml').write_text(json.dumps({**asdict(spec), 'classes': names.name}))
    assert main(['verify', str(foreign), str(tmp_path / 'street')]) == 0
    with open_engine(foreign, 'openvino') as engine:
        assert set(read_verified(engine.metadata, foreign)) == {'bf16'}
    names.write_text('\n'.join(spec.classes[::-1]))
    with open_engine(foreign, 'openvino') as engine:
        assert engine.precision == 'fp32' and not read_verified(engine.metadata, foreign)
    assert 'foreign.yaml or names.txt has changed since; run mnv2 verify' in caplog.text


@needs_bf16
@pytest.mark.parametrize('count', [ENOUGH_IMAGES - 1, ENOUGH_IMAGES])
def test_verify_says_when_the_labelled_images_are_few(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ('images', 'labels'):
        (tmp_path / kind).mkdir()
    for number in range(count):
        write_image(tmp_path / f'images/{number}.png', np.full((8, 8, 3), (1, 200, 0), np.uint8))
        write_image(tmp_path / f'labels/{number}.png', np.ones((8, 8), np.uint8))
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(8, 8))
    assert main(['verify', str(model), str(tmp_path), '--json']) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)['auto'].startswith('bf16')
    few = f'{tmp_path}: {count} labelled images are few'
    assert told.err.startswith(few) if count < ENOUGH_IMAGES else not told.err


def test_int8_does_not_inherit_what_was_measured_of_another_model(tmp_path: Path) -> None:
    model = verified(tmp_path, 0.7)
    (tmp_path / 'images').mkdir()
    image, _ = draw_scene(0, 0.0, 240, 320)
    cv2.imwrite(str(tmp_path / 'images/0.png'), image[..., ::-1])
    out = tmp_path / 'int8.onnx'
    assert main(['quantize', str(model), '--calibrate', str(tmp_path / 'images'), '--out',
                 str(out), '--tolerance', '1000']) == 0
    with open_engine(out, 'onnx_runtime') as engine:
        assert METADATA_KEY not in engine.metadata


@needs_bf16
def test_boxes_verify_the_objects_in_masks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    image = np.zeros((64, 64, 3), np.uint8)
    cv2.rectangle(image, (10, 10), (30, 40), (1, 200, 0), -1)  # id 1, sure
    write_image(tmp_path / 'a.png', image)
    boxes, none = np.array([[10, 10, 31, 41]], np.float32), np.empty((0, 4), np.float32)
    sample = BoxSample(
        tmp_path / 'a.png', boxes, np.zeros(1, np.int64), none, np.empty(0, np.int64)
    )
    write_coco(tmp_path / 'coco.json', ['class_1'], [sample])
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(64, 64))
    assert main(['verify', str(model), str(tmp_path / 'coco.json')]) == 0
    assert 'bf16  ap 1.0000, in fp32 1.0000, on 1 images' in capsys.readouterr().out


@needs_bf16
@pytest.mark.parametrize('labelled', [0, 1])
def test_a_model_that_finds_nothing_is_not_verified(
    labelled: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    write_image(tmp_path / 'a.png', np.zeros((64, 64, 3), np.uint8))
    boxes, none = np.array([[10, 10, 31, 41]], np.float32), np.empty((0, 4), np.float32)
    sample = BoxSample(
        tmp_path / 'a.png', boxes[:labelled], np.zeros(labelled, np.int64), none,
        np.empty(0, np.int64),
    )
    write_coco(tmp_path / 'coco.json', ['class_1'], [sample])
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(64, 64))
    before = model.read_bytes()
    assert main(['verify', str(model), str(tmp_path / 'coco.json')]) == 1
    told = 'coco.json is 0.0000 in fp32, expected 0.05 or more: the model finds'
    assert told in capsys.readouterr().err and model.read_bytes() == before


@needs_bf16
def test_a_model_is_verified_on_labels_of_other_classes_once_it_is_told_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = identity_spec(64, 64, classes=['road', 'sky'])  # ids are the red channel
    model = write_onnx(tmp_path / 'm.onnx', spec)
    before = model.read_bytes()
    ids = np.zeros((64, 64), np.uint8)
    ids[:32] = 1
    for kind in ('images', 'labels'):
        (tmp_path / 'val' / kind).mkdir(parents=True)
    write_image(tmp_path / 'val/images/a.png', np.dstack([ids] * 3))
    write_image(tmp_path / 'val/labels/a.png', 1 - ids)
    labels = tmp_path / 'labels.yaml'
    labels.write_text(yaml.safe_dump(asdict(replace(spec, classes=('heaven', 'asphalt')))))
    command = ['verify', str(model), str(tmp_path / 'val')]
    assert main(command) == 1
    assert 'expected 0.05 or more' in (told := capsys.readouterr().err) and '--spec' in told
    assert model.read_bytes() == before
    which = ['--spec', str(labels), '--map', 'heaven=sky', 'asphalt=road']
    assert main([*command, *which]) == 0
    assert 'bf16  miou 1.0000, in fp32 1.0000' in capsys.readouterr().out


@needs_bf16
def test_a_model_whose_results_are_no_numbers_is_not_told_to_run_in_fp32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_graph(
        tmp_path / 'm.onnx',
        [node('ReduceMean', 'image', 'means', axes=[2, 3], keepdims=0), node('Log', 'means', 'y')],
        ('float32', (1, 3, 8, 8)), {'y': ('float32', (1, 3))}, task='classification', height=8,
        width=8, classes=list('abc'), input='float_nchw', output='logits',
    )
    (tmp_path / 'data/a').mkdir(parents=True)
    write_image(tmp_path / 'data/a/0.png', np.zeros((8, 8, 3), np.uint8))
    assert main(['verify', str(model), str(tmp_path / 'data')]) == 1
    told = capsys.readouterr().err
    assert '100.0% of its output for this image is NaN or infinite' in told
    assert 'with precision fp32' not in told and 'export it again' in told


def test_verify_refuses_what_it_cannot_write_into_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = unmeasured(tmp_path)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    assert main(['verify', str(model), str(tmp_path / 'no pictures')]) == 1
    assert 'pip install onnx' in capsys.readouterr().err


def test_a_shipped_model_is_not_written_to_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = find_model(MODEL).read_bytes()
    assert main(['verify', MODEL, str(tmp_path)]) == 1
    assert 'write to a copy with --out' in capsys.readouterr().err
    assert find_model(MODEL).read_bytes() == before
