"""MobileNetV1: depthwise separable convolutions.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017, https://arxiv.org/abs/1704.04861, Table 1.
"""

from torch import nn

from mnv2_perception.nets.backbone import Backbone, convolution, Layer, Padding, round_channels

STEM_CHANNELS = 32
# Output channels and stride of each depthwise separable convolution.
SEPARABLE = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    padding: Padding = 'symmetric',
) -> list[nn.Module]:
    """Return convolution without bias, batch normalisation and ReLU."""
    conv = convolution(in_channels, out_channels, kernel, stride, groups, padding)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class MobileNetV1(Backbone):
    """The MobileNetV1 network.

    Args:
        num_classes: number of classes of the head; 0 leaves the head out (encoder only).
        width_mult: width multiplier.
        padding: see `backbones.make_backbone`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        padding: Padding = 'symmetric',
    ) -> None:
        channels = round_channels(STEM_CHANNELS * width_mult)
        stem = nn.Sequential(*conv_bn_relu(3, channels, 3, 2, padding=padding))
        layers: list[Layer] = [(stem, channels, 2)]
        for c, stride in SEPARABLE:
            out = round_channels(c * width_mult)
            separable = nn.Sequential(
                *conv_bn_relu(channels, channels, 3, stride, channels, padding),
                *conv_bn_relu(channels, out, 1),
            )
            layers.append((separable, out, stride))
            channels = out
        head = None
        if num_classes:
            head = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels, num_classes))
        super().__init__(layers, head)
