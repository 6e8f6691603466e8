"""Functions that the evaluations of all tasks share."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
import time
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.segmenter import Segmenter

WORST = 8  # images that are listed, and drawn on request
NOTHING, MISSED = 'nothing', 'missed'  # true class of a box on no object; prediction of no box
Result = TypeVar('Result')
Part = TypeVar('Part')


def prefix_of(path: Path, end: str) -> str:
    """Return a file's name up to `end`, or without its suffix; '' if `end` is empty."""
    return path.stem.split(end)[0] if end else ''


def facts_of(opened: Segmenter | Classifier | Detector) -> dict[str, str]:
    """Return the name, engine and precision of an opened model."""
    return {
        'model': opened.spec.name,
        'engine': opened.engine.name,
        'precision': opened.engine.precision,
    }


def timed(
    find: Callable[[NDArray[np.uint8]], Result], image: NDArray[np.uint8], times_ms: list[float]
) -> Result:
    """Run a model on an image and append the time in ms to `times_ms`."""
    start_s = time.perf_counter()
    result = find(image)
    times_ms.append((time.perf_counter() - start_s) * 1000.0)
    return result


def apart(
    parts: Mapping[str, Part], by_prefix: str, figures: Callable[[Part], dict[str, Any]]
) -> dict[str, Any]:
    """Return `by_prefix`, the figures of each prefix, if they were requested."""
    if not by_prefix:
        return {}
    return {'by_prefix': {name: figures(part) for name, part in sorted(parts.items())}}


def table_of(
    counts: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Return counts as {true class: {predicted class: count}}, without zeros."""
    return {
        true: {name: count for name, count in zip(columns, row, strict=True) if count}
        for true, row in zip(rows, counts.tolist(), strict=True) if any(row)
    }
