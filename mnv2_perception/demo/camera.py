"""Choose the pose of the replayed bag's camera, and costmap_node's class lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnv2_perception.bags.camera import CameraTopics
from mnv2_perception.errors import quoted
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.scenes.bag import SEED
from mnv2_perception.scenes.street import camera_height_m
from mnv2_perception.vision.roles import misspelt_classes, roles_of

GRID_SIZE_M = 40.0

# Classes of the shipped models, and of others with the same names. Without a traversable class
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
    """Return costmap_node's lists of classes, and notes for the user.

    Args:
        spec: spec of the segmentation model.
        given: lists that replace those of ROLES; a class in one of them is removed from the others
            of ROLES.

    Returns:
        The lists, with only the model's classes, empty if no class is traversable; and the notes.

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
        # If there are a thousand classes, the first ones suffice to show how they are named.
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
    """Assumptions about a camera where the bag has no information.

    Attributes:
        height_m: height above flat ground.
        pitch_rad: pitch; positive looks down.
        horizontal_fov_rad: horizontal field of view, used if the bag has no camera_info.
    """

    height_m: float
    pitch_rad: float
    horizontal_fov_rad: float


def place_camera(
    camera: CameraTopics, assumed: AssumedCamera | None, roles: Mapping[str, Sequence[str]] = ROLES
) -> tuple[dict[str, object], str]:
    """Return costmap_node's parameters for a camera, and what they are based on, in words.

    Args:
        camera: the camera's topics.
        assumed: assumptions; None for the camera of the drawn street.
        roles: costmap_node's lists of classes.
    """
    values: dict[str, object] = {
        **{role: list(names) or [''] for role, names in roles.items()},  # [''] stands for none
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
