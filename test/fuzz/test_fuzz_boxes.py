"""Mutated detections: placed or refused in words; the node that places them lives on."""

from copy import deepcopy
from pathlib import Path
import time
from typing import Any

from mutations import check_share, count, generators, mutate, pick, survivors
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

import messages
from rclpy.serialization import serialize_message
from running_nodes import running, wait
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, Detection3DArray

from mnv2_perception.nodes.box_messages import boxes_from_msg, detections3d_to_msg
from mnv2_perception.nodes.messages import depth_from_msg, detections_to_msg, points_from_msg
from mnv2_perception.vision.boxes3d import place_boxes
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose
from mnv2_perception.vision.projection import depth_points

pytestmark = pytest.mark.ros

POSE = Pose.from_rpy(0.0, 0.0, 1.0, 0.0, 0.2, 0.0) @ BODY_FROM_OPTICAL
SIZE = messages.HEIGHT, messages.WIDTH
BOXES = np.array([[4, 4, 20, 20], [0, 0, 32, 24], [10, 2, 12, 6]], np.float32)


def detections(header: Header | None = None) -> Detection2DArray:
    scores, ids = np.array([0.9, 0.6, 0.3], np.float32), np.array([0, 1, 2])
    return detections_to_msg(BOXES, scores, ids, messages.CLASSES, header or messages.stamped())


def damaged(rng: np.random.Generator, msg: Any) -> Any:
    """Return a message of which a part, or one of its boxes, is changed."""
    changed = deepcopy(msg)
    box = pick(rng, changed.detections)
    mutate(rng, pick(rng, [changed, box, box.bbox, box.bbox.center, box.bbox.center.position]))
    return changed


def test_mutated_detections_and_clouds_are_placed_or_refused() -> None:
    refused, inputs = 0, count(200)
    for seed, rng in generators(inputs):
        msg, cloud, depth = damaged(rng, detections()), messages.cloud(), messages.depth()
        mutate(rng, pick(rng, [cloud, depth, Header()]))

        def place(msg: Any = msg, cloud: Any = cloud, depth: Any = depth) -> None:
            for points in (
                lambda: points_from_msg(cloud),
                lambda: depth_points(depth_from_msg(depth), messages.CAMERA),
            ):
                with np.errstate(over='ignore', invalid='ignore'):
                    placed = POSE.apply(points())
                boxes = place_boxes(placed, POSE, boxes_from_msg(msg), SIZE, 0.05, 3)
                serialize_message(detections3d_to_msg(boxes, msg, Header()))
                for box in filter(None, boxes):
                    assert np.isfinite([box.centre, box.size]).all() and box.size.min() >= 0.0

        refused += not survivors(place, f'FUZZ_SEED={seed}')
    check_share(refused, inputs)


def test_detection3d_node_survives_mutated_detections_depth_and_calibrations(
    tmp_path: Path
) -> None:
    parameters = {'pose_source': 'parameters', 'camera_pitch_rad': 0.2, 'sync_wait_s': 0.2}
    with running(
        tmp_path / 'run', 'detection3d_node', {'detection3d_node': parameters}
    ) as run:
        run.active(1)
        makes: dict[str, Any] = {
            'camera_info': lambda stamp: messages.camera_info(header=stamp),
            'depth/camera_info': lambda stamp: messages.camera_info(header=stamp),
            'depth/image': lambda stamp: messages.depth(header=stamp), 'detections': detections,
        }
        kinds = CameraInfo, CameraInfo, Image, Detection2DArray
        publishers = {
            topic: run.peer.publisher(kind, topic, 10)
            for topic, kind in zip(makes, kinds, strict=True)
        }
        answered = run.peer.stamps(Detection3DArray, 'detections3d')
        for topic, publisher in publishers.items():
            wait(publisher.get_subscription_count, 30.0, f'{topic} is heard')

        def is_answered(number: int) -> bool:
            """Send a whole frame; tell whether its answer came."""
            for topic, make in makes.items():
                publishers[topic].publish(make(messages.stamped(number)))
                time.sleep(0.01)
            deadline_s = time.monotonic() + 0.5
            while (number, 7) not in answered and time.monotonic() < deadline_s:
                time.sleep(0.005)
            return (number, 7) in answered

        number, frames = 1000, count(30, 0.1)
        wait(lambda: is_answered(number), 30.0, 'the first frame is answered')
        lost = 0
        for _, rng in generators(frames):
            number += 1
            for _ in range(4):
                topic = pick(rng, list(makes))
                msg = makes[topic](messages.stamped(number, 500_000_000))
                changed = damaged(rng, msg) if topic == 'detections' else msg
                mutate(rng, changed)
                publishers[topic].publish(serialize_message(changed))
                time.sleep(0.002)
            run.alive()
            # A damaged message may have come after the whole one of its topic.
            if not is_answered(number):
                number += 1
                lost += not is_answered(number)
        assert lost == 0, run.log()[-2000:]
        counts = run.peer.settled('detection3d_node')
        ended = counts['published'] + counts['passed_over'] + counts['rejected']
        assert counts['received'] == ended and counts['published'] > frames // 2, counts
