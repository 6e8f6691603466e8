"""Make data sets for classification and detection from labelled masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
import tempfile

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.coco import BoxSample
from mnv2_perception.data.files import make_folder
from mnv2_perception.data.folders import list_pairs, read_pair
from mnv2_perception.data.images import read_image
from mnv2_perception.errors import DataError
from mnv2_perception.vision.detections import components

MIN_SHARE = 0.25  # minimum share of a patch that its class must fill


def middle(window: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the patch in the middle of a window, with half its height and width."""
    height, width = window.shape[:2]
    return window[height // 4 : height - height // 4, width // 4 : width - width // 4]


def vote(class_ids: NDArray[np.uint8], groups: Sequence[Sequence[int]]) -> tuple[int, float]:
    """Return the group of classes that fills most of a mask, and its share of pixels, 0 to 1."""
    counts = np.bincount(class_ids.ravel(), minlength=256)
    totals = [int(counts[list(group)].sum()) for group in groups]
    best = int(np.argmax(totals))
    return best, totals[best] / class_ids.size


def write_patches(
    folder: Path,
    out: Path,
    groups: Mapping[str, Sequence[int]],
    size: tuple[int, int],
    top: int,
    step: int,
    per_class: int = 0,
    seed: int = 1,
) -> dict[str, int]:
    """Cut windows out of labelled images; the class that fills most of its middle labels a window.

    Writes `out/labels.tsv`, which `data.folders.list_classified` reads, and `out/images`.

    Args:
        folder: see `data.folders.list_pairs`.
        out: output folder; must not have any of these yet.
        groups: mask ids of each class.
        size: (height, width) of a window, pixels; the patch in its middle has half of both.
        top: row of the first windows; the part above (sky) is not used.
        step: distance between windows, pixels.
        per_class: maximum number of windows of a class, chosen at random; 0 keeps all.
        seed: seed of this choice.

    Returns:
        The number of windows of each class.

    Raises:
        DataError: the folder cannot be used, no window shows any class, or `out` has such a file
            or folder, or cannot be written.
        SetupError: `out` cannot be created.
    """
    for name in ('labels.tsv', 'images'):
        if (out / name).exists():
            raise DataError(f'{out / name} exists; choose another --out')
    height, width = size
    found: dict[str, list[tuple[Path, int, int]]] = {name: [] for name in groups}
    for image_path, label_path in list_pairs(folder):
        _, label = read_pair(image_path, label_path)
        rows, columns = label.shape
        for y in range(top, rows - height + 1, step):
            for x in range(0, columns - width + 1, step):
                patch = middle(label[y : y + height, x : x + width])
                best, share = vote(patch, list(groups.values()))
                if share >= MIN_SHARE:
                    found[list(groups)[best]].append((image_path, y, x))
    if not any(found.values()):
        raise DataError(
            f'{folder}: no window of {height}×{width} below row {top} shows any of '
            f'{", ".join(groups)}'
        )
    rng = np.random.default_rng(seed)
    lines = ['file\tlabel']
    make_folder(out)
    with tempfile.TemporaryDirectory(dir=out) as scratch:  # all of it appears, or nothing
        images = Path(scratch, 'images')
        images.mkdir()
        for name, windows in found.items():
            if per_class and len(windows) > per_class:
                chosen = sorted(rng.choice(len(windows), per_class, replace=False))
                windows[:] = [windows[index] for index in chosen]
            for image_path, y, x in windows:
                image = cv2.cvtColor(read_image(image_path), cv2.COLOR_RGB2BGR)
                window = image[y : y + height, x : x + width]
                file = f'{image_path.stem}_{y}_{x}.png'
                if not cv2.imwrite(str(images / file), window):
                    raise DataError(f'{out}: cannot be written; check the free space on the disk')
                lines.append(f'images/{file}\t{name}')
        images.rename(out / 'images')
    (out / 'labels.tsv').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return {name: len(windows) for name, windows in found.items()}


def boxes_from_labels(
    folder: Path, class_ids: Sequence[int], min_area: int = 40
) -> list[BoxSample]:
    """Return boxes around the connected components of masks.

    Objects of one class that touch get one box; an object behind a pole gets two. Components
    smaller than `min_area` become ignored regions: most are splinters, too small to recognise.

    Args:
        folder: see `list_pairs`.
        class_ids: ids in the masks; a box's class id is the index in this list.
        min_area: minimum area of an object, pixels.

    Raises:
        DataError: the folder cannot be used.
    """
    samples = []
    for image_path, label_path in list_pairs(folder):
        _, label = read_pair(image_path, label_path)
        boxes, _, label_ids, areas = components(label, np.full_like(label, 255), class_ids)
        ids = np.array([class_ids.index(label_id) for label_id in label_ids], np.int64)
        small = areas < min_area
        samples.append(BoxSample(image_path, boxes[~small], ids[~small], boxes[small], ids[small]))
    return samples
