"""Find message definitions: in a bag, installed here, of ROS 2 Jazzy, or of vision_msgs."""

from functools import cache
import os
from pathlib import Path
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import get_types_from_msg, get_typestore, Stores, TypesysError
from rosbags.typesys.store import Typestore

from mnv2_perception.errors import BagError

# The types of vision_msgs 4.1 that this package publishes. rosbags lacks them, and results are
# written and read without ROS. Comments are left out: a type's hash covers only its fields.
VISION_MSGS = {
    'Point2D': 'float64 x\nfloat64 y',
    'Pose2D': 'vision_msgs/Point2D position\nfloat64 theta',
    'BoundingBox2D': 'vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y',
    'ObjectHypothesis': 'string class_id\nfloat64 score',
    'ObjectHypothesisWithPose':
        'vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose',
    'Detection2D':
        'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
        'vision_msgs/BoundingBox2D bbox\nstring id',
    'Detection2DArray': 'std_msgs/Header header\nvision_msgs/Detection2D[] detections',
    'Classification': 'std_msgs/Header header\nvision_msgs/ObjectHypothesis[] results',
    'VisionClass': 'uint16 class_id\nstring class_name',
    'LabelInfo': 'std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold',
}


@cache
def jazzy_types() -> Typestore:
    """Return the types of ROS 2 Jazzy's common packages and the vision_msgs types above."""
    store = get_typestore(Stores.ROS2_JAZZY)
    definitions: Typesdict = {}
    for name, text in VISION_MSGS.items():
        definitions.update(get_types_from_msg(text, f'vision_msgs/msg/{name}'))
    store.register(definitions)
    return store


def typestore_of(type_name: str, definition: str | None) -> Typestore:
    """Return a type store with a type and all types that it uses.

    Args:
        type_name: ROS 2 type, such as ``sensor_msgs/msg/Image``.
        definition: .msg text of the type and of all types that it uses. None: the definition that
            is installed here (the one that the nodes here use), otherwise Jazzy's.

    Raises:
        BagError: no definition was found, or it cannot be read.
    """
    typestore = get_typestore(Stores.EMPTY)
    try:
        if definition is not None:
            typestore.register(get_types_from_msg(definition, type_name))
        else:
            definitions: Typesdict = {}
            _collect_definitions(type_name, definitions)
            typestore.register(definitions)
    except TypesysError as exc:
        raise BagError(
            f'{type_name}: its definition cannot be read ({exc}); check its .msg file'
        ) from exc
    return typestore


def _collect_definitions(type_name: str, definitions: Typesdict) -> None:
    """Add a type and all types that it uses: as installed here, otherwise as in Jazzy."""
    if type_name in definitions:
        return
    if text := _installed_definition(type_name):
        definitions.update(get_types_from_msg(text, type_name))
    elif type_name in jazzy_types().fielddefs:
        definitions[type_name] = jazzy_types().fielddefs[type_name]
    else:
        raise BagError(
            f'{type_name}: no definition of this type was found; install and source the package '
            f'{type_name.split("/")[0]}'
        )
    for _, field in definitions[type_name][1]:
        if nested := _nested_type(field):
            _collect_definitions(nested, definitions)


def _installed_definition(type_name: str) -> str | None:
    """Return the .msg text of a type from the sourced ROS workspaces; None if they lack it."""
    package, *folders, name = type_name.split('/')
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        file = Path(prefix, 'share', package, *folders, f'{name}.msg')
        if prefix and file.is_file():
            return file.read_text(encoding='utf-8')
    return None


def _nested_type(field: Any) -> str | None:
    """Return the message type of a field or of an array's elements; None for a basic type."""
    kind, detail = field
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        kind, detail = detail[0]
    return str(detail) if kind == Nodetype.NAME else None
