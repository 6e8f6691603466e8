"""Where the camera of the replayed bag is taken to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnv2_perception.bags.camera import CameraTopics
from mnv2_perception.errors import quoted
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.scenes.bag import SEED
from mnv2_perception.scenes.street import camera_height_m
from mnv2_perception.vision.roles import misspelt_classes, roles_of

GRID_SIZE_M = 40.0

# Classes of the shipped models, and of others that name theirs alike. Without any of the first
# there is no grid.
ROLES: Mapping[str, Sequence[str]] = {
    'traversable_classes': ('floor', 'sidewalk', 'road'),
    'forbidden_classes': ('speed_bump', 'stairs', 'pavement'),
    'obstacle_classes': (),
    'ignored_classes': ('sky',),
}


def choose_roles(
    spec: ModelSpec, given: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[str]], str]:
    """Return costmap_node's lists of classes, and what is to be said of them.

    Args:
        spec: of the segmentation model.
        given: lists in place of ROLES'; a class that is in one of them is in no other of ROLES.

    Returns:
        The lists, of the model's classes alone; none where no class is ground, which is said.

    Raises:
        ParameterError: a class was given for two roles.
    """
    named = [name for names in given.values() for name in names]
    wanted = {
        role: list(given.get(role) or [name for name in names if name not in named])
        for role, names in ROLES.items()
    }
    lists = {role: [name for name in names if name in spec.classes] for role, names in
             wanted.items()}
    unknown = [name for name in dict.fromkeys(named) if name not in spec.classes]
    close = misspelt_classes(spec.classes, given)
    notes = [
        f'the model has no class {quoted(name)}'
        + (f' (is {close[name]} meant?)' if name in close else '') for name in unknown
    ]
    if not lists['traversable_classes']:
        # Of a thousand classes the first show what such names look like.
        classes = ', '.join(spec.classes[:30]) + (', …' if len(spec.classes) > 30 else '')
        return {}, '; '.join([
            f'none: {spec.name} has none of the classes '
            f'{", ".join(wanted["traversable_classes"])}',
            *[note for note in notes if 'meant' in note],
            f'name its ground with --traversable; its classes are {classes}',
        ])
    roles_of(
        {name: class_id for class_id, name in enumerate(spec.classes)},
        *(lists[role] for role in ROLES),
    )
    return lists, '; '.join(notes)


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
    camera: CameraTopics, assumed: AssumedCamera | None, roles: Mapping[str, Sequence[str]] = ROLES
) -> tuple[dict[str, object], str]:
    """Return costmap_node's parameters for a camera, and in words what they rest on.

    Args:
        camera: its topics.
        assumed: None for that of the drawn street.
        roles: its lists of classes.
    """
    values: dict[str, object] = {
        **{role: list(names) or [''] for role, names in roles.items()},  # '' stands for none
        'pose_source': 'parameters', 'max_range_m': 20.0, 'grid_size_m': GRID_SIZE_M,
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
