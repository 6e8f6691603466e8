"""Assign a role to each class of a mask, by the class names that an operator lists."""

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
    """Return the names in an operator's lists that look misspelt.

    Args:
        classes: class names of the mask.
        lists: listed names by parameter.

    Returns:
        Each name that is not a class but is almost one that no list has, with that class.
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
        id_of: ids, below 256, of the mask's classes by name.
        traversable: names of ground to drive on; the mask must have at least one of them.
        forbidden: names of ground that must not be driven on.
        obstacles: names of what stands on the ground; empty: all classes that are in no list.
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
    # Classes in no list are obstacles unless `obstacles` lists those that are.
    roles = np.full(256, UNKNOWN, np.uint8)
    if not obstacles:
        roles[list(id_of.values())] = OBSTACLE
    for role, group in given.items():
        roles[[id_of[name] for name in group if name in id_of]] = role
    return roles


ROLES = {TRAVERSABLE: 'free', FORBIDDEN: 'forbidden', OBSTACLE: 'obstacles', UNKNOWN: 'neither'}


def describe_roles(roles: NDArray[np.uint8], id_of: Mapping[str, int]) -> str:
    """Return which of a mask's classes have which role, on one line for people.

    Args:
        roles: (256,) uint8, see `roles_of`.
        id_of: ids, below 256, of the mask's classes by name.
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
    """Return the last part of the topic name for each class.

    Whatever is between ASCII letters and digits becomes one underscore; none remains at the ends,
    because ROS hides names that begin with one. A digit at the beginning, which ROS forbids, gets
    the prefix `class_`.

    Raises:
        ParameterError: nothing is left of a name, it is too long, or two names give one topic.
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
    """Raise ParameterError if a class of cloud_classes never blocks: its cloud would stay empty.

    Args:
        wanted: names in cloud_classes.
        free: names of classes that never block.
        marked: names of classes that block; None: all others do.
    """
    for name in wanted:
        if name in free or (marked is not None and name not in marked):
            raise ParameterError(
                f'cloud_classes has {name!r}, which the other lists of classes never mark as '
                f'blocked; add it to obstacle_classes or forbidden_classes, or remove it here'
            )
