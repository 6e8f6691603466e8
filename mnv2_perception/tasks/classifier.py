"""Classifier: find the most likely classes of an RGB image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines import Engine
from mnv2_perception.errors import ImageError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.pipeline import check_between_0_and_1, Pipeline
from mnv2_perception.vision.decode import class_probabilities


@dataclass(frozen=True)
class Classification:
    """A classifier's result for one image: the most likely classes, best first.

    Attributes:
        class_ids: (K,) int64, K at most `top_k`; empty if no class is confident enough.
        scores: (K,) float32, their probabilities, 0 to 1.
    """

    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]


class Classifier(Pipeline[Classification]):
    """Classifies images with one opened model.

    Args:
        engine: the opened model; closed with the classifier.
        spec: ModelSpec of the model.
        top_k: largest number of classes to return. May be changed between calls.
        min_confidence: classes below it (0 to 1) are left out. May be changed between calls.

    Raises:
        ModelError: the model is not for classification, or spec and engine disagree.
        ImageError: `top_k` is below 1, or `min_confidence` not between 0 and 1.
    """

    task = 'classification'

    def __init__(
        self, engine: Engine, spec: ModelSpec, top_k: int = 5, min_confidence: float = 0.0
    ) -> None:
        super().__init__(engine, spec)
        if top_k < 1:
            raise ImageError(f'top_k is {top_k}, expected 1 or more')
        check_between_0_and_1(min_confidence=min_confidence)
        self.top_k = top_k
        self.min_confidence = min_confidence

    def finish(self, image: NDArray[np.uint8], outputs: Sequence[NDArray[Any]]) -> Classification:
        """Sort the classes by probability.

        Raises:
            ModelError: an output is not finite, or not a probability although the spec says so.
        """
        scores = outputs[0].reshape(-1).astype(np.float32, copy=False)
        if self.spec.output != 'logits':
            self.require_probabilities(scores)
        else:
            self.require_logits(scores)
        probabilities = class_probabilities(scores, self.spec.output)
        self.require_finite(np.isfinite(probabilities))
        if self.spec.background:
            probabilities = probabilities[1:]
        best = np.argsort(-probabilities, kind='stable')[: self.top_k]
        best = best[probabilities[best] >= self.min_confidence]
        return Classification(best.astype(np.int64, copy=False), probabilities[best])
