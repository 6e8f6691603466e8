"""What a training run is made of. No torch: the command line reads it to offer the options."""

from dataclasses import dataclass
import math
from typing import Literal

from mnv2_perception.errors import DataError

RANGES: dict[str, tuple[float, float]] = {
    'epochs': (1, math.inf),
    'batch': (1, math.inf),
    'learning_rate': (0.0, math.inf),
    'warm_up': (0, math.inf),
    'frozen_stages': (0, 5),
    'ema': (0.0, 1.0),
    'evaluate_every': (1, math.inf),
    'patience': (0, math.inf),
    'seed': (0, 2**31),
    'min_scale': (0.05, 20.0),
    'max_scale': (0.05, 20.0),
    'min_crop': (0.05, 1.0),
    'encoder_depth': (3, 5),
    'width_mult': (0.1, 10.0),
    'crop_height': (32, 16384),
    'crop_width': (32, 16384),
    'drawn': (0, math.inf),
}


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of; kept in its checkpoint and in the model card.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        learning_rate: peak of the schedule for the layers that start from random weights.
        encoder_rate: the encoder's share of it, when it starts from weights.
        weight_decay: AdamW's.
        schedule: `one_cycle` (Smith, arXiv:1708.07120) or `cosine` (Loshchilov and Hutter,
            arXiv:1608.03983, without restarts).
        warm_up: epochs in which the encoder keeps the `--weights` it started from.
        frozen_stages: encoder stages (strides 2, 4, ...) that keep them to the end, 0 to 5.
        ema: decay, per step, of the running mean of the weights that is measured and exported;
            0 exports the last step's weights.
        precision: `fp32`, or mixed: `bf16` (GPUs, CPUs with AVX-512 BF16) or `fp16` (GPUs).
        evaluate_every: epochs between two measurements on the validation images.
        patience: measurements without a better one after which the run stops; 0 never stops it.
        balance: how much more rare classes weigh in the cross entropy: 0 for not at all, 1 for
            ENet's weights; detection has the focal loss instead.
        encoder: name of a network of the family, see `nets.backbones`.
        width_mult: width multiplier of the encoder.
        seed: of everything random; the same seed gives the same run on one CPU.
    """

    epochs: int = 40
    batch: int = 8
    learning_rate: float = 2e-3
    encoder_rate: float = 0.3
    weight_decay: float = 0.01
    schedule: Literal['one_cycle', 'cosine'] = 'one_cycle'
    warm_up: int = 0
    frozen_stages: int = 2
    ema: float = 0.995
    precision: Literal['fp32', 'bf16', 'fp16'] = 'fp32'
    evaluate_every: int = 5
    patience: int = 0
    balance: float = 1.0
    encoder: str = 'mobilenet_v2'
    width_mult: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name, low)
            if not low <= value <= high:
                raise DataError(
                    f'--{name.replace("_", "-")} is {value}, expected {low} to {high}'
                )


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """Recipe of a UNet.

    Attributes:
        crop_height: height of the random crops, pixels, divisible by 32.
        crop_width: width of the random crops, pixels, divisible by 32.
        min_scale: smallest random scale of an image before it is cropped, relative to the input
            size of the exported model.
        max_scale: largest one.
        drawn: street scenes drawn and mixed in.
        jaccard: weight of the soft Jaccard loss beside the cross entropy.
        decoder: `separable` or `full`.
        encoder_depth: halvings of the encoder; 4 leaves stride 32 out.
        decoder_channels: channels of the decoder's blocks, comma-separated; each doubles the
            size. Empty: those of `nets.unet.DECODER_CHANNELS`.
    """

    crop_height: int = 288
    crop_width: int = 384
    min_scale: float = 0.6
    max_scale: float = 1.8
    drawn: int = 60
    jaccard: float = 0.0
    decoder: Literal['separable', 'full'] = 'separable'
    encoder_depth: int = 5
    decoder_channels: str = ''


@dataclass(frozen=True)
class ClassificationRecipe(Recipe):
    """Recipe of a classifier.

    Attributes:
        min_crop: smallest share of an image's sides that a random crop keeps.
        label_smoothing: share of the label that goes to all classes (Szegedy et al.,
            arXiv:1512.00567, section 7).
        encoder_depth: halvings of the network; 4 leaves the layers at stride 32 out.
        pool: what is classified: `all` of the image, or its `middle`, half as high and wide.
    """

    min_crop: float = 0.6
    label_smoothing: float = 0.0
    encoder_depth: int = 5
    pool: Literal['all', 'middle'] = 'all'


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """Recipe of an SSDLite.

    Attributes:
        crop_height: height of the random crops, pixels, divisible by 32.
        crop_width: width of the random crops, pixels, divisible by 32.
        min_scale: smallest random scale of an image before it is cropped, relative to the input
            size of the exported model.
        max_scale: largest one.
        finest_stride: of the feature pyramid, which ends at 64; 4 finds smaller objects than 8
            and takes half as long again.
    """

    crop_height: int = 288
    crop_width: int = 384
    min_scale: float = 0.6
    max_scale: float = 1.8
    finest_stride: Literal[4, 8, 16] = 8


RECIPES: dict[str, type[Recipe]] = {
    'segmentation': SegmentationRecipe,
    'classification': ClassificationRecipe,
    'detection': DetectionRecipe,
}
