"""`mnv2 embed`."""

from dataclasses import asdict
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnv2_perception.cli.main import main
from mnv2_perception.tasks.models import find_model
from mnv2_perception.tasks.onnx_spec import read_spec

pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

FAST = 'unet_mobilenetv2_ground_fast'


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Write two pictures that are alike, and one that is not."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    rng = np.random.default_rng(4)
    scenes = rng.integers(0, 200, (2, 6, 8, 3), np.uint8).repeat(20, 1).repeat(20, 2)
    for name, image in (('a', scenes[0]), ('b', scenes[1]), ('c', scenes[0] + np.uint8(3))):
        cv2.imwrite(str(folder / f'{name}.png'), image)
    return folder


def test_each_picture_becomes_a_row_near_those_of_pictures_alike(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'features.npz'
    assert main(['embed', FAST, str(pictures), '--out', str(out)]) == 0
    assert capsys.readouterr().out == f'{out}: 3 pictures, 96 features each\n'
    with np.load(out) as found:
        features, files = found['features'], found['files'].tolist()
    assert files == [str(pictures / f'{name}.png') for name in 'abc']
    assert features.shape == (3, 96) and features.dtype == np.float32
    near, far = (np.linalg.norm(features[0] - features[index]) for index in (2, 1))
    assert near < 0.2 * far


def test_the_encoder_alone_gives_the_same_and_says_what_it_is(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, whole, alone = (tmp_path / name for name in ('encoder.onnx', 'w.npy', 'a.npy'))
    assert main(['embed', FAST, str(pictures), '--onnx', str(encoder), '--out', str(whole)]) == 0
    assert f'{encoder}: 96 features of an image of 352×480\n' in capsys.readouterr().out
    assert main(['embed', str(encoder), str(pictures), '--out', str(alone)]) == 0
    assert np.array_equal(np.load(whole), np.load(alone))
    capsys.readouterr()
    assert main(['info', str(encoder)]) == 0
    told = capsys.readouterr().out
    assert "gives          'features' (1, 96) float32" in told
    assert f'only the encoder of {FAST}; for `mnv2 embed`' in told


def test_the_encoder_of_a_foreign_model_says_what_the_yaml_beside_the_model_said(
    pictures: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    spec = read_spec(find_model(FAST))
    assert spec is not None
    foreign, encoder, again, features = (
        tmp_path / name for name in ('foreign.onnx', 'encoder.onnx', 'again.onnx', 'f.npy')
    )
    proto = onnx.load(str(find_model(FAST)))
    del proto.metadata_props[:]
    onnx.save(proto, str(foreign))
    foreign.with_suffix('.yaml').write_text(json.dumps(asdict(spec)))  # JSON is YAML
    assert main(['embed', str(foreign), '--onnx', str(encoder)]) == 0
    onnx.checker.check_model(str(encoder), full_check=True)
    assert read_spec(encoder) == spec
    assert main(['embed', str(encoder), str(pictures), '--out', str(features)]) == 0
    assert main(['embed', str(encoder), '--onnx', str(again)]) == 0
    assert again.read_bytes() == encoder.read_bytes()


def test_what_cannot_be_done_is_told_in_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'empty').mkdir()
    out = str(tmp_path / 'x.npz')
    for line, told in (
        ([FAST], 'give pictures and --out for their features, or --onnx for the encoder'),
        ([FAST, str(pictures)], 'give pictures and --out for their features'),
        ([FAST, '--out', out], 'give pictures and --out for their features'),
        ([FAST, str(tmp_path / 'absent.png'), '--out', out], 'no such file'),
        ([FAST, str(tmp_path / 'empty'), '--out', out], 'holds no pictures'),
        ([FAST, str(pictures), '--out', out, '--encoder', 'mobilenet_v2'], '--encoder is only'),
    ):
        assert main(['embed', *line]) == 1
        error = capsys.readouterr().err
        assert told in error and error.count('\n') == 1
    assert not Path(out).exists()
