"""Read labelled images in folders.

For segmentation: `DIR/images/*.jpg` and `DIR/labels/*.png` of the same names. For classification:
a folder for each class, `DIR/CLASS/*.jpg`, or a table of files and labels (TSV).
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.images import is_file, list_images, read_bytes, read_image
from mnv2_perception.errors import DataError, ImageError, stand_in
from mnv2_perception.model_spec import UNLABELLED
from mnv2_perception.vision.image_files import exif_orientation, ids_from_png

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # (H, W, 3) RGB image, (H, W) class ids
logger = logging.getLogger(__name__)


def list_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return the (image, label) paths of `folder/images` and `folder/labels`, sorted by name.

    Raises:
        DataError: a folder is missing or empty, or an image has no label of the same name.
    """
    images = list_images(folder / 'images')
    if not images:
        raise DataError(
            f'{folder}: no images; expected {folder}/images/*.jpg (or .png) and '
            f'{folder}/labels/*.png of the same names'
        )
    stems = [image.stem for image in images]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise DataError(
            f'{folder}/images: {twice} exists with two suffixes, but each label belongs to one '
            f'image; remove one of the two'
        )
    written = {
        path.stem: path for path in (folder / 'labels').glob('*') if path.suffix.lower() == '.png'
    }
    pairs = [(image, written.get(image.stem, folder / f'labels/{image.stem}.png'))
             for image in images]
    missing = [label for _, label in pairs if not label.is_file()]
    if missing:
        raise DataError(
            f'{folder}/labels: {len(missing)} of {len(pairs)} labels are missing, '
            f'the first is {missing[0].name}; {_instead_of(missing[0])}'
        )
    spare = sorted(set(written) - set(stems))
    if spare:
        _tell_spare(folder / 'labels', len(spare), len(written), written[spare[0]].name)
    return pairs


@cache
def _tell_spare(labels: Path, count: int, total: int, first: str) -> None:
    logger.warning(
        '%s: %d of %d are left out, because no image has their name, for example '
        '%s', labels, count,
        total, first,
    )


def _instead_of(missing: Path) -> str:
    """Return what the folder has in place of a missing label, and advice."""
    stem = missing.stem.lower()
    others = sorted(
        path for path in missing.parent.glob('*') if path.stem.lower().startswith(stem)
    )
    same = [path for path in others if path.stem == missing.stem]
    if same:
        return (
            f'{same[0].name} exists, but a label must be a PNG, written from the ids themselves '
            f'(JPEG changes them)'
        )
    there = f'{others[0].name} exists; ' if others else ''
    return f'{there}each image needs a label of the same name, with the same upper and lower case'


def list_labels(folder: Path) -> list[Path]:
    """Return the PNGs of `folder/labels`, or of the folder itself, sorted by name.

    Raises:
        DataError: there are none.
    """
    place = folder / 'labels' if (folder / 'labels').is_dir() else folder
    found = sorted(path for path in place.glob('*') if path.suffix.lower() == '.png')
    if not found:
        raise DataError(f'{folder}: holds no labels; expected PNGs of class ids')
    return found


def read_label(path: Path) -> NDArray[np.uint8]:
    """Read a label: (H, W) uint8 class ids.

    Raises:
        DataError: the file cannot be decoded, or has colours.
    """
    try:
        return ids_from_png(read_bytes(path))
    except ImageError as exc:
        raise DataError(f'{path}: {stand_in(path) or exc}') from exc


def read_pair(image_path: Path, label_path: Path) -> Sample:
    """Read one image and its label.

    Raises:
        DataError: a file cannot be decoded, the label has colours, or the sizes differ.
    """
    image = read_image(image_path)
    label = read_label(label_path)
    turned = exif_orientation(read_bytes(image_path)) > 1
    if label.shape != image.shape[:2]:
        raise DataError(
            f'{label_path}: is {label.shape}, but its image is {image.shape[:2]}; '
            + ('viewers rotate the picture by its EXIF orientation, so its label must be rotated '
               'too' if turned else 'resize both in the same way, labels by nearest neighbour')
        )
    if turned:
        _tell_turned(image_path.parent)
    return image, label


