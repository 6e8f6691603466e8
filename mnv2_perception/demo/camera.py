"""Where the camera of the replayed bag is taken to be."""

from dataclasses import dataclass

from mnv2_perception.bags.camera import CameraTopics
from mnv2_perception.scenes.bag import Scene, SEED

# Of the shipped models, and of others that name theirs alike. Without any of the first there is
# no grid.
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
    camera: CameraTopics, assumed: AssumedCamera, drawn: Scene | None
) -> tuple[dict[str, object], str]:
    """Return costmap_node's parameters for a camera, and in words what they rest on.

    Args:
        camera: its topics.
        assumed: of a bag that does not tell.
        drawn: what the bag was drawn of, and so known; None for another bag.
    """
    values: dict[str, object] = {
        **ROLES, 'pose_source': 'parameters', 'max_range_m': 20.0, 'grid_size_m': 40.0,
        'grid_resolution_m': 0.2,
    }
    if drawn is not None:
        height_m, pitch_rad = drawn.camera_height_m(SEED), drawn.camera_pitch_rad(SEED)
        values |= {
            'camera_z_m': height_m, 'camera_pitch_rad': pitch_rad, 'max_footprint_m': 0.7,
        }
        if height_m < 1.0:  # it sees less far
            values |= {'max_range_m': 8.0, 'grid_size_m': 16.0, 'grid_resolution_m': 0.1}
        pose = f'{height_m:.2f} m above flat ground, pitch {pitch_rad:.2f} rad'
        return values, f'known: camera_info, {pose}'
    values |= {
        'camera_z_m': assumed.height_m, 'camera_pitch_rad': assumed.pitch_rad,
        'max_footprint_m': 0.5, 'rectified': 'image_rect' in camera.image,
    }
    pose = f'{assumed.height_m:.2f} m above flat ground, pitch {assumed.pitch_rad:.2f} rad'
    if camera.info:
        return values, f'camera_info; assumed: {pose}'
    values['horizontal_fov_rad'] = assumed.horizontal_fov_rad
    return values, f'assumed: {pose}, {assumed.horizontal_fov_rad:.2f} rad wide'
