"""The training loop for all tasks: schedule, mixed precision, running mean, resume, early stop."""

from collections.abc import Callable, Iterator
import copy
from dataclasses import asdict
import hashlib
import json
import math
from pathlib import Path
import sys
import time
from typing import Any

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
from mnv2_perception.training.interrupts import heeding_interrupts
from mnv2_perception.training.recipe import Recipe
from mnv2_perception.training.schedule import make_optimizer, make_schedule
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

    Writes into `out`: `last.pt` after each epoch, from which a run can be resumed; `best.pt`, the
    weights with the best metric so far, if there is a metric; `log.jsonl`, `curves.png` and, if
    the package `tensorboard` is installed, its event file. With `weights`, the encoder's batch
    statistics stay fixed, because a batch of 8 gives worse estimates. Those of the other layers
    are recomputed for the running mean of the weights in each epoch.

    Args:
        task: task to train.
        out: folder of the run; created if missing.
        recipe: hyperparameters.
        facts: facts about the training data, for the model card; a resumed run must have the same,
            and the same recipe except for the number of epochs.
        weights: checkpoint or exported model that the network starts from, see `load_weights`.
        resume: continue from `out/last.pt`.
        workers: number of processes that read and augment; 0 does this in the calling process.

    Returns:
        The best metric on the validation images; NaN without any.

    Raises:
        DataError: `out` holds another run, another process trains there, or the loss is not
            finite.
        SetupError: `out` cannot be created.
        ModelError: the weights or the checkpoint cannot be loaded.
    """
    check_spec(task.spec)
    if weights and not weights.is_file():
        raise ModelError(f'{weights}: no such file; give weights such as --weights mobilenet_v2')
    if resume and not out.is_dir():
        raise ModelError(f'{out}: no such run; resume with the --out that it had')
    make_folder(out)
    with alone_in(out), heeding_interrupts() as heed:
        return Run(task, out, recipe, facts, weights, resume, workers, heed).train()


class Run:
    """A run in a folder that it has for itself: its network and its progress; see `fit`.

    Args:
        heed: called after each batch; it may raise KeyboardInterrupt.

    Attributes:
        net: the network that is trained.
        average: the running mean of its weights, which is measured and exported.
        epoch: number of finished epochs.
        best: the best metric so far; NaN if there is none.
        worse: number of measurements since then.
    """

    def __init__(
        self, task: Task, out: Path, recipe: Recipe, facts: dict[str, Any], weights: Path | None,
        resume: bool, workers: int, heed: Callable[[], None],
    ) -> None:
        self._last, self._kept, self._log, self._curves, *others = (
            out / name for name in
            ('last.pt', 'best.pt', 'log.jsonl', 'curves.png', 'results.json', 'confusion.png')
        )
        for path in (
            () if resume else (self._last, self._kept, self._log, self._curves, *others)
        ):
            if path.exists():
                raise DataError(f'{path} exists; continue with --resume, or choose another --out')
        self._task, self._recipe, self._weights = task, recipe, weights
        self._workers, self._heed = workers, heed
        self._facts = {
            'recipe': asdict(recipe),
            'weights_sha256': (
                hashlib.sha256(weights.read_bytes()).hexdigest() if weights else ''
            ),
            **facts,
        }
        self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self.net = task.net.to(self._device, memory_format=torch.channels_last)
        if weights and not resume:
            loaded = load_weights(self.net, task.encoder, weights)
            tell_loaded(weights, loaded)
            unfold(self.net, loaded.folded, calibration(task, recipe, self._device))
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        stages, frozen = task.encoder.stages(), recipe.frozen_stages if weights else 0
        self._warming_up = stages[frozen:]
        for stage in stages[:frozen]:
            stage.requires_grad_(False)
        self._optimizer, self._rates = make_optimizer(
            task, self.net, recipe, weights is not None
        )
        self._steps = len(split(list(range(len(task))), recipe.batch))
        self._schedule = make_schedule(self._optimizer, self._rates, recipe, self._steps)
        # A larger initial scale would only cost a short run its first steps.
        self._scaler = torch.amp.GradScaler(
            self._device.type, 1024.0, enabled=recipe.precision == 'fp16'
        )
        self.epoch, self.best, self.worse = 0, float('nan'), 0
        if resume:
            self._resume()
        self._events = Events(out, self.epoch)

    def train(self) -> float:
        """Train the remaining epochs; return the best metric."""
        recipe, first_epoch, start_s = self._recipe, self.epoch, time.monotonic()
        while self.epoch < recipe.epochs:
            if recipe.patience and self.worse >= recipe.patience:
                break
            entry: dict[str, Any] = {
                'epoch': self.epoch + 1, 'loss': self._train_epoch(),
                'learning_rate': self._optimizer.param_groups[-1]['lr'],
            }
            with self._autocast():
                reestimate(
                    self.average, gathering_layers(self.net),
                    calibration(self._task, recipe, self._device),
                )
            self.epoch += 1
            due = self.epoch == recipe.epochs or self.epoch % recipe.evaluate_every == 0
            improved = due and self._measure(entry)
            self._save(entry, improved)
            spent_s = time.monotonic() - start_s
            left_s = spent_s / (self.epoch - first_epoch) * (recipe.epochs - self.epoch)
            tell_epoch(self._task.metric, entry, improved, left_s)
        self._events.close()
        return self.best

    def _state(self) -> dict[str, Any]:
        """Return the objects whose state a resumed run needs, by their names in the checkpoint."""
        return {
            'net': self.net, 'average': self.average, 'optimizer': self._optimizer,
            'schedule': self._schedule, 'scaler': self._scaler,
        }

    def _resume(self) -> None:
        checkpoint = load_run(
            self._last, self._task.spec, self._facts, asdict(type(self._recipe)())
        )
        prolonged = checkpoint.facts['recipe']['epochs'] != self._recipe.epochs
        for name, part in self._state().items():
            if not (prolonged and name == 'schedule'):
                part.load_state_dict(checkpoint.training[name])
        self.epoch = checkpoint.epoch
        self.best, self.worse = checkpoint.training['best'], checkpoint.training['worse']
        if prolonged:
            self._schedule = make_schedule(
                self._optimizer, self._rates, self._recipe, self._steps, self.epoch * self._steps
            )
        if not math.isnan(self.best) and not self._kept.exists():
            raise DataError(
                f'{self._kept} is missing, but {self._last} needs it; put both there'
            )
        cut_log(self._log, self.epoch)

    def _autocast(self) -> torch.autocast:
        precision = self._recipe.precision
        return torch.autocast(
            self._device.type, PRECISIONS[precision], enabled=precision != 'fp32'
        )

    def _train_epoch(self) -> float:
        """Train one epoch; return the mean loss.

        Raises:
            DataError: the loss is not finite.
        """
        task, recipe, epoch = self._task, self._recipe, self.epoch
        self.net.train()
        if self._weights:
            freeze_batch_statistics(task.encoder)
        for stage in self._warming_up:
            stage.requires_grad_(not self._weights or epoch >= recipe.warm_up)
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(task)).tolist()
        torch.manual_seed(recipe.seed * 100_000 + epoch)  # dropout
        batches = split(order, recipe.batch)
        loader = Samples(task, recipe.seed, epoch).loader(batches, self._workers)
        progress = tqdm(loader, desc=f'epoch {epoch + 1}/{recipe.epochs}', unit='batch')
        total = 0.0
        for step, batch in enumerate(progress):
            images, *targets = (part.to(self._device) for part in batch)
            with self._autocast():
                outputs = infer(self.net, images, recipe)
            loss = task.loss(outputs, *targets)
            self._optimizer.zero_grad()
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._schedule.step()
            update_average(self.average, self.net, recipe.ema, epoch * self._steps + step)
            total += loss.item()
            progress.set_postfix(loss=f'{total / (step + 1):.3f}')
            self._heed()
        if not math.isfinite(total):
            elsewhere = f' with another --out; {self._last} is of the epoch before'
            raise DataError(
                f'epoch {epoch + 1}: the loss is {total}; lower --learning-rate '
                f'({recipe.learning_rate:g}) and start again{elsewhere if epoch else ""}'
            )
        return total / self._steps

    def _measure(self, entry: dict[str, Any]) -> bool:
        """Measure the running mean, add the result to `entry`; return whether it is the best."""
        measured = self._task.evaluate(self.average)
        if math.isnan(measured.value):
            return False
        entry[f'val_{self._task.metric}'] = measured.value
        entry.update(per_class=measured.per_class, false_alarms=measured.false_alarms)
        improved = math.isnan(self.best) or measured.value > self.best
        self.best = measured.value if improved else self.best
        self.worse = 0 if improved else self.worse + 1
        return improved

    def _save(self, entry: dict[str, Any], improved: bool) -> None:
        """Write the results of an epoch: first the line in the log, then `last.pt`."""
        checkpoint = Checkpoint(
            self._task.spec, self._task.architecture, self.average.state_dict(), self._facts,
            self.epoch,
        )
        if improved:
            save_checkpoint(checkpoint, self._kept)
        checkpoint.training.update(
            {name: part.state_dict() for name, part in self._state().items()},
            best=self.best, worse=self.worse,
        )
        with self._log.open('a', encoding='utf-8') as log:
            log.write(json.dumps(entry) + '\n')
        self._events.write(entry)
        save_checkpoint(checkpoint, self._last)
        draw_curves(self._log, self._curves)


def infer(net: nn.Module, images: Tensor, recipe: Recipe) -> Any:
    """Return a network's outputs in training.

    Raises:
        DataError: batch normalisation gets a single value per channel.
    """
    try:
        return net(images.contiguous(memory_format=torch.channels_last))
    except ValueError as exc:
        if 'more than 1 value per channel' not in str(exc):
            raise
        raise DataError(
            f'a batch of one image of {images.shape[-2]}x{images.shape[-1]} pixels leaves only '
            f'one value per channel, so batch normalisation has no variance; give more images, a '
            f'larger --batch than {recipe.batch}, or larger crops'
        ) from exc


def calibration(task: Task, recipe: Recipe, device: torch.device) -> Iterator[Tensor]:
    """Yield batches of training images, the same each time, to estimate batch statistics."""
    order = np.random.default_rng(recipe.seed).permutation(len(task)).tolist()
    batches = split(order[: CALIBRATION_STEPS * recipe.batch], recipe.batch)
    for images, *_ in Samples(task, recipe.seed, -1).loader(batches, 0):
        yield images.to(device, memory_format=torch.channels_last)


def tell_epoch(metric: str, entry: dict[str, Any], improved: bool, left_s: float) -> None:
    """Print an epoch's result, if it was measured, and the remaining time."""
    if f'val_{metric}' not in entry:
        return
    figures = [
        f'{name} {value:.3f}' for name, value in entry['per_class'].items() if value is not None
    ]
    alarms = [f'{name} {100 * share:.2g} %' for name, share in entry['false_alarms'].items()]
    more = [f' ({", ".join(figures)})'] if figures else []
    more += [f'; false alarms (classes that val does not have): '
             f'{", ".join(alarms)}'] if alarms else []
    minutes = f'{left_s / 60:.0f} min' if left_s >= 90 else f'{left_s:.0f} s'
    print(
        f'epoch {entry["epoch"]}: val {metric} {entry[f"val_{metric}"]:.3f}'
        f'{", the best so far" if improved else ""}{"".join(more)}; {minutes} left',
        file=sys.stderr,
    )


def tell_loaded(weights: Path, loaded: Loaded) -> None:
    """Print which weights of a file were not used, and which layers start from random weights."""
    for what, names in (('not used', loaded.unused), ('start from random values', loaded.random)):
        more = f' and {len(names) - 4} more' if len(names) > 5 else ''
        listed = ', '.join(names[: 4 if more else 5]) or 'nothing'
        print(f'{weights.name}: {what}: {listed}{more}', file=sys.stderr)


@torch.no_grad()  # type: ignore[untyped-decorator]
def update_average(average: nn.Module, net: nn.Module, decay: float, step: int) -> None:
    """Move the running mean towards the current weights, faster in the first steps."""
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
    """Read the checkpoint from which a run is resumed.

    For settings that are newer than the checkpoint, their default is assumed.

    Raises:
        DataError: it has another spec, recipe (except for the epochs) or training list, or more
            epochs than requested.
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
            f'{path}: has {checkpoint.epoch} finished epochs, more than --epochs '
            f'{facts["recipe"]["epochs"]}; give more --epochs, or export it as it is'
        )
    return checkpoint
