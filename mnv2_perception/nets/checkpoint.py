"""Read and write checkpoints: our own, and those of others as initial weights."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn, Tensor

from mnv2_perception.errors import ModelError, stand_in
from mnv2_perception.model_spec import METADATA_KEY, ModelSpec
from mnv2_perception.nets.backbone import Backbone
from mnv2_perception.nets.backbones import make_backbone
from mnv2_perception.nets.ssdlite import SSDLite
from mnv2_perception.nets.unet import check_divisible, UNet

OUTPUTS = {
    'segmentation': ('ids_confidence', 'logits'),
    'classification': ('logits',),
    'detection': ('boxes',),
}
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    'segmentation': UNet,
    'classification': make_backbone,
    'detection': SSDLite,
}


@dataclass(frozen=True)
class Checkpoint:
    """A network, its spec, and how it was trained.

    Attributes:
        spec: spec of the exported model.
        architecture: arguments that `make_network` needs besides the spec.
        state_dict: the weights to measure and export.
        facts: recipe and training data, for the model card.
        epoch: number of finished epochs.
        training: state that a resumed run needs; empty if none is planned.
    """

    spec: ModelSpec
    architecture: dict[str, Any]
    state_dict: dict[str, Tensor]
    facts: dict[str, Any]
    epoch: int
    training: dict[str, Any] = field(default_factory=dict)


class Loaded(NamedTuple):
    """What `load_weights` could not use or fill.

    Attributes:
        unused: names of the file's tensors that were not used.
        random: names of the network's tensors that keep their random initial values.
        folded: batch normalisation layers that were folded into convolutions in the file.
    """

    unused: list[str]
    random: list[str]
    folded: list[nn.BatchNorm2d]


def read_weights(path: Path) -> dict[str, Any]:
    """Read a torch file that contains only tensors and plain values.

    Raises:
        ModelError: the file is missing or damaged, or would run code when loaded.
    """
    if path.is_dir():
        raise ModelError(f'{path}: is a folder, expected a checkpoint such as {path}/best.pt')
    if path.suffix == '.onnx':
        raise ModelError(f'{path}: is a model already, expected a checkpoint such as best.pt')
    try:
        values = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as exc:
        raise ModelError(f'{path}: no such checkpoint') from exc
    except Exception as exc:  # a damaged file can raise anything
        reason = (str(exc) or type(exc).__name__).splitlines()[0]
        if reason.startswith('Weights only load failed'):  # torch adds dangerous advice
            reason = 'it is another kind of file, or would run code when loaded'
        raise ModelError(f'{path}: ' + (
            stand_in(path)
            or f'is not a checkpoint of plain tensors ({reason}); save a state_dict'
        )) from exc
    if not isinstance(values, dict):
        raise ModelError(f'{path}: holds a {type(values).__name__}, expected a state_dict')
    return values


def load_weights(net: nn.Module, encoder: Backbone, path: Path) -> Loaded:
    """Load initial weights into a network: the whole encoder, and whatever else fits.

    Args:
        net: the network; `encoder` is a part of it, or the network itself.
        encoder: must be filled completely; the file may have more layers than a shallow encoder.
        path: torchvision's classifier or its features, segmentation_models_pytorch's UNet, a
            checkpoint of `mnv2 train`, or a model of `mnv2 export` (.onnx).

    Returns:
        What was left out, such as a head for another number of classes; the user should know.

    Raises:
        ModelError: the file cannot be read, or tensors of the encoder are missing or have another
            shape (another network or width multiplier).
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
            f'{missing[0].removeprefix(prefix)}; choose --encoder, --width-mult and '
            f'--encoder-depth as it was trained'
        )
    net.load_state_dict(fitting, strict=False)
    unused = [key for key in values if names[key] not in fitting]
    return Loaded(unused, [key for key in wanted if key not in fitting], [])


