"""Check that images and clouds are in optical frames: z ahead, x to the right (REP 103).

Simulators name the frame of the camera's body instead, x ahead and z up, or put points of such a
frame into one that is called optical; and transforms to optical frames may lack their rotation.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import CalibrationError, quoted
from mnv2_perception.vision.camera import Floats
from mnv2_perception.vision.pose import Doubles, Pose

_UP = 0.8  # sine of the angle above the horizon: robots' cameras look ahead or down
_ALL = 0.99  # of the points; a few are noise
_MOST = 0.9
_STEP = 8  # rows and columns are sampled in this step

NOT_OPTICAL = (
    "z points up, as in the frame of a camera's body, but images belong to its optical frame (z "
    'ahead, x to the right, REP 103); set that frame in the driver or simulator (Gazebo: '
    'gz_frame_id), or correct its transform'
)


def looks_up(base_from_camera: Pose) -> bool:
    """Tell whether a camera would look up steeply if its frame were an optical one."""
    return bool(base_from_camera.rotation[2, 2] > _UP)


def lies_ahead(points: Floats, ahead: int, across: int) -> bool:
    """Tell whether points lie ahead along one axis of their frame, and on both sides of another.

    Args:
        points: (H, W, 3), NaN where nothing was measured.
        ahead: index of the axis that should point ahead.
        across: index of the other axis.
    """
    return _lie_ahead(points[::_STEP, ::_STEP], ahead, across)


def _lie_ahead(points: NDArray[Any], ahead: int, across: int) -> bool:
    points = points[np.isfinite(points).all(axis=-1)]
    if not len(points):
        return False
    shares = (points > 0).mean(axis=0)
    return bool(shares[ahead] >= _ALL and shares[across] < _MOST)


def require_optical(points: Floats, frame_id: str) -> None:
    """Raise CalibrationError if points lie along x of a frame that is called optical."""
    if 'optical' in frame_id and lies_ahead(points, 0, 2):
        raise CalibrationError(
            f"cloud: its points lie along x, as in the frame of a camera's body, but its frame_id "
            f'is {quoted(frame_id)}, whose z is ahead (REP 103), so all points would be placed '
            f'wrong; set the frame of the body in it (Gazebo: gz_frame_id), or use depth'
        )


def view_axis(points: NDArray[np.float32], base_from_camera: Pose) -> Doubles:
    """Return the direction in which a camera sees points: (3,), in the base frame.

    It is z of the camera's frame, or x if the points show that this is the frame of its body.

    Args:
        points: (H, W, 3) in the base frame.
        base_from_camera: pose of the frame of the camera's images.
    """
    axes = base_from_camera.rotation
    with np.errstate(invalid='ignore', over='ignore'):  # some points are not finite
        seen = (points[::_STEP, ::_STEP] - base_from_camera.translation) @ axes
    ahead: Doubles = axes[:, 0] if _lie_ahead(seen, 0, 2) else axes[:, 2]
    return ahead
