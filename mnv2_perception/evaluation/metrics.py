"""Accuracy metrics in numpy, for training, evaluation and reports."""

from collections.abc import Sequence
import contextlib
import io
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.coco import BoxSample
from mnv2_perception.errors import DataError, not_loaded, SetupError

Ids = NDArray[np.integer[Any]]

MOST_CLASSES_LISTED = 50
BOUNDARY_RATIO = 0.02  # width of the boundary region, as a share of the image's diagonal
CALIBRATION_BINS = 15


class ConfusionMatrix:
    """Counts of (true class, predicted class) over pixels, or over whole images.

    True ids at or above `num_classes` are unlabelled and ignored. A predicted id at or above it
    ("no class") counts as an error wherever there is a true class.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        # The last column counts pixels that were predicted as no class.
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def add(self, truth: Ids, predicted: Ids) -> None:
        """Count the pixels of one image, or a number of images.

        Args:
            truth: (H, W) or (N,) true ids.
            predicted: predicted ids of the same shape.

        Raises:
            DataError: the shapes differ.
        """
        if truth.shape != predicted.shape:
            raise DataError(
                f'label is {truth.shape}, prediction {predicted.shape}; expected the same size '
                f'(H, W)'
            )
        n = self.num_classes
        labelled = truth < n
        pairs = truth[labelled].astype(np.int64) * (n + 1) + np.minimum(predicted[labelled], n)
        self.counts += np.bincount(pairs, minlength=n * (n + 1)).reshape(n, n + 1)

    def iou(self) -> NDArray[np.float64]:
        """Return the intersection over union of each class; NaN for classes that the truth lacks.

        Pixels that are wrongly taken for such a class already count as missed in other classes,
        and `false_alarms` reports them. With an IoU of 0, a single such pixel would lower the mean
        by a whole class's share.
        """
        true_positive = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(1) + self.counts[:, : self.num_classes].sum(0) - true_positive
        occurs = self.counts.sum(1) > 0
        return np.where(occurs, true_positive / np.maximum(union, 1), np.nan)

    def false_alarms(self) -> NDArray[np.float64]:
        """Return the share of pixels taken for each class that the truth lacks; NaN for others."""
        predicted = self.counts[:, : self.num_classes].sum(0)
        occurs = self.counts.sum(1) > 0
        return np.where(occurs, np.nan, predicted / max(1, self.counts.sum()))

    def miou(self) -> float:
        """Return the mean IoU over the classes that truly occur; NaN if none does."""
        iou = self.iou()
        return float(np.nanmean(iou)) if not np.isnan(iou).all() else float('nan')

    def recall(self) -> NDArray[np.float64]:
        """Return the share of each class that was found; NaN where a class never occurs."""
        with np.errstate(invalid='ignore'):
            return np.asarray(np.diag(self.counts) / self.counts.sum(1))

    def accuracy(self) -> float:
        """Return the share of correct predictions among the labelled; NaN if there are none."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float('nan')


def boundary_overlap(
    truth: Ids, predicted: Ids, num_classes: int, ratio: float = BOUNDARY_RATIO
) -> NDArray[np.int64]:
    """Return the intersection and union of truth and prediction along the edges of each class.

    Their quotient, over all images, is the boundary IoU (Cheng et al., "Boundary IoU: Improving
    Object-Centric Image Segmentation Evaluation", CVPR 2021, arXiv:2103.16562): from each class's
    region in truth and prediction only pixels within `ratio` of the image's diagonal from the
    region's own edge count; the image's border is an edge too. Large areas thus do not hide ragged
    edges.

    Args:
        truth: (H, W) true ids; pixels at or above `num_classes` do not count.
        predicted: (H, W) predicted ids.
        num_classes: number of classes.
        ratio: width of the boundary region as a share of the image's diagonal; at least a pixel.

    Returns:
        (num_classes, 2) int64 pixels: intersection, union.
    """
    labelled = truth < num_classes
    shown = [
        np.where(labelled & (ids < num_classes), ids.astype(np.int32), -1)
        for ids in (truth, predicted)
    ]
    distance = max(1, round(ratio * float(np.hypot(*truth.shape))))
    overlap = np.zeros((num_classes, 2), np.int64)
    for class_id in np.union1d(*map(np.unique, shown)):
        if class_id >= 0:
            true, found = (_edge(ids == class_id, distance) for ids in shown)
            overlap[class_id] = (true & found).sum(), (true | found).sum()
    return overlap


