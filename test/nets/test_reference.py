"""The networks compute what torchvision and segmentation_models_pytorch compute.

reference.json holds outputs of torchvision 0.28.0 and segmentation_models_pytorch 0.6.0 with
torch 2.13.0, in double precision; make_reference.py wrote it.
"""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')

from make_reference import CLASSES, fill, image, names_and_shapes, REFERENCE, sample

from mnv2_perception.nets.backbones import make_backbone
from mnv2_perception.nets.checkpoint import load_weights
from mnv2_perception.nets.unet import UNet

pytestmark = pytest.mark.train

EXPECTED = json.loads(REFERENCE.read_text(encoding='utf-8'))


@pytest.mark.parametrize('width_mult', [0.5, 1.0])
@pytest.mark.parametrize('name', ['mobilenet_v2', 'mobilenet_v3_large', 'mobilenet_v3_small'])
def test_a_torchvision_checkpoint_gives_torchvisions_outputs(
    name: str, width_mult: float, tmp_path: Path
) -> None:
    expected = EXPECTED[f'{name} {width_mult}']
    checkpoint = fill(make_backbone(name, CLASSES, width_mult))
    assert names_and_shapes(checkpoint) == expected['tensors']
    torch.save(checkpoint, tmp_path / 'checkpoint.pth')
    classifier = make_backbone(name, CLASSES, width_mult).double().eval()
    encoder = make_backbone(name, 0, width_mult).double().eval()
    classifier.load_state_dict(checkpoint)
    left_out = load_weights(encoder, encoder, tmp_path / 'checkpoint.pth')
    assert all(key.startswith('classifier.') for key in left_out.unused)
    assert left_out.random == []
    tensor = image(75, 98)
    with torch.no_grad():
        features = encoder.forward_features(tensor)[-1]
        assert sample(classifier(tensor)) == pytest.approx(expected['logits'], rel=1e-5)
        assert sample(features) == pytest.approx(expected['features'], rel=1e-5)


def test_an_smp_unet_checkpoint_gives_smps_output(tmp_path: Path) -> None:
    expected = EXPECTED['unet']
    checkpoint = fill(UNet(CLASSES, decoder='full'))
    assert names_and_shapes(checkpoint) == expected['tensors']
    torch.save(checkpoint, tmp_path / 'checkpoint.pth')
    net = UNet(CLASSES, decoder='full').double().eval()
    assert load_weights(net, net.encoder, tmp_path / 'checkpoint.pth') == ([], [], [])
    with torch.no_grad():
        assert sample(net(image(64, 96))) == pytest.approx(expected['logits'], rel=1e-5)
