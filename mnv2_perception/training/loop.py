"""The training loop of every task: schedule, mixed precision, running mean, resume, early stop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import copy
from dataclasses import asdict
import hashlib
import json
import math
from pathlib import Path
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any
import warnings

import numpy as np
import torch
from torch import nn, Tensor
from tqdm import tqdm

from mnv2_perception.data.files import alone_in, make_folder
from mnv2_perception.errors import DataError, ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.checkpoint import (
    check_spec,
    Checkpoint,
    load_checkpoint,
    load_weights,
    Loaded,
    save_checkpoint,
)
from mnv2_perception.training.batch_norm import (
    freeze_batch_statistics,
    gathering_layers,
    reestimate,
    unfold,
)
from mnv2_perception.training.curves import cut_log, draw_curves
from mnv2_perception.training.events import Events
from mnv2_perception.training.recipe import Recipe
from mnv2_perception.training.task import Samples, split, Task

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
CALIBRATION_STEPS = 8


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
    weights with the best metric so far, if there is one; `log.jsonl`, `curves.png` and, where
    the package `tensorboard` is there, its event file. With
    `weights` the encoder's batch statistics stay as they are: a batch of 8 estimates worse ones.
    Those of the other layers are estimated anew for the running mean of the weights, each epoch.

    Args:
        task: what to train.
        out: folder of the run; made if missing.
        recipe: how.
        facts: what it is trained on, for the model card; a resumed run must have the same, and
            the same recipe but for the number of epochs.
        weights: checkpoint or exported model that the network starts from, see `load_weights`.
        resume: go on from `out/last.pt`.
        workers: processes that read and augment; 0 does it in this one.

    Returns:
        The best metric on the validation images, NaN without any.

    Raises:
        DataError: `out` holds another run, or another process trains there.
        SetupError: `out` cannot be made.
        ModelError: the weights cannot be loaded.
    """
    check_spec(task.spec)
    if weights and not weights.is_file():
        raise ModelError(f'{weights}: no such file; --weights mobilenet_v2, say')
    if resume and not out.is_dir():
        raise ModelError(f'{out}: no such run; resume with the --out that it had')
    make_folder(out)
    with alone_in(out), heeding_interrupts() as heed:
        return run(task, out, recipe, facts, weights, resume, workers, heed)


@contextmanager
def heeding_interrupts() -> Iterator[Callable[[], None]]:
    """Yield what raises KeyboardInterrupt if Ctrl-C was pressed, even where Python swallowed it.

    It does so in destructors, and those of a DataLoader's iterator take long.
    """
    came = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    def heed() -> None:
        if came:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield heed
        return
    signal.signal(signal.SIGINT, on_signal)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run(
    task: Task,
    out: Path,
    recipe: Recipe,
    facts: dict[str, Any],
    weights: Path | None,
    resume: bool,
    workers: int,
    heed: Callable[[], None],
) -> float:
    """Train in a folder that is nobody else's; see `fit`. `heed` is called after each batch."""
    last, kept = out / 'last.pt', out / 'best.pt'
    results = ('log.jsonl', 'curves.png', 'results.json', 'confusion.png')
    for path in () if resume else (last, kept, *(out / name for name in results)):
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
        unfold(net, loaded.folded, calibration(task, recipe, device))
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
    steps = len(split(list(range(len(task))), recipe.batch))
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
        checkpoint = load_run(last, task.spec, facts, asdict(type(recipe)()))
        first_epoch, best = checkpoint.epoch, checkpoint.training['best']
        prolonged = checkpoint.facts['recipe']['epochs'] != recipe.epochs
        for name, part in state.items():
            if not (prolonged and name == 'schedule'):
                part.load_state_dict(checkpoint.training[name])
        if prolonged:
            schedule = make_schedule(optimizer, rates, recipe, steps, first_epoch * steps)
            state['schedule'] = schedule
        worse = checkpoint.training['worse']
        if not math.isnan(best) and not kept.exists():
            raise DataError(f'{kept} is missing, which belongs to {last}; put both there')
        cut_log(out / 'log.jsonl', first_epoch)
    events = Events(out, first_epoch)
    start_s = time.monotonic()
    for epoch in range(first_epoch, recipe.epochs):
        if recipe.patience and worse >= recipe.patience:
            break
        net.train()
        if weights:
            freeze_batch_statistics(task.encoder)
        gathering = gathering_layers(net)
        for stage in warming_up:
            stage.requires_grad_(not weights or epoch >= recipe.warm_up)
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(task)).tolist()
        torch.manual_seed(recipe.seed * 100_000 + epoch)  # dropout
        loader = Samples(task, recipe.seed, epoch).loader(split(order, recipe.batch), workers)
        progress = tqdm(loader, desc=f'epoch {epoch + 1}/{recipe.epochs}', unit='batch')
        total = 0.0
        for step, batch in enumerate(progress):
            images, *targets = (part.to(device) for part in batch)
            with torch.autocast(device.type, precision, enabled=recipe.precision != 'fp32'):
                outputs = infer(net, images, recipe)
            loss = task.loss(outputs, *targets)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            update_average(average, net, recipe.ema, epoch * steps + step)
            total += loss.item()
            progress.set_postfix(loss=f'{total / (step + 1):.3f}')
            heed()
        if not math.isfinite(total):
            elsewhere = f' with another --out; {last} is of the epoch before'
            raise DataError(
                f'epoch {epoch + 1}: the loss is {total}; lower --learning-rate '
                f'({recipe.learning_rate:g}) and begin again{elsewhere if epoch else ""}'
            )
        entry: dict[str, Any] = {
            'epoch': epoch + 1, 'loss': total / steps,
            'learning_rate': optimizer.param_groups[-1]['lr'],
        }
        with torch.autocast(device.type, precision, enabled=recipe.precision != 'fp32'):
            reestimate(average, gathering, calibration(task, recipe, device))
        final = epoch + 1 == recipe.epochs
        improved = False
        if final or (epoch + 1) % recipe.evaluate_every == 0:
            measured = task.evaluate(average)
            value = measured.value
            improved = value > best or (math.isnan(best) and not math.isnan(value))
            if not math.isnan(value):
                entry[f'val_{task.metric}'] = value
                entry.update(
                    per_class=measured.per_class, false_alarms=measured.false_alarms
                )
                worse = 0 if improved else worse + 1
                best = value if improved else best
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
        events.write(entry)
        save_checkpoint(checkpoint, last)
        draw_curves(out / 'log.jsonl', out / 'curves.png')
        spent_s = time.monotonic() - start_s
        left_s = spent_s / (epoch + 1 - first_epoch) * (recipe.epochs - epoch - 1)
        tell_epoch(task.metric, entry, improved, left_s)
    events.close()
    return best


