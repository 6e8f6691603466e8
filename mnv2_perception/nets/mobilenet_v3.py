"""MobileNetV3-Large and -Small: searched inverted residuals, squeeze-and-excitation, hard swish.

Howard et al., "Searching for MobileNetV3", ICCV 2019, https://arxiv.org/abs/1905.02244, Tables 1
and 2. Parameter names follow torchvision, so its checkpoints load.
"""

from functools import partial
from typing import Literal

from torch import nn, Tensor

from mnv2_perception.nets.backbone import Backbone, convolution, Layer, Padding, round_channels

# kernel, expanded channels, output channels, squeeze-and-excitation, hard swish, stride
Row = tuple[int, int, int, bool, bool, int]
LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
STEM_CHANNELS = 16
VARIANTS = {'large': (LARGE, 1280), 'small': (SMALL, 1024)}
norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    padding: Padding = 'symmetric',
    activation: type[nn.Module] | None = nn.Hardswish,
) -> nn.Sequential:
    """Return convolution without bias, batch normalisation and activation."""
    layers = [
        convolution(in_channels, out_channels, kernel, stride, groups, padding),
        norm(out_channels),
    ]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


class SqueezeExcitation(nn.Module):
    """Scale each channel by a factor that a small network computes from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_channels(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(scale))))


class InvertedResidual(nn.Module):
    """Expand 1×1, filter depthwise, squeeze and excite, project linearly.

    The input is added if shapes allow.
    """

    def __init__(self, in_channels: int, row: Row, padding: Padding = 'symmetric') -> None:
        super().__init__()
        kernel, expanded, out_channels, excites, swishes, stride = row
        activation = nn.Hardswish if swishes else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(conv_norm(in_channels, expanded, 1, activation=activation))
        layers.append(
            conv_norm(expanded, expanded, kernel, stride, expanded, padding, activation)
        )
        if excites:
            layers.append(SqueezeExcitation(expanded))
        layers.append(conv_norm(expanded, out_channels, 1, activation=None))
        self.block = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.adds_input else self.block(x)


class MobileNetV3(Backbone):
    """The MobileNetV3 network.

    Args:
        variant: `large` or `small`.
        num_classes: number of classes of the head; 0 leaves the head out (encoder only).
        width_mult: width multiplier.
        padding: see `backbones.make_backbone`.
    """

    def __init__(
        self,
        variant: Literal['large', 'small'] = 'large',
        num_classes: int = 1000,
        width_mult: float = 1.0,
        padding: Padding = 'symmetric',
    ) -> None:
        rows, hidden = VARIANTS[variant]
        channels = round_channels(STEM_CHANNELS * width_mult)
        stem = conv_norm(3, channels, 3, 2, padding=padding)
        layers: list[Layer] = [(stem, channels, 2)]
        for kernel, expanded, c, excites, swishes, stride in rows:
            out = round_channels(c * width_mult)
            row = (kernel, round_channels(expanded * width_mult), out, excites, swishes, stride)
            layers.append((InvertedResidual(channels, row, padding), out, stride))
            channels = out
        last = 6 * channels
        layers.append((conv_norm(channels, last, 1), last, 1))
        head = None
        if num_classes:
            hidden = round_channels(hidden * width_mult)
            head = nn.Sequential(
                nn.Linear(last, hidden),
                nn.Hardswish(inplace=True),
                nn.Dropout(0.2),
                nn.Linear(hidden, num_classes),
            )
        super().__init__(layers, head)
