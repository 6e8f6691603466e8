"""Recompute the statistics of batch normalisation for weights that lack their own.

The running mean of the weights has only the mean of many weights' statistics, which fit none of
them: with these a short run looks hopeless although it is not. Weights whose batch normalisation
was folded into the convolutions have no statistics at all.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import nn, Tensor

LAYERS = nn.BatchNorm2d


def freeze_batch_statistics(module: nn.Module) -> None:
    """Let batch normalisation use its stored statistics; scale and offset are still trained."""
    for layer in module.modules():
        if isinstance(layer, LAYERS):
            layer.eval()


def gathering_layers(net: nn.Module) -> list[str]:
    """Return the names of the batch normalisation layers that are updating their statistics."""
    return [
        name for name, layer in net.named_modules() if isinstance(layer, LAYERS) and layer.training
    ]


@torch.no_grad()  # type: ignore[untyped-decorator]
def reestimate(net: nn.Module, names: list[str], batches: Iterable[Tensor]) -> None:
    """Recompute the statistics of some layers as their mean over batches.

    Args:
        net: network in evaluation mode; it stays in this mode.
        names: names of the layers.
        batches: (N, 3, H, W) float32 images as in training.
    """
    layers = [net.get_submodule(name) for name in names]
    for layer in layers:
        assert isinstance(layer, LAYERS)
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over all batches
        layer.train()
    for images in batches:
        net(images)
    for layer in layers:
        layer.eval()


@torch.no_grad()  # type: ignore[untyped-decorator]
def unfold(net: nn.Module, layers: list[nn.BatchNorm2d], batches: Iterator[Tensor]) -> None:
    """Give statistics to batch normalisation that was folded into its convolution.

    Scale and offset are adjusted so that the network computes the same as before.
    """
    if not layers:
        return
    sums: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums[layer].append(torch.stack([inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))]))

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    net.eval()
    for images in batches:
        net(images)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        mean, var = torch.stack(sums[layer]).mean(0)
        old_std, new_std = ((v + layer.eps).sqrt() for v in (layer.running_var, var))
        layer.bias += layer.weight * (mean - layer.running_mean) / old_std
        layer.weight *= new_std / old_std
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)
