"""Checkpoints: our own, and those of others that training starts from."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn, Tensor

from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.backbone import Backbone
from mnv2_perception.nets.backbones import make_backbone
from mnv2_perception.nets.ssdlite import SSDLite
from mnv2_perception.nets.unet import UNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    'segmentation': UNet,
    'classification': make_backbone,
    'detection': SSDLite,
}


@dataclass(frozen=True)
class Checkpoint:
    """A network, what it is for, and how it was trained.

    Attributes:
        spec: the exported model's.
        architecture: what `make_network` needs beside the spec.
        state_dict: the weights to measure and export.
        facts: recipe and training data, for the model card.
        epoch: epochs done.
        training: what a run needs to go on; empty where none will.
    """

    spec: ModelSpec
    architecture: dict[str, Any]
    state_dict: dict[str, Tensor]
    facts: dict[str, Any]
    epoch: int
    training: dict[str, Any] = field(default_factory=dict)


class Loaded(NamedTuple):
    """What `load_weights` did not do.

    Attributes:
        unused: names of the file's tensors that were not taken.
        random: names of the network's that keep the values it was made with.
        folded: batch normalisation that the file had folded into its convolutions.
    """

    unused: list[str]
    random: list[str]
    folded: list[nn.BatchNorm2d]


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


def load_weights(net: nn.Module, encoder: Backbone, path: Path) -> Loaded:
    """Let a network start from another: all of the encoder, and of the rest whatever fits.

    Args:
        net: the network; `encoder` is a part of it, or itself.
        encoder: must be found whole; a file with more layers than a shallow encoder serves.
        path: torchvision's classifier or its features, segmentation_models_pytorch's UNet, a
            checkpoint of `mnv2 train`, or a model of `mnv2 export` (.onnx).

    Returns:
        What was left out, such as the head of another number of classes: worth telling.

    Raises:
        ModelError: the file cannot be read, or tensors of the encoder are missing or of another
            shape (another network, another width multiplier).
    """
    if path.suffix == '.onnx':
        return load_exported(net, encoder, path)
    values = read_weights(path)
    if isinstance(values.get('state_dict'), dict):
        values = values['state_dict']
    wanted = net.state_dict()
    prefix = next(name for name, module in net.named_modules() if module is encoder)
    prefix += '.' if prefix else ''
    names = {
        key: key if key in wanted else prefix + key.removeprefix('encoder.') for key in values
    }
    fitting = {
        names[key]: value for key, value in values.items()
        if names[key] in wanted and wanted[names[key]].shape == getattr(value, 'shape', None)
    }
    missing = [
        key for key in wanted if key.startswith(f'{prefix}features.') and key not in fitting
    ]
    if missing:
        raise ModelError(
            f"{path}: is not this encoder at this width with torchvision's names: "
            f'{len(missing)} of its tensors are missing or of another shape, the first is '
            f'{missing[0].removeprefix(prefix)}'
        )
    net.load_state_dict(fitting, strict=False)
    unused = [key for key in values if names[key] not in fitting]
    return Loaded(unused, [key for key in wanted if key not in fitting], [])


def load_exported(net: nn.Module, encoder: Backbone, path: Path) -> Loaded:
    """Take the convolutions of an exported model, which lie in the order of the network's own."""
    import onnx

    try:
        graph = onnx.load(str(path)).graph
    except Exception as exc:  # a damaged file fails in whatever way its bytes lead
        raise ModelError(f'{path}: is no ONNX model: {exc}') from exc
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:  # equal tensors are stored once
        if node.op_type == 'Identity' and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    sources = [node.input[1:] for node in graph.node if node.op_type == 'Conv']
    shapes = [arrays[names[0]].shape for names in sources]
    layers = [
        layer for module in (encoder, net) for layer in module.modules()
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))
    ]
    layers = list(dict.fromkeys(layers))  # the encoder's first
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    wanted = [tuple(conv.weight.shape) for conv in convs]
    count = sum(isinstance(layer, nn.Conv2d) for layer in encoder.modules())
    if shapes[:count] != wanted[:count]:
        raise ModelError(
            f'{path}: its first {count} convolutions are not those of this encoder at this width'
        )
    if len(shapes) == len(wanted) and shapes[:-1] == wanted[:-1]:
        count = len(shapes) if shapes == wanted else len(shapes) - 1  # another class count
    folded = []
    with torch.no_grad():
        for conv, names in zip(convs[:count], sources, strict=False):
            conv.weight.copy_(torch.tensor(arrays[names[0]]))
            bias = conv.bias
            follower = layers[layers.index(conv) + 1 :][:1]
            if bias is None:
                assert isinstance(follower[0], nn.BatchNorm2d)
                nn.init.constant_(follower[0].weight, (1.0 + follower[0].eps) ** 0.5)
                follower[0].reset_running_stats()
                folded.append(follower[0])
                bias = follower[0].bias
            bias.copy_(torch.tensor(arrays[names[1]]))
    left = {id(conv) for conv in convs[count:]}
    random = [f'{name}.weight' for name, layer in net.named_modules() if id(layer) in left]
    return Loaded([names[0] for names in sources[count:]], random, folded)


def make_network(spec: ModelSpec, architecture: dict[str, Any]) -> nn.Module:
    """Make the network of a spec's task with random weights."""
    return NETWORKS[spec.task](num_classes=len(spec.classes), **architecture)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write atomically: a killed run leaves the previous epoch's checkpoint."""
    values = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    values['spec'] = asdict(checkpoint.spec)
    partial = path.with_suffix('.partial')
    torch.save(values, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        ModelError: it is missing, damaged, or not of `mnv2 train`.
    """
    values = read_weights(path)
    try:
        values['spec'] = ModelSpec.from_dict(values['spec'], str(path))
        return Checkpoint(**values)
    except (KeyError, TypeError) as exc:
        raise ModelError(f'{path}: is no checkpoint of `mnv2 train` ({exc})') from exc
