"""Poses: where the cameras and the grid are, from tf2 or from parameters."""

from typing import Any

from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from mnv2_perception.errors import CalibrationError, ParameterError, quoted
from mnv2_perception.nodes.messages import stamp_to_ns
from mnv2_perception.nodes.placing_parameters import PlacingParameters
from mnv2_perception.nodes.sync import Present
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, IN_PLACE, Pose

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

WAIT_S = 0.5  # how long a frame waits at least; newer frames are not held up by it
APART_S = 5.0  # a larger difference means different clocks, or a jump of time
NO_TF2 = (
    "pose_source is 'auto', but tf2_ros is not installed, so the camera's pose is taken from "
    'the parameters camera_*; install tf2_ros (its Python module is in tf2_ros_py), or set '
    'pose_source: parameters'
)


def in_tf2(frame_id: str) -> str:
    """Return a frame's name without the leading slash of ROS 1.

    tf2 strips it from transforms, but refuses look-ups of a frame with it.
    """
    return frame_id.lstrip('/')


def _time_of(header: Header) -> Time:
    try:
        return Time.from_msg(header.stamp)
    except ValueError as exc:
        raise CalibrationError(
            f"the image's stamp is {header.stamp.sec} s, expected 0 or more: tf has no transforms "
            f"for that time; correct the camera's driver or its clock"
        ) from exc


