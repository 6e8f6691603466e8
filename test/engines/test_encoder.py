"""The encoder that is cut out of an ONNX file."""

from pathlib import Path

import numpy as np
from onnx_graphs import write_mean_colour
import pytest

from mnv2_perception.engines import open_engine
from mnv2_perception.engines.encoder import cut_encoder
from mnv2_perception.errors import ModelError, PerceptionError
from mnv2_perception.tasks.models import find_model
from mnv2_perception.tasks.onnx_spec import read_spec

SHIPPED = {
    'unet_mobilenetv2_ground_fast': 96, 'unet_mobilenetv2_ground': 1280,
    'mobilenetv2_ground_ahead': 96, 'ssdlite_mobilenetv2_ground': 96,
    'ssdlite_mobilenetv2_camvid': 96,
}


@pytest.mark.parametrize(('name', 'channels'), SHIPPED.items())
def test_what_it_gives_is_the_mean_over_the_image_of_the_model_s_own_tensor(
    name: str, channels: int, tmp_path: Path
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    model, cut, whole = find_model(name), tmp_path / 'cut.onnx', tmp_path / 'whole.onnx'
    cut.write_bytes(cut_encoder(model))
    onnx.checker.check_model(str(cut), full_check=True)
    proto = onnx.load(str(model))
    layers = [node for node in proto.graph.node
              if '/features' in node.name and node.op_type != 'Constant']
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(layers[-1].output[0]))
    onnx.save(proto, str(whole))
    with open_engine(whole, 'onnx_runtime') as engine:
        size = engine.inputs[0].shape
        image = np.random.default_rng(1).integers(0, 256, size, np.uint8)
        (planes,) = engine.infer({'image': image}).values()  # (1, channels, h, w)
    with open_engine(cut, 'onnx_runtime') as engine:
        found = engine.infer({'image': image})['features']
    assert found.shape == (1, channels) and found.dtype == np.float32
    assert np.allclose(found, planes.mean((2, 3)), atol=1e-4 * np.abs(planes).max())


def test_it_keeps_its_spec_and_is_cut_again_to_the_same_file(tmp_path: Path) -> None:
    model, cut = find_model('unet_mobilenetv2_ground_fast'), tmp_path / 'cut.onnx'
    cut.write_bytes(cut_encoder(model))
    assert read_spec(cut) == read_spec(model)
    assert cut_encoder(cut) == cut.read_bytes()
    assert cut.stat().st_size < model.stat().st_size
    assert b'mnv2_perception.verified' in model.read_bytes()  # of the masks
    assert b'mnv2_perception.verified' not in cut.read_bytes()


@pytest.mark.train
def test_an_int8_model_s_features_are_near_those_in_float(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    from mnv2_perception.engines.quantize import quantize_model
    from mnv2_perception.scenes.street import draw_scene
    from mnv2_perception.tasks.embedder import Embedder

    model, image = find_model('mobilenetv2_ground_ahead'), draw_scene(7, 0.0, 192, 256)[0]
    quantize_model(
        model, tmp_path / 'int8.onnx', [image[None]], 1000.0, lambda *_: None
    )
    found = []
    for path in (model, tmp_path / 'int8.onnx'):
        embedder = Embedder.open(path, 'onnx_runtime')
        found.append(embedder(image))
        embedder.close()
    assert 0.0 < np.abs(found[1] - found[0]).max() < 0.5 * np.abs(found[0]).max()
    assert np.corrcoef(*found)[0, 1] > 0.95


def test_a_model_without_layers_of_an_encoder_is_refused_with_the_cure(tmp_path: Path) -> None:
    pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    model = write_mean_colour(tmp_path / 'foreign.onnx')
    with pytest.raises(ModelError, match=r'no node is named as a layer of `features`; give a mod'):
        cut_encoder(model)
    with pytest.raises(ModelError, match=r'can only be taken from an \.onnx file'):
        cut_encoder(tmp_path / 'model.pt2')


def test_damaged_files_end_in_a_model_error(tmp_path: Path) -> None:
    whole, path = find_model('mobilenetv2_ground_ahead').read_bytes(), tmp_path / 'model.onnx'
    rng = np.random.default_rng(2)
    damaged = [b'', b'text', whole[:5000], whole[: len(whole) // 2]]
    for _ in range(40):
        data = bytearray(whole)
        for place in rng.integers(0, 3000, 20):
            data[place] = rng.integers(0, 256)
        damaged.append(bytes(data))
    outcomes = set()
    for data in damaged:
        path.write_bytes(data)
        try:
            outcomes.add(len(cut_encoder(path)) > 0)
        except PerceptionError as exc:
            outcomes.add(str(exc).startswith(str(path)))
    assert outcomes == {True}
