"""What a training run is made of. No torch: the command line reads it to offer the options."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of; kept in its checkpoint and in the model card.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        crop_height: height of the random crops, pixels, divisible by 32.
        crop_width: width of the random crops, pixels, divisible by 32.
        learning_rate: peak of the one-cycle schedule for the decoder.
        encoder_rate: the encoder's share of it, when it starts from a backbone.
        weight_decay: AdamW's.
        drawn: street scenes drawn and mixed in.
        frozen_stages: encoder stages (strides 2, 4, ...) left as in the backbone.
        width_mult: width multiplier of the encoder.
        encoder: name of a network of the family, see `nets.backbones`.
        decoder: `separable` or `full`.
        seed: of everything random; the same seed gives the same run on one machine.
    """

    epochs: int = 40
    batch: int = 8
    crop_height: int = 288
    crop_width: int = 384
    learning_rate: float = 2e-3
    encoder_rate: float = 0.3
    weight_decay: float = 0.01
    drawn: int = 60
    frozen_stages: int = 2
    width_mult: float = 1.0
    encoder: str = 'mobilenet_v2'
    decoder: Literal['separable', 'full'] = 'separable'
    seed: int = 1
