"""Batch normalisation's statistics, of weights that they were not gathered with.

The running mean of the weights has a mean of their statistics, which belong to none of them: a
short run looks hopeless by them although it is not. Weights whose batch normalisation was folded
have none at all.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import nn, Tensor

LAYERS = nn.BatchNorm2d


def freeze_batch_statistics(module: nn.Module) -> None:
    """Let batch normalisation use its stored statistics; scale and offset still learn."""
    for layer in module.modules():
        if isinstance(layer, LAYERS):
            layer.eval()


def gathering_layers(net: nn.Module) -> list[str]:
    """Return the names of the layers of batch normalisation that gather statistics now."""
    return [
        name for name, layer in net.named_modules() if isinstance(layer, LAYERS) and layer.training
    ]


@torch.no_grad()  # type: ignore[untyped-decorator]
def reestimate(net: nn.Module, names: list[str], batches: Iterable[Tensor]) -> None:
    """Gather the statistics of some layers anew, as their mean over batches.

    Args:
        net: in evaluation mode, and left in it.
        names: of the layers.
        batches: (N, 3, H, W) as the network is trained on.
    """
    layers = [net.get_submodule(name) for name in names]
    for layer in layers:
        assert isinstance(layer, LAYERS)
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all
        layer.train()
    for images in batches:
        net(images)
    for layer in layers:
        layer.eval()


@torch.no_grad()  # type: ignore[untyped-decorator]
def unfold(net: nn.Module, layers: list[nn.BatchNorm2d], batches: Iterator[Tensor]) -> None:
    """Give batch normalisation that was folded into its convolution statistics again.

    Scale and offset make up for them: the network computes what it computed before.
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
