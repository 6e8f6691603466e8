"""Labelled images in folders.

For segmentation: `DIR/images/*.jpg` and `DIR/labels/*.png` of the same names. For classification:
a folder for each class, `DIR/CLASS/*.jpg`, or a table of files and labels (TSV).
"""

from collections.abc import Iterable, Sequence
import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import DataError
from mnv2_perception.model_spec import UNLABELLED

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # image (H, W, 3) RGB, class ids (H, W)
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')


def list_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return the (image, label) paths of `folder/images` and `folder/labels`, sorted by name.

    Raises:
        DataError: a folder is missing or empty, or an image has no label of the same name.
    """
    images = sorted(
        path for path in (folder / 'images').glob('*') if path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not images:
        raise DataError(
            f'{folder}: no images; expected {folder}/images/*.jpg (or .png) and '
            f'{folder}/labels/*.png of the same names'
        )
    pairs = [(image, folder / 'labels' / f'{image.stem}.png') for image in images]
    missing = [label.name for _, label in pairs if not label.is_file()]
    if missing:
        raise DataError(
            f'{folder}/labels: {len(missing)} of {len(pairs)} labels are missing, '
            f'the first is {missing[0]}; each image needs a label of the same name'
        )
    return pairs


def read_pair(image_path: Path, label_path: Path) -> Sample:
    """Read one image and its label.

    Raises:
        DataError: a file does not decode, the label has colours, or the two differ in size.
    """
    image = read_image(image_path)
    label = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
    if label is None:
        raise DataError(f'{label_path}: is no readable image')
    if label.ndim != 2 or label.dtype != np.uint8:
        raise DataError(
            f'{label_path}: got {label.shape} {label.dtype}, expected one 8-bit channel of class '
            f'ids; convert coloured labels to ids first'
        )
    if label.shape != image.shape[:2]:
        raise DataError(f'{label_path}: is {label.shape}, its image is {image.shape[:2]}')
    return image, np.asarray(label)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file does not decode.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f'{path}: is no readable image')
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def list_classified(source: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return the (image path, class id) of each labelled image.

    Args:
        source: a folder that holds a folder of images for each class, named as the class (not
            every class needs one); or a TSV file of two columns, image and label, or with a
            header that names a column `file` and a column `label` or `index`. A label is a class
            name or an id, an `index` is an id; files are relative to the table.
        classes: the class names in the order of their ids.

    Raises:
        DataError: the source is missing or empty, names an unknown class, or lacks a file.
    """
    if source.is_dir():
        return _list_class_folders(source, classes)
    if source.is_file():
        return _list_table(source, classes)
    raise DataError(
        f'{source}: does not exist; give a folder that holds a folder for each class, or a TSV '
        f'file of images and labels'
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
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        found += [(path, ids[folder.name][0]) for path in images]
    if not found:
        raise DataError(f'{source}: no images; expected {source}/CLASS/*.jpg (or .png)')
    return found


def _list_table(source: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    try:
        lines = source.read_text(encoding='utf-8-sig').split('\n')
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f'{source}: is no TSV file: {exc}') from exc
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
        if not path.is_file():
            raise DataError(f'{source}:{number}: there is no file {path}')
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
        raise DataError(f'{source}: lists no image; expected lines of image, tab, label')
    return found


def _ids_by_name(classes: Sequence[str]) -> dict[str, list[int]]:
    """Return the ids of each class name; ImageNet has two cranes."""
    ids: dict[str, list[int]] = {}
    for class_id, name in enumerate(classes):
        ids.setdefault(name, []).append(class_id)
    return ids


def _no_class(label: str, ids: dict[str, list[int]]) -> str:
    """Return why a label tells no class."""
    if label in ids:
        return f'{label!r}, the name of the classes {" and ".join(map(str, ids[label]))}'
    return f'{label!r}, no class of the model (such as {next(iter(ids))!r})'


def read_folder(folder: Path, num_classes: int) -> list[Sample]:
    """Read all pairs of a folder; ids at or above `num_classes` become unlabelled (255)."""
    samples = []
    for image_path, label_path in list_pairs(folder):
        image, label = read_pair(image_path, label_path)
        label[label >= num_classes] = UNLABELLED
        samples.append((image, label))
    return samples


def hash_list(pairs: Iterable[tuple[Path, Path | int | str]]) -> str:
    """Return the sha256 over the names and contents of a training list, for the model card.

    Args:
        pairs: image and label; a label is a file, a class id, or any text.
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
