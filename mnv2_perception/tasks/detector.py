"""Detector: find the bounding boxes of objects in an RGB image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines import Engine
from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.pipeline import check_between_0_and_1, check_rotation, Pipeline
from mnv2_perception.tasks.segmenter import Segmentation
from mnv2_perception.vision.detections import boxes_on_image, components, select_boxes
from mnv2_perception.vision.preprocess import check_image, rotate_image

# How far a box may reach, in widths and heights of the network's frame: farther than any box of an
# SSDLite (nets.ssdlite.MAX_LOG_RATIO), but not as far as boxes in pixels.
FARTHEST = 40.0


@dataclass(frozen=True)
class Detections:
    """A detector's result for one image, best first.

    Attributes:
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels of the image; x2 and y2 are exclusive.
        scores: (N,) float32, 0 to 1.
        class_ids: (N,) int32.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]


class Detector(Pipeline[Detections]):
    """Finds objects in images with one opened model.

    Args:
        engine: the opened model; closed with the detector.
        spec: ModelSpec of the model.
        min_score: boxes below it (0 to 1) are left out. May be changed between calls.
        nms_iou: a box whose intersection over union (0 to 1) with a better one of its class is
            higher is left out. May be changed between calls.
        rotate: degrees clockwise (0, 90, 180, 270) that turn a tilted camera's image upright for
            the network; the boxes come back in the camera's own orientation.

    Raises:
        ModelError: the model is not for detection, or spec and engine disagree.
        ImageError: `rotate` is not one of these, or a threshold not between 0 and 1.
    """

    task = 'detection'

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        min_score: float = 0.3,
        nms_iou: float = 0.5,
        rotate: int = 0,
    ) -> None:
        super().__init__(engine, spec)
        check_between_0_and_1(min_score=min_score, nms_iou=nms_iou)
        check_rotation(rotate)
        self.min_score = min_score
        self.nms_iou = nms_iou
        self.rotate = rotate

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn an image upright.

        Raises:
            ImageError: the image has the wrong shape or dtype.
        """
        check_image(image)
        return rotate_image(image, self.rotate)

    def finish(self, image: NDArray[np.uint8], outputs: Sequence[NDArray[Any]]) -> Detections:
        """Convert the best of the model's boxes to pixels of the image.

        Raises:
            ModelError: an output is not finite, boxes are not in the network's frame, a score is
                not between 0 and 1, or a class id is not one of the model's.
        """
        candidates, scores, class_ids = (array[0] for array in outputs)
        self.require_finite(np.isfinite(candidates).all(axis=1) & np.isfinite(scores))
        sure = np.abs(candidates[scores >= self.min_score])
        if sure.size and sure.max() > FARTHEST:
            raise ModelError(
                f'{self.engine.model}: gives a box with a coordinate of {sure.max():.3g}, '
                f"expected fractions of the network's input, 0 to 1; if these are pixels, divide "
                f'them by width and height in the graph'
            )
        height, width = image.shape[:2]
        boxes = boxes_on_image(
            candidates, height, width, self.rotate, self.placement(image, self.rotate)
        )
        kept = select_boxes(boxes, scores, class_ids, self.min_score, self.nms_iou)
        self.require_probabilities(scores[kept])  # rows that hold no box may have any score
        found = class_ids[kept].astype(np.int32)
        unknown = found[(found < 0) | (found >= len(self.spec.classes))]
        if len(unknown):
            raise ModelError(
                f'{self.engine.model}: gives a box of class id {unknown[0]}, expected 0 to '
                f'{len(self.spec.classes) - 1}, as it has {len(self.spec.classes)} classes; if '
                f'its ids begin at 1, put a class named background first'
            )
        return Detections(boxes[kept], scores[kept], found)


def detections_from_mask(
    mask: Segmentation, class_ids: Sequence[int], min_area: int = 1
) -> Detections:
    """Return a mask's connected components as objects, best first: boxes without a detector.

    Args:
        mask: segmentation of one image.
        class_ids: classes whose components count.
        min_area: smallest area of a component, in pixels.
    """
    boxes, scores, ids, _ = components(mask.class_ids, mask.confidence, class_ids, min_area)
    order = np.argsort(-scores, kind='stable')
    return Detections(boxes[order], scores[order], ids[order])
