"""Checkpoints: our own, and those of others that training starts from."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn, Tensor

from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.unet import Decoder

HEADS = ('classifier.', 'segmentation_head.')  # what depends on the number of classes


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


class NotLoaded(NamedTuple):
    """Names of the tensors of a file that were not used, and of a network's left at random."""

    unused: list[str]
    random: list[str]


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


def load_backbone(net: nn.Module, path: Path) -> NotLoaded:
    """Load torchvision's or segmentation_models_pytorch's weights into the network of that name.

    The head may differ: a layer for another number of classes, or that only one of the two has,
    is left out. Everything before it must fit.

    Args:
        net: an encoder or classifier of the family, or a UNet with the `full` decoder.
        path: the file with the state_dict.

    Returns:
        What was left out; worth telling whoever asked for the weights.

    Raises:
        ModelError: tensors are missing, unknown or of another shape (another width multiplier).
    """
    values = read_weights(path)
    wanted = net.state_dict()
    fitting = {
        key: value for key, value in values.items()
        if key in wanted and wanted[key].shape == getattr(value, 'shape', None)
    }
    left_out = NotLoaded(
        unused=[key for key in values if key not in fitting],
        random=[key for key in wanted if key not in fitting],
    )
    differing = sorted(
        key for key in {*left_out.unused, *left_out.random} if not key.startswith(HEADS)
    )
    if differing:
        raise ModelError(
            f'{path}: is not this network at this width: {len(differing)} tensors are missing, '
            f'unknown or of another shape, the first is {differing[0]}'
        )
    net.load_state_dict(fitting, strict=False)
    return left_out


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
