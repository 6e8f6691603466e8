"""Measure the accuracy of a model on labelled images (`mnv2 evaluate`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.folders import LabelCounts, list_classified, list_pairs, read_pair
from mnv2_perception.data.images import is_bag, read_image
from mnv2_perception.engines import Engine
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.boxes import evaluate_components, evaluate_detection, MIN_AREA
from mnv2_perception.evaluation.mapping import ClassMap, map_classes
from mnv2_perception.evaluation.metrics import (
    boundary_overlap,
    by_class,
    calibration,
    ConfusionMatrix,
    json_number,
    MOST_CLASSES_LISTED,
)
from mnv2_perception.evaluation.parts import apart, facts_of, prefix_of, table_of, timed, WORST
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.segmenter import Segmentation, Segmenter

HEADLINE = {'segmentation': 'miou', 'classification': 'top1', 'detection': 'ap'}
# Results that are too large for a terminal.
WIDE = ('confusion', 'calibration', 'worst', 'map', 'left_out')


def evaluate_model(
    engine: Engine,
    spec: ModelSpec,
    data: Path,
    by_prefix: str = '',
    maps: Sequence[str] = (),
    labels: Sequence[str] = (),
    topics: tuple[str, str] = ('', ''),
) -> dict[str, Any]:
    """Measure a model's accuracy with the metrics of its task.

    Args:
        engine: the opened model.
        spec: the model's spec.
        data: see the function for the task. For a segmentation model also boxes in COCO's JSON,
            to evaluate the objects in its masks, or a bag with images and their labels.
        by_prefix: text that ends the prefix of a file name, such as `_` in `hall_0012.jpg`; the
            files of each prefix are also measured separately. Empty for all together only.
        maps: which class of the labels is which of the model, see `mapping.map_classes`.
        labels: names of the labels' classes; empty for the model's. A COCO file has its own.
        topics: topics of a bag's labels and images; empty for those that look like them.

    Returns:
        The figures, see the function for the task.

    Raises:
        DataError: the data cannot be used.
        BagError: a bag cannot be read.
    """
    if is_bag(data) and spec.task != 'segmentation':
        raise DataError(
            f'{data}: a bag has labels for segmentation, but {spec.name} is for {spec.task}; give '
            f'a folder or file of labels for {spec.task}'
        )
    if any(topics) and not is_bag(data):
        raise DataError(f'{data}: is not a bag, but --labels and --topic are for bags; leave them '
                        f'out')
    if spec.task == 'detection' or (spec.task == 'segmentation' and data.suffix == '.json'):
        if labels:
            raise DataError(f'{data}: names its own classes; leave out --spec')
        if spec.task == 'detection':
            return evaluate_detection(Detector(engine, spec, min_score=0.0), data, by_prefix, maps)
        return evaluate_components(Segmenter(engine, spec), data, MIN_AREA, by_prefix, maps)
    classes = map_classes(labels or spec.classes, spec.classes, maps)
    if spec.task == 'classification':
        return evaluate_classification(Classifier(engine, spec), data, by_prefix, classes)
    return evaluate_segmentation(Segmenter(engine, spec), data, by_prefix, classes, topics)


@dataclass
class MaskTally:
    """Counts over masks.

    Attributes:
        classes: classes that are compared.
        calibrated: whether the model gives a confidence.
        matrix: confusion matrix over pixels.
        overlap: (classes, 2) int64 pixels along edges, see `metrics.boundary_overlap`.
        levels: (256, 2) int64, for each confidence × 255 the number of pixels, and how many of
            them are right.
        images: number of images.
    """

    classes: ClassMap
    calibrated: bool
    matrix: ConfusionMatrix = field(init=False)
    overlap: NDArray[np.int64] = field(init=False)
    levels: NDArray[np.int64] = field(init=False)
    images: int = 0

    def __post_init__(self) -> None:
        count = len(self.classes.rows)
        self.matrix = ConfusionMatrix(count)
        self.overlap = np.zeros((count, 2), np.int64)
        self.levels = np.zeros((256, 2), np.int64)

    def add(self, label: NDArray[np.uint8], result: Segmentation) -> None:
        """Add one image."""
        label_table, mask_table = self.classes.tables()
        truth, found = label_table[label], mask_table[result.class_ids]
        count = self.matrix.num_classes
        self.matrix.add(truth, found)
        self.overlap += boundary_overlap(truth, found, count)
        told = (truth < count) & (found < count)
        right = told & (truth == found)
        for column, pixels in enumerate((told, right)):
            self.levels[:, column] += np.bincount(result.confidence[pixels], minlength=256)
        self.images += 1

    def merge(self, other: 'MaskTally') -> None:
        """Add the counts of another tally."""
        self.matrix.counts += other.matrix.counts
        self.overlap += other.overlap
        self.levels += other.levels
        self.images += other.images

    def miou(self) -> float:
        """Return the mean IoU of the compared classes that occur; NaN if none does."""
        iou = self.matrix.iou()[: len(self.classes.names)]
        return float(np.nanmean(iou)) if not np.isnan(iou).all() else float('nan')

    def calibration(self) -> dict[str, Any]:
        """Return the calibration of the confidence; empty if the model gives none."""
        if not self.calibrated:
            return {'ece': None, 'bins': []}
        return calibration(np.arange(256) / 255.0, self.levels[:, 1], self.levels[:, 0])

    def figures(self) -> dict[str, Any]:
        """Return `images`, `miou` and related figures; see `evaluate_segmentation`."""
        names = self.classes.names
        alarms = by_class(names, self.matrix.false_alarms()[: len(names)])
        occurs = self.matrix.counts[: len(names)].sum(1) > 0
        edges = self.overlap[: len(names)]
        edge_iou = np.where(occurs, edges[:, 0] / np.maximum(edges[:, 1], 1), np.nan)
        return {
            'images': self.images,
            'miou': json_number(self.miou()),
            'per_class': by_class(names, self.matrix.iou()[: len(names)]),
            'boundary_iou': float(np.nanmean(edge_iou)) if occurs.any() else None,
            'boundary_per_class': by_class(names, edge_iou),
            'false_alarms': {name: share for name, share in alarms.items() if share},
            'pixel_accuracy': json_number(self.matrix.accuracy()),
            'ece': self.calibration()['ece'],
        }


def evaluate_segmentation(
    segmenter: Segmenter,
    folder: Path,
    by_prefix: str = '',
    classes: ClassMap | None = None,
    topics: tuple[str, str] = ('', ''),
) -> dict[str, Any]:
    """Run a model over labelled images and compare the masks at the images' own size.

    Args:
        segmenter: the opened model.
        folder: see `data.folders`; label ids at or above the class count are ignored. Or a bag.
        by_prefix: see `evaluate_model`.
        classes: classes to compare; None for the model's classes, each with its own.
        topics: see `evaluate_model`.

    Returns:
        `miou`, over the classes that the labels have; `per_class` (name: IoU, None where no label
        has the class); `boundary_iou` and `boundary_per_class`, the same along edges, see
        `metrics.boundary_overlap`; `pixel_accuracy` and `false_alarms` (name of a class that no
        label has: share of pixels taken for it), 0 to 1; `ece`, the calibration error of the
        confidence, None if the model gives none, and `calibration`, its bins, see
        `metrics.calibration`, over the pixels that were given a class; `by_prefix` (the same for
        the images of each prefix), if requested; `confusion` (true class: predicted class: number
        of pixels); `worst`, the images with the lowest mean IoU over the classes of their label;
        `ms_per_image`, the median of preprocessing, inference and decoding; `images`;
        `unlabelled`, the share of pixels without a class, and `absent`, the classes without any
        pixel; `map` and `left_out`, if labels and model have different classes.

    Raises:
        DataError: the folder cannot be used, or no pixel of it has one of the model's classes.
    """
    spec = segmenter.spec
    classes = classes or map_classes(spec.classes, spec.classes)
    calibrated = spec.output != 'ids'
    parts: dict[str, MaskTally] = {}
    counts = LabelCounts(classes.labels)
    times_ms: list[float] = []
    worst: list[dict[str, Any]] = []
    for names, image, label in _labelled(folder, topics, classes.labels):
        counts.add(label)
        one = MaskTally(classes, calibrated)
        one.add(label, timed(segmenter, image, times_ms))
        if one.miou() < 1.0:
            worst.append({**names, 'miou': one.miou()})
        prefix = prefix_of(Path(names['image']), by_prefix)
        parts.setdefault(prefix, MaskTally(classes, calibrated)).merge(one)
    counts.check(f'{folder}: labels' if is_bag(folder) else f'{folder}/labels')
    whole = MaskTally(classes, calibrated)
    for part in parts.values():
        whole.merge(part)
    if np.isnan(whole.miou()):
        raise DataError(
            f'{folder}/labels: no pixel has one of the compared classes '
            f'({", ".join(classes.names)}); correct --map'
        )
    return {
        **facts_of(segmenter),
        **whole.figures(),
        **counts.facts(),
        **classes.facts(),
        **apart(parts, by_prefix, MaskTally.figures),
        'confusion': table_of(
            whole.matrix.counts, classes.rows, (*classes.rows, 'no class')
        ),
        'calibration': whole.calibration()['bins'],
        'worst': sorted(worst, key=lambda each: float(each['miou']))[:WORST],
        'ms_per_image': statistics.median(times_ms),
    }


def _labelled(
    data: Path, topics: tuple[str, str], classes: tuple[str, ...]
) -> Iterator[tuple[dict[str, str], NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield names (image, label), image and label for each pair of a folder or frame of a bag."""
    if is_bag(data):
        from mnv2_perception.evaluation.labels import labelled_images  # needs rosbags

        for name, image, label in labelled_images(data, *topics, classes):
            yield {'image': name}, image, label
        return
    for image_path, label_path in list_pairs(data):
        yield {'image': str(image_path), 'label': str(label_path)}, *read_pair(
            image_path, label_path
        )


