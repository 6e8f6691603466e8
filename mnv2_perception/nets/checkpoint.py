"""Checkpoints: our own, and the ImageNet features that training starts from."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.backbone import Backbone
from mnv2_perception.nets.unet import Decoder


@dataclass(frozen=True)
class SegmentationCheckpoint:
    """A UNet, what it is for, how it was trained, and what a resumed run needs."""

    spec: ModelSpec
    width_mult: float
    decoder: Decoder
    state_dict: dict[str, Tensor]
    facts: dict[str, Any]
    epoch: int
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    encoder: str = 'mobilenet_v2'


def read_weights(path: Path) -> dict[str, Any]:
    """Read a torch file that holds nothing but tensors and plain values.

    Raises:
        ModelError: it is missing, damaged, or would run code when loaded.
    """
    try:
        values = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as exc:
        raise ModelError(f'{path}: no such checkpoint') from exc
    except Exception as exc:  # a damaged file fails in whatever way its bytes lead
        reason = (str(exc) or type(exc).__name__).splitlines()[0]
        raise ModelError(
            f'{path}: is no checkpoint of plain tensors ({reason}); save a state_dict'
        ) from exc
    if not isinstance(values, dict):
        raise ModelError(f'{path}: holds a {type(values).__name__}, expected a state_dict')
    return values


def load_backbone(encoder: Backbone, path: Path) -> None:
    """Load torchvision's `features.*` into an encoder of the family.

    A classifier is left out, and so is the last layer where the encoder has dropped it.

    Raises:
        ModelError: tensors are missing, unknown or of another shape (another width multiplier).
    """
    values = read_weights(path)
    left_out = ('classifier.', f'features.{len(encoder.features)}.')
    features = {key: value for key, value in values.items() if not key.startswith(left_out)}
    wanted = encoder.state_dict()
    differing = sorted(
        key for key in wanted.keys() | features.keys()
        if key not in wanted or key not in features or wanted[key].shape != features[key].shape
    )
    if differing:
        raise ModelError(
            f"{path}: is not this encoder at this width with torchvision's names: "
            f'{len(differing)} tensors are missing, unknown or of another shape, the first is '
            f'{differing[0]}'
        )
    encoder.load_state_dict(features)


def save_checkpoint(checkpoint: SegmentationCheckpoint, path: Path) -> None:
    """Write atomically: a killed run leaves the previous epoch's checkpoint."""
    values = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    values['spec'] = asdict(checkpoint.spec)
    partial = path.with_suffix('.partial')
    torch.save(values, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> SegmentationCheckpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        ModelError: it is missing, damaged, or not of `mnv2 train`.
    """
    values = read_weights(path)
    try:
        values['spec'] = ModelSpec.from_dict(values['spec'], str(path))
        return SegmentationCheckpoint(**values)
    except (KeyError, TypeError) as exc:
        raise ModelError(f'{path}: is no checkpoint of `mnv2 train` ({exc})') from exc
