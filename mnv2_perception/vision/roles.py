"""What each class of a mask is to a robot: its role, from the names that an operator gives."""

from collections.abc import Mapping, Sequence
import re

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import nearest, ParameterError, quoted
from mnv2_perception.vision.costmap import FORBIDDEN, OBSTACLE, TRAVERSABLE, UNKNOWN

LONGEST_TOPIC = 100


def misspelt_classes(
    classes: Sequence[str], lists: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Return what looks misspelt among the names that an operator gives.

    Args:
        classes: names of the mask's classes.
        lists: names that were given, by parameter.

    Returns:
        Each name that is none of the classes but nearly one that no list has, and that class.
    """
    given = {name for names in lists.values() for name in names}
    left = [name for name in classes if name not in given]
    return {
        name: close for name in sorted(given - set(classes))
        if (close := nearest(name.lower(), left, 0.75))
    }


def roles_of(
    id_of: Mapping[str, int],
    traversable: Sequence[str],
    forbidden: Sequence[str],
    obstacles: Sequence[str],
    ignored: Sequence[str],
) -> NDArray[np.uint8]:
    """Return the role of each class id.

    Args:
        id_of: class name to id, below 256, of the mask.
        traversable: names of ground to drive on; the mask has at least one of them.
        forbidden: names of ground not to drive on.
        obstacles: names of what stands on the ground; where none is named, all that no list names.
        ignored: names of what is neither.

    Returns:
        (256,) uint8: UNKNOWN, TRAVERSABLE, OBSTACLE or FORBIDDEN.

    Raises:
        ParameterError: the mask has no traversable class, or a name is in two lists.
    """
    given = {
        TRAVERSABLE: traversable, FORBIDDEN: forbidden, OBSTACLE: obstacles, UNKNOWN: ignored,
    }
    names = [name for group in given.values() for name in group]
    if not set(traversable) & set(id_of):
        raise ParameterError(
            f'traversable_classes is {list(traversable)}, expected some of the classes of this '
            f'mask: {str(sorted(id_of))[:1000]}'
        )
    if len(set(names)) < len(names):
        raise ParameterError(
            f'{sorted({name for name in names if names.count(name) > 1})} are in two lists of '
            f'classes; leave each in only one of them'
        )
    # What nobody named stands in the way unless `obstacles` says what does.
    roles = np.full(256, UNKNOWN, np.uint8)
    if not obstacles:
        roles[list(id_of.values())] = OBSTACLE
    for role, group in given.items():
        roles[[id_of[name] for name in group if name in id_of]] = role
    return roles


ROLES = {TRAVERSABLE: 'free', FORBIDDEN: 'forbidden', OBSTACLE: 'obstacles', UNKNOWN: 'neither'}


def describe_roles(roles: NDArray[np.uint8], id_of: Mapping[str, int]) -> str:
    """Return which of a mask's classes have which role, as one line for people.

    Args:
        roles: (256,) uint8, see `roles_of`.
        id_of: class name to id, below 256, of the mask.
    """
    groups = {
        text: [name for name, number in id_of.items() if roles[number] == role]
        for role, text in ROLES.items()
    }
    return '; '.join(
        f'{text}: {quoted(", ".join(names), 1000) if names else "none"}'
        for text, names in groups.items()
    )


def topics_of_classes(names: Sequence[str]) -> dict[str, str]:
    """Return the last part of a topic's name for each class.

    What lies between ASCII letters and digits becomes one underscore; none remains at the ends,
    for ROS hides what begins with one. A digit at the beginning, which ROS forbids, gets `class_`
    before it.

    Raises:
        ParameterError: nothing is left of a name, it is too long, or two would be one topic.
    """
    topics: dict[str, str] = {}
    for name in names:
        topic = re.sub('[^A-Za-z0-9]+', '_', name).strip('_')
        topic = f'class_{topic}' if topic[:1].isdigit() else topic
        if not 0 < len(topic) <= LONGEST_TOPIC:
            raise ParameterError(
                f'cloud_classes has {quoted(name)}, which makes no valid topic name; expected 1 '
                f'to {LONGEST_TOPIC} ASCII letters, digits and underscores'
            )
        if topic in topics.values():
            other = next(each for each, its in topics.items() if its == topic)
            raise ParameterError(
                f'cloud_classes has {other!r} and {name!r}, which would both be published on '
                f'obstacles/{topic}; remove one of them'
            )
        topics[name] = topic
    return topics


def require_marked(
    wanted: Sequence[str], free: Sequence[str], marked: Sequence[str] | None
) -> None:
    """Raise ParameterError unless each class of cloud_classes blocks: a cloud would stay empty.

    Args:
        wanted: names of cloud_classes.
        free: names of what never blocks.
        marked: names of what blocks; None: all others do.
    """
    for name in wanted:
        if name in free or (marked is not None and name not in marked):
            raise ParameterError(
                f'cloud_classes has {name!r}, which the other lists of classes never mark as '
                f'blocked; add it to obstacle_classes or forbidden_classes, or remove it here'
            )
