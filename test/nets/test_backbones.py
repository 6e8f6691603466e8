"""The family is the papers': parameters, multiply-accumulates, features, names."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')
pytest.importorskip('onnx', reason='no onnx: run make setup-train')

from mnv2_perception.engines import open_engine
from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.backbone import count_macs, count_parameters
from mnv2_perception.nets.backbones import BACKBONES, make_backbone, table
from mnv2_perception.nets.export import export_network
from mnv2_perception.nets.unet import UNet

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    ('name', 'parameters'),
    [
        ('mobilenet_v1', 4_231_976),
        ('mobilenet_v2', 3_504_872),
        ('mobilenet_v3_large', 5_483_032),
        ('mobilenet_v3_small', 2_542_856),
    ],
)
def test_each_has_exactly_the_published_parameters(name: str, parameters: int) -> None:
    assert count_parameters(make_backbone(name)) == parameters


@pytest.mark.parametrize(
    ('name', 'width_mult', 'millions', 'tolerance'),
    [
        ('mobilenet_v1', 1.0, 569, 0.01),
        ('mobilenet_v2', 0.35, 59, 0.01),
        ('mobilenet_v2', 0.5, 97, 0.01),
        ('mobilenet_v2', 0.75, 209, 0.01),
        ('mobilenet_v2', 1.0, 301, 0.01),
        ('mobilenet_v2', 1.4, 582, 0.01),
        ('mobilenet_v3_large', 1.0, 219, 0.03),
        ('mobilenet_v3_small', 1.0, 56, 0.03),
    ],
)
def test_each_has_the_published_multiply_accumulates(
    name: str, width_mult: float, millions: float, tolerance: float
) -> None:
    macs = count_macs(make_backbone(name, width_mult=width_mult), 224, 224)
    assert macs == pytest.approx(millions * 1e6, rel=tolerance)


@pytest.mark.parametrize(
    ('name', 'channels'),
    [
        ('mobilenet_v1', [64, 128, 256, 512, 1024]),
        ('mobilenet_v2', [16, 24, 32, 96, 1280]),
        ('mobilenet_v3_large', [16, 24, 40, 112, 960]),
        ('mobilenet_v3_small', [16, 16, 24, 48, 576]),
    ],
)
def test_features_come_at_strides_2_to_32(name: str, channels: list[int]) -> None:
    encoder = make_backbone(name, num_classes=0).eval()
    assert encoder.out_channels == channels
    with torch.no_grad():
        features = encoder.forward_features(torch.zeros(1, 3, 64, 96))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (channels[index], 32 >> index, 48 >> index) for index in range(5)
    ]


def test_v3_has_torchvisions_names() -> None:
    names = set(make_backbone('mobilenet_v3_small').state_dict())
    assert {
        'features.0.0.weight', 'features.1.block.0.0.weight', 'features.1.block.1.fc1.bias',
        'features.1.block.2.1.running_var', 'features.2.block.2.0.weight',
        'features.12.1.weight', 'classifier.0.weight', 'classifier.3.bias',
    } <= names


def test_an_unknown_name_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ModelError, match=r'resnet.*mobilenet_v3_small'):
        make_backbone('resnet')


def test_the_table_has_every_network() -> None:
    lines = table().splitlines()
    assert '| mobilenet_v2 | 1.0 | 3,504,872 | 301 M |' in lines
    assert all(any(name in line for line in lines) for name in BACKBONES)


@pytest.mark.parametrize('width_mult', [0.35, 1.0])
@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.parametrize('task', ['segmentation', 'classification'])
def test_each_exports_to_the_same_logits(
    task: str, name: str, width_mult: float, tmp_path: Path
) -> None:
    spec = ModelSpec.from_dict(
        {
            'name': 'test', 'task': task, 'output': 'logits', 'height': 64, 'width': 96,
            'classes': ['a', 'b', 'c'], 'mean': [120, 115, 100], 'std': [60, 55, 50],
        },
        'test',
    )
    torch.manual_seed(0)
    net = make_backbone(name, 3, width_mult)
    if task == 'segmentation':
        net = UNet(3, width_mult, encoder=name)
    export_network(net.eval(), spec, tmp_path / 'net.onnx')
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    tensor = (torch.from_numpy(image).float() - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    with torch.no_grad():
        expected = net(tensor.permute(0, 3, 1, 2)).numpy()
    with open_engine(tmp_path / 'net.onnx') as engine:
        logits = engine.infer({'image': image})['logits']
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_classifier_can_look_at_the_middle_alone() -> None:
    """Without context: at depth 1 a feature sees three pixels."""
    torch.manual_seed(0)
    net = make_backbone('mobilenet_v1', 3, 0.35, depth=1, pool='middle').eval()
    x = torch.randn(1, 3, 32, 64)
    middle = x.clone()
    middle[..., :4, :] = middle[..., -4:, :] = middle[..., :8] = middle[..., -8:] = 9.0
    with torch.no_grad():
        assert torch.equal(net(x), net(middle))
        net.pool = 'all'
        assert not torch.allclose(net(x), net(middle), rtol=1e-2)