class Poses:
    """The poses that a node needs to place pixels in 3D.

    Args:
        node: node whose subscriptions listen to tf2.
        values: parameters of the node.
        present: what tells current messages from those of before a jump back in time.
        grid_frame: frame of the grid; empty: that of the base.

    Attributes:
        values: present parameters of the node; some may be set while it is active.
        source: `tf` or `parameters`.
        warning: what to warn about the choice of source, empty if it is the requested one.

    Raises:
        ParameterError: tf2 is requested but not installed.
    """

    def __init__(
        self, node: Node, values: PlacingParameters, present: Present, grid_frame: str = ''
    ) -> None:
        if values.pose_source == 'tf' and tf2_ros is None:
            raise ParameterError(
                "pose_source is 'tf', but tf2_ros is not installed; install it, or give the "
                "camera's pose as parameters (pose_source: parameters)"
            )
        self.values = values
        self._present = present
        self._grid_frame = grid_frame or values.base_frame
        self._buffer: tf2_ros.Buffer | None = None
        self._listener: tf2_ros.TransformListener | None = None
        self.source = 'parameters'
        self.warning = NO_TF2 if values.pose_source == 'auto' and tf2_ros is None else ''
        if self.warning:
            node.get_logger().warning(self.warning)
        if values.pose_source != 'parameters' and tf2_ros is not None:
            self.source = 'tf'
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self, node)

    def set_transform(self, msg: Any, authority: str) -> None:
        """Store a transform from the listener, unless it is a late one from before a jump back.

        With such a transform in the buffer, it would refuse all that follow.
        """
        if self._buffer and self._present.takes(stamp_to_ns(msg.header.stamp)):
            self._buffer.set_transform(msg, authority)

    def set_transform_static(self, msg: Any, authority: str) -> None:
        """Store a static transform from the listener."""
        if self._buffer:
            self._buffer.set_transform_static(msg, authority)

    def forget(self) -> None:
        """Forget all transforms but the static ones, because time has jumped back.

        A buffer refuses whatever is 10 s older than its newest transform: it would take nothing.
        """
        if self._buffer is not None:
            self._buffer.clear()

    def lack(self, header: Header, frame_id: str) -> str:
        """Return which transform is missing to place an image's pixels.

        Args:
            header: header of the image.
            frame_id: frame of the camera or the depth camera.

        Returns:
            The transform, why it is missing, and the cure; empty if all are available.
        """
        base, grid = self.values.base_frame, self._grid_frame
        pairs = [(grid, base)] if grid != base else []
        names = dict.fromkeys([in_tf2(header.frame_id), in_tf2(frame_id)])
        pairs += [(base, name) for name in names]
        if self._buffer is None:
            return ''
        stamp = _time_of(header)
        for target, source in pairs:
            if not self._buffer.can_transform(target, source, stamp):
                return self._explain(target, source, stamp)
        return ''

    def close(self) -> None:
        """Stop listening to tf2."""
        if self._listener is not None:
            self._listener.unregister()

    def base_from_camera(self, frame_id: str, header: Header) -> Pose:
        """Return the pose of a camera's optical frame in the base frame, at the image's stamp.

        Args:
            frame_id: frame of the camera.
            header: header of the image.

        Raises:
            CalibrationError: the pose is unknown.
        """
        values = self.values
        if self._buffer is not None:
            return self._look_up(values.base_frame, in_tf2(frame_id), header)
        if in_tf2(frame_id) != in_tf2(header.frame_id):
            raise CalibrationError(
                f'{quoted(frame_id)} is not the frame of the image ({quoted(header.frame_id)}), '
                f'and without tf2 its pose is unknown; install tf2_ros and set pose_source: tf, '
                f"or register depth to the image in the camera's driver"
            )
        body = Pose.from_rpy(
            values.camera_x_m, values.camera_y_m, values.camera_z_m,
            values.camera_roll_rad, values.camera_pitch_rad, values.camera_yaw_rad,
        )
        return body @ BODY_FROM_OPTICAL

    def grid_from_base(self, header: Header) -> Pose:
        """Return the pose of the base in the grid's frame; IN_PLACE if both frames are the same.

        Without tf2 they count as the same.

        Raises:
            CalibrationError: tf2 does not know it at the image's stamp.
        """
        values = self.values
        if self._buffer is None or self._grid_frame == values.base_frame:
            return IN_PLACE
        return self._look_up(self._grid_frame, values.base_frame, header)

    def _look_up(self, target: str, source: str, header: Header) -> Pose:
        """Look up target_from_source in tf2 at the image's stamp."""
        assert self._buffer is not None
        stamp = _time_of(header)
        try:
            found = self._buffer.lookup_transform(target, source, stamp)
        except Exception as exc:  # tf2's exceptions have no common base
            why = self._explain(target, source, stamp)
            raise CalibrationError(f'no {why} ({quoted(exc, 300)})') from exc
        place, turn = found.transform.translation, found.transform.rotation
        return Pose.from_quaternion(
            (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w)
        )

    def _explain(self, target: str, source: str, stamp: Time) -> str:
        """Return the name of a missing transform, how late the tree is, and the cure."""
        assert self._buffer is not None
        name = f'transform from {quoted(source)} to {quoted(target)}'
        if not source:
            return (
                f'{name}: the frame_id of the images, of depth or of the cloud is empty; set it '
                f'in the driver (most have a parameter frame_id), or set pose_source: parameters'
            )
        try:
            newest = self._buffer.get_latest_common_time(target, source)
        except Exception:  # tf2's exceptions have no common base
            return (
                f'{name}: tf does not have it; publish it (robot_state_publisher, odometry), or '
                f'set pose_source: parameters'
            )
        late_s = (stamp.nanoseconds - newest.nanoseconds) * 1e-9
        if abs(late_s) > APART_S:
            if late_s < 0:
                self.forget()
            return (
                f"{name} at the image's stamp: the newest one is {abs(late_s):.1f} s "
                f'{"older" if late_s > 0 else "newer"}; use one clock for camera and odometry '
                f'(use_sim_time, time synchronisation)'
            )
        if late_s <= 0:
            return (
                f"{name} at the image's stamp: the oldest one is newer; the image came too "
                f'late, or tf has only just started'
            )
        return (
            f"{name} at the image's stamp: the newest one is {late_s:.2f} s older; raise "
            f'sync_wait_s above that ({self.wait_s} s now), or publish it earlier'
        )

    @property
    def wait_s(self) -> float:
        """Seconds a frame waits for transforms: 10 Hz odometry is 0.1 s late, filters more."""
        return max(self.values.sync_wait_s, WAIT_S)
