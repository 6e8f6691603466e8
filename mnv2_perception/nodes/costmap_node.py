"""costmap_node: turn masks and a camera's geometry into the inputs of Nav2's costmaps."""

from dataclasses import fields
from functools import partial
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.errors import CalibrationError, ImageError
from mnv2_perception.nodes.advice import wrong_type
from mnv2_perception.nodes.costmap_inputs import CostmapInputs, NO_CONFIDENCE, Views
from mnv2_perception.nodes.costmap_results import CostmapResults
from mnv2_perception.nodes.greeting import Greeting
from mnv2_perception.nodes.lifecycle import LOG_PERIOD_S
from mnv2_perception.nodes.messages import labels_from_msg
from mnv2_perception.nodes.parameters import CostmapParameters
from mnv2_perception.nodes.placing import PlacingNode
from mnv2_perception.nodes.process import spin
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.topics import Subscription
from mnv2_perception.nodes.waiting import Lack
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.costmap import TRAVERSABLE
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.ground_watch import GroundWatch
from mnv2_perception.vision.marks import Limits, marks_of_points, marks_on_ground
from mnv2_perception.vision.pose import IN_PLACE
from mnv2_perception.vision.roles import topics_of_classes

GROUND_SHARE = 0.01  # of a mask: less may be mistaken


class CostmapNode(PlacingNode[CostmapParameters, CostmapInputs]):
    """Places masks on the ground or in space, and publishes what costmap layers read."""

    Parameters = CostmapParameters
    frames, frames_topic = 'masks', 'segmentation/mask'

    def __init__(self, **kwargs: Any) -> None:
        self.greeting: Greeting
        self._results: CostmapResults
        self._mask: Subscription
        self._views: Views
        self._watch = GroundWatch()
        super().__init__('costmap_node', CostmapInputs, **kwargs)

    # Lifecycle

    def acquire(self) -> None:
        super().acquire()
        topics = topics_of_classes(self.parameters.cloud_classes)
        self._results = CostmapResults(self.create_result_publisher, topics)
        self.greeting = Greeting(
            self, [self._results.mask], self._results.label_info, self._publish_label_info
        )
        self._views = Views(
            partial(self.get_logger().info, throttle_duration_sec=5 * LOG_PERIOD_S)
        )
        self._watch = GroundWatch()

    def grid_frame(self) -> str:
        return self.parameters.grid_frame

    def announce(self) -> None:
        self.greeting.announce()

    def subscribe(self) -> None:
        listen = self.create_camera_subscription
        listen(LabelInfo, 'segmentation/label_info', self.on_label_info, LATCHED_QOS)
        listen(Image, 'segmentation/confidence', self.inputs.confidences.put)
        super().subscribe()
        self._mask = listen(Image, 'segmentation/mask')

    def greet(self) -> None:
        """Also publish the names again when a subscriber of semantic/mask has appeared."""
        super().greet()
        self.greeting.greet()

    def on_label_info(self, msg: LabelInfo) -> None:
        """Store the names of the classes, and pass them on at once if they are new."""
        if self.inputs.take_label_info(msg):
            self.greeting.announce()
            if told := self.inputs.describe_classes(self.parameters):
                self.get_logger().info(told, throttle_duration_sec=LOG_PERIOD_S)

    def on_camera_info(self, msg: CameraInfo) -> None:
        if self.inputs.camera_info.put(msg) and self.parameters.horizontal_fov_rad:
            self.get_logger().info('camera_info received: horizontal_fov_rad is no longer used')

    def _publish_label_info(self) -> None:
        if self.inputs.label_info:
            self._results.label_info.publish(self.inputs.label_info)

    # One mask

    def lack_of(self, frame: Frame) -> Lack | None:
        lack, values = super().lack_of(frame), self.parameters
        if lack is None and self._has_semantic() and self.inputs.awaits_confidence(
            frame, values, self.stamps
        ):
            return Lack(NO_CONFIDENCE, values.sync_wait_s)
        return lack

    def _has_semantic(self) -> bool:
        return self._results.mask.get_subscription_count() > 0 and not self.greeting.holding()

    def place(self, frame: Frame) -> bool:
        values, inputs, poses, msg = self.parameters, self.inputs, self.poses, frame.msg
        if inputs.missing(values):
            self.tell_missing(unpaired=0)
            return False
        ids, roles = labels_from_msg(msg), inputs.roles(values)
        if frame.received_s < inputs.renamed_s:  # the mask was made before the classes changed
            return False
        measured = self.measured_of(frame)
        if measured is None and values.source != 'ground':
            self.tell_missing(unpaired=1)
            return False
        camera, info = inputs.camera_of(frame, values)
        size, grid_from_base = inputs.semantic_size(ids, values), poses.grid_from_base(msg.header)
        limits = Limits(**{item.name: getattr(values, item.name) for item in fields(Limits)})
        if measured is None:
            assert camera
            view = self._views.of(
                camera, poses.base_from_camera(msg.header.frame_id, msg.header), values
            )
            marks = marks_on_ground(view, ids, roles, grid_from_base, limits)
        else:
            points = inputs.points_of(
                measured, camera, size, (msg.height, msg.width), frame, poses
            )
            # A camera that does look up, for what hangs over the robot, sees no ground.
            if inputs.not_optical and (roles[ids] == TRAVERSABLE).mean() > GROUND_SHARE:
                raise CalibrationError(inputs.not_optical)
            resized = resize_ids(ids, *points.shape[:2])
            self._watch.take(points, resized, roles, min(0.0, values.min_height_m))
            if odd := inputs.not_optical or self._watch.warning:
                self.get_logger().warning(odd, throttle_duration_sec=5 * LOG_PERIOD_S)
            marks = marks_of_points(points, resized, roles, grid_from_base, limits)
        in_base = Header(stamp=msg.header.stamp, frame_id=values.base_frame)
        in_grid = Header(stamp=msg.header.stamp, frame_id=values.grid_frame)
        self._results.publish(
            marks, inputs.id_of, in_base, in_base if grid_from_base is IN_PLACE else in_grid
        )
        unpaired = 0
        if self._has_semantic():
            confidence = self._read_confidence(frame, values)
            if confidence is None:
                unpaired = 1
            else:
                self._results.publish_semantic(
                    ids, confidence, marks.points(), info, size, msg.header, in_base
                )
        if self._lack:
            self.tell_missing(unpaired)
        return True

    def _read_confidence(
        self, frame: Frame, values: CostmapParameters
    ) -> NDArray[np.uint8] | None:
        """Return a mask's confidence (H, W); if there is none, note it as what is missing."""
        found = self.inputs.confidence_of(frame, values, self.stamps)
        if found is None:
            self._lack = NO_CONFIDENCE
            return None
        try:
            return labels_from_msg(found)
        except ImageError as exc:  # the other results are published already
            self._lack = f'a usable segmentation/confidence: {exc}'
            return None

    def describe(self) -> dict[str, object]:
        return {**super().describe(), 'camera': self.inputs.calibration(self.parameters)}

    def fault(self) -> str:
        return self.inputs.misspelt_classes(self.parameters)

    def warning(self) -> str:
        return (
            super().warning() or self._watch.warning
            or self.inputs.absent_classes(self.parameters)
        )

    def explain_silence(self) -> str:
        topic = self._mask.topic_name
        silent = f'{topic} is silent; start segmentation_node, or remap it'
        return wrong_type(self, topic, self._mask.msg_type) or silent


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return spin(CostmapNode, args)


if __name__ == '__main__':
    sys.exit(main())
