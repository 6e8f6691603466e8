"""The models of a run, and their results as messages, as the nodes publish them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.messages import (
    classification_cdr,
    detections_cdr,
    label_info_cdr,
    mask_cdr,
)
from mnv2_perception.bags.read import TopicQos
from mnv2_perception.bags.results import RESULTS
from mnv2_perception.engines.plans import sha256
from mnv2_perception.errors import SetupError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.models import Engine, find_model, opening
from mnv2_perception.tasks.segmenter import Segmenter

AT_ONCE = 8  # parallel inferences at most; more would wait for the writer and use memory
RESULT, LATCHED = TopicQos(depth=1), TopicQos(transient_local=True, depth=1)
Outputs = Sequence[NDArray[Any]]


class Task(ABC):
    """A model that processes a recording.

    Args:
        model: the opened pipeline.
        threshold: minimum confidence, as stated in label_info.
        path: path of the model's file.

    Attributes:
        model: the opened pipeline.
        threshold: minimum confidence, as stated in label_info.
        topics: topics of its results with their types; the one for the class names comes first.
        facts: what was opened, for the run's description.
    """

    node: str
    names: tuple[str, ...]

    def __init__(self, model: Any, threshold: float, path: Path) -> None:
        self.model, self.threshold = model, threshold
        self.topics = {f'/{name}': RESULTS[self.node][name] for name in self.names}
        self.facts = {
            'name': model.spec.name, 'task': model.spec.task, 'file': path.name,
            'sha256': sha256(path),
            'engine': model.engine.name, 'precision': model.engine.precision,
            'licence': model.spec.licence, 'attribution': model.spec.attribution,
            'colours': dict(zip(model.spec.classes, model.spec.colours, strict=True)),
        }

    @property
    def label_info(self) -> str:
        """Topic of the class names."""
        return next(iter(self.topics))

    def names_cdr(self, header: Any) -> bytes:
        """Return the class names as a serialised message."""
        return label_info_cdr(self.model.spec.classes, header, self.threshold)

    @abstractmethod
    def messages(self, result: Any, header: Any) -> Mapping[str, bytes]:
        """Return the serialised messages for a frame's result, by topic, in publishing order."""


class Segmenting(Task):
    """Publishes masks and their confidence."""

    node = 'segmentation'
    names = 'segmentation/label_info', 'segmentation/confidence', 'segmentation/mask'

    def messages(self, result: Any, header: Any) -> Mapping[str, bytes]:
        return {
            '/segmentation/confidence': mask_cdr(result.confidence, header),
            '/segmentation/mask': mask_cdr(result.class_ids, header),
        }


class Classifying(Task):
    """Publishes the most likely classes."""

    node = 'classification'
    names = 'classification/label_info', 'classification'

    def messages(self, result: Any, header: Any) -> Mapping[str, bytes]:
        classes = self.model.spec.classes
        return {
            '/classification': classification_cdr(
                result.class_ids, result.scores, classes, header
            )
        }


class Detecting(Task):
    """Publishes boxes."""

    node = 'detection'
    names = 'detections/label_info', 'detections'

    def messages(self, result: Any, header: Any) -> Mapping[str, bytes]:
        classes = self.model.spec.classes
        return {
            '/detections': detections_cdr(
                result.boxes, result.scores, result.class_ids, classes, header
            )
        }


def open_tasks(
    models: Sequence[str], stack: ExitStack, engine: str = 'auto', threads: int = 0,
    precision: str = 'auto', min_confidence: float = 0.0, min_score: float = 0.3,
    at_once: int = 1,
) -> list[Task]:
    """Open models, each for a different task.

    Args:
        models: paths, or names of shipped models.
        stack: closes the models.
        engine: inference engine for all models, such as `auto` or `onnx_runtime`.
        threads: CPU threads for inference; 0 leaves it to the engine.
        precision: arithmetic precision for all models.
        min_confidence: minimum confidence of a mask's pixels and of classes, 0 to 1.
        min_score: minimum score of boxes, 0 to 1.
        at_once: number of parallel inferences, see `open_engine`.

    Returns:
        The tasks: segmentation, classification, detection, as far as there are models for them.

    Raises:
        SetupError: two models are for the same task.
        PerceptionError: a model cannot be opened.
    """
    kinds: dict[str, Callable[[Engine, ModelSpec, Path], Task]] = {
        'segmentation': lambda engine, spec, path: Segmenting(
            Segmenter(engine, spec, min_confidence), min_confidence, path
        ),
        'classification': lambda engine, spec, path: Classifying(
            Classifier(engine, spec, min_confidence=min_confidence), min_confidence, path
        ),
        'detection': lambda engine, spec, path: Detecting(
            Detector(engine, spec, min_score), min_score, path
        ),
    }
    tasks: dict[str, Task] = {}
    for name in models:
        path = find_model(name)
        with opening(
            path, engine, threads, precision=precision, at_once=at_once
        ) as (opened, spec):
            stack.callback(opened.close)
            if spec.task in tasks:
                raise SetupError(
                    f'{tasks[spec.task].model.spec.name} and {spec.name} are both for '
                    f'{spec.task}; give one model for each task; to compare two models, make two '
                    f'runs'
                )
            tasks[spec.task] = kinds[spec.task](opened, spec, path)
    order = list(kinds)
    return [tasks[name] for name in sorted(tasks, key=order.index)]


def blank(task: Task) -> NDArray[np.uint8]:
    """Return a black image of the network's size, for warming up."""
    return np.zeros((task.model.spec.height, task.model.spec.width, 3), np.uint8)
