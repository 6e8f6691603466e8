"""Export a checkpoint to one model file: scaling, network, decoding and ModelSpec.

The file is ONNX, or for the torch engine an exported program (.pt2).

The graph takes (1, H, W, 3) uint8 in the spec's channel order. For segmentation it returns class
ids and confidence, uint8 each, at the network's output stride: every runtime then computes the
same, and a GPU sends back two bytes per pixel instead of floats. For detection it returns the best
decoded boxes.
"""

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any
import warnings

import onnx
import torch
from torch import nn, Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.backbone import count_macs, count_parameters
from mnv2_perception.nets.backbones import BACKBONES, make_backbone
from mnv2_perception.nets.checkpoint import (
    check_spec,
    load_checkpoint,
    load_weights,
    make_network,
    read_weights,
)
from mnv2_perception.nets.ssdlite import SSDLite, TopBoxes

OPSET = 17
# For torchvision's weights, in units of 0..255: https://pytorch.org/vision/stable/models.html
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PROGRAM_FACTS = 'mnv2_perception.json'  # extra file in a .pt2, which engines.torch reads
OUTPUT_NAMES = {
    'ids_confidence': ['class_ids', 'confidence'],
    'logits': ['logits'],
    'boxes': ['boxes', 'scores', 'class_ids'],
}


