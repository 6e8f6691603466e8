"""SSDLite on an encoder of the family, with a light feature pyramid for small objects.

SSD: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, https://arxiv.org/abs/1512.02325.
SSDLite, its depthwise separable form: Sandler et al., "MobileNetV2", CVPR 2018, section 6.2,
https://arxiv.org/abs/1801.04381. The top-down path follows Lin et al., "Feature Pyramid Networks
for Object Detection", CVPR 2017, https://arxiv.org/abs/1612.03144, with separable convolutions:
without it the features at stride 8 are too shallow to distinguish a pedestrian from a post.
"""

from collections.abc import Sequence
import math

import torch
from torch import nn, Tensor
from torch.nn import functional

from mnv2_perception.errors import ModelError
from mnv2_perception.nets.backbone import initialise
from mnv2_perception.nets.backbones import make_backbone
from mnv2_perception.nets.unet import check_divisible, separable_conv

STRIDES = (8, 16, 32, 64)
CHANNELS = 128  # of the pyramid, as in SSD-MobileNet-FPNLite of TensorFlow's detection zoo

# Anchors: each cell has one for each size (square root of its area, in strides) and each ratio of
# width to height. More are upright than flat, like pedestrians, bicyclists and signs. Three of
# four boxes of CamVid, enlarged to 480×640, have an IoU of 0.5 or more with one of them.
ANCHOR_SIZES = (1.75, 2.5)
ANCHOR_RATIOS = (0.3, 0.5, 1.0, 1.7)
ANCHORS_PER_CELL = len(ANCHOR_SIZES) * len(ANCHOR_RATIOS)

# SSD's variances 0.1 and 0.2, as factors for the offsets of centre and size.
CENTRE_WEIGHT, SIZE_WEIGHT = 10.0, 5.0
MAX_LOG_RATIO = math.log(1000.0 / 16.0)  # keeps exp() of extreme outputs finite

CANDIDATES = 200  # boxes that an exported model returns, before NMS
PRIOR = 0.01  # initial probability of each class at each anchor: RetinaNet, section 4.1


def make_shapes() -> Tensor:
    """Return the widths and heights, (A, 2) float32, of a cell's anchors, in strides."""
    return torch.tensor([
        (size * math.sqrt(ratio), size / math.sqrt(ratio))
        for size in ANCHOR_SIZES for ratio in ANCHOR_RATIOS
    ])


def make_cells(height: int, width: int, strides: Sequence[int] = STRIDES) -> Tensor:
    """Return the cells for an input size, (C, 4) float32: centre x, centre y, stride, stride, px.

    The order is by stride, then row, then column.
    """
    levels = []
    for stride in strides:
        rows, columns = -(-height // stride), -(-width // stride)
        y = (torch.arange(rows) + 0.5) * (height / rows)
        x = (torch.arange(columns) + 0.5) * (width / columns)
        level = torch.full((rows, columns, 4), float(stride))
        level[..., :2] = torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=2)
        levels.append(level.reshape(-1, 4))
    return torch.cat(levels)


def make_anchors(height: int, width: int, strides: Sequence[int] = STRIDES) -> Tensor:
    """Return the anchors for an input size, (N, 4) float32: centre x, centre y, width, height, px.

    The order is by cell, then size, then ratio, as in SSDLite's outputs.
    """
    cells, shapes = make_cells(height, width, strides)[:, None], make_shapes()[None]
    centres = cells[..., :2].expand(-1, ANCHORS_PER_CELL, -1)
    return torch.cat([centres, cells[..., 2:] * shapes], dim=2).reshape(-1, 4)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the offsets, (N, 4), that turn anchors into boxes; SSD, equation 2.

    Args:
        boxes: (N, 4) x1, y1, x2, y2, px, of positive size.
        anchors: (N, 4), see `make_anchors`.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sizes = boxes[:, 2:] - boxes[:, :2]
    return torch.cat([
        CENTRE_WEIGHT * (centres - anchors[:, :2]) / anchors[:, 2:],
        SIZE_WEIGHT * (sizes / anchors[:, 2:]).log(),
    ], dim=1)


