"""Measure the accuracy of a detector's boxes, or of the objects in a segmentation's masks."""

from collections.abc import Callable, Sequence
from pathlib import Path
import statistics
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.coco import BoxSample, read_coco
from mnv2_perception.data.images import read_image
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.mapping import ClassMap, map_classes
from mnv2_perception.evaluation.metrics import (
    average_precision,
    by_class,
    calibration,
    check_pycocotools,
    json_number,
)
from mnv2_perception.evaluation.parts import (
    apart,
    facts_of,
    MISSED,
    NOTHING,
    prefix_of,
    table_of,
    timed,
    WORST,
)
from mnv2_perception.tasks.detector import Detections, detections_from_mask, Detector
from mnv2_perception.tasks.segmenter import Segmenter
from mnv2_perception.vision.detections import box_iou

MIN_AREA = 40  # pixels; smaller components do not count as objects
SHOWN_SCORE = 0.3  # minimum for confusion and calibration: what nodes publish by default
MATCH_IOU = 0.5
Found = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


class Matches(NamedTuple):
    """The matches between one image's objects and boxes.

    Attributes:
        counts: (C + 1, C + 1) int64, true class × predicted class; the last row counts boxes on no
            object, the last column missed objects.
        scores: (N,) float64, scores of the boxes that were judged.
        right: (N,) bool, whether the box is on an object of its class.
    """

    counts: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]

    @property
    def wrong(self) -> int:
        """Number of errors: missed objects, wrong classes, and boxes on no object."""
        return int(self.counts.sum() - np.trace(self.counts))


def match_boxes(sample: BoxSample, found: Found, num_classes: int) -> Matches:
    """Match boxes of SHOWN_SCORE or more with objects, highest score first.

    An object matches one box, with an IoU of at least MATCH_IOU. A box prefers objects of its own
    class, then the one with the largest overlap. A box without an object, at least half of which
    is in an ignored region of its class, is not judged.

    Args:
        sample: the true objects.
        found: predicted boxes (N, 4), scores (N,) and class ids (N,).
        num_classes: number of classes.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    shown = found[1] >= SHOWN_SCORE
    boxes, scores, ids = found[0][shown], found[1][shown], found[2][shown]
    overlap = box_iou(boxes, sample.boxes)
    free = np.ones(len(sample.boxes), bool)
    judged, right = [], []
    for index in np.argsort(-scores, kind='stable'):
        candidates = np.flatnonzero(free & (overlap[index] >= MATCH_IOU))
        if len(candidates):
            same = sample.class_ids[candidates] == ids[index]
            best = candidates[np.argmax(overlap[index, candidates] + same)]
            free[best] = False
            counts[sample.class_ids[best], ids[index]] += 1
            right.append(bool(sample.class_ids[best] == ids[index]))
        elif _in_ignored(boxes[index], sample.ignored[sample.ignored_ids == ids[index]]):
            continue
        else:
            counts[num_classes, ids[index]] += 1
            right.append(False)
        judged.append(float(scores[index]))
    counts[:num_classes, num_classes] = np.bincount(sample.class_ids[free], minlength=num_classes)
    return Matches(counts, np.array(judged), np.array(right, bool))


def _in_ignored(box: NDArray[np.float32], regions: NDArray[np.float32]) -> bool:
    corners = np.minimum(box[2:], regions[:, 2:]) - np.maximum(box[:2], regions[:, :2])
    inside = np.clip(corners, 0.0, None).prod(axis=1)
    return bool((inside >= MATCH_IOU * np.prod(box[2:] - box[:2])).any())


def evaluate_detection(
    detector: Detector, path: Path, by_prefix: str = '', maps: Sequence[str] = ()
) -> dict[str, Any]:
    """Run a detector over images and compare its boxes with the true ones.

    Args:
        detector: the opened model; use `min_score` 0 for a correct average precision.
        path: COCO JSON, see `data.coco.read_coco`; classes are matched by name.
        by_prefix: see `evaluate_model`.
        maps: which class of the file is which of the model, see `mapping.map_classes`.

    Returns:
        `ap`, `ap50` and `ap50_per_class`, see `metrics.AveragePrecision`, None for NaN;
        for boxes of SHOWN_SCORE or more (see `match_boxes`) `confusion` (true class, or
        `nothing`: predicted class, or `missed`: number of boxes) and `ece`, the distance between
        their scores and the share of them that is on an object of their class (Küppers et al.,
        "Multivariate Confidence Calibration for Object Detection", CVPR Workshops 2020,
        arXiv:2004.13546, for the score alone), with its bins in `calibration`; `by_prefix` (the
        same for the images of each prefix), if requested; `worst`, the images with most errors;
        `ms_per_image`, the median of preprocessing, inference and decoding; `images`; `map` and
        `left_out`, with `maps`.

    Raises:
        DataError: the file cannot be used, or has a class that the model does not know.
        SetupError: pycocotools is missing.
    """
    check_pycocotools()
    names = detector.spec.classes
    return facts_of(detector) | _evaluate_boxes(detector, names, path, by_prefix, maps)


def evaluate_components(
    segmenter: Segmenter,
    path: Path,
    min_area: int = MIN_AREA,
    by_prefix: str = '',
    maps: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate a mask's connected components as objects: the baseline for a detector.

    Args:
        segmenter: the opened model.
        path: COCO JSON; classes are matched by name.
        min_area: minimum size of a component, pixels.
        by_prefix: see `evaluate_model`.
        maps: see `evaluate_detection`.

    Returns:
        See `evaluate_detection`.

    Raises:
        DataError: the file cannot be used, or has a class that the model does not know.
        SetupError: pycocotools is missing.
    """
    check_pycocotools()
    names = segmenter.spec.classes
    classes = compared(read_coco(path)[0], names, path, maps)
    find = object_finder(segmenter, classes, min_area)
    return facts_of(segmenter) | _evaluate_boxes(find, names, path, by_prefix, maps)


