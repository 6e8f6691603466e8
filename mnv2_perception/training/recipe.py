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
    batch: int = setting(8, 'images a step', 1)
    learning_rate: float = setting(
        2e-3, 'peak of the schedule for the layers that start from random weights'
    )
    encoder_rate: float = setting(
        0.3, "the encoder's share of the learning rate, when it starts from weights"
    )
    weight_decay: float = setting(0.01, "AdamW's")
    schedule: Literal['one_cycle', 'cosine'] = setting(
        'one_cycle', 'one_cycle (Smith, arXiv:1708.07120) or cosine (Loshchilov and Hutter, '
        'arXiv:1608.03983, without restarts)',
    )
    warm_up: int = setting(
        0, 'epochs in which the encoder keeps the --weights it started from'
    )
    frozen_stages: int = setting(
        2, 'encoder stages (strides 2, 4, ...) that keep the --weights to the end', 0, 5
    )
    ema: float = setting(
        0.995, 'decay, per step, of the running mean of the weights that is measured and '
        "exported; 0 exports the last step's weights", 0, 1,
    )
    precision: Literal['fp32', 'bf16', 'fp16'] = setting(
        'fp32', 'fp32, or mixed: bf16 (GPUs, CPUs with AVX-512 BF16) or fp16 (GPUs)'
    )
    evaluate_every: int = setting(
        5, 'epochs between two measurements on the validation images', 1
    )
    patience: int = setting(
        0, 'measurements without a better one after which the run stops; 0 never stops it'
    )
    balance: float = setting(
        1.0, 'how much more rare classes weigh in the cross entropy: 0 not at all, 1 by '
        "ENet's weights; detection has the focal loss instead",
    )
    light: float = setting(
        0.0, 'share of the training images seen in hard light: dark, glaring, in shadows, '
        'mirrored by the floor, blurred, noisy; the others vary mildly; for segmentation also '
        f'each class in a light of its own, in {100 * TINTED:g} % of the crops', 0, 1,
    )
    encoder: str = setting(
        'mobilenet_v2', 'network of the family; `python -m mnv2_perception.nets.backbones` '
        'lists them',
    )
    width_mult: float = setting(1.0, 'width multiplier of the encoder', 0.1, 10)
    seed: int = setting(
        1, 'of everything random; the same seed gives the same run on one CPU', 0, 2**31
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value, known = getattr(self, item.name), item.metadata
            if isinstance(value, (int, float)) and not known['low'] <= value <= known['high']:
                raise DataError(
                    f'--{item.name.replace("_", "-")} is {value}, expected {known["low"]} to '
                    f'{known["high"]}'
                )


CROP_HEIGHT = 'height of the random crops, pixels, divisible by 32'
CROP_WIDTH = 'width of the random crops, pixels, divisible by 32'
MIN_SCALE = (
    'smallest random scale of an image before it is cropped, relative to the input size of the '
    'exported model'
)
ENCODER_DEPTH = 'halvings of the encoder; 4 leaves the layers at stride 32 out'


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """Hyperparameters for a UNet."""

    crop_height: int = setting(288, CROP_HEIGHT, 32, 16384)
    crop_width: int = setting(384, CROP_WIDTH, 32, 16384)
    min_scale: float = setting(0.6, MIN_SCALE, 0.05, 20)
    max_scale: float = setting(1.8, 'largest one', 0.05, 20)
    drawn: int = setting(
        60, 'scenes drawn and mixed in: streets for the classes of CamVid, halls for classes with '
        'floor, obstacle and background; 0 for others'
    )
    paste: str = setting(
        '', f'classes, comma-separated, of which things of another image are pasted into '
        f'{100 * PASTED:g} % of the crops: those that stand before others, and that the images '
        f'show too seldom'
    )
    jaccard: float = setting(
        0.0, 'weight of the soft Jaccard loss, the metric itself, beside the cross entropy'
    )
    decoder: Literal['separable', 'full'] = setting(
        'separable', 'depthwise and pointwise convolutions up to stride 2, or full ones to 1'
    )
    head: Literal['plain', 'shuffle'] = setting(
        'plain', "shuffle predicts 2x2 pixels at each of the decoder's"
    )
    encoder_depth: int = setting(5, ENCODER_DEPTH, 3, 5)
    decoder_channels: str = setting(
        '', "channels of the decoder's blocks, comma-separated; each doubles the size "
        '(empty: 256,128,64,32 and for the full decoder 16)',
    )


@dataclass(frozen=True)
class ClassificationRecipe(Recipe):
    """Hyperparameters for a classifier."""

    min_crop: float = setting(
        0.6, "smallest share of an image's sides that a random crop keeps", 0.05, 1
    )
    label_smoothing: float = setting(
        0.0, 'share of the label that goes to all classes (Szegedy et al., arXiv:1512.00567)',
        0, 1,
    )
    encoder_depth: int = setting(5, ENCODER_DEPTH, 3, 5)
    pool: Literal['all', 'middle'] = setting(
        'all', 'what is classified: all of the image, or its middle, half as high and wide'
    )


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """Hyperparameters for an SSDLite."""

    crop_height: int = setting(288, CROP_HEIGHT, 32, 16384)
    crop_width: int = setting(384, CROP_WIDTH, 32, 16384)
    min_scale: float = setting(0.6, MIN_SCALE, 0.05, 20)
    max_scale: float = setting(1.8, 'largest one', 0.05, 20)
    finest_stride: Literal[4, 8, 16] = setting(
        8, 'of the feature pyramid, which ends at 64; 4 finds smaller objects than 8 and takes '
        'half as long again',
    )
    encoder_depth: int = setting(5, ENCODER_DEPTH, 4, 5)


RECIPES: dict[str, type[Recipe]] = {
    'segmentation': SegmentationRecipe,
    'classification': ClassificationRecipe,
    'detection': DetectionRecipe,
}
