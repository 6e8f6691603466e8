"""Where the camera of the replayed bag is taken to be."""

from dataclasses import dataclass

from mnv2_perception.bags.camera import CameraTopics
from mnv2_perception.scenes.bag import SEED
from mnv2_perception.scenes.street import camera_height_m

# Classes of the shipped models, and of others that name theirs alike. Without any of the first
# there is no grid.
ROLES = {
    'traversable_classes': ['floor', 'sidewalk', 'road'],
    'forbidden_classes': ['speed_bump', 'stairs', 'pavement'],
    'ignored_classes': ['sky'],
}
GROUNDS = ROLES['traversable_classes']


@dataclass(frozen=True)
class AssumedCamera:
    """What a bag does not tell of its camera.

    Attributes:
        height_m: above flat ground.
        pitch_rad: positive looks down.
        horizontal_fov_rad: field of view, where the bag has no camera_info.
    """

    height_m: float
    pitch_rad: float
    horizontal_fov_rad: float


def place_camera(
    camera: CameraTopics, assumed: AssumedCamera | None
) -> tuple[dict[str, object], str]:
    """Return costmap_node's parameters for a camera, and in words what they rest on.

    Args:
        camera: its topics.
        assumed: None for that of the drawn street.
    """
    values: dict[str, object] = {
        **ROLES, 'pose_source': 'parameters', 'max_range_m': 20.0, 'grid_size_m': 40.0,
        'grid_resolution_m': 0.2,
    }
    if assumed is None:
        height_m = camera_height_m(SEED)
        values |= {'camera_z_m': height_m, 'max_footprint_m': 0.7}
        return values, f'known: camera_info, {height_m:.2f} m above flat ground, level'
    values |= {
        'camera_z_m': assumed.height_m, 'camera_pitch_rad': assumed.pitch_rad,
        'max_footprint_m': 0.5, 'rectified': 'image_rect' in camera.image,
    }
    pose = f'{assumed.height_m:.2f} m above flat ground, pitch {assumed.pitch_rad:.2f} rad'
    if camera.info:
        return values, f'camera_info; assumed: {pose}'
    values['horizontal_fov_rad'] = assumed.horizontal_fov_rad
    return values, f'assumed: {pose}, {assumed.horizontal_fov_rad:.2f} rad wide'
