"""Decode a network's output to masks at the image's size, or to the classes of an image."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.vision.preprocess import Placement

Ids = NDArray[np.uint8]


def resize_ids(ids: Ids, height: int, width: int) -> Ids:
    """Resize class ids (or their confidence) to (height, width): nearest, half-pixel centres.

    INTER_NEAREST would take the top left corner of each pixel, and so shift the mask.
    """
    if ids.shape == (height, width):
        return ids
    return np.asarray(
        cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
    )


def ids_on_image(ids: Ids, height: int, width: int, placed: Placement) -> Ids:
    """Return the ids of a network's frame, at any output stride, at the size of the image.

    If the image lies on whole cells, they are cut out and resized; otherwise each pixel gets the
    cell that contains its centre. So no pixel gets a value of the padding.

    Args:
        ids: (h, w) class ids, or their confidence.
        height: height of the image, pixels.
        width: width of the image, pixels.
        placed: where the image lies in the frame.
    """
    axes = (
        (height, placed.top, placed.height, ids.shape[0], placed.frame_height),
        (width, placed.left, placed.width, ids.shape[1], placed.frame_width),
    )
    if all(edge * cells % whole == 0 for _, first, side, cells, whole in axes
           for edge in (first, side)):
        rows, columns = (
            slice(first * cells // whole, (first + side) * cells // whole)
            for _, first, side, cells, whole in axes
        )
        return resize_ids(np.ascontiguousarray(ids[rows, columns]), height, width)
    down, right = (
        # (first + (index + 0.5) × side / size) × cells / whole, in integers
        ((2 * np.arange(size) + 1) * side + 2 * first * size) * cells // (2 * size * whole)
        for size, first, side, cells, whole in axes
    )
    return np.asarray(ids.take(down, axis=0).take(right, axis=1))


def ids_and_confidence(scores: NDArray[np.float32], output: str) -> tuple[Ids, Ids]:
    """Decode a network whose graph does not; our own exports decode inside the graph.

    It goes class by class over whole planes: numpy's argmax along the first axis of (C, H, W)
    jumps through memory and takes several times as long.

    Args:
        scores: (C, H, W) float32; (1, H, W) for `sigmoid`.
        output: `logits`, `probabilities` or `sigmoid`; see ModelSpec.output.

    Returns:
        Class ids (H, W) and the winning class's probability × 255, rounded, at least 1, (H, W),
        both uint8. `sigmoid` gives id 1 from probability 0.5 on and 0 below it. A confidence of 0
        means that the scores of the pixel are not finite; its id means nothing.
    """
    if output == 'sigmoid':
        probability = scores[0]
        ids = (probability >= 0.5).astype(np.uint8)
        top = np.maximum(probability, 1.0 - probability)
    else:
        ids = np.zeros(scores.shape[1:], np.uint8)
        top = scores[0].copy()
        for class_id in range(1, len(scores)):
            ids[scores[class_id] > top] = class_id
            np.maximum(top, scores[class_id], out=top)
        if output == 'logits':
            total = np.zeros_like(top)
            with np.errstate(invalid='ignore'):  # infinity minus infinity is NaN, as it should be
                for class_scores in scores:
                    total += np.exp(class_scores - top)
            top = 1.0 / total
    # NaN and infinity stay NaN or infinity, whether their class wins or loses.
    confidence = np.clip(top * np.float32(255.0) + np.float32(0.5), 1.0, 255.0)
    finite = np.isfinite(top)
    if not finite.all():
        confidence[~finite] = 0.0
    return ids, confidence.astype(np.uint8)


def known_ids(
    indices: NDArray[Any], num_classes: int, background: bool, unlabelled: int
) -> tuple[Ids, Ids]:
    """Decode a network that outputs only the winning class.

    Args:
        indices: (H, W), any integer type or bool.
        num_classes: number of classes.
        background: whether index 0 is no class, and index 1 is class id 0.
        unlabelled: id for no class.

    Returns:
        Class ids (H, W) and their confidence (H, W), 255 where there is a class and 0 elsewhere;
        both uint8.
    """
    ids = indices.astype(np.int64) - int(background)
    known = (ids >= 0) & (ids < num_classes)
    ids = np.where(known, ids, unlabelled)
    return ids.astype(np.uint8), np.where(known, 255, 0).astype(np.uint8)


def class_probabilities(scores: NDArray[np.float32], output: str) -> NDArray[np.float32]:
    """Return the probability of each class of one image, (C,) float32; NaN if not finite.

    Args:
        scores: (C,) float32; (1,) for `sigmoid`, which gives two classes.
        output: `logits`, `probabilities` or `sigmoid`; see ModelSpec.output.
    """
    if output == 'logits':
        with np.errstate(invalid='ignore'):
            powers = np.exp(scores - scores.max())
        return np.asarray(powers / powers.sum(), np.float32)
    if output == 'sigmoid':
        scores = np.concatenate([1.0 - scores, scores])
    return np.where(np.isfinite(scores), np.clip(scores, 0.0, 1.0), np.float32(np.nan))
