"""UNet on an encoder of the family.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI
2015, https://arxiv.org/abs/1505.04597. Parameter names follow segmentation_models.pytorch.
"""

from typing import get_args, Literal

import torch
from torch import nn, Tensor
from torch.nn import functional

from mnv2_perception.errors import ModelError
from mnv2_perception.nets.backbone import initialise
from mnv2_perception.nets.backbones import make_backbone

DECODER_CHANNELS = (256, 128, 64, 32, 16)

Decoder = Literal['separable', 'full']


def check_divisible(height: int, width: int, stride: int = 32) -> None:
    """Check that height and width are divisible by the stride.

    Raises:
        ModelError: they are not; the message names the next possible size.
    """
    if height % stride or width % stride:
        next_height, next_width = (-(-side // stride) * stride for side in (height, width))
        raise ModelError(
            f'input size (height {height}, width {width}) is not divisible by {stride}; '
            f'the next size that is: height {next_height}, width {next_width}'
        )


def full_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return 3×3 convolution, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def separable_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return depthwise 3×3, then pointwise 1×1, each with batch normalisation and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU6(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class DecoderBlock(nn.Module):
    """Double the size, concatenate the encoder's features (skip), convolve twice."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, decoder: Decoder
    ) -> None:
        super().__init__()
        conv = {'separable': separable_conv, 'full': full_conv}[decoder]
        self.conv1 = conv(in_channels + skip_channels, out_channels)
        self.conv2 = conv(out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode='nearest')
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.conv2(self.conv1(x))


class UNetDecoder(nn.Module):
    """One block for each halving of the encoder; only the block to stride 1 has no skip."""

    def __init__(self, encoder_channels: list[int], channels: tuple[int, ...], decoder: Decoder):
        super().__init__()
        *skips, bottleneck = encoder_channels
        in_channels = [bottleneck, *channels[:-1]]
        skip_channels = [*reversed(skips), 0][: len(channels)]
        self.blocks = nn.ModuleList(
            DecoderBlock(*sizes, decoder)
            for sizes in zip(in_channels, skip_channels, channels, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        *skips, x = features
        for block, skip in zip(self.blocks, [*reversed(skips), None], strict=False):
            x = block(x, skip)
        return x


class UNet(nn.Module):
    """UNet: normalised RGB (N, 3, H, W) to logits (N, num_classes, H/s, W/s).

    The `full` decoder (3×3 convolutions) goes up to stride s = 1. The `separable` one (depthwise
    and pointwise) stops at s = 2, where the last skip is: a block at stride 1 has no skip to
    sharpen edges with and doubles the training time, and decoding at stride 2 costs a quarter.

    Args:
        num_classes: number of classes of the head.
        width_mult: width multiplier of the encoder.
        decoder: `separable` (default) or `full`.
        encoder: a name in `backbones.BACKBONES`.
        encoder_depth: number of halvings in the encoder, 3 to 5; 4 leaves out the layers at
            stride 32.
        decoder_channels: channels of the decoder's blocks; s = 2 ** (encoder_depth - their
            number). Empty: the first of DECODER_CHANNELS, one for each block of the decoder.
        shuffle: the head predicts 2×2 pixels for each of the decoder's, which halves s: thin
            objects get sharp edges for the cost of a linear layer (Shi et al., "Real-Time Single
            Image and Video Super-Resolution", CVPR 2016, https://arxiv.org/abs/1609.05158).

    Raises:
        ModelError: decoder or encoder is unknown, there are too many blocks, or the input's size
            is not divisible by 2 ** encoder_depth.
    """

    def __init__(
        self,
        num_classes: int,
        width_mult: float = 1.0,
        decoder: Decoder = 'separable',
        encoder: str = 'mobilenet_v2',
        encoder_depth: int = 5,
        decoder_channels: tuple[int, ...] = (),
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        if decoder not in get_args(Decoder):
            raise ModelError(f'decoder is {decoder!r}, expected {" or ".join(get_args(Decoder))}')
        if not 3 <= encoder_depth <= 5:
            raise ModelError(f'encoder_depth is {encoder_depth}, expected 3 to 5')
        self.encoder = make_backbone(encoder, 0, width_mult, depth=encoder_depth)
        stop = encoder_depth - 1 if decoder == 'separable' else encoder_depth
        channels = decoder_channels or DECODER_CHANNELS[:stop]
        if len(channels) > encoder_depth:
            raise ModelError(
                f'decoder_channels are {len(channels)}, expected at most one for each of the '
                f'{encoder_depth} halvings of the encoder'
            )
        self.decoder = UNetDecoder(self.encoder.out_channels, channels, decoder)
        self.stride = 2**encoder_depth
        if shuffle:
            self.segmentation_head = nn.Sequential(
                nn.Conv2d(channels[-1], 4 * num_classes, 1), nn.PixelShuffle(2)
            )
        else:
            self.segmentation_head = nn.Sequential(
                nn.Conv2d(channels[-1], num_classes, 3, padding=1)
            )
        initialise(self.decoder)
        initialise(self.segmentation_head)

    def forward(self, x: Tensor) -> Tensor:
        check_divisible(x.shape[-2], x.shape[-1], self.stride)
        return self.segmentation_head(self.decoder(self.encoder.forward_features(x)))
