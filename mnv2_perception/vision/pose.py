"""Rigid transforms between frames.

Frames are those of ROS (REP 103): a camera's optical frame has x to the right, y down and z ahead;
a body frame has x ahead, y to the left and z up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import CalibrationError

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pose:
    """A rigid transform; one named `a_from_b` takes points of frame b to frame a.

    Attributes:
        rotation: (3, 3) float64.
        translation: (3,) float64, metres.
    """

    rotation: Doubles
    translation: Doubles

    @classmethod
    def from_rpy(
        cls, x: float, y: float, z: float, roll: float, pitch: float, yaw: float
    ) -> 'Pose':
        """Make a pose from metres and radians, as URDF and static_transform_publisher do.

        It is rotated about the fixed axes x (roll), y (pitch), z (yaw), in this order. For a
        camera's body, a positive pitch looks down.
        """
        cr, sr, cp, sp, cy, sy = (
            function(angle) for angle in (roll, pitch, yaw) for function in (math.cos, math.sin)
        )
        rotation = np.array([
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ])
        return cls(rotation, np.array([x, y, z], np.float64))

    @classmethod
    def from_quaternion(
        cls, translation: Sequence[float], quaternion: Sequence[float]
    ) -> 'Pose':
        """Make a pose from a translation, metres, and a quaternion (x, y, z, w).

        Raises:
            CalibrationError: the quaternion has length 0.
        """
        length = math.sqrt(sum(value * value for value in quaternion))
        if not length > 1e-6:
            raise CalibrationError(
                f'transform: quaternion {tuple(quaternion)}, expected one of length 1; correct '
                f'whoever publishes this transform'
            )
        x, y, z, w = (value / length for value in quaternion)
        rotation = np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ])
        return cls(rotation, np.array(translation, np.float64))

    @property
    def yaw(self) -> float:
        """Heading of the x axis, radians."""
        return math.atan2(self.rotation[1, 0], self.rotation[0, 0])

    def inverse(self) -> 'Pose':
        """Return `b_from_a` of `a_from_b`."""
        return Pose(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: 'Pose') -> 'Pose':
        """Return `a_from_c` of `a_from_b @ b_from_c`."""
        return Pose(self.rotation @ other.rotation, self.apply(other.translation))

    def apply(self, points: NDArray[Any]) -> NDArray[Any]:
        """Transform (..., 3) points; float32 stays float32."""
        if points.dtype == np.float32 and points.size:
            both = np.column_stack([self.rotation, self.translation])
            moved: NDArray[Any] = cv2.transform(points.reshape(-1, 1, 3), both)
            return moved.reshape(points.shape)  # ten times as fast as numpy
        placed: NDArray[Any] = points @ self.rotation.T + self.translation
        return placed.astype(points.dtype if points.dtype == np.float32 else np.float64)

    def is_close(self, other: 'Pose') -> bool:
        """Tell whether two poses differ by less than 0.1 mm and 0.1 mrad."""
        return bool(
            np.allclose(self.rotation, other.rotation, rtol=0, atol=1e-4)
            and np.allclose(self.translation, other.translation, rtol=0, atol=1e-4)
        )


# The axes of the optical frame in the body's: x right, y down, z ahead.
BODY_FROM_OPTICAL = Pose(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.zeros(3))
IN_PLACE = Pose(np.eye(3), np.zeros(3))
