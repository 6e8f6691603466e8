"""detection3d_node: turn boxes in images, with depth or a point cloud, into boxes in space."""

from collections import deque
import sys
from typing import Any

from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, Detection3DArray

from mnv2_perception.nodes.advice import wrong_type
from mnv2_perception.nodes.box_messages import boxes_from_msg, detections3d_to_msg
from mnv2_perception.nodes.lifecycle import LOG_PERIOD_S
from mnv2_perception.nodes.measurements import Measurements
from mnv2_perception.nodes.messages import stamp_to_ns
from mnv2_perception.nodes.placing import PlacingNode
from mnv2_perception.nodes.placing_parameters import Detection3DParameters
from mnv2_perception.nodes.process import spin
from mnv2_perception.nodes.topics import Publisher, Subscription
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.boxes3d import Box3D, place_boxes

WINDOW = 30  # this many boxes in a row without any placed one are no coincidence


class Detection3DNode(PlacingNode[Detection3DParameters, Measurements]):
    """Places a detector's boxes in space where depth or a point cloud measured their contents.

    The message has the image's stamp and the frame `base_frame`. A box without measurements is
    left out and counted.
    """

    Parameters = Detection3DParameters
    frames = frames_topic = 'detections'

    def __init__(self, **kwargs: Any) -> None:
        self._placed: Publisher
        self._detections: Subscription
        self._latest: deque[bool] = deque(maxlen=WINDOW)
        super().__init__('detection3d_node', Measurements, **kwargs)

    def acquire(self) -> None:
        super().acquire()
        self._latest.clear()
        self._placed = self.create_result_publisher(Detection3DArray, 'detections3d')

    def announce(self) -> None: ...

    def subscribe(self) -> None:
        super().subscribe()
        self._detections = self.create_camera_subscription(Detection2DArray, 'detections')

    def place(self, frame: Frame) -> bool:
        values, inputs, msg = self.parameters, self.inputs, frame.msg
        if inputs.missing(values):
            self.tell_missing(unpaired=0)
            return False
        measured = self.measured_of(frame)
        if measured is None:
            self.tell_missing(unpaired=1)
            return False
        boxes, header = boxes_from_msg(msg), msg.header
        placed: list[Box3D | None] = []
        if len(boxes):
            found = inputs.camera_info.of(stamp_to_ns(header.stamp), frame.received_s)
            assert found
            camera, size = found[0], (found[0].height, found[0].width)
            points = inputs.points_of(measured, camera, size, size, frame, self.poses)
            placed = place_boxes(
                points, self.poses.base_from_camera(header.frame_id, header), boxes, size,
                values.min_height_m, values.min_points,
            )
            if odd := inputs.not_optical:
                self.get_logger().warning(odd, throttle_duration_sec=5 * LOG_PERIOD_S)
        with self._lock:
            self._latest.extend(box is not None for box in placed)
            self.counts['boxes'] += len(placed)
            self.counts['boxes_left_out'] += placed.count(None)
        in_base = Header(stamp=header.stamp, frame_id=values.base_frame)
        self._placed.publish(detections3d_to_msg(placed, msg, in_base))
        if self._lack:
            self.tell_missing(unpaired=0)
        return True

    def describe(self) -> dict[str, object]:
        counted = {name: self.counts[name] for name in ('boxes', 'boxes_left_out')}
        return {**super().describe(), **counted}

    def warning(self) -> str:
        with self._lock:
            unmeasured = len(self._latest) == WINDOW and not any(self._latest)
        return super().warning() or unmeasured * (
            f'none of the last {WINDOW} boxes could be measured, so all are left out: check that '
            f"depth covers the camera's view and has the image's stamps, or lower min_points"
        )

    def explain_silence(self) -> str:
        topic = self._detections.topic_name
        silent = f'{topic} is silent; start detection_node, or remap it'
        return wrong_type(self, topic, self._detections.msg_type) or silent


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return spin(Detection3DNode, args)


if __name__ == '__main__':
    sys.exit(main())
