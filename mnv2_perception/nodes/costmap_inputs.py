"""CostmapInputs: what costmap_node has heard, and places masks with."""

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from vision_msgs.msg import LabelInfo

from mnv2_perception.model_spec import UNLABELLED
from mnv2_perception.nodes.messages import depth_from_msg, pinhole_to_msg, points_from_msg
from mnv2_perception.nodes.parameters import CostmapParameters
from mnv2_perception.nodes.poses import Poses
from mnv2_perception.nodes.sync import StampedQueue
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.marks import points_of_depth, require_one_image

LONGEST_NAME = 1000  # of a class


class CostmapInputs:
    """The last names and calibrations, and the latest confidences, depth images or clouds.

    Args:
        sync_queue: how many of the latter are kept.

    Attributes:
        label_info: names of the mask's classes.
        camera_info: calibration of the mask's camera.
        depth_info: calibration of the depth camera.
        confidences: of masks.
        measured: depth images or clouds.
    """

    def __init__(self, sync_queue: int) -> None:
        self.label_info: LabelInfo | None = None
        self.camera_info: CameraInfo | None = None
        self.depth_info: CameraInfo | None = None
        self.confidences: StampedQueue[Image] = StampedQueue(sync_queue)
        self.measured: StampedQueue[Image | PointCloud2] = StampedQueue(sync_queue)

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

    def calibration(self, values: CostmapParameters) -> str:
        """Return where the calibration of the mask's camera comes from, empty if there is none."""
        if self.camera_info:
            return 'camera_info'
        return 'horizontal_fov_rad' if values.horizontal_fov_rad else ''

    def camera_of(
        self, mask: Image, values: CostmapParameters
    ) -> tuple[Camera | None, CameraInfo | None]:
        """Return the mask's camera and its camera_info; None where nothing calibrates it.

        Raises:
            CalibrationError: it does not fit the mask, or is none.
        """
        info = self.camera_info
        if info is None and values.horizontal_fov_rad:
            fov_rad = values.horizontal_fov_rad
            info = pinhole_to_msg(Camera.from_fov(mask.height, mask.width, fov_rad))
        if info is None:
            return None, None
        camera = Camera.from_info(info, values.rectified)
        camera.require_size(mask.height, mask.width)
        return camera, info

    def points_of(
        self, measured: Image | PointCloud2, camera: Camera | None, size: tuple[int, int],
        mask: Image, poses: Poses,
    ) -> NDArray[np.float32]:
        """Return (H, W, 3) points in the base frame, whose pixels are the mask's, resized.

        Args:
            measured: a depth image or a cloud.
            camera: the mask's; a depth image needs it.
            size: height and width that depth of another camera is registered to at most.
            mask: it belongs to.
            poses: of the cameras.

        Raises:
            ImageError: the message contradicts itself or the mask.
            CalibrationError: a pose is unknown, or depth and its camera_info differ in size.
        """
        header, frame_id = mask.header, measured.header.frame_id
        if isinstance(measured, PointCloud2):
            require_one_image((measured.height, measured.width), (mask.height, mask.width))
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
