"""CostmapInputs: what costmap_node has heard, and places masks with."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from vision_msgs.msg import LabelInfo

from mnv2_perception.model_spec import UNLABELLED
from mnv2_perception.nodes.calibrations import Calibrations
from mnv2_perception.nodes.messages import (
    depth_from_msg,
    pinhole_to_msg,
    points_from_msg,
    stamp_to_ns,
)
from mnv2_perception.nodes.parameters import CLASS_LISTS, CostmapParameters
from mnv2_perception.nodes.poses import Poses
from mnv2_perception.nodes.sync import StampedQueue, StampWatch
from mnv2_perception.nodes.waiting import Lack
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.ground_view import GroundView
from mnv2_perception.vision.marks import points_of_depth, require_one_image
from mnv2_perception.vision.pose import Pose
from mnv2_perception.vision.roles import misspelt_classes, roles_of

RAISE = 'raise sync_tolerance_s, sync_queue or sync_wait_s'
NO_CONFIDENCE = f"segmentation/confidence of a mask's stamp; {RAISE}"

LONGEST_NAME = 1000  # of a class


class CostmapInputs:
    """The last names, and the latest calibrations, confidences, depth images or clouds.

    Args:
        sync_queue: how many confidences, depth images or clouds are kept.
        rectified: images are.
        tell: called with why a camera_info is unusable.

    Attributes:
        label_info: names of the mask's classes.
        camera_info: calibrations of the mask's camera.
        depth_info: calibrations of the depth camera.
        confidences: of masks.
        measured: depth images or clouds.
    """

    def __init__(
        self, sync_queue: int, rectified: bool = False,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.label_info: LabelInfo | None = None
        self.camera_info = Calibrations('camera_info', rectified, tell)
        self.depth_info = Calibrations('depth/camera_info', rectified, tell)
        self.confidences: StampedQueue[Image] = StampedQueue(sync_queue)
        self.measured: StampedQueue[Image | PointCloud2] = StampedQueue(sync_queue)

    def forget(self, after_ns: int) -> None:
        """Forget what is of a later time than that to which time has jumped back."""
        for kept in (self.confidences, self.measured, self.camera_info, self.depth_info):
            kept.forget(after_ns)

    def measured_of(
        self, frame: Frame, values: CostmapParameters, stamps: StampWatch
    ) -> Image | PointCloud2 | None:
        """Return the depth image or cloud of a mask, None if there is none.

        Where stamps stand still or are zero they cannot decide: what came more than
        `sync_tolerance_s` before the mask may be of any frame, and is not taken.
        """
        stamp_ns = stamp_to_ns(frame.msg.header.stamp)
        tolerance_s = values.sync_tolerance_s
        max_age_s = tolerance_s if stamps.undecided(stamp_ns) else None
        return self.measured.find(stamp_ns, tolerance_s, frame.received_s, max_age_s)

    def confidence_of(self, frame: Frame) -> Image | None:
        """Return the confidence of a mask, None if there is none."""
        stamp_ns = stamp_to_ns(frame.msg.header.stamp)
        return self.confidences.find(stamp_ns, 0.0, frame.received_s)

    def awaits_confidence(self, frame: Frame) -> bool:
        """Tell whether the confidence of a mask may still come; there may be none at all."""
        return not self.confidences.is_empty() and not self.confidence_of(frame)

    def lack(
        self, frame: Frame, values: CostmapParameters, stamps: StampWatch, poses: Poses
    ) -> Lack | None:
        """Return what of its own time a mask has to wait for before it can be placed."""
        if self.missing(values):
            return None  # of no time: it may never come
        places = frame.msg
        if values.source != 'ground':
            measured = self.measured_of(frame, values, stamps)
            if measured is None:
                what = {'depth': 'depth/image', 'points': 'points'}[values.source]
                return Lack(
                    f"{what} within {values.sync_tolerance_s} s of a mask's stamp; "
                    f'{stamps.warning or RAISE}',
                    values.sync_wait_s,
                )
            places = measured
        if what := poses.lack(frame.msg.header, places.header.frame_id):
            return Lack(what, poses.wait_s)
        for infos, image in ((self.camera_info, frame.msg), (self.depth_info, places)):
            if infos.awaits(stamp_to_ns(image.header.stamp), frame.received_s):
                what = f"{infos.name} of an image's own stamp, such as came with those before"
                return Lack(
                    f'{what}; meanwhile the last one counts; raise sync_wait_s', values.sync_wait_s
                )
        return None

    def take_label_info(self, msg: LabelInfo) -> bool:
        """Take the names of the ids that a mask can hold; return whether they are new.

        Nav2's layer would cast other ids to a byte. Of each id the last name counts.
        """
        # A message of its own: in one process other nodes have the same one.
        held = list({
            item.class_id: item for item in msg.class_map
            if item.class_id < UNLABELLED and len(item.class_name) <= LONGEST_NAME
        }.values())
        known = self.label_info
        self.label_info = LabelInfo(header=msg.header, class_map=held, threshold=msg.threshold)
        return known is None or bool(known.class_map != held)

    def roles(self, values: CostmapParameters) -> NDArray[np.uint8]:
        """Return the role of each class id, see `roles_of`, which also may refuse the names."""
        assert self.label_info
        return roles_of(
            {item.class_name: item.class_id for item in self.label_info.class_map},
            values.traversable_classes, values.forbidden_classes, values.obstacle_classes,
            values.ignored_classes,
        )

    def semantic_size(
        self, ids: NDArray[np.uint8], values: CostmapParameters
    ) -> tuple[int, int]:
        """Return height and width of what the semantic layer gets of a mask (H, W)."""
        height = min(values.semantic_height, len(ids))
        return height, max(1, round(height * ids.shape[1] / len(ids)))

    def missing(self, values: CostmapParameters) -> list[str]:
        """Return the topics that have not been heard, and without which no mask is placed."""
        needed = {
            'segmentation/label_info': self.label_info,
            'camera_info': (
                self.camera_info or values.horizontal_fov_rad or values.source == 'points'
            ),
            'depth/camera_info': self.depth_info or values.source != 'depth',
        }
        return [name for name, there in needed.items() if not there]

    def misspelt_classes(self, values: CostmapParameters) -> str:
        """Return which names of classes look misspelt: what they stand for is not marked."""
        names = [item.class_name for item in self.label_info.class_map] if self.label_info else []
        lists = {name: getattr(values, name) for name in CLASS_LISTS}
        return '; '.join(
            f'the masks have no class {name!r}, did you mean {close!r}?'
            for name, close in misspelt_classes(names, lists).items()
        )

    def calibration(self, values: CostmapParameters) -> str:
        """Return where the calibration of the mask's camera comes from, empty if there is none."""
        if values.horizontal_fov_rad and not self.camera_info.usable:
            return 'horizontal_fov_rad'
        return 'camera_info' if self.camera_info else ''

    def refused(self, values: CostmapParameters) -> str:
        """Return what is wrong with a camera_info that came last, empty if nothing is."""
        found = [self.camera_info.refusal, self.depth_info.refusal]
        if self.calibration(values) == 'horizontal_fov_rad':
            found[0] = ''  # it is given for a camera without calibration
        return '; '.join(filter(None, found))

    def camera_of(
        self, frame: Frame, values: CostmapParameters
    ) -> tuple[Camera | None, CameraInfo | None]:
        """Return a mask's camera and its camera_info; None where nothing calibrates it.

        Raises:
            CalibrationError: it does not fit the mask, or is none.
        """
        mask, fov_rad = frame.msg, values.horizontal_fov_rad
        if fov_rad and not self.camera_info.usable:
            camera = Camera.from_fov(mask.height, mask.width, fov_rad)
            return camera, pinhole_to_msg(camera)
        found = self.camera_info.of(stamp_to_ns(mask.header.stamp), frame.received_s)
        if found is None:
            return None, None
        found[0].require_size(mask.height, mask.width)
        return found

    def points_of(
        self, measured: Image | PointCloud2, camera: Camera | None, size: tuple[int, int],
        frame: Frame, poses: Poses,
    ) -> NDArray[np.float32]:
        """Return (H, W, 3) points in the base frame, whose pixels are the mask's, resized.

        Args:
            measured: a depth image or a cloud.
            camera: the mask's; a depth image needs it.
            size: height and width that depth of another camera is registered to at most.
            frame: the mask.
            poses: of the cameras.

        Raises:
            ImageError: the message contradicts itself or the mask.
            CalibrationError: a pose is unknown, or depth and its camera_info differ in size.
        """
        header, frame_id = frame.msg.header, measured.header.frame_id
        if isinstance(measured, PointCloud2):
            shape = frame.msg.height, frame.msg.width
            require_one_image((measured.height, measured.width), shape)
            placed: NDArray[np.float32] = poses.base_from_camera(frame_id, header).apply(
                points_from_msg(measured)
            )
            return placed
        found = self.depth_info.of(stamp_to_ns(measured.header.stamp), frame.received_s)
        assert camera and found
        elsewhere = frame_id != header.frame_id
        return points_of_depth(
            depth_from_msg(measured), found[0], camera, size,
            poses.base_from_camera(header.frame_id, header),
            poses.base_from_camera(frame_id, header) if elsewhere else None,
        )


class Views:
    """What the camera sees of the ground, worked out anew where it has moved.

    Args:
        tell: logs what is seen, of each camera once.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._last: tuple[Camera, Pose, GroundView] | None = None

    def of(self, camera: Camera, pose: Pose, values: CostmapParameters) -> GroundView:
        """Return the view of a camera from a pose.

        Raises:
            CalibrationError: it sees no ground.
        """
        last = self._last
        if last and last[0] == camera and last[1].is_close(pose):
            return last[2]
        view = GroundView(camera, pose, values.max_range_m, values.max_footprint_m)
        if last is None or last[0] != camera:
            self._tell(
                f'camera at height {pose.translation[2]:.2f} m sees ground as far as '
                f'{view.range_max_m:.1f} m'
            )
        self._last = camera, pose, view
        return view
