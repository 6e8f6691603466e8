"""Hyperparameters of training. No torch, because the command line reads them for its options."""

from dataclasses import dataclass, field, fields
import math
from typing import Any, Literal

from mnv2_perception.errors import DataError

PASTED = 0.4  # share of the crops into which objects are pasted
TINTED = 0.3  # with hard light, share of the crops in which each class has a light of its own


def setting(default: Any, meaning: str, low: float = 0, high: float = math.inf) -> Any:
    """Declare a field of a recipe: its text for `--help`, and the range of a number."""
    return field(default=default, metadata={'meaning': meaning, 'low': low, 'high': high})


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run; stored in its checkpoint and in the model card.

    Raises:
        DataError: a number is out of its range.
    """

    epochs: int = setting(40, 'passes over the training images', 1)
    batch: int = setting(8, 'images per step', 1)
    learning_rate: float = setting(
        2e-3, 'peak learning rate, for layers that start from random weights'
    )
    encoder_rate: float = setting(
        0.3, "the encoder's learning rate as a fraction of --learning-rate, if it starts from "
        '--weights',
    )
    weight_decay: float = setting(0.01, 'weight decay of the AdamW optimiser')
    schedule: Literal['one_cycle', 'cosine'] = setting(
        'one_cycle', 'schedule of the learning rate: one_cycle (Smith, arXiv:1708.07120) or '
        'cosine (Loshchilov and Hutter, arXiv:1608.03983, without restarts)',
    )
    warm_up: int = setting(
        0, 'number of first epochs in which the encoder is frozen at its --weights'
    )
    frozen_stages: int = setting(
        2, 'number of encoder stages (strides 2, 4, ...) that stay frozen at their --weights to '
        'the end', 0, 5
    )
    ema: float = setting(
        0.995, 'decay per step of the moving average of the weights, which is measured and '
        'exported; 0: export the weights of the last step', 0, 1,
    )
    precision: Literal['fp32', 'bf16', 'fp16'] = setting(
        'fp32', 'precision of the training: fp32, or mixed with bf16 (GPUs, CPUs with AVX-512 '
        'BF16) or fp16 (GPUs)'
    )
    evaluate_every: int = setting(
        5, 'epochs between measurements on --val', 1
    )
    patience: int = setting(
        0, 'stop after this many measurements without an improvement; 0: never stop early'
    )
    balance: float = setting(
        1.0, 'how much rare classes are weighted up in the cross entropy: 0: not at all, 1: with '
        "ENet's weights; without effect on detection, which uses the focal loss",
    )
    light: float = setting(
        0.0, 'fraction of the training images that are shown in hard light: dark, glaring, with '
        'shadows, reflections on the floor, blur or noise; the other images vary mildly. For '
        f'segmentation, {100 * TINTED:g} % of the crops also show each class in a light of its '
        'own', 0, 1,
    )
    encoder: str = setting(
        'mobilenet_v2', 'network of the encoder; `python -m mnv2_perception.nets.backbones` '
        'lists the known ones',
    )
    width_mult: float = setting(1.0, 'width multiplier of the encoder', 0.1, 10)
    seed: int = setting(
        1, 'seed of all random choices; on one CPU the same seed gives the same run', 0, 2**31
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value, known = getattr(self, item.name), item.metadata
            if isinstance(value, (int, float)) and not known['low'] <= value <= known['high']:
                raise DataError(
                    f'--{item.name.replace("_", "-")} is {value}, expected {known["low"]} to '
                    f'{known["high"]}'
                )


CROP_HEIGHT = 'height of the random crops, in pixels; divisible by 32'
CROP_WIDTH = 'width of the random crops, in pixels; divisible by 32'
SCALE = 'random scale of an image before it is cropped, 1: the input size of the exported model'
MIN_SCALE, MAX_SCALE = f'smallest {SCALE}', f'largest {SCALE}'
ENCODER_DEPTH = (
    'number of times the encoder halves the resolution; 4 leaves out the layers at stride 32'
)


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """Hyperparameters for a UNet."""

    crop_height: int = setting(288, CROP_HEIGHT, 32, 16384)
    crop_width: int = setting(384, CROP_WIDTH, 32, 16384)
    min_scale: float = setting(0.6, MIN_SCALE, 0.05, 20)
    max_scale: float = setting(1.8, MAX_SCALE, 0.05, 20)
    drawn: int = setting(
        60, 'number of drawn scenes to add to the training images: streets for the classes of '
        'CamVid, halls for classes with floor, obstacle and background; 0 for other classes'
    )
    paste: str = setting(
        '', f'classes, comma-separated, whose objects are copied from other images into '
        f'{100 * PASTED:g} % of the crops; choose classes of foreground objects that the images '
        f'show too rarely'
    )
    jaccard: float = setting(
        0.0, 'weight of the soft Jaccard loss (the metric itself) in addition to the cross entropy'
    )
    decoder: Literal['separable', 'full'] = setting(
        'separable', 'convolutions of the decoder: separable (depthwise and pointwise) up to '
        'stride 2, or full up to stride 1'
    )
    head: Literal['plain', 'shuffle'] = setting(
        'plain', 'last layer; shuffle predicts 2x2 pixels for each pixel of the decoder'
    )
    encoder_depth: int = setting(5, ENCODER_DEPTH, 3, 5)
    decoder_channels: str = setting(
        '', 'channels of the decoder blocks, comma-separated; each block doubles the resolution; '
        'none: 256,128,64,32, with one more of 16 for the full decoder',
    )


@dataclass(frozen=True)
class ClassificationRecipe(Recipe):
    """Hyperparameters for a classifier."""

    min_crop: float = setting(
        0.6, "smallest fraction of an image's height and width that a random crop keeps", 0.05, 1
    )
    label_smoothing: float = setting(
        0.0, 'fraction of the label that is spread over all classes (Szegedy et al., '
        'arXiv:1512.00567)',
        0, 1,
    )
    encoder_depth: int = setting(5, ENCODER_DEPTH, 3, 5)
    pool: Literal['all', 'middle'] = setting(
        'all', 'what is classified: all of the image, or its middle, half as high and half as '
        'wide'
    )


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """Hyperparameters for an SSDLite."""

    crop_height: int = setting(288, CROP_HEIGHT, 32, 16384)
    crop_width: int = setting(384, CROP_WIDTH, 32, 16384)
    min_scale: float = setting(0.6, MIN_SCALE, 0.05, 20)
    max_scale: float = setting(1.8, MAX_SCALE, 0.05, 20)
    finest_stride: Literal[4, 8, 16] = setting(
        8, 'finest stride of the feature pyramid, whose coarsest is 64; 4 finds smaller objects '
        'than 8 and is 1.5 times as slow',
    )
    encoder_depth: int = setting(5, ENCODER_DEPTH, 4, 5)


RECIPES: dict[str, type[Recipe]] = {
    'segmentation': SegmentationRecipe,
    'classification': ClassificationRecipe,
    'detection': DetectionRecipe,
}
