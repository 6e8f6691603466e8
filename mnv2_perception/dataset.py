"""Folders of labelled images: `DIR/images/*.jpg` and `DIR/labels/*.png` of the same names."""

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
    image = cv2.imread(str(image_path), cv2.IMREAD_COLOR)
    label = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
    if image is None or label is None:
        raise DataError(f'{image_path if image is None else label_path}: is no readable image')
    if label.ndim != 2 or label.dtype != np.uint8:
        raise DataError(
            f'{label_path}: got {label.shape} {label.dtype}, expected one 8-bit channel of class '
            f'ids; convert coloured labels to ids first'
        )
    if label.shape != image.shape[:2]:
        raise DataError(f'{label_path}: is {label.shape}, its image is {image.shape[:2]}')
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), np.asarray(label)


def read_folder(folder: Path, num_classes: int) -> list[Sample]:
    """Read all pairs of a folder; ids at or above `num_classes` become unlabelled (255)."""
    samples = []
    for image_path, label_path in list_pairs(folder):
        image, label = read_pair(image_path, label_path)
        label[label >= num_classes] = UNLABELLED
        samples.append((image, label))
    return samples


def hash_list(pairs: list[tuple[Path, Path]]) -> str:
    """Return the sha256 over the names and contents of a training list, for the model card."""
    digest = hashlib.sha256()
    for image, label in pairs:
        for path in (image, label):
            digest.update(path.name.encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