def infer(net: nn.Module, images: Tensor, recipe: Recipe) -> Any:
    """Return a network's outputs in training.

    Raises:
        DataError: batch normalisation has one value of a channel only.
    """
    try:
        return net(images.contiguous(memory_format=torch.channels_last))
    except ValueError as exc:
        if 'more than 1 value per channel' not in str(exc):
            raise
        raise DataError(
            f'a batch of one image of {images.shape[-2]}x{images.shape[-1]} pixels leaves one '
            f'value a channel, which has no variance to normalise with; give more images, a '
            f'larger --batch than {recipe.batch}, or larger crops'
        ) from exc


def calibration(task: Task, recipe: Recipe, device: torch.device) -> Iterator[Tensor]:
    """Yield the same training images in batches, each time: to estimate batch statistics with."""
    order = np.random.default_rng(recipe.seed).permutation(len(task)).tolist()
    batches = split(order[: CALIBRATION_STEPS * recipe.batch], recipe.batch)
    for images, *_ in Samples(task, recipe.seed, -1).loader(batches, 0):
        yield images.to(device, memory_format=torch.channels_last)


def tell_epoch(metric: str, entry: dict[str, Any], improved: bool, left_s: float) -> None:
    """Say how an epoch went, if it was measured, and how long the rest will take."""
    if f'val_{metric}' not in entry:
        return
    figures = [
        f'{name} {value:.3f}' for name, value in entry['per_class'].items() if value is not None
    ]
    alarms = [f'{name} {100 * share:.2g} %' for name, share in entry['false_alarms'].items()]
    more = [f' ({", ".join(figures)})'] if figures else []
    more += [f'; false alarms, of which val has none: {", ".join(alarms)}'] if alarms else []
    minutes = f'{left_s / 60:.0f} min' if left_s >= 90 else f'{left_s:.0f} s'
    print(
        f'epoch {entry["epoch"]}: val {metric} {entry[f"val_{metric}"]:.3f}'
        f'{", the best so far" if improved else ""}{"".join(more)}; {minutes} left',
        file=sys.stderr,
    )


def tell_loaded(weights: Path, loaded: Loaded) -> None:
    """Say what of a file was not used, and what starts from random weights."""
    for what, names in (('not used', loaded.unused), ('random at first', loaded.random)):
        more = f' and {len(names) - 4} more' if len(names) > 5 else ''
        listed = ', '.join(names[: 4 if more else 5]) or 'nothing'
        print(f'{weights.name}: {what}: {listed}{more}', file=sys.stderr)


def make_schedule(
    optimizer: torch.optim.Optimizer, rates: list[float], recipe: Recipe, steps: int, done: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the recipe's schedule over all steps of a run, of which some are `done`."""
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
        warnings.simplefilter('ignore', UserWarning)  # that no step was taken before it
        for _ in range(done):
            schedule.step()
    return schedule


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


def load_run(
    path: Path, spec: ModelSpec, facts: dict[str, Any], defaults: dict[str, Any]
) -> Checkpoint:
    """Read the checkpoint that a run goes on from.

    A setting that is newer than the checkpoint had its default there.

    Raises:
        DataError: it is of another spec, recipe (but for the epochs) or training list, or has
            more epochs than are asked for.
    """
    checkpoint = load_checkpoint(path)

    asked, had = facts['recipe'], defaults | checkpoint.facts.get('recipe', {})
    differing = [
        f'{name} ({had.get(name)!r}, now {asked.get(name)!r})'
        for name in dict.fromkeys([*asked, *had])
        if asked.get(name) != had.get(name) and name != 'epochs'
    ]
    differing += [
        key for key in facts if key != 'recipe' and facts[key] != checkpoint.facts.get(key)
    ]
    if checkpoint.spec != spec:
        differing.append('spec')
    if differing:
        raise DataError(
            f'{path}: was trained with another {", ".join(differing)}; '
            f'resume with the same arguments, or choose another --out'
        )
    if checkpoint.epoch > facts['recipe']['epochs']:
        raise DataError(
            f'{path}: has {checkpoint.epoch} epochs behind it, more than --epochs '
            f'{facts["recipe"]["epochs"]}; ask for more, or export it as it is'
        )
    return checkpoint
