"""costmap_node: masks and a camera's geometry in, what Nav2's costmaps take out."""

from dataclasses import fields
from functools import partial
import sys
from typing import Any

from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes.costmap_inputs import CostmapInputs, NO_CONFIDENCE, Views
from mnv2_perception.nodes.costmap_results import CostmapResults
from mnv2_perception.nodes.greeting import GREET_PERIOD_S, Greeting
from mnv2_perception.nodes.lifecycle import LOG_PERIOD_S, PerceptionNode
from mnv2_perception.nodes.messages import labels_from_msg, stamp_to_ns
from mnv2_perception.nodes.parameters import CostmapParameters
from mnv2_perception.nodes.poses import IN_PLACE, Poses
from mnv2_perception.nodes.process import spin
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.sync import on_jump_back, Present
from mnv2_perception.nodes.topics import Subscription
from mnv2_perception.nodes.waiting import Lack, WaitingRoom
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.marks import Limits, marks_of_points, marks_on_ground


class CostmapNode(PerceptionNode[CostmapParameters]):
    """Places masks on the ground or in space, and publishes what costmap layers take."""

    Parameters = CostmapParameters

    def __init__(self, **kwargs: Any) -> None:
        self.greeting: Greeting
        self._results: CostmapResults
        self._views: Views
        self._mask: Subscription
        self._poses: Poses | None = None
        self.inputs = CostmapInputs(0)
        self._room = WaitingRoom(self._find_lack)
        self._lack = ''
        self._present = Present()
        super().__init__('costmap_node', **kwargs)
        self.create_steady_timer(GREET_PERIOD_S, self.greet)
        self._jumps = on_jump_back(self.get_clock(), self._forget)

    # Lifecycle

    def acquire(self) -> None:
        values = self.parameters
        self._poses = Poses(self, values)
        self._results = CostmapResults(self.create_result_publisher)
        self.greeting = Greeting(
            self, self._results.mask, self._results.label_info, self._publish_label_info
        )
        log, rarely = self.get_logger(), {'throttle_duration_sec': 5 * LOG_PERIOD_S}
        warn = partial(log.warning, **rarely)
        self.inputs = CostmapInputs(values.sync_queue, values.rectified, warn)
        self._views = Views(partial(log.info, **rarely))

    def release(self) -> None:
        if self._poses:
            self._poses.close()
        self._poses, self._lack = None, ''
        self.inputs = CostmapInputs(0)

    def announce(self) -> None:
        self.greeting.announce()

    def subscribe(self) -> None:
        source, inputs = self.parameters.source, self.inputs
        listen = self.create_camera_subscription
        listen(LabelInfo, 'segmentation/label_info', self.on_label_info, LATCHED_QOS)
        listen(Image, 'segmentation/confidence', inputs.confidences.put)
        listen(CameraInfo, 'camera_info', self.on_camera_info)
        if source == 'depth':
            listen(CameraInfo, 'depth/camera_info', inputs.depth_info.put)
            listen(Image, 'depth/image', inputs.measured.put)
        elif source == 'points':
            listen(PointCloud2, 'points', inputs.measured.put)
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
        if self.inputs.camera_info.put(msg) and self.parameters.horizontal_fov_rad:
            self.get_logger().info('camera_info came: horizontal_fov_rad counts no longer')

    def _publish_label_info(self) -> None:
        if self.inputs.label_info:
            self._results.label_info.publish(self.inputs.label_info)

    # One mask

    def on_frame(self, msg: Image) -> None:
        stamp_ns = stamp_to_ns(msg.header.stamp)
        if self.stamps.is_jump_back(stamp_ns) and not self.get_clock().ros_time_is_active:
            self._forget(stamp_ns)  # else /clock tells it
        super().on_frame(msg)

    def _forget(self, now_ns: int) -> None:
        """Forget what was heard of another time: it has jumped back, to now."""
        self._present.begin(now_ns)
        self.inputs.forget(self._present.until_ns)
        if self._poses:
            self._poses.forget()

    def work(self, frame: Frame) -> None:
        for each, lack in self._room.serve(frame, self.take_waiting, lambda: self.active):
            with self.rejecting(each):
                done = self.active and self._present.has(each) and self._place(each, lack)
                outcome = 'published' if done else 'passed_over'
                self.count(each, outcome, '' if done else self._missing())

    def _find_lack(self, frame: Frame) -> Lack | None:
        values, inputs, poses = self.parameters, self.inputs, self._poses
        assert poses
        poses.values = values
        lack = inputs.lack(frame, values, self.stamps, poses)
        if lack is None and self._has_semantic() and inputs.awaits_confidence(frame):
            lack = Lack(NO_CONFIDENCE, values.sync_wait_s)
        return lack if self._present.has(frame) else None

    def _has_semantic(self) -> bool:
        return self._results.mask.get_subscription_count() > 0 and not self.greeting.holding()

    def _place(self, frame: Frame, lack: Lack | None) -> bool:
        values, inputs, poses, msg = self.parameters, self.inputs, self._poses, frame.msg
        assert poses
        self._lack = lack.what if lack else ''
        if inputs.missing(values):
            self._tell_missing(unpaired=0)
            return False
        ids = labels_from_msg(msg)
        roles = inputs.roles(values)
        measured = inputs.measured_of(frame, values, self.stamps)
        if measured is None and values.source != 'ground':
            self._tell_missing(unpaired=1)
            return False
        camera, info = inputs.camera_of(frame, values)
        size = inputs.semantic_size(ids, values)
        grid_from_base = poses.grid_from_base(msg.header)
        limits = Limits(**{item.name: getattr(values, item.name) for item in fields(Limits)})
        if measured is None:
            assert camera
            view = self._views.of(
                camera, poses.base_from_camera(msg.header.frame_id, msg.header), values
            )
            marks = marks_on_ground(view, ids, roles, grid_from_base, limits)
        else:
            points = inputs.points_of(measured, camera, size, frame, poses)
            resized = resize_ids(ids, *points.shape[:2])
            marks = marks_of_points(points, resized, roles, grid_from_base, limits)
        in_base = Header(stamp=msg.header.stamp, frame_id=values.base_frame)
        in_grid = Header(stamp=msg.header.stamp, frame_id=values.grid_frame)
        self._results.publish(marks, in_base, in_base if grid_from_base is IN_PLACE else in_grid)
        unpaired = 0
        if self._has_semantic():
            if found := inputs.confidence_of(frame):
                self._results.publish_semantic(
                    ids, labels_from_msg(found), marks.points(), info, size, msg.header, in_base
                )
            else:
                self._lack, unpaired = NO_CONFIDENCE, 1
        if self._lack:
            self._tell_missing(unpaired)
        return True

    def _missing(self) -> str:
        missing = map(self.resolve_topic_name, self.inputs.missing(self.parameters))
        return ', '.join([*missing, *filter(None, [self._lack])])

    def _tell_missing(self, unpaired: int) -> None:
        with self._lock:
            self.counts['unpaired'] += unpaired
        self.get_logger().warning(
            f'masks wait for {self._missing()}', throttle_duration_sec=LOG_PERIOD_S
        )

    def describe(self) -> dict[str, object]:
        values = self.parameters
        return {
            'source': values.source,
            'camera': self.inputs.calibration(values),
            'pose_source': self._poses.source if self._poses else '',
            'waiting_for': self._missing(),
            'unpaired': self.counts['unpaired'],
        }

    def fault(self) -> str:
        return self.inputs.misspelt_classes(self.parameters)

    def waiting(self) -> str:
        unheard = bool(self.inputs.missing(self.parameters))
        return self._missing() + ': start what publishes it, or remap it' * unheard

    def warning(self) -> str:
        return self.inputs.refused(self.parameters) or (self._poses.warning if self._poses else '')

    def explain_silence(self) -> str:
        return f'{self._mask.topic_name} is silent; start segmentation_node, or remap it'


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return spin(CostmapNode, args)


if __name__ == '__main__':
    sys.exit(main())
