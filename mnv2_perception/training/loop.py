"""The training loop of every task: schedule, mixed precision, running mean, resume, early stop."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
import copy
from dataclasses import asdict, dataclass
import hashlib
import json
import math
from pathlib import Path
import sys
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn, Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mnv2_perception.errors import DataError, ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.backbone import Backbone
from mnv2_perception.nets.checkpoint import (
    check_spec,
    Checkpoint,
    load_checkpoint,
    load_weights,
    Loaded,
    save_checkpoint,
)
from mnv2_perception.training.curves import draw_curves
from mnv2_perception.training.recipe import Recipe

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
CALIBRATION_STEPS = 8

Arrays = tuple[np.ndarray[Any, Any], ...]


class Task(ABC):
    """What differs from task to task.

    Attributes:
        spec: the exported model's.
        net: maps a batch of image tensors (N, 3, H, W) to what `loss` takes.
        encoder: the part of it that can start from other weights.
        architecture: what `nets.checkpoint.make_network` needs to make it again.
        metric: name of what `evaluate` returns.
    """

    spec: ModelSpec
    net: nn.Module
    encoder: Backbone
    architecture: dict[str, Any]
    metric: str

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of training samples."""

    @abstractmethod
    def sample(self, index: int, rng: np.random.Generator) -> Arrays:
        """Return an augmented image tensor (3, H, W) float32 and its targets, of fixed shapes."""

    @abstractmethod
    def loss(self, outputs: Any, *targets: Tensor) -> Tensor:
        """Return the mean loss of a batch; it must be finite even where nothing is labelled."""

    @abstractmethod
    def evaluate(self, net: nn.Module) -> float:
        """Return the metric on the validation images, higher is better; NaN without any."""


@dataclass
class Samples(Dataset[Arrays]):
    """The samples of one epoch, each with a random generator of its own.

    So a resumed run, and one with another number of workers, sees what any other would.
    """

    task: Task
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, index: int) -> Arrays:
        return self.task.sample(index, np.random.default_rng((self.seed, self.epoch + 1, index)))

    def loader(self, order: Sequence[int], batch: int, workers: int) -> 'DataLoader[Arrays]':
        """Return batches in an order."""
        return DataLoader(
            self, batch, sampler=order, num_workers=workers, worker_init_fn=use_one_thread
        )


def use_one_thread(_worker: int) -> None:
    """Keep OpenCV's threads out of a worker: there are as many workers as wanted."""
    cv2.setNumThreads(0)


def fit(
    task: Task,
    out: Path,
    recipe: Recipe,
    facts: dict[str, Any],
    weights: Path | None = None,
    resume: bool = False,
    workers: int = 0,
) -> float:
    """Train a task's network.

    Writes, into `out`: `last.pt` after each epoch, from which a run goes on; `best.pt`, the
    weights with the best metric so far, if there is one; `log.jsonl` and `curves.png`. With
    `weights` the encoder's batch statistics stay as they are: a batch of 8 estimates worse ones.

    Args:
        task: what to train.
        out: folder of the run; made if missing.
        recipe: how.
        facts: what it is trained on, for the model card; a resumed run must have the same.
        weights: checkpoint or exported model that the network starts from, see `load_weights`.
        resume: go on from `out/last.pt`.
        workers: processes that read and augment; 0 does it in this one.

    Returns:
        The best metric on the validation images, NaN without any.

    Raises:
        DataError: `out` holds another run.
        ModelError: the weights cannot be loaded.
    """
    check_spec(task.spec)
    if weights and not weights.is_file():
        raise ModelError(f'{weights}: no such file; --weights $(mnv2 fetch mobilenet_v2), say')
    last, kept = out / 'last.pt', out / 'best.pt'
    for path in () if resume else (last, kept, out / 'log.jsonl', out / 'curves.png'):
        if path.exists():
            raise DataError(f'{path} exists; go on with --resume, or choose another --out')
    facts = {
        'recipe': asdict(recipe),
        'weights_sha256': hashlib.sha256(weights.read_bytes()).hexdigest() if weights else '',
        **facts,
    }
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    net = task.net.to(device, memory_format=torch.channels_last)
    if weights and not resume:
        loaded = load_weights(net, task.encoder, weights)
        tell_loaded(weights, loaded)
        estimate_batch_statistics(task, loaded.folded, recipe)
    average = copy.deepcopy(net).eval().requires_grad_(False)

    frozen = recipe.frozen_stages if weights else 0
    warming_up = task.encoder.stages()[frozen:]
    for stage in task.encoder.stages()[:frozen]:
        stage.requires_grad_(False)
    in_encoder = set(task.encoder.features.parameters())
    groups = [
        [parameter for parameter in task.encoder.features.parameters() if parameter.requires_grad],
        [parameter for parameter in net.parameters() if parameter not in in_encoder],
    ]
    rates = [
        recipe.learning_rate * (recipe.encoder_rate if weights else 1.0), recipe.learning_rate
    ]
    optimizer = torch.optim.AdamW(
        [{'params': group, 'lr': rate} for group, rate in zip(groups, rates, strict=True)],
        weight_decay=recipe.weight_decay,
    )
    steps = math.ceil(len(task) / recipe.batch)
    schedule = make_schedule(optimizer, rates, recipe, steps)
    precision = PRECISIONS[recipe.precision]
    # A larger first scale only skips the first steps of a short run.
    scaler = torch.amp.GradScaler(device.type, 1024.0, enabled=recipe.precision == 'fp16')

    state = {
        'net': net, 'average': average, 'optimizer': optimizer, 'schedule': schedule,
        'scaler': scaler,
    }
    first_epoch, best, worse = 0, float('nan'), 0
    if resume:
        checkpoint = load_run(last, task.spec, facts)
        for name, part in state.items():
            part.load_state_dict(checkpoint.training[name])
        first_epoch, best = checkpoint.epoch, checkpoint.training['best']
        worse = checkpoint.training['worse']
        if not math.isnan(best) and not kept.exists():
            raise DataError(f'{kept} is missing, which belongs to {last}; put both there')
    out.mkdir(parents=True, exist_ok=True)
    for epoch in range(first_epoch, recipe.epochs):
        if recipe.patience and worse >= recipe.patience:
            break
        net.train()
        if weights:
            freeze_batch_statistics(task.encoder)
        for stage in warming_up:
            stage.requires_grad_(not weights or epoch >= recipe.warm_up)
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(task)).tolist()
        torch.manual_seed(recipe.seed * 100_000 + epoch)  # dropout
        loader = Samples(task, recipe.seed, epoch).loader(order, recipe.batch, workers)
        progress = tqdm(loader, desc=f'epoch {epoch + 1}/{recipe.epochs}', unit='batch')
        total = 0.0
        for step, batch in enumerate(progress):
            images, *targets = (part.to(device) for part in batch)
            with torch.autocast(device.type, precision, enabled=recipe.precision != 'fp32'):
                outputs = net(images.contiguous(memory_format=torch.channels_last))
            loss = task.loss(outputs, *targets)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            update_average(average, net, recipe.ema, epoch * steps + step)
            total += loss.item()
            progress.set_postfix(loss=f'{total / (step + 1):.3f}')
        if not math.isfinite(total):
            raise DataError(
                f'epoch {epoch + 1}: the loss is {total}; lower --learning-rate and go on with '
                f'another --out, {last} is of the epoch before'
            )
        entry: dict[str, Any] = {
            'epoch': epoch + 1, 'loss': total / steps,
            'learning_rate': optimizer.param_groups[-1]['lr'],
        }
        final = epoch + 1 == recipe.epochs
        improved = False
        if final or (epoch + 1) % recipe.evaluate_every == 0:
            metric = task.evaluate(average)
            improved = metric > best or (math.isnan(best) and not math.isnan(metric))
            if not math.isnan(metric):
                entry[f'val_{task.metric}'] = metric
                worse = 0 if improved else worse + 1
                best = metric if improved else best
        checkpoint = Checkpoint(
            task.spec, task.architecture, average.state_dict(), facts, epoch + 1
        )
        if improved:
            save_checkpoint(checkpoint, kept)
        checkpoint.training.update(
            {name: part.state_dict() for name, part in state.items()}, best=best, worse=worse
        )
        with (out / 'log.jsonl').open('a', encoding='utf-8') as log:
            log.write(json.dumps(entry) + '\n')
        save_checkpoint(checkpoint, last)
        draw_curves(out / 'log.jsonl', out / 'curves.png')
    return best


