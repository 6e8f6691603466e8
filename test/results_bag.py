"""Write a bag with detections, classes and grids of two frames, using the nodes' own functions."""

from pathlib import Path

from builtin_interfaces.msg import Time
import numpy as np
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from mnv2_perception.bags.results import CLASSIFICATION, DETECTIONS, GRID
from mnv2_perception.bags.write import BagWriter
from mnv2_perception.nodes.messages import classification_to_msg, detections_to_msg, grid_to_msg
from mnv2_perception.vision.costmap import Grid

STAMPS_NS = (1_000_000_005, 2_000_000_005)
BOXES = np.array([[1.5, 2, 30, 20.25], [0, 0, 5, 5]], np.float32)
RESULT_GRID = Grid(np.arange(-1, 99, dtype=np.int8).reshape(4, 25), -3.25, 1.5, 0.25)


def write_results_bag(path: Path) -> Path:
    """Write a frame with a dog (0.75, `BOXES[0]`) and a car (0.5) on grass, and an empty frame.

    Both have the same grid.
    """
    with BagWriter(path) as bag:
        for topic, type_name in (
            ('/detections', DETECTIONS), ('/classification', CLASSIFICATION), ('/grid', GRID)
        ):
            bag.add_topic(topic, type_name)
        for stamp_ns, count in zip(STAMPS_NS, (2, 0), strict=True):
            stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            header = Header(stamp=stamp, frame_id='camera')
            scores, ids = np.array([0.75, 0.5], np.float32)[:count], np.array([1, 0])[:count]
            for topic, msg in (
                ('/detections', detections_to_msg(
                    BOXES[:count], scores, ids, ['car', 'dog'], header)),
                ('/classification', classification_to_msg(
                    ids, scores, ['road', 'grass'], header)),
                ('/grid', grid_to_msg(RESULT_GRID, header)),
            ):
                bag.write(topic, stamp_ns, serialize_message(msg))
    return path
