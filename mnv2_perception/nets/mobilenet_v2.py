"""MobileNetV2: inverted residuals and linear bottlenecks.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
https://arxiv.org/abs/1801.04381. Parameter names follow torchvision, so its checkpoints load.
"""

from torch import nn, Tensor

from mnv2_perception.nets.backbone import Backbone, convolution, Layer, Padding, round_channels

# Table 2 of the paper: expansion t, output channels c, repeats n, stride of the first repeat s.
INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280


def conv_bn_relu6(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    padding: Padding = 'symmetric',
) -> nn.Sequential:
    """Return convolution without bias, batch normalisation and ReLU6."""
    return nn.Sequential(
        convolution(in_channels, out_channels, kernel, stride, groups, padding),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand 1×1, filter depthwise 3×3, project 1×1 linearly; add the input if shapes allow."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: int,
        padding: Padding = 'symmetric',
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn_relu6(in_channels, hidden, 1))
        layers += [
            conv_bn_relu6(hidden, hidden, 3, stride, hidden, padding),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


class MobileNetV2(Backbone):
    """The MobileNetV2 network.

    Args:
        num_classes: number of classes of the head; 0 leaves the head out (encoder only).
        width_mult: width multiplier for all channels; for the last layer only above 1.0.
        padding: see `backbones.make_backbone`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        padding: Padding = 'symmetric',
    ) -> None:
        channels = round_channels(STEM_CHANNELS * width_mult)
        stem = conv_bn_relu6(3, channels, 3, 2, padding=padding)
        layers: list[Layer] = [(stem, channels, 2)]
        for t, c, n, s in INVERTED_RESIDUALS:
            for repeat in range(n):
                out = round_channels(c * width_mult)
                stride = s if repeat == 0 else 1
                block = InvertedResidual(channels, out, stride, t, padding)
                layers.append((block, out, stride))
                channels = out
        last = round_channels(LAST_CHANNELS * max(1.0, width_mult))
        layers.append((conv_bn_relu6(channels, last, 1), last, 1))
        head = None
        if num_classes:
            head = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        super().__init__(layers, head)