def decode_boxes(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes, (N, 4) x1, y1, x2, y2, for anchors and offsets; inverts `encode_boxes`.

    Boxes have the anchors' unit and may reach beyond the image.
    """
    centres = anchors[:, :2] + offsets[:, :2] * anchors[:, 2:] / CENTRE_WEIGHT
    halves = (offsets[:, 2:] / SIZE_WEIGHT).clamp(max=MAX_LOG_RATIO).exp() * anchors[:, 2:] / 2
    return torch.cat([centres - halves, centres + halves], dim=1)


def prediction(outputs: int) -> nn.Sequential:
    """Return a head: a separable convolution, then SSDLite's (depthwise 3×3, linear pointwise)."""
    return nn.Sequential(
        separable_conv(CHANNELS, CHANNELS),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU6(inplace=True),
        nn.Conv2d(CHANNELS, outputs, 1),
    )


def downsample(in_channels: int) -> nn.Sequential:
    """Return SSDLite's extra layer: pointwise (half the channels), depthwise /2, pointwise."""
    half = CHANNELS // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, half, 1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU6(inplace=True),
        nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU6(inplace=True),
        nn.Conv2d(half, CHANNELS, 1, bias=False),
        nn.BatchNorm2d(CHANNELS),
    )


class Pyramid(nn.Module):
    """Feature pyramid of the encoder's features and extra layers, with CHANNELS at each level.

    Args:
        encoder_channels: channels of the encoder's features at strides 2, 4, ... to its last.
        strides: strides of the pyramid's levels, each twice the previous one; those beyond the
            encoder's last stride come from extra layers.
    """

    def __init__(self, encoder_channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        last = 2 ** len(encoder_channels)
        taps = [(stride.bit_length() - 2) for stride in strides if stride <= last]
        self.taps = taps  # indices into the encoder's features
        self.laterals = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(encoder_channels[tap], CHANNELS, 1, bias=False),
                nn.BatchNorm2d(CHANNELS),
            )
            for tap in taps
        )
        extra_channels = [encoder_channels[-1], *[CHANNELS] * len(strides)]
        self.extras = nn.ModuleList(
            downsample(channels) for channels in extra_channels[: len(strides) - len(taps)]
        )
        self.outputs = nn.ModuleList(separable_conv(CHANNELS, CHANNELS) for _ in strides)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [
            lateral(features[tap]) for lateral, tap in zip(self.laterals, self.taps, strict=True)
        ]
        x = features[-1]
        for extra in self.extras:
            x = extra(x)
            levels.append(x)
        for fine in range(len(levels) - 2, -1, -1):
            coarse = functional.interpolate(levels[fine + 1], scale_factor=2.0)
            # Halving an odd number of cells rounds up, so the doubled level may be one larger.
            rows, columns = (int(side) for side in levels[fine].shape[-2:])
            levels[fine] = levels[fine] + coarse[..., :rows, :columns]
        return [output(level) for output, level in zip(self.outputs, levels, strict=True)]


