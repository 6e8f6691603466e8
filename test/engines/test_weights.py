"""Weights in a file beside the model: part of what the model is, and missed by name."""

from pathlib import Path
import shutil

from identity_network import identity_spec, write_onnx
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')

from slow_builder import SlowBuilder

from mnv2_perception.cli import main as cli
from mnv2_perception.engines import open_engine
from mnv2_perception.engines.build import build_plan, Options
from mnv2_perception.engines.graph import read_onnx
from mnv2_perception.engines.plans import plans_of, sha256
from mnv2_perception.engines.weights import weights_beside
from mnv2_perception.errors import EngineError, ModelError


def split(model: Path, least: int = 1, location: str = 'net.onnx.data') -> Path:
    """Put all weights of an identity network beside it, and train one of them."""
    proto = onnx.load(str(model))
    proto.graph.initializer[2].CopyFrom(
        onnx.numpy_helper.from_array(np.array([least], np.uint8), 'least')
    )
    file = model.parent / location
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)  # onnx would append
    onnx.save_model(
        proto, str(model), save_as_external_data=True, location=location, size_threshold=0
    )
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return split(write_onnx(tmp_path / 'net.onnx', identity_spec(5, 7)))


@pytest.mark.parametrize('location', ['net.onnx.data', 'weights/of it.bin', 'w' * 127])
def test_the_files_of_weights_are_found_without_onnx(tmp_path: Path, location: str) -> None:
    model = split(write_onnx(tmp_path / 'net.onnx', identity_spec(5, 7)), location=location)
    assert weights_beside(model) == [tmp_path / location]
    whole = write_onnx(tmp_path / 'whole.onnx', identity_spec(5, 7))
    assert weights_beside(whole) == []


def test_a_model_that_was_trained_again_has_another_plan(model: Path, tmp_path: Path) -> None:
    folder, graph = tmp_path / 'plans', model.read_bytes()
    first = build_plan(model, Options(), folder, SlowBuilder(tmp_path / 'log', 0.0))
    before = sha256(model)
    split(model, least=9)
    assert model.read_bytes() == graph  # the ONNX file tells nothing of it
    assert plans_of(model, folder) == []
    second = build_plan(model, Options(), folder, SlowBuilder(tmp_path / 'log', 0.0))
    assert (first.key.onnx_sha256, second.key.onnx_sha256) == (before, sha256(model))
    assert before != sha256(model)


@pytest.mark.parametrize('engine', ['auto', 'onnx_runtime', 'openvino', 'tensorrt'])
def test_weights_that_were_left_behind_are_named_before_any_runtime_sees_the_model(
    model: Path, engine: str
) -> None:
    weights = model.with_name('net.onnx.data')
    weights.unlink()
    with pytest.raises(EngineError, match=r'are in net\.onnx\.data, which is not beside it; copy'):
        open_engine(model, engine)
    with pytest.raises(ModelError, match=r'are in net\.onnx\.data, which is not beside it; copy'):
        read_onnx(model)
    weights.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 4\n')
    with pytest.raises(EngineError, match=r"net\.onnx\.data, which is a Git LFS .*'git lfs pull'"):
        open_engine(model, engine)


def test_a_model_opens_with_its_weights_beside_it_from_any_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / 'robot'
    elsewhere.mkdir()
    for file in (model, model.with_name('net.onnx.data')):
        shutil.copy(file, elsewhere)
    assert cli.main(['info', str(elsewhere / 'net.onnx')]) == 0
    assert 'identity' in capsys.readouterr().out
