"""A detector's message to boxes in its image, and boxes in space to a message."""

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from builtin_interfaces.msg import Time
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
)

from mnv2_perception.errors import ImageError
from mnv2_perception.nodes.box_messages import boxes_from_msg, detections3d_to_msg
from mnv2_perception.nodes.messages import detections_to_msg
from mnv2_perception.vision.boxes3d import Box3D

pytestmark = pytest.mark.ros


def detection(
    x: float, y: float, width: float, height: float, theta: float = 0.0, **fields: Any
) -> Detection2D:
    msg = Detection2D(**fields)
    msg.bbox.center.position.x, msg.bbox.center.position.y = float(x), float(y)
    msg.bbox.center.theta, msg.bbox.size_x, msg.bbox.size_y = theta, float(width), float(height)
    return msg


def test_boxes_of_a_detector_come_as_corners_also_around_turned_ones() -> None:
    quarter, eighth = math.pi / 2, math.pi / 4
    msg = Detection2DArray(detections=[
        detection(320, 240, 640, 480), detection(20, 30, 10, 4),
        detection(20, 30, 10, 4, quarter), detection(20, 30, 10, 10, -eighth),
        detection(math.nan, 30, math.inf, 4),
    ])
    found = boxes_from_msg(msg)
    half = 5 * math.sqrt(2)
    np.testing.assert_allclose(found[:4], [
        [0, 0, 640, 480], [15, 28, 25, 32], [18, 25, 22, 35],
        [20 - half, 30 - half, 20 + half, 30 + half],
    ])
    assert not np.isfinite(found[4]).all()
    assert boxes_from_msg(Detection2DArray()).shape == (0, 4)


def test_what_we_publish_as_boxes_we_read_as_the_same() -> None:
    boxes = np.array([[0, 0, 640, 480], [10.5, 20, 11.5, 40]], np.float32)
    scores, ids = np.array([0.75, 0.5], np.float32), np.array([1, 0], np.int32)
    msg = detections_to_msg(boxes, scores, ids, ('car', 'dog'), Header())
    np.testing.assert_array_equal(boxes_from_msg(msg), boxes)


def test_more_detections_than_any_detector_finds_are_refused() -> None:
    full = Detection2D(results=[ObjectHypothesisWithPose()] * 101)
    for detections, said in (
        ([Detection2D()] * 1001, '1001 detections with 0 classes'),
        ([full] * 100, '100 detections with 10100 classes'),
    ):
        msg = Detection2DArray(detections=detections)
        with pytest.raises(ImageError, match=f'{said} in one image, expected at most 1000 with'):
            boxes_from_msg(msg)


def test_boxes_in_space_keep_classes_scores_ids_and_order() -> None:
    hypotheses = [
        ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id=name, score=score))
        for name, score in (('dog', 0.75), ('cat', 0.5))
    ]
    found = Detection2DArray(detections=[
        detection(1, 2, 3, 4, id='7', results=hypotheses), detection(5, 6, 7, 8, id='8'),
        detection(9, 9, 9, 9, id='9', results=hypotheses[1:]),
    ])
    boxes = [
        Box3D(np.array([1.0, 2.0, 0.5]), np.array([0.25, 0.5, 1.0])), None,
        Box3D(np.array([4.0, 0.0, 0.0]), np.zeros(3)),
    ]
    in_base = Header(stamp=Time(sec=3, nanosec=4), frame_id='base_link')
    msg = detections3d_to_msg(boxes, found, in_base)
    assert msg.header == in_base and all(d.header == in_base for d in msg.detections)
    assert [d.id for d in msg.detections] == ['7', '9']
    first = msg.detections[0]
    for pose in (first.bbox.center, *(result.pose.pose for result in first.results)):
        assert (pose.position.x, pose.position.y, pose.position.z) == (1.0, 2.0, 0.5)
        assert (pose.orientation.x, pose.orientation.w) == (0.0, 1.0)
    assert (first.bbox.size.x, first.bbox.size.y, first.bbox.size.z) == (0.25, 0.5, 1.0)
    results = [(r.hypothesis.class_id, r.hypothesis.score) for r in first.results]
    assert results == [('dog', 0.75), ('cat', 0.5)]
    assert [r.hypothesis.class_id for r in msg.detections[1].results] == ['cat']
