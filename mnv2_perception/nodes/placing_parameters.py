"""Parameters of the nodes that place pixels in 3D: shared ones, and those of detection3d_node."""

from dataclasses import dataclass

from mnv2_perception.errors import ParameterError
from mnv2_perception.nodes.declare import parameter


def require_order(low: float, low_name: str, high: float, high_name: str) -> None:
    """Raise ParameterError unless `low` is below `high`."""
    if not low < high:
        raise ParameterError(
            f'{low_name} is {low:g} and {high_name} is {high:g}, expected the first below the '
            f'second'
        )


def require_rates(min_rate_hz: float, max_rate_hz: float) -> None:
    """Raise ParameterError unless the minimum is below the maximum, if both are set."""
    if min_rate_hz and max_rate_hz:
        require_order(min_rate_hz, 'min_rate_hz', max_rate_hz, 'max_rate_hz')


@dataclass(frozen=True)
class PlacingParameters:
    """The parameters shared by the nodes that place pixels; each defines `source` itself."""

    source: str = parameter('', '')
    base_frame: str = parameter(
        'base_link', 'Frame of the results: z points up, the origin lies on the ground.'
    )
    pose_source: str = parameter(
        'auto', "Source of the camera's pose; auto: tf if tf2_ros is installed, otherwise "
        'parameters.',
        choices=('auto', 'tf', 'parameters'),
    )
    camera_x_m: float = parameter(0.0, 'x of the camera in base_frame.', -100.0, 100.0)
    camera_y_m: float = parameter(0.0, 'y of the camera in base_frame.', -100.0, 100.0)
    camera_z_m: float = parameter(1.0, 'Height of the camera above the ground.', -100.0, 100.0)
    camera_roll_rad: float = parameter(
        0.0, 'Roll of the camera, about its viewing direction.', -3.1416, 3.1416
    )
    camera_pitch_rad: float = parameter(
        0.0, 'Pitch of the camera; positive: looks down.', -3.1416, 3.1416
    )
    camera_yaw_rad: float = parameter(
        0.0, 'Yaw of the camera; positive: looks left.', -3.1416, 3.1416
    )
    rectified: bool = parameter(
        False, "The image is rectified (image_rect): use camera_info's P, not K and D."
    )
    sync_tolerance_s: float = parameter(
        0.02, 'Largest difference between the stamps of the image and of depth or cloud.',
        0.0, 10.0, live=True,
    )
    sync_queue: int = parameter(
        10, 'Number of depth images, clouds and other inputs kept for pairing by stamp.', 1, 1000
    )
    sync_wait_s: float = parameter(
        0.05, 'How long an image waits for depth or cloud and for its own camera_info; for '
        'transforms at least 0.5 s.',
        0.0, 10.0, live=True,
    )
    max_rate_hz: float = parameter(
        0.0, 'Process at most this many images per second; 0: no limit.', 0.0, 1000.0, live=True
    )
    min_rate_hz: float = parameter(
        0.0, 'Warn in /diagnostics if there are fewer results per second; 0: never.',
        0.0, 1000.0, live=True,
    )
    autostart: bool = parameter(True, 'Configure and activate without a lifecycle manager.')

    def check(self) -> None:
        """Raise ParameterError if values contradict each other."""
        require_rates(self.min_rate_hz, self.max_rate_hz)
        if self.pose_source != 'tf' and self.camera_z_m <= 0.0:
            raise ParameterError(
                f'camera_z_m is {self.camera_z_m}, expected more than 0: the camera is above the '
                f'ground, on which base_frame has its origin; or set pose_source: tf'
            )
        require_frame('base_frame', self.base_frame)


def require_frame(name: str, value: str) -> None:
    """Raise ParameterError unless a parameter's value is a valid frame name of tf2."""
    if not value.strip('/ '):
        raise ParameterError(f'{name} is empty, expected the name of a frame')
    if value.startswith('/'):
        raise ParameterError(
            f'{name} is {value!r}, but frames of tf2 have no slash before their names; set '
            f'{value.lstrip("/")}'
        )


@dataclass(frozen=True)
class Detection3DParameters(PlacingParameters):
    """Parameters of detection3d_node."""

    source: str = parameter(
        'depth', 'What boxes are measured with: depth with its camera_info, or a cloud.',
        choices=('depth', 'points'),
    )
    min_height_m: float = parameter(
        0.05, 'Lower measured points are left out, to exclude the ground in a box.',
        -10.0, 10.0, live=True,
    )
    min_points: int = parameter(
        10, 'Number of measured points that a box needs in its middle; with fewer it is left '
        'out.',
        1, 100, live=True,
    )