def _edge(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask within a (chessboard) distance of pixels outside of it."""
    framed = np.pad(mask, 1).astype(np.uint8)  # the image's border is an edge too
    inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)
    return np.asarray(mask & (inner[1:-1, 1:-1] == 0))


def calibration(
    confidence: NDArray[Any], right: NDArray[Any], count: NDArray[Any] | int = 1
) -> dict[str, Any]:
    """Return how far a model's confidence is from its accuracy.

    Expected calibration error over equal bins (Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017, arXiv:1706.04599): the mean, over all predictions, of the distance
    between confidence and accuracy of their bin.

    Args:
        confidence: (N,) 0 to 1.
        right: (N,) whether each prediction was right; or with `count`, how many were.
        count: (N,) number of predictions with each confidence.

    Returns:
        `ece`, None without predictions; `bins`, for each non-empty bin `to` (its upper end),
        `share` (of all predictions), `confidence` and `accuracy`.
    """
    count = np.broadcast_to(count, confidence.shape)
    total = int(count.sum())
    numbers = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, None)
    sums = [
        np.bincount(numbers, weights=values, minlength=CALIBRATION_BINS)
        for values in (count, confidence * count, right)
    ]
    bins = [
        {'to': (index + 1) / CALIBRATION_BINS, 'share': each / total,
         'confidence': told / each, 'accuracy': true / each}
        for index, (each, told, true) in enumerate(np.stack(sums, axis=1).tolist()) if each
    ]
    errors = (each['share'] * abs(each['confidence'] - each['accuracy']) for each in bins)
    return {'ece': sum(errors) if total else None, 'bins': bins}


def by_class(classes: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float | None]:
    """Return figures by class name; None for NaN, which JSON does not have."""
    return {
        name: json_number(value) for name, value in zip(classes, values.tolist(), strict=True)
    }


def json_number(value: float) -> float | None:
    """Return a figure; None for NaN, which JSON does not have."""
    return None if value != value else value


class AveragePrecision(NamedTuple):
    """The average precision of boxes, 0 to 1; NaN where there was nothing to find.

    Attributes:
        ap: COCO's AP: the mean over IoU thresholds 0.5, 0.55, ... 0.95 and over classes.
        ap50: the mean over classes at IoU 0.5 (PASCAL VOC's threshold).
        ap50_per_class: AP of each class at IoU 0.5.
    """

    ap: float
    ap50: float
    ap50_per_class: tuple[float, ...]


def check_pycocotools() -> None:
    """Check that pycocotools is installed; only average precision needs it.

    Raises:
        SetupError: it is not installed, or cannot be loaded.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as exc:
        raise SetupError(
            'average precision needs pycocotools '
            + not_loaded(exc, 'pip install pycocotools, or run `make setup-train`')
        ) from exc


def average_precision(
    truth: Sequence[BoxSample],
    found: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], Ids]],
    num_classes: int,
) -> AveragePrecision:
    """Return COCO's average precision, https://cocodataset.org/#detection-eval.

    Only the best 100 boxes of an image count. Boxes in an ignored region of their class are
    neither right nor wrong.

    Args:
        truth: true boxes of each image.
        found: for each image predicted boxes (N, 4), scores (N,) and class ids (N,).
        num_classes: number of classes.

    Raises:
        SetupError: pycocotools is missing.
    """
    check_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def as_coco(rows: list[tuple[int, NDArray[Any], Any, float, int]]) -> Any:
        annotations = []
        for number, (image, (x1, y1, x2, y2), class_id, score, crowd) in enumerate(rows, start=1):
            annotations.append({
                'id': number, 'image_id': image, 'category_id': int(class_id), 'score': score,
                'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1),
                'iscrowd': crowd,
            })
        coco = COCO()
        coco.dataset = {
            'images': [{'id': image} for image in range(len(truth))], 'annotations': annotations,
            'categories': [{'id': class_id} for class_id in range(num_classes)],
        }
        coco.createIndex()
        return coco

    true_rows, found_rows = [], []
    for image, (sample, (boxes, scores, class_ids)) in enumerate(zip(truth, found, strict=True)):
        for box, class_id in zip(sample.boxes.tolist(), sample.class_ids, strict=True):
            true_rows.append((image, box, class_id, 1.0, 0))
        for box, class_id in zip(sample.ignored.tolist(), sample.ignored_ids, strict=True):
            true_rows.append((image, box, class_id, 1.0, 1))
        for box, score, class_id in zip(boxes.tolist(), scores.tolist(), class_ids, strict=True):
            found_rows.append((image, box, class_id, score, 0))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(as_coco(true_rows), as_coco(found_rows), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU, recall, class) for boxes of any size, 100 per image; -1 where there is none to find
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    of_classes = precision.mean(axis=1)  # (IoU, class)
    known = ~np.isnan(of_classes[0])
    return AveragePrecision(
        float(of_classes[:, known].mean()) if known.any() else float('nan'),
        float(of_classes[0, known].mean()) if known.any() else float('nan'),
        tuple(of_classes[0].tolist()),
    )
