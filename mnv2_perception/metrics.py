"""Accuracy in numpy; serves training, evaluation and reports alike."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import DataError

Ids = NDArray[np.integer[Any]]


class ConfusionMatrix:
    """Counts of (true class, predicted class) over pixels, or over whole images.

    Ids of the truth at or above `num_classes` are unlabelled and ignored. A predicted id at or
    above it ("no class") is an error wherever the truth has a class.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        # The last column counts pixels that were given no class.
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def add(self, truth: Ids, predicted: Ids) -> None:
        """Count one image's pixels, or many images.

        Args:
            truth: (H, W) or (N,) ids.
            predicted: ids of the same shape.

        Raises:
            DataError: the two differ in size.
        """
        if truth.shape != predicted.shape:
            raise DataError(
                f'label is {truth.shape}, prediction {predicted.shape}; expected one size (H, W)'
            )
        n = self.num_classes
        labelled = truth < n
        pairs = truth[labelled].astype(np.int64) * (n + 1) + np.minimum(predicted[labelled], n)
        self.counts += np.bincount(pairs, minlength=n * (n + 1)).reshape(n, n + 1)

    def iou(self) -> NDArray[np.float64]:
        """Return the intersection over union of each class, NaN where a class never occurs."""
        true_positive = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(1) + self.counts[:, : self.num_classes].sum(0) - true_positive
        with np.errstate(invalid='ignore'):
            return np.asarray(true_positive / union)

    def miou(self) -> float:
        """Return the mean IoU over the classes that occur, NaN if none does."""
        iou = self.iou()
        return float(np.nanmean(iou)) if not np.isnan(iou).all() else float('nan')

    def recall(self) -> NDArray[np.float64]:
        """Return the share of each class that was found, NaN where a class never occurs."""
        with np.errstate(invalid='ignore'):
            return np.asarray(np.diag(self.counts) / self.counts.sum(1))

    def accuracy(self) -> float:
        """Return the share of what is labelled with the right class, NaN if nothing is."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float('nan')
