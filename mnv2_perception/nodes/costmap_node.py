"""costmap_node: masks and a camera's geometry in, what Nav2's costmaps take out."""

from dataclasses import fields
import sys
import time
from typing import Any

from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.errors import ParameterError
from mnv2_perception.nodes.costmap_inputs import CostmapInputs
from mnv2_perception.nodes.costmap_results import CostmapResults
from mnv2_perception.nodes.greeting import GREET_PERIOD_S, Greeting
from mnv2_perception.nodes.lifecycle import LOG_PERIOD_S, PerceptionNode
from mnv2_perception.nodes.messages import labels_from_msg, stamp_to_ns
from mnv2_perception.nodes.parameters import CostmapParameters
from mnv2_perception.nodes.poses import IN_PLACE, Poses
from mnv2_perception.nodes.process import spin
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.topics import Subscription
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.costmap import GroundView
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.marks import Limits, marks_of_points, marks_on_ground
from mnv2_perception.vision.pose import Pose
from mnv2_perception.vision.roles import roles_of


class CostmapNode(PerceptionNode[CostmapParameters]):
    """Places masks on the ground or in space, and publishes what costmap layers take."""

    Parameters = CostmapParameters

    def __init__(self, **kwargs: Any) -> None:
        self.greeting: Greeting
        self._results: CostmapResults
        self._mask: Subscription
        self._poses: Poses | None = None
        self.inputs = CostmapInputs(0)
        self._view: tuple[Camera, Pose, GroundView] | None = None
        super().__init__('costmap_node', **kwargs)
        self.create_steady_timer(GREET_PERIOD_S, self.greet)

    # Lifecycle

    def acquire(self) -> None:
        values = self.parameters
        if values.source == 'depth' and values.horizontal_fov_rad:
            raise ParameterError(
                "horizontal_fov_rad is no calibration for source 'depth', whose points would be "
                "off by the guess; remap camera_info to the camera's own, or, where depth is "
                'registered to the image, to depth/camera_info'
            )
        self._poses = Poses(self, values)
        if self._poses.warning:
            self.get_logger().warning(self._poses.warning)
        self._results = CostmapResults(self.create_result_publisher)
        self.greeting = Greeting(
            self, self._results.mask, self._results.label_info, self._publish_label_info
        )
        self.inputs = CostmapInputs(values.sync_queue)

    def release(self) -> None:
        if self._poses:
            self._poses.close()
        self._poses = self._view = None
        self.inputs = CostmapInputs(0)

    def announce(self) -> None:
        self.greeting.announce()

    def subscribe(self) -> None:
        source, listen = self.parameters.source, self.create_camera_subscription
        listen(LabelInfo, 'segmentation/label_info', self.on_label_info, LATCHED_QOS)
        listen(Image, 'segmentation/confidence', self.inputs.confidences.put)
        listen(CameraInfo, 'camera_info', self.on_camera_info)
        if source == 'depth':
            listen(CameraInfo, 'depth/camera_info', self.on_depth_info)
            listen(Image, 'depth/image', self.inputs.measured.put)
        elif source == 'points':
            listen(PointCloud2, 'points', self.inputs.measured.put)
        self._mask = listen(Image, 'segmentation/mask')

    def greet(self) -> None:
        """Send the names again when a subscriber of semantic/mask has appeared."""
        if self.active:
            self.greeting.greet()

    def on_label_info(self, msg: LabelInfo) -> None:
        """Take the names of the classes, and pass them on at once where they are new."""
        if self.inputs.take_label_info(msg):
            self.greeting.announce()

    def on_camera_info(self, msg: CameraInfo) -> None:
        """Take the calibration of the mask's camera."""
        if self.inputs.camera_info is None and self.parameters.horizontal_fov_rad:
            self.get_logger().info('camera_info came: horizontal_fov_rad counts no longer')
        self.inputs.camera_info = msg

    def on_depth_info(self, msg: CameraInfo) -> None:
        """Take the calibration of the depth camera."""
        self.inputs.depth_info = msg

    def _publish_label_info(self) -> None:
        if self.inputs.label_info:
            self._results.label_info.publish(self.inputs.label_info)

    # One mask

    def work(self, frame: Frame) -> None:
        with self.rejecting(frame):
            self.count(frame, 'published' if self._place(frame.msg) else 'passed_over')

    def _place(self, msg: Image) -> bool:
        values, inputs, poses = self.parameters, self.inputs, self._poses
        assert poses
        poses.values = values
        if missing := self._missing():
            self.get_logger().warning(
                f'masks wait for {missing}', throttle_duration_sec=LOG_PERIOD_S
            )
            return False
        assert inputs.label_info
        ids = labels_from_msg(msg)
        roles = roles_of(
            {item.class_name: item.class_id for item in inputs.label_info.class_map},
            values.traversable_classes, values.forbidden_classes, values.obstacle_classes,
            values.ignored_classes,
        )
        measured = None
        if values.source != 'ground':
            measured = inputs.measured.find(
                stamp_to_ns(msg.header.stamp), values.sync_tolerance_s, values.sync_wait_s
            )
            if measured is None:
                self._count_miss(f'{values.source} within {values.sync_tolerance_s} s')
                return False
        camera, info = inputs.camera_of(msg, values)
        height = min(values.semantic_height, len(ids))
        size = height, max(1, round(height * ids.shape[1] / len(ids)))
        grid_from_base = poses.grid_from_base(msg.header)
        limits = Limits(**{item.name: getattr(values, item.name) for item in fields(Limits)})
        if measured is None:
            assert camera
            view = self._view_of(camera, poses.base_from_camera(msg.header.frame_id, msg.header))
            marks = marks_on_ground(view, ids, roles, grid_from_base, limits)
        else:
            points = inputs.points_of(measured, camera, size, msg, poses)
            resized = resize_ids(ids, *points.shape[:2])
            marks = marks_of_points(points, resized, roles, grid_from_base, limits)
        in_base = Header(stamp=msg.header.stamp, frame_id=values.base_frame)
        in_grid = Header(stamp=msg.header.stamp, frame_id=values.grid_frame)
        self._results.publish(marks, in_base, in_base if grid_from_base is IN_PLACE else in_grid)
        if not self.greeting.holding() and self._results.mask.get_subscription_count():
            found = inputs.confidences.find(
                stamp_to_ns(msg.header.stamp), 0.0, values.sync_wait_s
            )
            if found is None:
                self._count_miss('segmentation/confidence')
            else:
                self._results.publish_semantic(
                    ids, labels_from_msg(found), marks.points(), info, size, msg.header, in_base
                )
        return True

    def _missing(self) -> str:
        missing = self.inputs.missing(self.parameters)
        return ', '.join(self.resolve_topic_name(name) for name in missing)

    def _count_miss(self, what: str) -> None:
        with self._lock:
            self.counts['unpaired'] += 1
        self.get_logger().warning(
            f"no {what} of a mask's stamp; raise sync_tolerance_s, sync_queue or sync_wait_s",
            throttle_duration_sec=LOG_PERIOD_S,
        )

    def _view_of(self, camera: Camera, pose: Pose) -> GroundView:
        """Return what the camera sees of the ground, worked out anew where it has moved."""
        values = self.parameters
        if self._view is None or self._view[0] != camera or not self._view[1].is_close(pose):
            begin_s = time.monotonic()
            view = GroundView(camera, pose, values.max_range_m, values.max_footprint_m)
            self._view = camera, pose, view
            self.get_logger().info(
                f'camera at height {pose.translation[2]:.2f} m sees ground as far as '
                f'{view.range_max_m:.1f} m; worked out in {time.monotonic() - begin_s:.2f} s',
                throttle_duration_sec=LOG_PERIOD_S,
            )
        return self._view[2]

    def describe(self) -> dict[str, object]:
        values = self.parameters
        return {
            'source': values.source,
            'camera': self.inputs.calibration(values),
            'pose_source': self._poses.source if self._poses else '',
            'waiting_for': self._missing(),
            'unpaired': self.counts['unpaired'],
        }

    def warning(self) -> str:
        return self._poses.warning if self._poses else ''

    def explain_silence(self) -> str:
        return f'{self._mask.topic_name} is silent; start segmentation_node, or remap it'


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return spin(CostmapNode, args)


if __name__ == '__main__':
    sys.exit(main())
