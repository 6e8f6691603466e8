"""Write reference.json: outputs of torchvision and segmentation_models_pytorch.

Each tensor is filled by a formula of its name, so the numbers show whether two networks agree in
names, shapes and computation, without these packages. To write it again:
`pip install torch torchvision segmentation-models-pytorch`, then run this file.
"""

from collections.abc import Mapping
from importlib.metadata import version
import json
from pathlib import Path
import zlib

import numpy as np
import torch
from torch import nn, Tensor

CLASSES = 7
REFERENCE = Path(__file__).with_name('reference.json')


def fill(net: nn.Module) -> dict[str, Tensor]:
    """Fill a network's tensors by their names, and return them; sets evaluation mode."""
    state = net.double().eval().state_dict()
    for name, tensor in state.items():
        random = np.random.RandomState(zlib.crc32(name.encode()))  # its stream never changes
        if tensor.dim() > 1:
            gain = 1.0 / tensor[0].numel()
            values = random.standard_normal(tuple(tensor.shape)) * gain**0.5
        elif name.endswith(('bias', 'running_mean')):
            values = random.standard_normal(tuple(tensor.shape)) * 0.1
        else:  # a batch normalisation's weight, variance and counter
            values = random.uniform(0.5, 1.5, tuple(tensor.shape))
        tensor.copy_(torch.as_tensor(values))
    return state


def image(height: int, width: int) -> Tensor:
    """Return the input, (1, 3, height, width)."""
    values = np.random.RandomState(0).standard_normal((1, 3, height, width))
    return torch.as_tensor(values)


def names_and_shapes(state: Mapping[str, Tensor]) -> str:
    """Return the number of tensors and a checksum of their names and shapes."""
    lines = sorted(f'{name} {tuple(tensor.shape)}' for name, tensor in state.items())
    return f'{len(lines)} {zlib.crc32(chr(10).join(lines).encode()):08x}'


def sample(output: Tensor) -> list[float]:
    """Return the mean magnitude, and the values at seven positions."""
    values = output.detach().flatten()
    places = [index * (len(values) - 1) // 6 for index in range(7)]
    return [values.abs().mean().item(), *values[places].tolist()]


def main() -> None:
    """Compute the outputs of both packages."""
    from segmentation_models_pytorch import Unet
    import torchvision

    cases: dict[str, dict[str, object]] = {}
    for name in ('mobilenet_v2', 'mobilenet_v3_large', 'mobilenet_v3_small'):
        for width_mult in (0.5, 1.0):
            net = getattr(torchvision.models, name)(num_classes=CLASSES, width_mult=width_mult)
            cases[f'{name} {width_mult}'] = {
                'tensors': names_and_shapes(fill(net)),
                'logits': sample(net(image(75, 98))),
                'features': sample(net.features(image(75, 98))),
            }
    unet = Unet('mobilenet_v2', encoder_weights=None, classes=CLASSES)
    cases['unet'] = {
        'tensors': names_and_shapes(fill(unet)), 'logits': sample(unet(image(64, 96)))
    }
    packages = ('torch', 'torchvision', 'segmentation_models_pytorch')
    reference = {'versions': {name: version(name) for name in packages}, **cases}
    REFERENCE.write_text(json.dumps(reference, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
