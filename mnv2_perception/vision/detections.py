"""Bounding boxes: non-maximum suppression, conversion to the image's pixels, boxes from masks."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.vision.preprocess import Placement

Boxes = NDArray[np.float32]  # (N, 4): x1, y1, x2, y2; x2 and y2 are exclusive


def box_iou(boxes: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Return the intersection over union (N, M) of each of (N, 4) with each of (M, 4) boxes."""
    # One plane per coordinate: numpy is slow along an axis of two.
    x1, y1, x2, y2 = boxes.T[:, :, None]  # (N, 1) each
    u1, v1, u2, v2 = others.T[:, None]  # (1, M) each
    width = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), 0.0)  # (N, M)
    height = np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1), 0.0)
    intersection = width * height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection
    return np.asarray(intersection / np.maximum(union, np.finfo(np.float32).tiny), np.float32)


def select_boxes(
    boxes: Boxes,
    scores: NDArray[np.float32],
    class_ids: NDArray[np.integer],
    min_score: float,
    nms_iou: float,
) -> NDArray[np.intp]:
    """Return the indices of the boxes that greedy NMS within each class keeps, best score first.

    If scores are equal, the box that comes first wins, so equal boxes give equal results.

    Args:
        boxes: (N, 4); boxes without an area are left out.
        scores: (N,).
        class_ids: (N,).
        min_score: boxes with a lower score are left out.
        nms_iou: a box is left out if its IoU with a better one of its class is higher.
    """
    candidates = np.flatnonzero((scores >= min_score) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    order = candidates[np.argsort(-scores[candidates], kind='stable')]
    ordered, ids = boxes[order], class_ids[order]
    suppresses = np.triu(box_iou(ordered, ordered) > nms_iou, k=1)
    suppresses &= ids[:, None] == ids[None]
    kept = np.ones(len(order), bool)
    for index in range(len(order)):
        if kept[index]:
            kept &= ~suppresses[index]
    return order[kept]


def boxes_on_image(
    boxes: Boxes, height: int, width: int, rotate: int = 0, placed: Placement | None = None
) -> Boxes:
    """Convert boxes from the network's frame to pixels of the image, clipped at its borders.

    Args:
        boxes: (N, 4), 0..1 of the frame's width and height; one outside of the image gets no area.
        height: height of the original image, px.
        width: width of the original image, px.
        rotate: degrees clockwise (0, 90, 180, 270) by which it was rotated for the network.
        placed: where the upright image lies in the frame; None: it fills the frame.
    """
    if placed is not None and not placed.fills:
        frame = np.array([placed.frame_width, placed.frame_height] * 2)
        corner = np.array([placed.left, placed.top] * 2)
        boxes = (boxes * frame - corner) / np.array([placed.width, placed.height] * 2)
    x1, y1, x2, y2 = np.clip(boxes, 0.0, 1.0).T
    x1, y1, x2, y2 = {
        0: (x1, y1, x2, y2),
        90: (y1, 1.0 - x2, y2, 1.0 - x1),
        180: (1.0 - x2, 1.0 - y2, 1.0 - x1, 1.0 - y1),
        270: (1.0 - y2, x1, 1.0 - y1, x2),
    }[rotate]
    pixels = np.stack([x1 * width, y1 * height, x2 * width, y2 * height], axis=1)
    return pixels.astype(np.float32)


def components(
    ids: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    classes: Sequence[int],
    min_area: int = 1,
) -> tuple[Boxes, NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """Return the boxes of a mask's connected components: objects as a segmenter knows them.

    Objects of one class that touch are one component; an object behind a pole is two.

    Args:
        ids: (H, W) class ids.
        confidence: (H, W) probability of the class × 255.
        classes: ids of the classes to look for.
        min_area: smallest area of a component, in pixels.

    Returns:
        Boxes (N, 4) in pixels, scores (N,), which are the mean confidences, 0..1, class ids (N,)
        and areas (N,) in pixels; class by class, from top to bottom.
    """
    boxes = [np.empty((0, 4))]
    scores, class_ids, areas = [np.empty(0)], [np.empty(0)], [np.empty(0)]
    for class_id in classes:
        inside = ids == class_id
        count, labels, stats, _ = cv2.connectedComponentsWithStats(
            inside.view(np.uint8), connectivity=8
        )
        large = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= min_area)
        large = large[large > 0]  # 0 is everything that is not of this class
        totals = np.bincount(labels[inside], weights=confidence[inside], minlength=count)
        x, y, w, h, area = stats[large].T
        boxes.append(np.stack([x, y, x + w, y + h], axis=1))
        scores.append(totals[large] / area / 255.0)
        class_ids.append(np.full(len(large), class_id))
        areas.append(area)
    return (
        np.concatenate(boxes).astype(np.float32),
        np.concatenate(scores).astype(np.float32),
        np.concatenate(class_ids).astype(np.int32),
        np.concatenate(areas).astype(np.int32),
    )
