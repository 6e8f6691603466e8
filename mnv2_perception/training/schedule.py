"""Optimiser and learning rate schedule."""

import warnings

import torch
from torch import nn

from mnv2_perception.training.recipe import Recipe
from mnv2_perception.training.task import Task


def make_optimizer(
    task: Task, net: nn.Module, recipe: Recipe, from_weights: bool
) -> tuple[torch.optim.Optimizer, list[float]]:
    """Return AdamW for the layers that are not frozen, and their learning rates.

    Args:
        task: task of the network.
        net: the network, on its device.
        recipe: hyperparameters.
        from_weights: whether the encoder starts from weights and gets its own learning rate.

    Returns:
        The optimiser with two parameter groups, the encoder and the other layers; and the learning
        rate of each group.
    """
    encoder = list(task.encoder.features.parameters())
    in_encoder = set(encoder)
    groups = [
        [parameter for parameter in encoder if parameter.requires_grad],
        [parameter for parameter in net.parameters() if parameter not in in_encoder],
    ]
    rates = [
        recipe.learning_rate * (recipe.encoder_rate if from_weights else 1.0),
        recipe.learning_rate,
    ]
    optimizer = torch.optim.AdamW(
        [{'params': group, 'lr': rate} for group, rate in zip(groups, rates, strict=True)],
        weight_decay=recipe.weight_decay,
    )
    return optimizer, rates


def make_schedule(
    optimizer: torch.optim.Optimizer, rates: list[float], recipe: Recipe, steps: int, done: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the recipe's schedule over all steps of a run, after `done` steps."""
    total = recipe.epochs * steps
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group['lr'] = rate
        group.pop('initial_lr', None)
    schedule: torch.optim.lr_scheduler.LRScheduler
    if recipe.schedule == 'cosine':
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    else:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rates, total_steps=total, pct_start=0.15
        )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # that no optimiser step came first
        for _ in range(done):
            schedule.step()
    return schedule
