"""The features of every backbone: the cut file computes what torch computes."""

import hashlib
from pathlib import Path
from typing import Any

from identity_network import identity_spec
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')
pytest.importorskip('onnx', reason='no onnx: run make setup-train')
pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from mnv2_perception.cli.main import main
from mnv2_perception.engines import open_engine
from mnv2_perception.engines.encoder import cut_encoder
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.backbones import BACKBONES, make_backbone
from mnv2_perception.nets.checkpoint import Checkpoint, make_network, save_checkpoint
from mnv2_perception.nets.export import export_network
from mnv2_perception.tasks.onnx_spec import read_spec
from mnv2_perception.training.fetch import PUBLISHED, Published
from mnv2_perception.vision.preprocess import fit_image, normalise

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning'),
]
HEIGHT, WIDTH = 64, 96
OUTPUTS = {'segmentation': 'ids_confidence', 'classification': 'logits', 'detection': 'boxes'}


def make_spec(task: str, **changes: Any) -> ModelSpec:
    return identity_spec(
        HEIGHT, WIDTH, task=task, output=OUTPUTS[task], classes=['a', 'b', 'c'],
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], **changes,
    )


def trained(net: Any) -> Any:
    """Give a network batch statistics that are not those of its making."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.9
    with torch.no_grad():
        net.train()(torch.randn(2, 3, HEIGHT, WIDTH))
    return net.eval()


def expected(encoder: Any, image: Any, spec: ModelSpec) -> Any:
    with torch.inference_mode():
        tensor = torch.from_numpy(normalise(image, spec.mean, spec.std))[None]
        return encoder.forward_features(tensor)[-1].mean((2, 3)).numpy()


def image_of(height: int = HEIGHT, width: int = WIDTH) -> Any:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize('task', OUTPUTS)
@pytest.mark.parametrize('encoder', BACKBONES)
def test_the_features_of_a_model_are_those_of_torch(
    encoder: str, task: str, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    spec = make_spec(task)
    named = {'name': encoder} if task == 'classification' else {'encoder': encoder}
    net = trained(make_network(spec, named))
    export_network(net, spec, tmp_path / 'model.onnx')
    (tmp_path / 'cut.onnx').write_bytes(cut_encoder(tmp_path / 'model.onnx'))
    with open_engine(tmp_path / 'cut.onnx', 'onnx_runtime') as engine:
        found = engine.infer({'image': image_of()[None]})['features']
        assert str(engine.outputs[0]) == f"'features' (1, {found.shape[1]}) float32"
    wanted = expected(net if task == 'classification' else net.encoder, image_of(), spec)
    assert found.shape == wanted.shape and wanted.std() > 0.01
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize('encoder', BACKBONES)
def test_published_weights_become_an_encoder(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    net = trained(make_backbone(encoder))
    weights, out = tmp_path / f'{encoder}-0123abcd.pth', tmp_path / 'encoder.onnx'
    torch.save(net.state_dict(), weights)
    assert main(['embed', str(weights), '--onnx', str(out)]) == 0
    spec = make_spec('classification')
    image = image_of(300, 400)
    wanted = expected(net, fit_image(image, 224, 224, 'crop', 0.875), spec)
    assert capsys.readouterr().out == f'{out}: {wanted.size} features of an image of 224×224\n'
    with open_engine(out, 'onnx_runtime') as engine:
        seen = fit_image(image, 224, 224, 'crop', 0.875)
        found = engine.infer({'image': seen[None]})['features']
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_weights_of_mnv2_fetch_go_by_their_name_and_keep_their_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / 'mnv2_perception/mobilenet_v3_small-01234567.pth'
    cached.parent.mkdir()
    torch.save(make_backbone('mobilenet_v3_small').state_dict(), cached)
    published = Published(
        f'http://absent/{cached.name}', hashlib.sha256(cached.read_bytes()).hexdigest(), 10.0, 67.7
    )
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setitem(PUBLISHED, 'mobilenet_v3_small', published)
    out = tmp_path / 'encoder.onnx'
    assert main(['embed', 'mobilenet_v3_small', '--onnx', str(out)]) == 0
    spec = read_spec(out)
    assert spec and (spec.licence, spec.fit, spec.height) == ('BSD-3-Clause', 'crop', 224)


def test_weights_that_do_not_tell_whose_they_are_need_the_encoder_s_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(make_backbone('mobilenet_v3_small').state_dict(), tmp_path / 'mine.pth')
    line = ['embed', str(tmp_path / 'mine.pth'), '--onnx', str(tmp_path / 'encoder.onnx')]
    assert main(line) == 1
    assert 'does not say which network it belongs to; give --encoder' in capsys.readouterr().err
    assert main([*line, '--encoder', 'mobilenet_v1']) == 1
    assert main([*line, '--encoder', 'mobilenet_v3_small']) == 0


def test_a_checkpoint_gives_its_encoder(tmp_path: Path) -> None:
    spec, architecture = make_spec('segmentation'), {'encoder_depth': 4}
    net = trained(make_network(spec, architecture))
    save_checkpoint(Checkpoint(spec, architecture, net.state_dict(), {}, 1), tmp_path / 'best.pt')
    assert main(['embed', str(tmp_path / 'best.pt'), '--onnx', str(tmp_path / 'e.onnx')]) == 0
    with open_engine(tmp_path / 'e.onnx', 'onnx_runtime') as engine:
        found = engine.infer({'image': image_of()[None]})['features']
    wanted = expected(net.encoder, image_of(), spec)
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
