"""The models of a demo: one for each task, the given ones in place of the shipped."""

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
    """A model that a node is to run.

    Attributes:
        model: path, or name of a shipped one.
        engine: of its node.
        spec: what it takes and gives.
    """

    model: str
    engine: str
    spec: ModelSpec


def choose_models(models: Sequence[str], engine: str, threads: int) -> Mapping[str, Chosen]:
    """Return the model of each task, once each was opened.

    Args:
        models: paths, or names of shipped ones, each for another task.
        engine: of these, and of segmentation; that of the others is `auto`.
        threads: CPU threads for one inference.

    Raises:
        SetupError: two are for one task.
        PerceptionError: one cannot be opened, or its spec and its graph disagree.
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
