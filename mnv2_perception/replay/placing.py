"""Project masks onto the ground as costmap_node does: grid, obstacles, ground and scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.messages import cloud_cdr, grid_cdr, in_frame, scan_cdr, stamp_ns
from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.ground_view import GroundView
from mnv2_perception.vision.marks import Limits, marks_on_ground
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, IN_PLACE, Pose
from mnv2_perception.vision.roles import roles_of
from mnv2_perception.vision.transforms import TransformTree


@dataclass(frozen=True)
class Ground:
    """Parameters for projecting masks: costmap_node's, with the same names and defaults."""

    traversable_classes: tuple[str, ...] = ('floor', 'sidewalk')
    forbidden_classes: tuple[str, ...] = ('speed_bump', 'stairs')
    obstacle_classes: tuple[str, ...] = ()
    ignored_classes: tuple[str, ...] = ()
    base_frame: str = 'base_link'
    grid_frame: str = 'odom'
    rectified: bool = False
    max_range_m: float = 10.0
    max_footprint_m: float = 0.25
    obstacle_height_m: float = 0.25
    min_height_m: float = 0.05
    max_height_m: float = 2.0
    grid_size_m: float = 20.0
    grid_resolution_m: float = 0.1
    scan_angle_min_rad: float = -1.57
    scan_angle_max_rad: float = 1.57
    scan_angle_increment_rad: float = 0.01


@dataclass(frozen=True)
class Mount:
    """Position of a camera without transforms, and its field of view if there is no camera_info.

    Attributes:
        height_m: height above the ground.
        pitch_rad: pitch; positive looks down.
        horizontal_fov_rad: horizontal field of view of an ideal pinhole; 0: use camera_info.
    """

    height_m: float
    pitch_rad: float = 0.0
    horizontal_fov_rad: float = 0.0


class Placer:
    """Places the masks of one camera on the ground.

    Args:
        ground: parameters.
        class_names: names of the masks' class ids.
        mount: position of the camera; None takes it from the transforms.
        transforms: transforms of the recording; None if there are none.

    Raises:
        ParameterError: the masks have no traversable class, or a name is in two lists.
    """

    def __init__(
        self, ground: Ground, class_names: Sequence[str], mount: Mount | None,
        transforms: TransformTree | None,
    ) -> None:
        self._ground, self._mount, self._transforms = ground, mount, transforms
        self._limits = Limits(**{item.name: getattr(ground, item.name) for item in fields(Limits)})
        self._roles = roles_of(
            {name: class_id for class_id, name in enumerate(class_names)},
            ground.traversable_classes, ground.forbidden_classes, ground.obstacle_classes,
            ground.ignored_classes,
        )
        self._info: Any = None
        self._last: tuple[Camera, Pose, GroundView] | None = None

    def calibrate(self, info: Any) -> None:
        """Use a sensor_msgs/CameraInfo from now on; None for none."""
        self._info = info

    def place(self, ids: NDArray[np.uint8], header: Any, recorded_ns: int) -> Mapping[str, bytes]:
        """Return the messages that costmap_node would publish for a mask, by topic.

        Args:
            ids: (H, W) uint8 class ids.
            header: header of the mask.
            recorded_ns: recording time of its image; the newest transforms until then are used if
                the stamp is zero.

        Raises:
            CalibrationError: the camera's position or calibration is not known.
        """
        ground = self._ground
        camera = self._camera(*ids.shape)
        base_from_camera, grid_from_base = self._poses(header, recorded_ns)
        marks = marks_on_ground(
            self._view(camera, base_from_camera), ids, self._roles, grid_from_base, self._limits
        )
        in_base = in_frame(header, ground.base_frame)
        in_grid = in_base if grid_from_base is IN_PLACE else in_frame(header, ground.grid_frame)
        return {
            '/ground': cloud_cdr(marks.ground, in_base),
            '/obstacles': cloud_cdr(marks.obstacles, in_base),
            '/scan': scan_cdr(marks.scan, in_base),
            '/grid': grid_cdr(marks.grid, in_grid),
        }

    def _camera(self, height: int, width: int) -> Camera:
        if self._info is None:
            if self._mount is None or not self._mount.horizontal_fov_rad:
                raise CalibrationError(
                    'there is no camera_info beside the images; give --camera-fov'
                )
            return Camera.from_fov(height, width, self._mount.horizontal_fov_rad)
        camera = Camera.from_info(self._info, self._ground.rectified)
        camera.require_size(height, width)
        return camera

    def _poses(self, header: Any, recorded_ns: int) -> tuple[Pose, Pose]:
        """Return the camera's pose in the base frame, and the base's pose in the grid frame."""
        ground, tree, mount = self._ground, self._transforms, self._mount
        if mount is not None:
            body = Pose.from_rpy(0.0, 0.0, mount.height_m, 0.0, mount.pitch_rad, 0.0)
            return body @ BODY_FROM_OPTICAL, IN_PLACE
        if tree is None:
            raise CalibrationError("the camera's pose is unknown; give --camera-height")

        def look_up(target: str, source: str) -> Pose:
            time_ns = stamp_ns(header) or tree.newest_ns(target, source, recorded_ns)
            return tree.look_up(target, source, time_ns)

        grid_from_base = IN_PLACE
        if ground.grid_frame != ground.base_frame:
            grid_from_base = look_up(ground.grid_frame, ground.base_frame)
        return look_up(ground.base_frame, header.frame_id), grid_from_base

    def _view(self, camera: Camera, pose: Pose) -> GroundView:
        last = self._last
        # Equal, not just close: otherwise a frame's cells would depend on earlier frames, and thus
        # on where a run was resumed.
        if last and last[0] == camera and all(
            np.array_equal(*pair) for pair in (
                (last[1].rotation, pose.rotation), (last[1].translation, pose.translation),
            )
        ):
            return last[2]
        view = GroundView(camera, pose, self._ground.max_range_m, self._ground.max_footprint_m)
        self._last = camera, pose, view
        return view