def tell_loaded(weights: Path, loaded: Loaded) -> None:
    """Say what of a file was not used, and what starts from random weights."""
    for what, names in (('not used', loaded.unused), ('random at first', loaded.random)):
        more = f' and {len(names) - 4} more' if len(names) > 5 else ''
        listed = ', '.join(names[: 4 if more else 5]) or 'nothing'
        print(f'{weights.name}: {what}: {listed}{more}', file=sys.stderr)


def make_schedule(
    optimizer: torch.optim.Optimizer, rates: list[float], recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the recipe's schedule over all steps of a run."""
    total = recipe.epochs * steps
    if recipe.schedule == 'cosine':
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=total, pct_start=0.15)


def freeze_batch_statistics(module: nn.Module) -> None:
    """Let batch normalisation use its stored statistics; scale and offset still learn."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


@torch.no_grad()  # type: ignore[untyped-decorator]
def estimate_batch_statistics(
    task: Task, layers: list[nn.BatchNorm2d], recipe: Recipe
) -> None:
    """Give batch normalisation that was folded into its convolution statistics again.

    Scale and offset make up for them: the network computes what it computed before.
    """
    if not layers:
        return
    sums: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums[layer].append(torch.stack([inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))]))

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    order = np.random.default_rng(recipe.seed).permutation(len(task))
    device = next(task.net.parameters()).device
    chosen = order[: CALIBRATION_STEPS * recipe.batch].tolist()
    for images, *_ in Samples(task, recipe.seed, -1).loader(chosen, recipe.batch, 0):
        task.net.eval()(images.to(device))
    for hook in hooks:
        hook.remove()
    for layer in layers:
        mean, var = torch.stack(sums[layer]).mean(0)
        old_std, new_std = ((v + layer.eps).sqrt() for v in (layer.running_var, var))
        layer.bias += layer.weight * (mean - layer.running_mean) / old_std
        layer.weight *= new_std / old_std
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)


@torch.no_grad()  # type: ignore[untyped-decorator]
def update_average(average: nn.Module, net: nn.Module, decay: float, step: int) -> None:
    """Move the running mean of the weights towards them; early steps weigh more."""
    rate = 1.0 - min(decay, (1 + step) / (10 + step)) if decay else 1.0
    pairs = zip(average.state_dict().values(), net.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.is_floating_point():
            mean.lerp_(value, rate)
        else:
            mean.copy_(value)


def load_run(path: Path, spec: ModelSpec, facts: dict[str, Any]) -> Checkpoint:
    """Read the checkpoint that a run goes on from.

    Raises:
        DataError: it is of another spec, recipe or training list.
    """
    checkpoint = load_checkpoint(path)
    differing = [key for key in facts if facts[key] != checkpoint.facts.get(key)]
    if checkpoint.spec != spec:
        differing.append('spec')
    if differing:
        raise DataError(
            f'{path}: was trained with another {", ".join(differing)}; '
            f'resume with the same arguments, or choose another --out'
        )
    return checkpoint
