"""Read the true masks (labels) for a run's masks: from a topic, a bag or a folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.camera import find_label, read_ids
from mnv2_perception.bags.read import BagReader
from mnv2_perception.data.folders import list_labels, read_label
from mnv2_perception.data.images import is_bag
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.labels import other_classes, read_names, renumbering
from mnv2_perception.evaluation.recording import Key, Keyed, keyed, keys, stamp_text


def has_messages(bag: Path, topic: str) -> bool:
    """Return whether a bag has messages on a topic."""
    with BagReader(bag) as reader:
        return any(each.name == topic and each.message_count for each in reader.topics)


class Truth:
    """The labels of masks, from a topic of one of the runs, another bag, or a folder.

    Args:
        base: file or bag of the base run.
        new: file or bag of the other run.
        labels: see `compare.compare_runs`.
        classes: class names of the base run.
        shared: keys of the masks whose labels will be requested.
        mask: topic of the base run's masks.

    Attributes:
        how: how the classes are compared, in words.

    Raises:
        BagError: a bag cannot be read, or has no labels.
        DataError: neither run has the topic, or there is no class in common.
    """

    def __init__(
        self, base: Path, new: Path, labels: str, classes: Sequence[str], shared: set[Key],
        mask: str,
    ) -> None:
        self.how = 'by number: files'
        self._named = False
        self._count = len(classes)
        self._pixels = np.zeros(256, np.int64)  # number of each id in the requested labels
        self._table: NDArray[np.uint8] = np.arange(256, dtype=np.uint8)
        self._place = labels
        folder = Path(labels)
        if labels.startswith('/') and not folder.exists():
            bag = next((each for each in (base, new) if has_messages(each, labels)), None)
            if bag is None:
                raise DataError(
                    f'{labels}: neither run has this topic; copy it with `mnv2 bag run --copy`, '
                    f'or give a bag or a folder'
                )
            topic = labels
        elif is_bag(folder):
            bag, topic = folder, find_label(folder)
        else:
            self._labels = Keyed(self._of_folder(folder, keys(base, mask)), shared)
            return
        names = read_names(bag, topic)
        self._named = names is not None
        table, self.how = renumbering(topic, names, classes)
        if table is None:
            raise DataError(f'{bag}: {self.how}')
        self._table = table
        self._labels = Keyed(keyed(read_ids(bag, topic)), shared)

    def label(self, key: Key, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
        """Return the label (H, W) uint8 of a mask; None if there is none.

        Raises:
            DataError: the label has another size than the mask, or the folder does not have one
                label for each mask.
        """
        label = self._labels.get(key)
        if label is None:
            return None
        if label.shape != shape:
            raise DataError(
                f'{self._place}: at {stamp_text(key[0])} the label is {label.shape}, but the mask '
                f'{shape}; give labels in the size of the images'
            )
        self._pixels += np.bincount(label.ravel(), minlength=256)
        return self._table[label]

    def check(self) -> None:
        """Check that the labels requested so far can be of the masks' classes.

        Unnamed labels are compared by number: a figure for other classes would be meaningless.

        Raises:
            DataError: the labels have other classes.
        """
        if not self._named and (why := other_classes(self._pixels, self._count)):
            raise DataError(
                f"{self._place}: has {why}; expected labels of the masks' classes, or a bag "
                f'that names them (LabelInfo beside the labels)'
            )

    def _of_folder(
        self, folder: Path, masks: Sequence[Key]
    ) -> Iterator[tuple[Key, NDArray[np.uint8]]]:
        files = list_labels(folder)
        if len(files) != len(masks):
            raise DataError(
                f'{folder}: has {len(files)} labels (.png) for {len(masks)} masks; expected one '
                f'for each, in the order of their names'
            )
        for key, path in zip(masks, files, strict=True):
            yield key, read_label(path)
