"""PlacingNode: pairing, waiting and poses for nodes that place what an image shows."""

from abc import abstractmethod
from functools import partial
from typing import Any, Generic, TypeVar

from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from vision_msgs.msg import Detection2DArray

from mnv2_perception.nodes.advice import image_topic_behind, wrong_type
from mnv2_perception.nodes.fetching import Fetching
from mnv2_perception.nodes.lifecycle import LOG_PERIOD_S, PerceptionNode
from mnv2_perception.nodes.measurements import Measurements, START
from mnv2_perception.nodes.messages import stamp_to_ns
from mnv2_perception.nodes.placing_parameters import PlacingParameters
from mnv2_perception.nodes.poses import Poses
from mnv2_perception.nodes.sync import on_jump_back, Present
from mnv2_perception.nodes.waiting import Lack, WaitingRoom
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.camera import named_rectified

Values = TypeVar('Values', bound=PlacingParameters)
Inputs = TypeVar('Inputs', bound=Measurements)


class PlacingNode(PerceptionNode[Values], Generic[Values, Inputs]):
    """A node whose frames wait for the other data of their stamp, and are then placed in space.

    A subclass implements `place` instead of `work` and calls this class's `acquire` and
    `subscribe` in its own. It sets `frames` to what the log calls its frames, and `frames_topic`
    to their topic. It may override `lack_of` if its frames have to wait for more.

    Args:
        name: name of the node.
        make_inputs: class of the data that it receives besides the frames.
        kwargs: passed to PerceptionNode.
    """

    frames: str
    frames_topic: str

    def __init__(self, name: str, make_inputs: type[Inputs], **kwargs: Any) -> None:
        self._make_inputs = make_inputs
        self.inputs = make_inputs(0)
        self._poses: Poses | None = None
        self._room = WaitingRoom(self._find_lack)
        self._lack = self._odd_name = ''
        self._fetching = Fetching(self)
        super().__init__(name, **kwargs)
        self._present = Present(self.get_clock())
        self._jumps = on_jump_back(self.get_clock(), self._forget)

    @abstractmethod
    def place(self, frame: Frame) -> bool:
        """Place a frame that has waited long enough; return whether a result was published."""

    def grid_frame(self) -> str:
        """Return the frame of the grid, empty if the node publishes none."""
        return ''

    @property
    def poses(self) -> Poses:
        """Poses of the cameras."""
        assert self._poses is not None, 'the node is not configured'
        return self._poses

    # Lifecycle

    def acquire(self) -> None:
        values = self.parameters
        self._poses = Poses(self, values, self._present, self.grid_frame())
        warn = partial(self.get_logger().warning, throttle_duration_sec=5 * LOG_PERIOD_S)
        self.inputs = self._make_inputs(values.sync_queue, values.rectified, warn)

    def release(self) -> None:
        if self._poses:
            self._poses.close()
        self._poses, self._lack, self._odd_name = None, '', ''
        self.inputs = self._make_inputs(0)

    def subscribe(self) -> None:
        source, inputs = self.parameters.source, self.inputs
        listen = self.create_camera_subscription
        listen(CameraInfo, 'camera_info', self.on_camera_info)
        if source == 'depth':
            listen(CameraInfo, 'depth/camera_info', inputs.depth_info.put)
            listen(Image, 'depth/image', inputs.measured.put)
        elif source == 'points':
            listen(PointCloud2, 'points', inputs.measured.put)

    def greet(self) -> None:
        """Fetch the latched camera_info that a publisher sent before this node subscribed."""
        for heard in tuple(self._camera_subscriptions):
            if heard.msg_type is CameraInfo:
                self._fetching.fetch(heard)

    def look_around(self) -> None:
        """Also compare the name of the images' topic with the parameter `rectified`."""
        super().look_around()
        info, rectified = self.inputs.camera_info.last_info, self.parameters.rectified
        before, self._odd_name = self._odd_name, ''
        if info is None or not any(info.d) or self.parameters.source == 'points':
            return  # without distortion, rectified or not makes almost no difference
        results = self.resolve_topic_name(self.frames_topic)
        topic = image_topic_behind(self, results, self.shared.model_nodes)
        if named_rectified(topic) and not rectified:
            self._odd_name = (
                f'the images of {topic} are rectified, as its name says, but rectified is false '
                f'and camera_info has lens distortion, so everything is placed wrong; set '
                f'rectified to true'
            )
        elif rectified and 'image_raw' in topic:
            self._odd_name = (
                f'rectified is true, but the images of {topic} are not, as its name says, so '
                f'everything is placed wrong; set rectified to false, or use rectified images '
                f'(image_proc)'
            )
        if self._odd_name not in ('', before):
            self.get_logger().warning(self._odd_name)

    def _stop_working(self) -> bool:
        idle = super()._stop_working()
        self._fetching.end()
        return idle

    def on_camera_info(self, msg: CameraInfo) -> None:
        """Take the calibration of the camera of the images."""
        self.inputs.camera_info.put(msg)

    # One frame

    def on_frame(self, msg: Image | Detection2DArray) -> None:
        stamp_ns = stamp_to_ns(msg.header.stamp)
        if self.stamps.is_jump_back(stamp_ns) and not self.get_clock().ros_time_is_active:
            self._forget(stamp_ns)  # with ROS time, the jump of /clock triggers it
        super().on_frame(msg)

    def _forget(self, now_ns: int) -> None:
        """Forget what was received before time jumped back to `now_ns`."""
        self._present.begin(now_ns)
        self.inputs.forget(self._present.until_ns)
        if self._poses:
            self._poses.forget()

    def work(self, frame: Frame) -> None:
        for each, lack in self._room.serve(frame, self.take_waiting, lambda: self.active):
            with self.rejecting(each):
                done = self.active and self._present.has(each)
                if done:
                    self._lack = self._words(lack) if lack else ''
                    done = self.place(each)
                outcome = 'published' if done else 'passed_over'
                self.count(each, outcome, '' if done else self.missing())

    def _words(self, lack: Lack) -> str:
        topic = self.resolve_topic_name(lack.topic) if lack.topic else ''
        return f'{topic}{lack.what}'

    def _find_lack(self, frame: Frame) -> Lack | None:
        self.poses.values = self.parameters
        try:
            lack = self.lack_of(frame)
        except Exception:  # `place` meets this too and rejects the frame; others do not wait
            lack = None
        return lack if self._present.has(frame) else None

    def lack_of(self, frame: Frame) -> Lack | None:
        """Return what a frame still has to wait for before it can be placed, None if nothing."""
        return self.inputs.lack(frame, self.parameters, self.stamps, self.poses)

    def measured_of(self, frame: Frame) -> Image | PointCloud2 | None:
        """Return the depth image or cloud that belongs to a frame, None if there is none."""
        return self.inputs.measured_of(frame, self.parameters, self.stamps)

    def missing(self) -> str:
        """Return what frames wait for, empty if nothing."""
        missing = map(self.resolve_topic_name, self.inputs.missing(self.parameters))
        return ', '.join([*missing, *filter(None, [self._lack])])

    def tell_missing(self, unpaired: int) -> None:
        """Log what frames wait for, and count those that waited in vain."""
        with self._lock:
            self.counts['unpaired'] += unpaired
        self.get_logger().warning(
            f'{self.frames} wait for {self.missing()}', throttle_duration_sec=LOG_PERIOD_S
        )

    def describe(self) -> dict[str, object]:
        return {
            'source': self.parameters.source,
            'pose_source': self._poses.source if self._poses else '',
            'waiting_for': self.missing(),
            'unpaired': self.counts['unpaired'],
        }

    def waiting(self) -> str:
        if not (missing := self.missing()):
            return ''
        wrong = '; '.join(filter(None, (
            wrong_type(self, each.topic_name, each.msg_type)
            for each in tuple(self._camera_subscriptions)
        )))
        start = bool(self.inputs.missing(self.parameters)) * START
        return ': '.join(filter(None, [missing, wrong or start]))

    def warning(self) -> str:
        return (
            self.inputs.refused(self.parameters) or (self._poses.warning if self._poses else '')
            or self._odd_name or self.inputs.not_optical or self.inputs.misaligned
        )
