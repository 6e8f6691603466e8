"""Make backbones by name. `python -m mnv2_perception.nets.backbones` lists parameters and MACs."""

from collections.abc import Callable
from functools import partial

from mnv2_perception.errors import ModelError
from mnv2_perception.nets.backbone import Backbone, count_macs, count_parameters, Padding, Pool
from mnv2_perception.nets.mobilenet_v1 import MobileNetV1
from mnv2_perception.nets.mobilenet_v2 import MobileNetV2
from mnv2_perception.nets.mobilenet_v3 import MobileNetV3

BACKBONES: dict[str, Callable[..., Backbone]] = {
    'mobilenet_v1': MobileNetV1,
    'mobilenet_v2': MobileNetV2,
    'mobilenet_v3_large': partial(MobileNetV3, 'large'),
    'mobilenet_v3_small': partial(MobileNetV3, 'small'),
}


def make_backbone(
    name: str,
    num_classes: int = 1000,
    width_mult: float = 1.0,
    padding: Padding = 'symmetric',
    depth: int = 5,
    pool: Pool = 'all',
) -> Backbone:
    """Make a network of the family with random weights.

    Args:
        name: one of BACKBONES.
        num_classes: number of classes of the head; 0 leaves the head out (encoder only).
        width_mult: width multiplier, 0.35 to 1.4 in the papers.
        padding: `symmetric` for weights from torchvision, `same_tf` for weights trained with
            TensorFlow; they differ in convolutions with a stride.
        depth: number of halvings of the size; 4 leaves out the layers at stride 32.
        pool: part of the features that is classified, see Backbone.

    Raises:
        ModelError: the name or the padding is unknown.
    """
    if name not in BACKBONES:
        raise ModelError(f'backbone {name!r} is unknown; known are {", ".join(BACKBONES)}')
    net = BACKBONES[name](num_classes=num_classes, width_mult=width_mult, padding=padding)
    if depth < len(net.out_channels):
        net.truncate(depth, num_classes)
    net.pool = pool
    return net


def table() -> str:
    """Return the parameters and MACs (at 224×224) of each network as a Markdown table."""
    lines = ['| network | width | parameters | MACs at 224×224 |', '| --- | --- | --- | --- |']
    for name in BACKBONES:
        for width_mult in (0.35, 0.5, 0.75, 1.0, 1.4):
            net = make_backbone(name, width_mult=width_mult)
            macs = count_macs(net, 224, 224) / 1e6
            lines.append(f'| {name} | {width_mult} | {count_parameters(net):,} | {macs:.0f} M |')
    return '\n'.join(lines)


if __name__ == '__main__':
    print(table())
