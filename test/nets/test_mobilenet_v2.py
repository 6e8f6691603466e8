"""MobileNetV2 is the paper's and torchvision's: parameters, names, channels, operations."""

from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')

from mnv2_perception.nets.backbone import count_macs, count_parameters, round_channels
from mnv2_perception.nets.checkpoint import load_weights
from mnv2_perception.nets.mobilenet_v2 import MobileNetV2

pytestmark = pytest.mark.train


def test_it_has_exactly_torchvisions_parameters() -> None:
    assert count_parameters(MobileNetV2()) == 3_504_872


@pytest.mark.parametrize(
    ('width_mult', 'millions'), [(0.35, 1.68), (0.5, 1.97), (0.75, 2.64), (1.4, 6.11)]
)
def test_other_widths_have_the_published_parameters(width_mult: float, millions: float) -> None:
    count = count_parameters(MobileNetV2(width_mult=width_mult))
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize(
    ('width_mult', 'channels'),
    [
        (0.35, [8, 8, 16, 32, 1280]),
        (0.5, [8, 16, 16, 48, 1280]),
        (0.75, [16, 24, 24, 72, 1280]),
        (1.0, [16, 24, 32, 96, 1280]),
        (1.4, [24, 32, 48, 136, 1792]),
    ],
)
def test_channels_round_as_in_torchvision(width_mult: float, channels: list[int]) -> None:
    encoder = MobileNetV2(num_classes=0, width_mult=width_mult)
    assert encoder.out_channels == channels
    features = encoder.eval().forward_features(torch.zeros(1, 3, 64, 96))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (channels[index], 32 >> index, 48 >> index) for index in range(5)
    ]


@pytest.mark.parametrize(
    ('channels', 'rounded'), [(1, 8), (11.2, 16), (12, 16), (18, 24), (22.4, 24), (44.8, 48)]
)
def test_rounding_loses_no_more_than_a_tenth(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded


def test_names_are_torchvisions() -> None:
    state = MobileNetV2().state_dict()
    assert len(state) == 314
    shapes = {
        'features.0.0.weight': (32, 3, 3, 3),
        'features.0.1.running_mean': (32,),
        'features.1.conv.0.0.weight': (32, 1, 3, 3),  # no expansion in the first block
        'features.1.conv.1.weight': (16, 32, 1, 1),
        'features.1.conv.2.bias': (16,),
        'features.2.conv.0.0.weight': (96, 16, 1, 1),
        'features.2.conv.1.0.weight': (96, 1, 3, 3),
        'features.2.conv.2.weight': (24, 96, 1, 1),
        'features.17.conv.3.num_batches_tracked': (),
        'features.18.0.weight': (1280, 320, 1, 1),
        'classifier.1.weight': (1000, 1280),
        'classifier.1.bias': (1000,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_the_imagenet_checkpoint_loads_strictly(mnv2_data: Path) -> None:
    encoder = MobileNetV2(num_classes=0)
    path = mnv2_data / 'weights/mobilenetv2_1.0_imagenet_features.pth'
    load_weights(encoder, encoder, path)
    stored = torch.load(path, weights_only=True)
    assert set(stored) == set(encoder.state_dict())
    assert all(torch.equal(value, stored[key]) for key, value in encoder.state_dict().items())


def test_it_takes_301_million_multiply_accumulates_at_224() -> None:
    assert count_macs(MobileNetV2(), 224, 224) == pytest.approx(301e6, rel=0.01)


def test_counting_leaves_the_net_as_it_was() -> None:
    net = MobileNetV2(num_classes=10, width_mult=0.35).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    count_macs(net, 32, 32)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_any_input_size_gives_logits() -> None:
    net = MobileNetV2(num_classes=7, width_mult=0.35).eval()
    assert net(torch.zeros(2, 3, 97, 130)).shape == (2, 7)
