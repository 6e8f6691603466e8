"""MobileNetV2: inverted residuals and linear bottlenecks.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
https://arxiv.org/abs/1801.04381. Parameter names follow torchvision, so its checkpoints load.
"""

import torch
from torch import nn, Tensor

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
# features[:2] leave at stride 2, features[2:4] at stride 4, ... features[14:] at stride 32.
STAGE_ENDS = (2, 4, 7, 14, 19)


def round_channels(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor` without losing more than 10 %."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU6; 'same' padding at stride 1."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand 1×1, filter depthwise 3×3, project 1×1 linearly; add the input if it fits."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn_relu6(in_channels, hidden, 1))
        layers += [
            conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 as classifier and as encoder.

    Args:
        num_classes: classes of the head; 0 leaves the head out (encoder only).
        width_mult: width multiplier; channels scale with it, the last layer only above 1.0.
    """

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0) -> None:
        super().__init__()
        channels = round_channels(STEM_CHANNELS * width_mult)
        layers: list[nn.Module] = [conv_bn_relu6(3, channels, 3, stride=2)]
        out_channels = []
        for t, c, n, s in INVERTED_RESIDUALS:
            for repeat in range(n):
                out = round_channels(c * width_mult)
                layers.append(InvertedResidual(channels, out, s if repeat == 0 else 1, t))
                channels = out
                out_channels.append(out)
        last = round_channels(LAST_CHANNELS * max(1.0, width_mult))
        layers.append(conv_bn_relu6(channels, last, 1))
        self.features = nn.Sequential(*layers)
        # Channels at strides 2, 4, 8, 16, 32.
        self.out_channels = [*(out_channels[end - 2] for end in STAGE_ENDS[:-1]), last]
        if num_classes:
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        initialise(self)

    def stages(self) -> list[nn.Sequential]:
        """Return the layers up to stride 2, from there to stride 4, ... to stride 32."""
        return [
            self.features[start:end]
            for start, end in zip((0, *STAGE_ENDS), STAGE_ENDS, strict=False)
        ]

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Return the features at strides 2, 4, 8, 16 and 32 of (N, 3, H, W)."""
        features = []
        for stage in self.stages():
            x = stage(x)
            features.append(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of (N, 3, H, W)."""
        x = self.features(x)  # (N, last, H/32, W/32)
        return self.classifier(x.mean((2, 3)))


def initialise(module: nn.Module) -> None:
    """He-normal convolutions, unit batch normalisation, small normal linear layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out')
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)


def count_parameters(module: nn.Module) -> int:
    """Return the number of learned parameters (batch statistics are not learned)."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, height: int, width: int) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one (H, W) image."""
    macs = 0

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        macs += output.numel() * layer.weight[0].numel()

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    was_training = module.training
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, 3, height, width))
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    return macs