class Normalised(nn.Module):
    """A network preceded by its scaling: takes (N, H, W, 3) uint8.

    The image is scaled plane by plane; with interleaved channels this takes a tenth of the
    inference time.
    """

    def __init__(self, net: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.net = net
        self.register_buffer('mean', torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer('scale', 1.0 / torch.tensor(spec.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Any:
        planes = image.float().permute(0, 3, 1, 2)  # (N, 3, H, W)
        return self.net((planes - self.mean) * self.scale)


class FloatOutputs(nn.Module):
    """A network with outputs converted to float32, so that decoding is exact in fp16 or bf16."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        outputs = self.net(x)
        if isinstance(outputs, Tensor):
            return outputs.float()
        return tuple(output.float() for output in outputs)


class IdsAndConfidence(nn.Module):
    """Converts logits (N, C, H, W) to class ids and maximum softmax × 255, (N, H, W) uint8 each.

    The detours via float and + 0.5: TensorRT converts to uint8 only from float, and truncates.
    """

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        top, ids = logits.max(dim=1)
        confidence = 1.0 / (logits - top[:, None]).exp().sum(dim=1)
        return ids.float().to(torch.uint8), (confidence * 255.0 + 0.5).to(torch.uint8)


def export_model(checkpoint_path: Path, model_path: Path) -> str:
    """Write a checkpoint of `mnv2 train` as a model with its ModelSpec inside.

    Args:
        checkpoint_path: the run's .pt file.
        model_path: file to write: .onnx, or .pt2 for the torch engine.

    Returns:
        The network's size in words, for the model card.

    Raises:
        ModelError: the checkpoint cannot be loaded; or see `export_network`.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    spec = checkpoint.spec
    net = make_network(spec, checkpoint.architecture)
    net.load_state_dict(checkpoint.state_dict)
    macs = count_macs(net, spec.height, spec.width)
    size = (
        f'{count_parameters(net):,} parameters, {macs / 1e6:,.0f} M multiply-accumulates at '
        f'{spec.height}×{spec.width}'
    )
    export_network(net, spec, model_path)
    return size


def export_weights(weights: Path, encoder: str, licence: str, model_path: Path) -> None:
    """Write a checkpoint, or published ImageNet weights, as a model from which features are used.

    Args:
        weights: a run's .pt file, or a .pth file with torchvision's names and width 1.
        encoder: a name in `backbones.BACKBONES`; empty for the one with which the file's name
            begins. A checkpoint knows its own.
        licence: licence of published weights.
        model_path: the .onnx file to write; for published weights its classes are placeholders.

    Raises:
        ModelError: the file cannot be read, or is of another network.
    """
    if 'architecture' in read_weights(weights):
        if encoder:
            raise ModelError(f'{weights}: already says which network it is; leave out the encoder')
        export_model(weights, model_path)
        return
    encoder = encoder or next((name for name in BACKBONES if weights.name.startswith(name)), '')
    if not encoder:
        raise ModelError(
            f'{weights}: does not say which network it belongs to; give --encoder, one of '
            f'{", ".join(BACKBONES)}'
        )
    net = make_backbone(encoder, num_classes=1)
    load_weights(net, net, weights)
    spec = ModelSpec(
        weights.stem, 'classification', 224, 224, ('features',), ((255, 255, 255),), IMAGENET_MEAN,
        IMAGENET_STD, output='logits', fit='crop', crop_ratio=0.875, licence=licence,
    )
    export_network(net, spec, model_path)


def export_network(net: nn.Module, spec: ModelSpec, model_path: Path) -> None:
    """Write a network with the input and output that `spec` states.

    Args:
        net: maps a normalised image (1, 3, H, W) to logits (1, C, H/s, W/s); an SSDLite for
            `boxes`. Writing a .pt2 folds its batch normalisation into the convolutions.
        spec: spec with input `uint8_nhwc` and output `ids_confidence`, `logits` or `boxes`.
        model_path: the .onnx or .pt2 file, written atomically.

    Raises:
        ModelError: the spec has another input or output, its size is not divisible by 32, the
            folder of `model_path` does not exist, or the file cannot be written.
    """
    if not model_path.parent.is_dir():
        raise ModelError(f'{model_path}: its folder does not exist; create it first')
    check_spec(spec)
    write: Callable[[nn.Module, ModelSpec, Path], None]
    write = write_program if model_path.suffix == '.pt2' else write_onnx
    partial = model_path.with_suffix('.partial')
    try:
        write(assemble(net, spec), spec, partial)
        partial.replace(model_path)
    except OSError as exc:
        raise ModelError(f'{model_path}: cannot be written: {exc.strerror}') from exc
    finally:
        partial.unlink(missing_ok=True)


def assemble(net: nn.Module, spec: ModelSpec) -> nn.Module:
    """Return the network with scaling before and decoding behind it, in evaluation mode."""
    graph: nn.Module = Normalised(net, spec)
    if spec.output == 'ids_confidence':
        graph = nn.Sequential(graph, IdsAndConfidence())
    elif spec.output == 'boxes':
        assert isinstance(net, SSDLite)
        graph = nn.Sequential(graph, TopBoxes(spec.height, spec.width, net.strides))
    return graph.eval()


def example_image(spec: ModelSpec) -> Tensor:
    """Return a black image in the form of the model's input."""
    return torch.zeros(1, spec.height, spec.width, 3, dtype=torch.uint8)


def write_onnx(graph: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write an assembled network as ONNX."""
    with warnings.catch_warnings():
        # Tracing is correct because the size is fixed, and its graph is smaller than dynamo's.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.onnx.export(
            graph,
            (example_image(spec),),
            str(path),
            input_names=['image'],
            output_names=OUTPUT_NAMES[spec.output],
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, spec.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def write_program(graph: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write an assembled network as a program of torch.export, for `engines.torch`."""
    fold_batch_norm(graph)
    normalised = next(module for module in graph.modules() if isinstance(module, Normalised))
    normalised.net = FloatOutputs(normalised.net)
    facts = {
        'inputs': ['image'], 'outputs': OUTPUT_NAMES[spec.output], 'metadata': spec.to_metadata(),
    }
    program = torch.export.export(graph, (example_image(spec),))
    with path.open('wb') as file:
        torch.export.save(program, file, extra_files={PROGRAM_FACTS: json.dumps(facts)})


def fold_batch_norm(net: nn.Module) -> None:
    """Fold batch normalisation into the preceding convolution, as the ONNX exporter does."""
    for sequence in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            conv, norm = sequence[index], sequence[index + 1]
            # Not for subclasses: their forward may ignore the bias that folding adds.
            if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d):
                sequence[index] = fuse_conv_bn_eval(conv, norm)
                sequence[index + 1] = nn.Identity()