def object_finder(
    segmenter: Segmenter, classes: ClassMap, min_area: int = MIN_AREA
) -> Callable[[NDArray[np.uint8]], Detections]:
    """Return a function that finds the objects of the compared classes in an image's mask."""
    wanted = [id_ for id_, each in enumerate(classes.of_model) if each < len(classes.names)]
    return lambda image: detections_from_mask(segmenter(image), wanted, min_area)


def compared(
    labels: Sequence[str], model: Sequence[str], path: Path, maps: Sequence[str]
) -> ClassMap:
    """Return which classes of a COCO file are compared with which of a model.

    Raises:
        DataError: the file has a class that the model does not know, and there is no map.
    """
    unknown = [name for name in labels if name not in model]
    if unknown and not maps:
        raise DataError(
            f'{path}: the model has no class {", ".join(unknown)}; it has {", ".join(model)}; '
            f'match them with --map'
        )
    return map_classes(labels, model, maps)


def relabelled(sample: BoxSample, found: Detections, classes: ClassMap) -> tuple[BoxSample, Found]:
    """Return an image's objects and boxes with the ids of the compared classes, without others."""
    count, of_label = len(classes.names), np.array(classes.of_label)
    true, ignored = of_label[sample.class_ids], of_label[sample.ignored_ids]
    ids = np.array(classes.of_model)[found.class_ids]
    kept = ids < count
    return (
        BoxSample(
            sample.image, sample.boxes[true < count], true[true < count],
            sample.ignored[ignored < count], ignored[ignored < count],
        ),
        (found.boxes[kept], found.scores[kept], ids[kept]),
    )


def _evaluate_boxes(
    find: Callable[[NDArray[np.uint8]], Detections],
    names: tuple[str, ...],
    path: Path,
    by_prefix: str,
    maps: Sequence[str],
) -> dict[str, Any]:
    labels, samples = read_coco(path)
    classes = compared(labels, names, path, maps)
    count = len(classes.names)
    times_ms: list[float] = []
    pairs: list[tuple[BoxSample, Found]] = []
    parts: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        result = timed(find, read_image(sample.image), times_ms)
        pairs.append(relabelled(sample, result, classes))
        parts.setdefault(prefix_of(sample.image, by_prefix), []).append(index)
    matches = [match_boxes(*pair, count) for pair in pairs]

    def calibrated(indices: list[int]) -> dict[str, Any]:
        scores, right = (
            np.concatenate([getattr(matches[index], name) for index in indices])
            for name in ('scores', 'right')
        )
        return calibration(scores, right)

    def figures(indices: list[int]) -> dict[str, Any]:
        precision = average_precision(
            [pairs[index][0] for index in indices], [pairs[index][1] for index in indices], count
        )
        return {
            'images': len(indices),
            'ap': json_number(precision.ap),
            'ap50': json_number(precision.ap50),
            'ap50_per_class': by_class(classes.names, np.array(precision.ap50_per_class)),
            'ece': calibrated(indices)['ece'],
        }

    whole = list(range(len(samples)))
    ranked = sorted(whole, key=lambda index: -matches[index].wrong)
    counts = np.sum([each.counts for each in matches], axis=0)
    return {
        **figures(whole),
        **(classes.facts() if maps else {}),
        **apart(parts, by_prefix, figures),
        'confusion': table_of(counts, (*classes.names, NOTHING), (*classes.names, MISSED)),
        'calibration': calibrated(whole)['bins'],
        'worst': [
            {'image': str(samples[index].image), 'wrong': matches[index].wrong}
            for index in ranked[:WORST] if matches[index].wrong
        ],
        'ms_per_image': statistics.median(times_ms),
    }