class SSDLite(nn.Module):
    """SSDLite: normalised RGB (N, 3, H, W) to class logits and box offsets for each anchor.

    Each level has its own heads: shared heads would normalise all levels with the statistics of
    one.

    Args:
        num_classes: number of classes without background; each has its own sigmoid.
        width_mult: width multiplier of the encoder.
        encoder: a name in `backbones.BACKBONES`.
        strides: strides of the pyramid, powers of two from 4 up, each twice the previous one; with
            4 it finds smaller objects, but takes half as long again.
        encoder_depth: number of halvings in the encoder, 4 or 5; 4 leaves out its layers at stride
            32, which are more than half of all weights: the pyramid's extra layers begin there.

    Raises:
        ModelError: encoder, strides or depth are invalid, or the input's size is not divisible by
            2 ** encoder_depth.
    """

    def __init__(
        self,
        num_classes: int,
        width_mult: float = 1.0,
        encoder: str = 'mobilenet_v2',
        strides: Sequence[int] = STRIDES,
        encoder_depth: int = 5,
    ) -> None:
        super().__init__()
        if encoder_depth not in (4, 5):
            raise ModelError(f'encoder_depth is {encoder_depth}, expected 4 or 5')
        first = strides[0] if strides else 0
        if first not in (4, 8, 16, 2**encoder_depth) or list(strides) != [
            first << level for level in range(len(strides))
        ]:
            raise ModelError(
                f'strides are {tuple(strides)}, expected 4, 8, 16 or 32 (depth 5 alone) '
                f'and from there each the double of the one before, such as {STRIDES}'
            )
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.stride = 2**encoder_depth
        self.encoder = make_backbone(encoder, 0, width_mult, depth=encoder_depth)
        if encoder_depth == 5:
            self.encoder.drop_widening()
        self.pyramid = Pyramid(self.encoder.out_channels, strides)
        self.class_heads = nn.ModuleList(
            prediction(ANCHORS_PER_CELL * num_classes) for _ in strides
        )
        self.box_heads = nn.ModuleList(prediction(ANCHORS_PER_CELL * 4) for _ in strides)
        for module in (self.pyramid, self.class_heads, self.box_heads):
            initialise(module)
        for head in (*self.class_heads, *self.box_heads):
            nn.init.normal_(head[-1].weight, 0, 0.01)
        for head in self.class_heads:
            nn.init.constant_(head[-1].bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, anchors, classes) and offsets (N, anchors, 4), see `make_anchors`."""
        check_divisible(x.shape[-2], x.shape[-1], self.stride)
        levels = self.pyramid(self.encoder.forward_features(x))
        logits = [
            by_anchor(head(level), self.num_classes)
            for head, level in zip(self.class_heads, levels, strict=True)
        ]
        offsets = [
            by_anchor(head(level), 4) for head, level in zip(self.box_heads, levels, strict=True)
        ]
        return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)


def by_anchor(output: Tensor, values: int) -> Tensor:
    """Reshape (N, anchors of a cell × values, H, W) to (N, H × W × anchors of a cell, values)."""
    return output.permute(0, 2, 3, 1).reshape(int(output.shape[0]), -1, values)


class TopBoxes(nn.Module):
    """Selects and decodes the CANDIDATES best boxes of one image: the outputs of exported models.

    Class-wise NMS is left to `vision.detections`, so that thresholds can be changed while the
    model runs, and TensorRT needs no plugin.

    Args:
        height: height of the input, px.
        width: width of the input, px.
        strides: strides of the network's pyramid.
    """

    def __init__(self, height: int, width: int, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        cells = make_cells(height, width, strides)
        self.register_buffer('cells', cells / torch.tensor([width, height, width, height]))
        self.register_buffer('shapes', make_shapes())

    def forward(self, outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (1, K, 4) x1, y1, x2, y2 in 0..1, scores (1, K), int32 class ids (1, K).

        Sorted by score, highest first. A box may reach beyond the image; an anchor may have boxes
        of two classes.
        """
        logits, offsets = outputs
        num_classes = int(logits.shape[2])
        # Logits have the same order as scores, so only the best need the sigmoid.
        top, index = logits.reshape(1, -1).topk(min(CANDIDATES, logits[0].numel()))  # (1, K)
        anchor = torch.div(index[0], num_classes, rounding_mode='trunc')
        class_ids = index - (anchor * num_classes)[None]
        cell = torch.div(anchor, ANCHORS_PER_CELL, rounding_mode='trunc')
        # Stored anchors would make the file 0.7 MB larger at 480×640.
        cells, shapes = self.cells[cell], self.shapes[anchor - cell * ANCHORS_PER_CELL]
        anchors = torch.cat([cells[:, :2], cells[:, 2:] * shapes], dim=1)
        boxes = decode_boxes(offsets[0][anchor], anchors)
        return boxes[None], top.sigmoid(), class_ids.to(torch.int32)