@dataclass
class ImageTally:
    """Counts over classified images.

    Attributes:
        classes: classes that are compared.
        matrix: confusion matrix over images.
        in_top5: number of images whose class is among the five most likely.
        told: for each image the confidence in the most likely class, and whether it was right.
    """

    classes: ClassMap
    matrix: ConfusionMatrix = field(init=False)
    in_top5: int = 0
    told: list[tuple[float, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.matrix = ConfusionMatrix(len(self.classes.rows))

    def merge(self, other: 'ImageTally') -> None:
        """Add the counts of another tally."""
        self.matrix.counts += other.matrix.counts
        self.in_top5 += other.in_top5
        self.told += other.told

    def calibration(self) -> dict[str, Any]:
        """Return the calibration of the confidence."""
        told = np.array(self.told, np.float64).reshape(-1, 2)
        return calibration(told[:, 0], told[:, 1])

    def figures(self) -> dict[str, Any]:
        """Return `images`, `top1` and related figures; see `evaluate_classification`."""
        names = self.classes.names
        recall = by_class(names, self.matrix.recall()[: len(names)])
        return {
            'images': int(self.matrix.counts.sum()),
            'top1': self.matrix.accuracy(),
            **({'per_class': recall} if len(names) <= MOST_CLASSES_LISTED else {}),
            'ece': self.calibration()['ece'],
        }


def evaluate_classification(
    classifier: Classifier, source: Path, by_prefix: str = '', classes: ClassMap | None = None
) -> dict[str, Any]:
    """Run a model over classified images.

    Args:
        classifier: the opened model.
        source: see `data.folders.list_classified`.
        by_prefix: see `evaluate_model`.
        classes: classes to compare; None for the model's classes, each with its own.

    Returns:
        `top1`, the share of images whose most likely class is right; with more than five classes
        `top5`, the share of images whose class is among the five most likely (unless the
        classifier's `top_k` is smaller); with at most 50 classes `per_class` (name: recall, None
        where the class never occurs) and `confusion` (true class: predicted class: number of
        images); `ece`, the calibration error of the most likely class's probability, and
        `calibration`, its bins, see `metrics.calibration`; `by_prefix` (the same for the images of
        each prefix), if requested; `worst`, the wrong images of highest confidence;
        `ms_per_image`, the median of preprocessing, inference and decoding; `images`; `map` and
        `left_out`, if labels and model have different classes.

    Raises:
        DataError: the source cannot be used.
    """
    classes = classes or map_classes(classifier.spec.classes, classifier.spec.classes)
    of_model = np.array(classes.of_model)
    parts: dict[str, ImageTally] = {}
    times_ms: list[float] = []
    worst: list[dict[str, Any]] = []
    for path, label_id in list_classified(source, classes.labels):
        truth = classes.of_label[label_id]
        result = timed(classifier, read_image(path), times_ms)
        found = of_model[result.class_ids]
        sure = len(found) > 0
        part = parts.setdefault(prefix_of(path, by_prefix), ImageTally(classes))
        part.matrix.add(np.array([truth]), found[:1] if sure else np.array([len(classes.rows)]))
        part.in_top5 += truth in found[:5]
        if sure:
            right, score = bool(found[0] == truth), float(result.scores[0])
            part.told.append((score, right))
            if not right:
                worst.append({
                    'image': str(path), 'label': classes.labels[label_id],
                    'said': classifier.spec.classes[result.class_ids[0]], 'confidence': score,
                })
    whole = ImageTally(classes)
    for part in parts.values():
        whole.merge(part)
    figures = whole.figures()
    top5 = len(classes.rows) > 5 and classifier.top_k >= 5
    listed = 'per_class' in figures
    counts = whole.matrix.counts
    return {
        **facts_of(classifier),
        **figures,
        **({'top5': whole.in_top5 / figures['images']} if top5 else {}),
        **classes.facts(),
        **apart(parts, by_prefix, ImageTally.figures),
        **({'confusion': table_of(counts, classes.rows, (*classes.rows, 'no class'))}
           if listed else {}),
        'calibration': whole.calibration()['bins'],
        'worst': sorted(worst, key=lambda each: -float(each['confidence']))[:WORST],
        'ms_per_image': statistics.median(times_ms),
    }
