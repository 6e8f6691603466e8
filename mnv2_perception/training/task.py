"""The interface of a training task, and batches of its samples."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
from torch.utils.data import DataLoader, Dataset

from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.backbone import Backbone
from mnv2_perception.vision.preprocess import fit_image, normalise

Arrays = tuple[np.ndarray[Any, Any], ...]


class Measured(NamedTuple):
    """The result of a network on the validation images.

    Attributes:
        value: the task's metric, higher is better; NaN without any images.
        per_class: figure by class name; None for a class that does not occur.
        false_alarms: for classes that do not occur, the share that is taken for them, by name.
    """

    value: float
    per_class: dict[str, float | None] = {}
    false_alarms: dict[str, float] = {}


class Task(ABC):
    """What differs between tasks in training.

    Attributes:
        spec: spec of the exported model.
        net: network that maps image tensors (N, 3, H, W) to the input of `loss`.
        encoder: the part of the network that can start from other weights.
        architecture: arguments of `nets.checkpoint.make_network` to build the network again.
        metric: name of the metric that `evaluate` returns.
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
        """Return an augmented image tensor (3, H, W) float32 and its targets; shapes are fixed."""

    @abstractmethod
    def loss(self, outputs: Any, *targets: Tensor) -> Tensor:
        """Return the mean loss of a batch; must be finite even if nothing is labelled."""

    @abstractmethod
    def evaluate(self, net: nn.Module) -> Measured:
        """Measure a network on the validation images."""


@dataclass
class Samples(Dataset[Arrays]):
    """The samples of one epoch, each with its own random generator.

    A resumed run, or one with another number of workers, thus sees the same samples.
    """

    task: Task
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, index: int) -> Arrays:
        return self.task.sample(index, np.random.default_rng((self.seed, self.epoch + 1, index)))

    def loader(self, batches: list[list[int]], workers: int) -> 'DataLoader[Arrays]':
        """Return a loader of the batches with these indices."""
        return DataLoader(
            self, batch_sampler=batches, num_workers=workers, worker_init_fn=use_one_thread
        )


def network_input(image: NDArray[np.uint8], spec: ModelSpec, net: nn.Module) -> Tensor:
    """Return an image (H, W, 3) uint8 RGB as the exported model gets it: (1, 3, h, w) float32."""
    image = fit_image(image, spec.height, spec.width, spec.fit, spec.crop_ratio, spec.pad)
    tensor = normalise(image, spec.mean, spec.std, spec.channel_order)
    return torch.from_numpy(tensor)[None].to(next(net.parameters()).device)


def split(order: list[int], batch: int) -> list[list[int]]:
    """Split indices into batches; a single left-over joins the last one, as it has no variance."""
    starts = list(range(0, len(order), batch))
    if batch > 1 and len(starts) > 1 and len(order) % batch == 1:
        starts.pop()
    return [
        order[start:end] for start, end in zip(starts, [*starts[1:], len(order)], strict=True)
    ]


def use_one_thread(_worker: int) -> None:
    """Disable OpenCV's threads in a worker: parallelism comes from the number of workers."""
    cv2.setNumThreads(0)