@cache
def _tell_turned(folder: Path) -> None:
    logger.warning(
        '%s: viewers rotate some of its pictures by their EXIF orientation; their labels are '
        'taken as drawn on the rotated picture', folder,
    )


def list_classified(source: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return (image path, class id) of each labelled image.

    Args:
        source: a folder with a folder of images for each class, named like the class (classes may
            be missing); or a TSV file of two columns, image and label, or with a header that has
            a column `file` and a column `label` or `index`. A label is a class name or an id, an
            `index` is an id; file paths are relative to the table.
        classes: class names in the order of their ids.

    Raises:
        DataError: the source is missing or empty, names an unknown class or a missing file.
    """
    if not source.exists():
        raise DataError(
            f'{source}: does not exist; give a folder that holds a folder for each class, or a '
            f'TSV file of images and labels'
        )
    found = (_list_class_folders if source.is_dir() else _list_table)(source, classes)
    if twice := _of_two_classes(found):
        _tell_twice(source, *twice[0], len(twice) - 1)
    return found


def _of_two_classes(found: Iterable[tuple[Path, int]]) -> list[tuple[Path, Path]]:
    """Return pairs of byte-identical files that are in two classes."""
    groups = [list(found)]
    for key in (_size, _end, _digest):  # each step reads more, but of fewer files
        apart: dict[tuple[int, Any], list[tuple[Path, int]]] = {}
        for number, group in enumerate(groups):
            for path, class_id in group:
                with suppress(OSError):  # reported when the image is read
                    apart.setdefault((number, key(path)), []).append((path, class_id))
        groups = [group for group in apart.values() if len({of for _, of in group}) > 1]
    return [
        (group[0][0], next(path for path, of in group if of != group[0][1])) for group in groups
    ]


def _size(path: Path) -> int:
    return path.stat().st_size


def _end(path: Path) -> bytes:
    with path.open('rb') as file:
        file.seek(-min(1024, _size(path)), os.SEEK_END)
        return file.read()


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@cache
def _tell_twice(source: Path, first: Path, other: Path, more: int) -> None:
    logger.warning(
        '%s: a picture is in two classes, byte for byte the same: %s and %s (and %d more); keep '
        'each in one class', source, first, other, more,
    )


def _list_class_folders(source: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    folders = [path for path in source.iterdir() if path.is_dir() and path.name[0] != '.']
    ids = _ids_by_name(classes)
    found = []
    for folder in sorted(folders):
        if len(ids.get(folder.name, [])) != 1:
            raise DataError(
                f'{folder}: the folder is named as {_no_class(folder.name, ids)}; expected one '
                f'folder for each class, or a TSV file of images and labels'
            )
        found += [(path, ids[folder.name][0]) for path in list_images(folder)]
    if not found:
        raise DataError(f'{source}: no images; expected {source}/CLASS/*.jpg (or .png)')
    return found


def _list_table(source: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    try:
        lines = source.read_text(encoding='utf-8-sig').split('\n')
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f'{source}: is not a TSV file: {exc}') from exc
    ids = _ids_by_name(classes)
    rows = [line.split('\t') for line in lines]
    header = rows[0] if 'file' in rows[0] else ['file', 'label']
    label_name = 'label' if 'label' in header else 'index'
    if label_name not in header:
        raise DataError(f'{source}: columns are {header}; expected `file` and `label` or `index`')
    found = []
    for number, row in enumerate(rows, 1):
        if row in (header, ['']):
            continue
        if len(row) != len(header):
            raise DataError(
                f'{source}:{number}: got {len(row)} columns, expected {len(header)} '
                f'({", ".join(header)}), separated by tabs'
            )
        path, label = source.parent / row[header.index('file')], row[header.index(label_name)]
        if not is_file(path):
            raise DataError(f'{source}:{number}: no such file: {path}')
        class_ids = ids.get(label, []) if label_name == 'label' else []
        if not class_ids and label.isdecimal() and int(label) < len(classes):
            class_ids = [int(label)]
        if len(class_ids) != 1:
            raise DataError(
                f'{source}:{number}: the {label_name} is {_no_class(label, ids)}; expected an id '
                f'of 0 to {len(classes) - 1}{" or a name" if label_name == "label" else ""}'
            )
        found.append((path, class_ids[0]))
    if not found:
        raise DataError(f'{source}: lists no images; expected lines of image, tab, label')
    return found


def _ids_by_name(classes: Sequence[str]) -> dict[str, list[int]]:
    """Return the ids of each class name; a name may have several: ImageNet has two `crane`s."""
    ids: dict[str, list[int]] = {}
    for class_id, name in enumerate(classes):
        ids.setdefault(name, []).append(class_id)
    return ids


def _no_class(label: str, ids: dict[str, list[int]]) -> str:
    """Return why a label does not identify a class."""
    if label in ids:
        return f'{label!r}, the name of several classes: {" and ".join(map(str, ids[label]))}'
    return f'{label!r}, not a class of the model (such as {next(iter(ids))!r})'


def read_folder(folder: Path, classes: Sequence[str]) -> list[Sample]:
    """Read all pairs of a folder; ids without a class become unlabelled (255), which is logged.

    Raises:
        DataError: see `list_pairs`, `read_pair` and `LabelCounts.check`.
    """
    samples, counts = [], LabelCounts(classes)
    for image_path, label_path in list_pairs(folder):
        image, label = read_pair(image_path, label_path)
        counts.add(label)
        label[label >= len(classes)] = UNLABELLED
        samples.append((image, label))
    counts.check(f'{folder}/labels')
    return samples


class LabelCounts:
    """Counts of ids in labels: how much is unlabelled, and which classes never occur.

    Args:
        classes: class names in the order of their ids.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.pixels = np.zeros(256, np.int64)

    def add(self, label: NDArray[np.uint8]) -> None:
        """Count the ids of one label, (H, W) uint8."""
        self.pixels += np.bincount(label.ravel(), minlength=256)

    def facts(self) -> dict[str, Any]:
        """Return `unlabelled`, the share of pixels without class, and `absent`, unused classes."""
        known = self.pixels[: len(self.classes)]
        return {
            'unlabelled': float(1.0 - known.sum() / max(1, self.pixels.sum())),
            'absent': [name for name, count in zip(self.classes, known, strict=True) if not count],
        }

    def check(self, labels: str) -> None:
        """Check the labels, and log what is unusual about them.

        Args:
            labels: where the labels are, for messages.

        Raises:
            DataError: no pixel has a class, or the labels are black and white.
        """
        occurring = np.flatnonzero(self.pixels).tolist()
        if occurring == [0, 255] and len(self.classes) > 1:
            raise DataError(
                f'{labels}: has only the ids 0 and 255, and 255 means unlabelled; write 1 instead '
                f'of 255 for {self.classes[1]}'
            )
        if not self.pixels[: len(self.classes)].any():
            raise DataError(
                f'{labels}: no pixel has an id below {len(self.classes)}, the number of classes '
                f'({", ".join(self.classes[:5])} …); are these labels of those classes?'
            )
        facts = self.facts()
        unknown = [index for index in occurring if len(self.classes) <= index < UNLABELLED]
        if unknown:
            logger.warning(
                '%s: the ids %s are not among the %d classes and count as unlabelled', labels,
                ', '.join(map(str, unknown)), len(self.classes),
            )
        if facts['unlabelled'] > 0.0:
            logger.info('%s: %.1f %% unlabelled', labels, 100.0 * facts['unlabelled'])
        if facts['absent']:
            logger.warning('%s: no pixel of %s', labels, ', '.join(facts['absent']))


def hash_list(pairs: Iterable[tuple[Path, Path | int | str]]) -> str:
    """Return the sha256 over names and contents of a training list, for the model card.

    Args:
        pairs: images and labels; a label is a file, a class id, or any text.
    """
    digest = hashlib.sha256()
    for pair in pairs:
        for part in pair:
            if isinstance(part, Path):
                digest.update(part.name.encode())
                digest.update(hashlib.sha256(part.read_bytes()).digest())
            else:
                digest.update(str(part).encode())
    return digest.hexdigest()
