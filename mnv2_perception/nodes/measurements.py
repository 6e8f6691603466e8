"""Measurements: the calibrations and the depth images or clouds that place a camera's pixels."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

from mnv2_perception.errors import CalibrationError, quoted
from mnv2_perception.nodes.calibrations import Calibrations
from mnv2_perception.nodes.messages import depth_from_msg, points_from_msg, stamp_to_ns
from mnv2_perception.nodes.placing_parameters import PlacingParameters
from mnv2_perception.nodes.poses import APART_S, in_tf2, Poses
from mnv2_perception.nodes.sync import StampedQueue, StampWatch
from mnv2_perception.nodes.waiting import Lack
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.marks import points_of_depth, require_one_image
from mnv2_perception.vision.optical import lies_ahead, looks_up, NOT_OPTICAL, require_optical
from mnv2_perception.vision.pose import Pose
from mnv2_perception.vision.projection import pixel_offset

RAISE = 'raise sync_tolerance_s, sync_queue or sync_wait_s'
ONE_CLOCK = 'let both drivers use the same clock for their stamps (system time, or /clock)'
START = 'start what publishes it, or remap it'
MISALIGNED = 0.05  # as a fraction of the image's width
SILENT_S = 10.0  # after this, a larger tolerance of stamps does not help


class Measurements:
    """The latest calibrations, and depth images or clouds.

    Args:
        sync_queue: number of depth images or clouds to keep.
        rectified: whether images are rectified.
        tell: called with a sentence if a camera_info is unusable, or a cloud does not fit.

    Attributes:
        camera_info: calibrations of the camera of the masks or boxes.
        depth_info: calibrations of the depth camera.
        measured: depth images or clouds.
        not_optical: what is wrong with the frame of the last placed ones, empty if nothing is.
        misaligned: what is wrong with the pixels of the last cloud, empty if nothing is.
    """

    def __init__(
        self, sync_queue: int, rectified: bool = False,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.camera_info = Calibrations('camera_info', rectified, tell)
        self.depth_info = Calibrations('depth/camera_info', rectified, tell)
        self.measured: StampedQueue[Image | PointCloud2] = StampedQueue(sync_queue)
        self.not_optical = self.misaligned = ''
        self._tell = tell

    def forget(self, after_ns: int) -> None:
        """Forget messages from before a jump back in time, see `StampedQueue.forget`."""
        self.measured.forget(after_ns)
        self.camera_info.forget(after_ns)
        self.depth_info.forget(after_ns)

    def refused(self, values: PlacingParameters) -> str:
        """Return what is wrong with the last camera_info, empty if nothing is."""
        return '; '.join(filter(None, [self.camera_info.refusal, self.depth_info.refusal]))

    def missing(self, values: PlacingParameters) -> list[str]:
        """Return the topics that are needed to place anything, but from which nothing has come."""
        needed = {
            'camera_info': self.camera_info,
            'depth/camera_info': self.depth_info or values.source != 'depth',
        }
        return [name for name, there in needed.items() if not there]

    def measured_of(
        self, frame: Frame, values: PlacingParameters, stamps: StampWatch
    ) -> Image | PointCloud2 | None:
        """Return the depth image or cloud of a frame, None if there is none.

        If stamps cannot decide, the time of arrival does, see `max_age_s`.
        """
        stamp_ns, age_s = stamp_to_ns(frame.msg.header.stamp), max_age_s(frame, values, stamps)
        return self.measured.find(stamp_ns, values.sync_tolerance_s, frame.received_s, age_s)

    def lack(
        self, frame: Frame, values: PlacingParameters, stamps: StampWatch, poses: Poses
    ) -> Lack | None:
        """Return what a frame still has to wait for before it can be placed, None if nothing."""
        if self.missing(values):
            return None  # not to be waited for: it may never come
        places = frame.msg
        if values.source != 'ground':
            measured = self.measured_of(frame, values, stamps)
            if measured is None:
                topic = {'depth': 'depth/image', 'points': 'points'}[values.source]
                silent_s = self.measured.silent_s()
                apart_s = self.measured.apart_s(stamp_to_ns(frame.msg.header.stamp))
                # What has just stopped is as far away as it is silent.
                other_clock = apart_s > APART_S + silent_s
                cure = stamps.warning or (ONE_CLOCK if other_clock else RAISE)
                what = (
                    f" within {values.sync_tolerance_s} s of the image's stamp (the nearest is "
                    f'{apart_s:.3f} s away); {cure}'
                )
                if silent_s > SILENT_S:
                    what = f', on which nothing arrives: {START}'
                return Lack(what, values.sync_wait_s, topic)
            places = measured
        if what := poses.lack(frame.msg.header, places.header.frame_id):
            return Lack(what, poses.wait_s)
        for infos, image in ((self.camera_info, frame.msg), (self.depth_info, places)):
            if infos.awaits(stamp_to_ns(image.header.stamp), frame.received_s):
                what = f"{infos.name} with the image's own stamp, as earlier images had"
                return Lack(
                    f'{what}; meanwhile the last one is used; raise sync_wait_s',
                    values.sync_wait_s,
                )
        return None

    def points_of(
        self, measured: Image | PointCloud2, camera: Camera | None, size: tuple[int, int],
        image: tuple[int, int], frame: Frame, poses: Poses,
    ) -> NDArray[np.float32]:
        """Return (H, W, 3) points, m, in the base frame, for the pixels of the resized image.

        Args:
            measured: a depth image or a cloud.
            camera: camera of the image; a depth image requires it.
            size: largest height and width to which depth of another camera is registered.
            image: height and width of the image.
            frame: frame of the image.
            poses: poses of the cameras.

        Raises:
            ImageError: the message contradicts itself or the image.
            CalibrationError: a pose is unknown, or depth and its camera_info do not fit.
        """
        if isinstance(measured, PointCloud2):
            return self._points_of_cloud(measured, camera, image, frame.msg.header, poses)
        assert camera
        return self._points_of_depth(measured, camera, size, image, frame, poses)

    def _points_of_cloud(
        self, cloud: PointCloud2, camera: Camera | None, image: tuple[int, int], header: Header,
        poses: Poses,
    ) -> NDArray[np.float32]:
        """Return the points of a cloud; see `points_of`."""
        require_one_image((cloud.height, cloud.width), image)
        frame_id = cloud.header.frame_id
        points, pose = points_from_msg(cloud), poses.base_from_camera(frame_id, header)
        require_optical(points, frame_id)
        of_camera = in_tf2(frame_id) == in_tf2(header.frame_id)
        self.not_optical = ''
        if of_camera and _can_judge(poses, header, frame_id) and lies_ahead(points, 2, 0):
            self.not_optical = _not_optical(frame_id, pose)
        misaligned = ''
        if camera and not of_camera:
            with suppress(CalibrationError):  # the image's own pose is not needed here
                image_pose = poses.base_from_camera(header.frame_id, header)
                if not looks_up(image_pose):  # an optical frame
                    misaligned = _misaligned(
                        points, camera, image_pose.inverse() @ pose, frame_id
                    )
        if misaligned and not self.misaligned:
            self._tell(misaligned)
        self.misaligned = misaligned
        placed: NDArray[np.float32] = pose.apply(points)
        return placed

    def _points_of_depth(
        self, depth: Image, camera: Camera, size: tuple[int, int], image: tuple[int, int],
        frame: Frame, poses: Poses,
    ) -> NDArray[np.float32]:
        """Return the points of a depth image; see `points_of`."""
        header, frame_id = frame.msg.header, depth.header.frame_id
        found = self.depth_info.of(stamp_to_ns(depth.header.stamp), frame.received_s)
        assert found
        depth_camera, depth_info = found
        elsewhere = in_tf2(frame_id) != in_tf2(header.frame_id)
        # Aligned depth has the image's size. If the matrices are the same, a simulator only uses
        # different names.
        if (
            in_tf2(frame_id) and not elsewhere and (depth.height, depth.width) == image
            and in_tf2(depth_info.header.frame_id) not in ('', in_tf2(frame_id))
            and not depth_camera.same_matrix(camera)
        ):
            raise CalibrationError(
                f'depth is in {quoted(frame_id)}, like the image, but depth/camera_info is in '
                f'{quoted(in_tf2(depth_info.header.frame_id))} and has another matrix: is it that '
                f'of the unaligned depth? Remap depth/camera_info to the one beside the aligned '
                f'depth'
            )
        pose = poses.base_from_camera(header.frame_id, header)
        depth_pose = poses.base_from_camera(frame_id, header) if elsewhere else None
        self.not_optical = ''
        if _can_judge(poses, header, frame_id):
            self.not_optical = _not_optical(header.frame_id, pose) or (
                _not_optical(frame_id, depth_pose) if depth_pose else ''
            )
        return points_of_depth(
            depth_from_msg(depth), depth_camera, camera, size, pose, depth_pose
        )


def _can_judge(poses: Poses, header: Header, frame_id: str) -> bool:
    """Tell whether a pose shows if a frame is optical.

    Poses from parameters are of an optical frame anyway; and if the base frame is a camera's own
    frame, each optical one looks along its z axis.
    """
    base = poses.values.base_frame
    own = 'optical' in base or base in (in_tf2(header.frame_id), in_tf2(frame_id))
    return poses.source == 'tf' and not own


def _misaligned(
    points: NDArray[np.float32], camera: Camera, camera_from_points: Pose, frame_id: str
) -> str:
    """Return what is wrong with the pixels of a cloud, empty if they are the camera's."""
    share = pixel_offset(points, camera, camera_from_points)
    return '' if share < MISALIGNED else (
        f'the pixels of the cloud in {quoted(frame_id)} do not match those of the image: by '
        f'camera_info and tf, half of them are {share * camera.width:.0f} px off or more; '
        f'remap points to a cloud that is registered to this image, or use depth (source: '
        f'depth)'
    )


def _not_optical(frame_id: str, pose: Pose) -> str:
    """Return what is wrong with a frame whose z should point ahead, empty if nothing is."""
    return f'in the frame {quoted(frame_id)} {NOT_OPTICAL}' if looks_up(pose) else ''


def max_age_s(frame: Frame, values: PlacingParameters, stamps: StampWatch) -> float | None:
    """Return how long before a frame its data may have arrived, in seconds; None: any time.

    If stamps stand still or are zero, they cannot decide: data that came more than
    `sync_tolerance_s` before the frame may belong to any other, and is not used.
    """
    undecided = stamps.undecided(stamp_to_ns(frame.msg.header.stamp))
    return values.sync_tolerance_s if undecided else None
