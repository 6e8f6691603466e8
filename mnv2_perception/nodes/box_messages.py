"""Convert detection messages to and from boxes, in the image and in space; no node and no DDS."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2DArray,
    Detection3D,
    Detection3DArray,
    ObjectHypothesisWithPose,
)

from mnv2_perception.errors import ImageError
from mnv2_perception.vision.boxes3d import Box3D

MAX_BOXES, MAX_RESULTS = 1000, 10_000  # per image; placing a box takes half a millisecond


def boxes_from_msg(msg: Detection2DArray) -> NDArray[np.float64]:
    """Read the boxes of a detection message: (N, 4) float64 x1, y1, x2, y2, px.

    A rotated box is replaced by the upright box around it.

    Raises:
        ImageError: there are more boxes, or more classes of them, than any detector finds.
    """
    results = sum(len(detection.results) for detection in msg.detections)
    if len(msg.detections) > MAX_BOXES or results > MAX_RESULTS:
        raise ImageError(
            f'{len(msg.detections)} detections with {results} classes in one image, expected at '
            f"most {MAX_BOXES} with {MAX_RESULTS}; raise the detector's threshold"
        )
    boxes = np.array([
        (box.center.position.x, box.center.position.y, box.size_x, box.size_y, box.center.theta)
        for box in (detection.bbox for detection in msg.detections)
    ], np.float64).reshape(-1, 5)
    centres, (width, height, turn) = boxes[:, :2], boxes[:, 2:].T
    with np.errstate(invalid='ignore', over='ignore'):  # a box that is not finite is not placed
        c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
        halves = np.stack([c * width + s * height, s * width + c * height], axis=1) / 2
        return np.hstack([centres - halves, centres + halves])


def detections3d_to_msg(
    boxes: Sequence[Box3D | None], found: Detection2DArray, header: Header
) -> Detection3DArray:
    """Make a message of the detections that were placed, with their classes, scores and ids.

    Args:
        boxes: box in space of each detection, None if it was not placed.
        found: the detections in the image.
        header: stamp of the image, frame of the boxes.
    """
    msg = Detection3DArray(header=header)
    for box, detection in zip(boxes, found.detections, strict=True):
        if box is None:
            continue
        placed = Detection3D(header=header, id=detection.id)
        centre, size = placed.bbox.center.position, placed.bbox.size
        centre.x, centre.y, centre.z = box.centre.tolist()
        size.x, size.y, size.z = box.size.tolist()
        for result in detection.results:
            hypothesis = ObjectHypothesisWithPose(hypothesis=result.hypothesis)
            hypothesis.pose.pose = placed.bbox.center
            placed.results.append(hypothesis)
        msg.detections.append(placed)
    return msg
