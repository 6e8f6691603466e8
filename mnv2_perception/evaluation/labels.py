"""Use a bag's labels: pair them with images or masks, and match classes by name."""

from collections.abc import Iterator, Mapping, Sequence
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.camera import find_camera, Frame, read_ids, read_images
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.results import label_infos
from mnv2_perception.errors import DataError, quoted
from mnv2_perception.evaluation.metrics import ConfusionMatrix
from mnv2_perception.evaluation.recording import accuracy, Keyed, keyed, keys, stamp_text
from mnv2_perception.model_spec import UNLABELLED

logger = logging.getLogger(__name__)
# Share of the labelled pixels that may have one id beyond the model's classes, as some data sets
# number what is no class. With more of them, or more such ids, the labels have other classes.
MOST_BEYOND = 0.1
# Names of street classes in the ground models, for models without a class of the same name.
AS_GROUND = {
    'road': 'floor', 'pavement': 'sidewalk',
    **dict.fromkeys(('car', 'pedestrian', 'bicyclist', 'fence'), 'obstacle'),
    **dict.fromkeys(('sky', 'building', 'pole', 'tree', 'sign_symbol'), 'background'),
}


def read_names(bag: Path, label: str) -> dict[int, str] | None:
    """Return the names of a label topic's ids, from the LabelInfo beside it; None without one."""
    with BagReader(bag) as reader:
        infos = label_infos(reader, label)
        if not infos:
            return None
        msg = reader.deserialize(next(iter(reader.messages(infos[:1]))))
    return {int(item.class_id): str(item.class_name) for item in msg.class_map}


def known_as(name: str, classes: Sequence[str]) -> str:
    """Return a model's name for a class, given the model's classes; empty if it has none."""
    return next((each for each in (name, AS_GROUND.get(name, '')) if each in classes), '')


def renumbering(
    label: str, names: Mapping[int, str] | None, classes: Sequence[str]
) -> tuple[NDArray[np.uint8] | None, str]:
    """Return a table from ids of labels to ids of a model, and how they are compared, in words.

    Args:
        label: topic of the labels.
        names: names of the labels' ids; None if they are not known.
        classes: class names of the model.

    Returns:
        (256,) uint8 ids, 255 where the model has no such class, or None if it has none of the
        classes; and a description.
    """
    if names is None:
        return np.arange(256, dtype=np.uint8), (
            f'by number: nothing in the bag names the classes of {label} (LabelInfo beside it)'
        )
    known = {
        i: found for i, name in names.items()
        if (found := known_as(name, classes)) and 0 <= i < UNLABELLED
    }
    if not known:
        named = quoted(', '.join(names.values()))
        return None, f'none: {label} has {named}, of which the model knows none'
    table = np.full(256, UNLABELLED, np.uint8)
    for class_id, name in known.items():
        table[class_id] = classes.index(name)
    other: dict[str, list[str]] = {}
    for i, found in known.items():
        if names[i] != found:
            other.setdefault(found, []).append(names[i])
    left = sorted(set(names.values()) - {names[i] for i in known})
    how = ''.join(['by name', *(
        f', {quoted(" and ".join(given))} as {found}' for found, given in other.items()
    )])
    return table, how + (f', without {quoted(", ".join(left))}' if left else '')


def other_classes(pixels: NDArray[np.int64], count: int) -> str:
    """Return why unnamed labels cannot be of a model's classes; empty if they may be.

    Args:
        pixels: (256,) number of pixels of each id in the labels.
        count: number of the model's classes.
    """
    beyond = pixels[count:UNLABELLED]  # `mnv2 evaluate` takes these as unlabelled
    share = beyond.sum() / max(1, pixels[:UNLABELLED].sum())
    if share <= MOST_BEYOND and np.count_nonzero(beyond) <= 1:
        return ''
    largest = count + int(np.flatnonzero(beyond).max())
    return f'ids up to {largest}, the model has {count} classes'


def labelled_images(
    bag: Path, label: str, topic: str, classes: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield name, image (H, W, 3) uint8 RGB and label (H, W) uint8 of a bag's frames.

    Args:
        bag: path of the bag.
        label: topic of the labels, which have the images' stamps; empty for the one that looks
            like it.
        topic: topic of the images; empty for the one that looks like the camera.
        classes: class names of the model; the labels are converted to its ids.

    Raises:
        BagError: the bag cannot be read.
        DataError: it has no labels, none with an image's stamp, or none of the model's classes; or
            a label and its image differ in size.
    """
    camera = find_camera(bag, topic)
    label = label or camera.label or ''
    if not label:
        raise DataError(f'{bag}: has no topic of labels; name it with --labels')
    table, how = renumbering(label, read_names(bag, label), classes)
    if table is None:
        raise DataError(f"{bag}: {how}; are these labels of the model's classes?")
    level = logging.WARNING if how.startswith('by number') else logging.INFO
    logger.log(level, '%s: labels are compared %s', bag, how)
    wanted = set(keys(bag, camera.image)) & set(keys(bag, label))
    labels = Keyed(keyed(read_ids(bag, label)), wanted)
    for key, image in keyed(read_images(bag, camera.image)):
        if key in wanted and (stored := labels.get(key)) is not None:
            name = stamp_text(key[0])
            if stored.shape != image.shape[:2]:
                raise DataError(
                    f'{bag}: at {name} the label is {stored.shape}, but the image '
                    f'{image.shape[:2]}; record labels in the size of their images'
                )
            yield name, image, table[stored]
    if not wanted:
        raise DataError(f'{bag}: no label on {label} has the stamp of an image')


def compare(
    bag: Path, label: str, masks: Path, mask: str, classes: Sequence[str],
    names: Mapping[int, str] | None,
) -> tuple[ConfusionMatrix | None, str]:
    """Compare a replay's masks with the bag's labels.

    Args:
        bag: the bag that was replayed.
        label: topic of its labels.
        masks: the recording of the masks.
        mask: topic of the masks.
        classes: class names of the model.
        names: names of the labels' ids; None if they are not known.

    Returns:
        The confusion matrix, None if it would be meaningless; and what was compared, in words.

    Raises:
        BagError: a label or a mask cannot be read.
    """
    count = len(classes)
    table, how = renumbering(label, names, classes)
    if table is None:
        return None, how
    pixels = np.zeros(256, np.int64)  # number of each id

    def renumbered() -> Iterator[Frame]:
        for stamp_ns, stored in read_ids(bag, label):
            pixels[:] += np.bincount(stored.ravel(), minlength=256)
            yield stamp_ns, table[stored]

    matrix = accuracy(renumbered(), read_ids(masks, mask), count)
    if names is None and (why := other_classes(pixels, count)):
        return None, (
            f'none: {label} has {why}, and nothing in the bag names those of the labels '
            f'(LabelInfo beside them)'
        )
    if not matrix.counts.any():
        return None, f'none: no mask has the stamp and size of a label on {label}'
    return matrix, how
