"""Choose the models of a demo: one for each task; given ones replace the shipped ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnv2_perception.errors import SetupError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.models import (
    CLASSIFICATION_MODEL,
    DETECTION_MODEL,
    opening,
    SEGMENTATION_MODEL,
)
from mnv2_perception.tasks.segmenter import Segmenter

SHIPPED = {
    'segmentation': SEGMENTATION_MODEL, 'detection': DETECTION_MODEL,
    'classification': CLASSIFICATION_MODEL,
}
PIPELINES = {
    'segmentation': Segmenter, 'detection': Detector, 'classification': Classifier,
}


@dataclass(frozen=True)
class Chosen:
    """A model for a node.

    Attributes:
        model: path, or name of a shipped model.
        engine: engine for its node.
        spec: the model's spec.
    """

    model: str
    engine: str
    spec: ModelSpec


def choose_models(models: Sequence[str], engine: str, threads: int) -> Mapping[str, Chosen]:
    """Return the model for each task, after opening each of them.

    Args:
        models: paths, or names of shipped models, each for a different task.
        engine: engine for these models and for segmentation; the others use `auto`.
        threads: CPU threads for one inference.

    Raises:
        SetupError: two models are for the same task.
        PerceptionError: a model cannot be opened, or its spec contradicts its graph.
    """
    given: dict[str, Chosen] = {}
    for model in models:
        chosen = _open(model, engine, threads)
        if (task := chosen.spec.task) in given:
            raise SetupError(
                f'{given[task].spec.name} and {chosen.spec.name} are both for {task}; give one '
                f'model for each task; to compare two models, make two runs'
            )
        given[task] = chosen
    engines = {'segmentation': engine}
    return {
        task: given.get(task) or _open(model, engines.get(task, 'auto'), threads)
        for task, model in SHIPPED.items()
    }


def _open(model: str, engine: str, threads: int) -> Chosen:
    with opening(model, engine, threads) as (opened, spec):
        PIPELINES[spec.task](opened, spec).close()
    return Chosen(model, engine, spec)
