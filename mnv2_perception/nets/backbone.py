"""Common parts of all networks of the family: layers that compute features, and a class head."""

from collections.abc import Sequence
from typing import Any, get_args, Literal

import torch
from torch import nn, Tensor
from torch.nn import functional

from mnv2_perception.errors import ModelError

Layer = tuple[nn.Module, int, int]  # module, output channels, stride
Padding = Literal['symmetric', 'same_tf']
Pool = Literal['all', 'middle']


class Backbone(nn.Module):
    """A network that serves as classifier and as encoder.

    Args:
        layers: layers from the image to the last features.
        classifier: head from the mean of the last features to the logits; None for an encoder
            only.

    Attributes:
        out_channels: channels of the features at strides 2, 4, 8, 16 and 32.
        pool: part of the last features whose mean is classified: `all`, or the `middle`, half as
            high and half as wide; its surroundings still contribute as context.
    """

    pool: Pool = 'all'

    def __init__(self, layers: Sequence[Layer], classifier: nn.Sequential | None) -> None:
        super().__init__()
        self.features = nn.Sequential(*(module for module, _, _ in layers))
        starts = [index for index, (_, _, stride) in enumerate(layers) if stride == 2]
        self.stage_ends = (*starts[1:], len(layers))
        self.out_channels = [layers[end - 1][1] for end in self.stage_ends]
        if classifier is not None:
            self.classifier = classifier
        initialise(self)

    def stages(self) -> list[nn.Sequential]:
        """Return the layers up to stride 2, from there to stride 4, ... to stride 32."""
        starts = (0, *self.stage_ends)
        return [
            self.features[start:end]
            for start, end in zip(starts, self.stage_ends, strict=False)
        ]

    def drop_widening(self) -> None:
        """Drop the last layer if it only adds channels for the classifier, as in V2 and V3."""
        modules = self.features[-1].modules()
        conv = next(layer for layer in modules if isinstance(layer, nn.Conv2d))
        if conv.kernel_size == (1, 1):
            del self.features[-1]
            self.stage_ends = (*self.stage_ends[:-1], len(self.features))
            self.out_channels[-1] = conv.in_channels

    def truncate(self, depth: int, num_classes: int = 0) -> None:
        """Keep the layers up to stride 2 ** depth, with one linear layer as classifier."""
        self.stage_ends = self.stage_ends[:depth]
        self.out_channels = self.out_channels[:depth]
        self.features = self.features[: self.stage_ends[-1]]
        if num_classes:
            self.classifier = nn.Sequential(
                nn.Dropout(0.2), nn.Linear(self.out_channels[-1], num_classes)
            )
            initialise(self.classifier)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Return the features at strides 2, 4, 8, 16 and 32 of images (N, 3, H, W)."""
        features = []
        for stage in self.stages():
            x = stage(x)
            features.append(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, 3, H, W)."""
        x = self.features(x)  # (N, last, H/32, W/32)
        if self.pool == 'middle':
            height, width = int(x.shape[2]), int(x.shape[3])
            x = x[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
        return self.classifier(x.mean((2, 3)))


def padded_conv(
    x: Tensor, weight: Tensor, pads: list[int], stride: list[int], groups: int
) -> Tensor:
    """Convolve with zero padding at top, left, bottom and right."""
    top, left, bottom, right = pads
    x = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(x, weight, stride=stride, groups=groups)


class PaddedConv(torch.autograd.Function):
    """`padded_conv` as one ONNX node; with separate padding, inference takes a tenth longer."""

    @staticmethod
    def forward(_ctx: Any, *args: Any) -> Tensor:
        return padded_conv(*args)

    @staticmethod
    def symbolic(
        graph: Any, x: Any, weight: Any, pads: list[int], stride: list[int], groups: int
    ) -> Any:
        return graph.op('Conv', x, weight, pads_i=pads, strides_i=stride, group_i=groups)


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded like TensorFlow's SAME: an odd pixel at bottom and right.

    With symmetric padding and stride 2, an image of even size is sampled one pixel further up and
    left. https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        totals = [
            max((-(-int(size) // stride) - 1) * stride + kernel - int(size), 0)
            for size, kernel, stride in zip(
                x.shape[2:], self.kernel_size, self.stride, strict=True
            )
        ]
        pads = [total // 2 for total in totals] + [total - total // 2 for total in totals]
        conv = PaddedConv.apply if torch.onnx.is_in_onnx_export() else padded_conv
        return conv(x, self.weight, pads, list(self.stride), self.groups)


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    padding: Padding = 'symmetric',
) -> nn.Conv2d:
    """Return a convolution without bias; its output has the size / stride, rounded up.

    Raises:
        ModelError: padding is unknown.
    """
    if padding not in get_args(Padding):
        raise ModelError(f'padding is {padding!r}, expected {" or ".join(get_args(Padding))}')
    if padding == 'same_tf' and stride > 1:  # at stride 1 the two are the same
        return SameConv2d(in_channels, out_channels, kernel, stride, groups)
    return nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )


def round_channels(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, but lose at most 10 %."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def initialise(module: nn.Module) -> None:
    """Initialise weights: He-normal for convolutions, small normal for linear layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out')
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)


def count_parameters(module: nn.Module) -> int:
    """Return the number of trained parameters, without batch statistics."""
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
