"""Poses: where the camera and the grid are, from tf2 or from parameters."""

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from mnv2_perception.errors import CalibrationError, ParameterError
from mnv2_perception.nodes.parameters import CostmapParameters
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

IN_PLACE = Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
NO_TF2 = (
    "pose_source is 'auto', but tf2_ros is not installed: the camera's pose is that of the "
    'parameters camera_*; install tf2_ros (its Python module is in tf2_ros_py), or set '
    'pose_source: parameters'
)


class Poses:
    """The poses that costmap_node asks for.

    Args:
        node: whose subscriptions listen to tf2.
        values: the node's parameters.

    Attributes:
        values: the node's parameters; those of now, for some may be set while it is active.
        source: `tf` or `parameters`.
        warning: what to tell of the choice, empty where it is the one that was asked for.

    Raises:
        ParameterError: tf2 is asked for and not installed.
    """

    def __init__(self, node: Node, values: CostmapParameters) -> None:
        if values.pose_source == 'tf' and tf2_ros is None:
            raise ParameterError(
                "pose_source is 'tf', but tf2_ros is not installed; install it, or give the "
                "camera's pose as parameters (pose_source: parameters)"
            )
        self.values = values
        self._buffer: tf2_ros.Buffer | None = None
        self._listener: tf2_ros.TransformListener | None = None
        self.source = 'parameters'
        self.warning = NO_TF2 if values.pose_source == 'auto' and tf2_ros is None else ''
        if values.pose_source != 'parameters' and tf2_ros is not None:
            self.source = 'tf'
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, node)

    def close(self) -> None:
        """End listening."""
        if self._listener is not None:
            self._listener.unregister()

    def base_from_camera(self, frame_id: str, header: Header) -> Pose:
        """Return the pose of a camera's optical frame at the mask's stamp.

        Args:
            frame_id: of the camera.
            header: of the mask.

        Raises:
            CalibrationError: nobody knows it.
        """
        values = self.values
        if self._buffer is not None:
            return self._look_up(values.base_frame, frame_id, header)
        if frame_id != header.frame_id:
            raise CalibrationError(
                f'{frame_id!r} is not the frame of the mask ({header.frame_id!r}), and without '
                f'tf2 nobody knows where it is; install tf2_ros and set pose_source: tf, or '
                f"register depth in the camera's driver"
            )
        body = Pose.from_rpy(
            values.camera_x_m, values.camera_y_m, values.camera_z_m,
            values.camera_roll_rad, values.camera_pitch_rad, values.camera_yaw_rad,
        )
        return body @ BODY_FROM_OPTICAL

    def grid_from_base(self, header: Header) -> Pose:
        """Return where the base is in the grid's frame; IN_PLACE where that is the base's own.

        Raises:
            CalibrationError: tf2 does not know it at the mask's stamp.
        """
        values = self.values
        if self._buffer is None or values.grid_frame == values.base_frame:
            return IN_PLACE
        return self._look_up(values.grid_frame, values.base_frame, header)

    def _look_up(self, target: str, source: str, header: Header) -> Pose:
        """Look target_from_source up in tf2 at the image's stamp."""
        assert self._buffer is not None
        try:
            found = self._buffer.lookup_transform(
                target, source, Time.from_msg(header.stamp),
                Duration(seconds=self.values.sync_wait_s),
            )
        except Exception as exc:  # tf2's exceptions have no common base
            raise CalibrationError(
                f"no transform from {source!r} to {target!r} at the image's stamp ({exc}); "
                f'publish it (robot_state_publisher, odometry), or set pose_source: parameters'
            ) from exc
        place, turn = found.transform.translation, found.transform.rotation
        return Pose.from_quaternion(
            (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w)
        )
