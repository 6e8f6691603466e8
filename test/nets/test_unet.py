"""UNet over MobileNetV2: sizes in, sizes out, and that the skips are used."""

import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')

from mnv2_perception.errors import ModelError
from mnv2_perception.nets.backbone import count_macs
from mnv2_perception.nets.unet import UNet

pytestmark = pytest.mark.train


@pytest.mark.parametrize(('decoder', 'stride'), [('separable', 2), ('full', 1)])
@pytest.mark.parametrize(('height', 'width'), [(32, 64), (96, 32)])
def test_logits_come_at_the_decoders_stride(
    decoder: str, stride: int, height: int, width: int
) -> None:
    net = UNet(5, 0.35, decoder).eval()
    assert net(torch.zeros(2, 3, height, width)).shape == (2, 5, height // stride, width // stride)


@pytest.mark.parametrize(
    ('size', 'following'), [((65, 96), (96, 96)), ((64, 100), (64, 128)), ((1, 31), (32, 32))]
)
def test_a_size_that_does_not_divide_names_the_next(
    size: tuple[int, int], following: tuple[int, int]
) -> None:
    told = f'height {following[0]}, width {following[1]}$'
    with pytest.raises(ModelError, match=told):
        UNet(5, 0.35).eval()(torch.zeros(1, 3, *size))


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(ModelError, match="'fast', expected separable or full"):
        UNet(5, 0.35, 'fast')


@pytest.mark.parametrize('decoder', ['separable', 'full'])
def test_every_parameter_takes_part(decoder: str) -> None:
    net = UNet(5, 0.35, decoder)
    net(torch.randn(2, 3, 64, 64)).square().mean().backward()
    unused = [name for name, value in net.named_parameters() if value.grad is None]
    assert unused == []


@pytest.mark.parametrize('decoder', ['separable', 'full'])
def test_every_skip_reaches_the_output(decoder: str) -> None:
    net = UNet(5, 0.35, decoder).eval()
    features = [
        feature.detach().requires_grad_()
        for feature in net.encoder.forward_features(torch.randn(1, 3, 64, 64))
    ]
    net.decoder(features).square().mean().backward()
    assert all(feature.grad is not None and feature.grad.any() for feature in features)


def test_the_full_decoder_has_the_published_channels_and_cost() -> None:
    net = UNet(11, decoder='full')
    channels = [block.conv2[0].out_channels for block in net.decoder.blocks]
    assert channels == [256, 128, 64, 32, 16]
    assert count_macs(net, 256, 512) == pytest.approx(6.9e9, rel=0.02)


def test_the_separable_decoder_costs_a_quarter_at_most() -> None:
    full, separable = (count_macs(UNet(11, decoder=name), 64, 64) for name in
                       ('full', 'separable'))
    assert separable < full / 4
