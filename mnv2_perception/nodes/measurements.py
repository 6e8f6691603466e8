"""Measurements: the calibrations and the depth images or clouds that place a camera's pixels."""

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from mnv2_perception.nodes.messages import depth_from_msg, points_from_msg, stamp_to_ns
from mnv2_perception.nodes.placing_parameters import PlacingParameters
from mnv2_perception.nodes.poses import Poses
from mnv2_perception.nodes.sync import StampedQueue, StampWatch
from mnv2_perception.nodes.waiting import Lack
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.marks import points_of_depth, require_one_image

RAISE = 'raise sync_tolerance_s, sync_queue or sync_wait_s'


class Measurements:
    """The last calibrations, and the latest depth images or clouds.

    Args:
        sync_queue: how many of the latter are kept.

    Attributes:
        camera_info: calibration of the camera of the masks or boxes.
        depth_info: calibration of the depth camera.
        measured: depth images or clouds.
    """

    def __init__(self, sync_queue: int) -> None:
        self.camera_info: CameraInfo | None = None
        self.depth_info: CameraInfo | None = None
        self.measured: StampedQueue[Image | PointCloud2] = StampedQueue(sync_queue)

    def forget(self) -> None:
        """Forget what belongs to a time: it has jumped back. Calibrations do not."""
        self.measured.clear()

    def take_depth_info(self, msg: CameraInfo) -> None:
        """Take the calibration of the depth camera."""
        self.depth_info = msg

    def missing(self, values: PlacingParameters) -> list[str]:
        """Return the topics that have not been heard, and without which nothing is placed."""
        needed = {
            'camera_info': self.camera_info,
            'depth/camera_info': self.depth_info or values.source != 'depth',
        }
        return [name for name, there in needed.items() if not there]

    def measured_of(
        self, frame: Frame, values: PlacingParameters, stamps: StampWatch
    ) -> Image | PointCloud2 | None:
        """Return the depth image or cloud of a frame, None if there is none.

        Where stamps stand still or are zero they cannot decide: what came more than
        `sync_tolerance_s` before the frame may be of any, and is not taken.
        """
        stamp_ns = stamp_to_ns(frame.msg.header.stamp)
        tolerance_s = values.sync_tolerance_s
        max_age_s = tolerance_s if stamps.undecided(stamp_ns) else None
        return self.measured.find(stamp_ns, tolerance_s, frame.received_s, max_age_s)

    def lack(
        self, frame: Frame, values: PlacingParameters, stamps: StampWatch, poses: Poses
    ) -> Lack | None:
        """Return what of its own time a frame has to wait for before it can be placed."""
        if self.missing(values):
            return None  # of no time: it may never come
        places = frame.msg
        if values.source != 'ground':
            measured = self.measured_of(frame, values, stamps)
            if measured is None:
                what = {'depth': 'depth/image', 'points': 'points'}[values.source]
                return Lack(
                    f"{what} within {values.sync_tolerance_s} s of the image's stamp; "
                    f'{stamps.warning or RAISE}',
                    values.sync_wait_s,
                )
            places = measured
        what = poses.lack(frame.msg.header, places.header.frame_id)
        return Lack(what, poses.wait_s) if what else None

    def points_of(
        self, measured: Image | PointCloud2, camera: Camera | None, size: tuple[int, int],
        image: tuple[int, int], header: Header, poses: Poses,
    ) -> NDArray[np.float32]:
        """Return (H, W, 3) points in the base frame, whose pixels are the image's, resized.

        Args:
            measured: a depth image or a cloud.
            camera: the image's; a depth image needs it.
            size: height and width that depth of another camera is registered to at most.
            image: height and width of the image.
            header: of the image.
            poses: of the cameras.

        Raises:
            ImageError: the message contradicts itself or the image.
            CalibrationError: a pose is unknown, or depth and its camera_info differ in size.
        """
        frame_id = measured.header.frame_id
        if isinstance(measured, PointCloud2):
            require_one_image((measured.height, measured.width), image)
            placed: NDArray[np.float32] = poses.base_from_camera(frame_id, header).apply(
                points_from_msg(measured)
            )
            return placed
        assert camera and self.depth_info
        elsewhere = frame_id != header.frame_id
        return points_of_depth(
            depth_from_msg(measured), Camera.from_info(self.depth_info, poses.values.rectified),
            camera, size, poses.base_from_camera(header.frame_id, header),
            poses.base_from_camera(frame_id, header) if elsewhere else None,
        )