def load_exported(net: nn.Module, encoder: Backbone, path: Path) -> Loaded:
    """Load the layers of a model of `mnv2 export`, which are in the order of the network's own.

    Batch normalisation is folded into its convolutions in the file; here it is set to the
    identity.

    Returns:
        See `load_weights`.

    Raises:
        ModelError: the file cannot be read, was not written by `mnv2 export`, or has another
            encoder.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except FileNotFoundError as exc:
        raise ModelError(f'{path}: no such model') from exc
    except Exception as exc:  # a damaged file can raise anything
        raise ModelError(f'{path}: ' + (stand_in(path) or f'is not an ONNX model: {exc}')) from exc
    graph = model.graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:  # the exporter stores equal tensors only once
        if node.op_type == 'Identity' and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    sources = [node.input[1:] for node in graph.node if node.op_type in ('Conv', 'Gemm')]
    ours = METADATA_KEY in {entry.key for entry in model.metadata_props}
    if not ours or not all(name in arrays for names in sources for name in names):
        raise ModelError(
            f'{path}: was not written by `mnv2 export`, or was quantised since; --weights takes '
            f'unquantised models of `mnv2 export`, checkpoints and published weights (mnv2 fetch)'
        )
    layers = [
        layer for module in (encoder.features, net) for layer in module.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))
    ]
    layers = list(dict.fromkeys(layers))  # those of the encoder first
    weighted = [layer for layer in layers if not isinstance(layer, nn.BatchNorm2d)]
    wanted = [tuple(layer.weight.shape) for layer in weighted]
    shapes = [arrays[names[0]].shape for names in sources]
    count = sum(isinstance(layer, nn.Conv2d) for layer in encoder.features.modules())
    if shapes[:count] != wanted[:count]:
        same = next(
            (index for index, pair in enumerate(zip(shapes, wanted, strict=False))
             if pair[0] != pair[1]),
            len(shapes),
        )
        raise ModelError(
            f'{path}: only the first {same} of its {count} convolutions match this encoder; '
            f'choose --encoder, --width-mult and --encoder-depth as it was trained (the card of a '
            f'shipped model has them)'
        )
    # The other layers are of the same network only if their number is equal.
    known = len(shapes) if len(shapes) == len(wanted) else count
    fitting = [index for index in range(known) if shapes[index] == wanted[index]]
    folded = []
    with torch.no_grad():
        for index in fitting:
            layer, (weight, bias) = weighted[index], sources[index]
            layer.weight.copy_(torch.tensor(arrays[weight]))
            into = layer
            if layer.bias is None:
                into = layers[layers.index(layer) + 1]
                assert isinstance(into, nn.BatchNorm2d)
                nn.init.constant_(into.weight, (1.0 + into.eps) ** 0.5)
                into.reset_running_stats()
                folded.append(into)
            into.bias.copy_(torch.tensor(arrays[bias]))
    taken = {id(weighted[index]) for index in fitting}
    left = {id(layer) for layer in weighted} - taken
    random = [f'{name}.weight' for name, layer in net.named_modules() if id(layer) in left]
    unused = [names[0] for index, names in enumerate(sources) if index not in fitting]
    return Loaded(unused, random, folded)


def check_spec(spec: ModelSpec) -> None:
    """Check that `mnv2 export` can write a model with this spec.

    Raises:
        ModelError: it cannot.
    """
    outputs = OUTPUTS[spec.task]
    if spec.input != 'uint8_nhwc' or spec.output not in outputs or spec.background:
        raise ModelError(
            f'model spec {spec.name!r}: trained models take uint8_nhwc, give '
            f'{" or ".join(outputs)} and have no background; got {spec.input}, {spec.output} and '
            f'background {str(spec.background).lower()}'
        )
    check_divisible(spec.height, spec.width)


def make_network(spec: ModelSpec, architecture: dict[str, Any]) -> nn.Module:
    """Make the network for a spec's task with random weights."""
    return NETWORKS[spec.task](num_classes=len(spec.classes), **architecture)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically: a killed run leaves the previous epoch's checkpoint."""
    values = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    values['spec'] = asdict(checkpoint.spec)
    data = io.BytesIO()  # on a full disk, torch itself raises an internal error
    torch.save(values, data)
    partial = path.with_suffix('.partial')
    try:
        partial.write_bytes(data.getbuffer())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` wrote.

    Raises:
        ModelError: it is missing, damaged, or not one of `mnv2 train`.
    """
    values = read_weights(path)
    try:
        values['spec'] = ModelSpec.from_dict(values['spec'], str(path))
        return Checkpoint(**values)
    except (KeyError, TypeError) as exc:
        raise ModelError(f'{path}: is not a checkpoint of `mnv2 train` ({exc})') from exc
