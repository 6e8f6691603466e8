"""Read and write objects' boxes as COCO JSON, https://cocodataset.org/#format-data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.files import replacing
from mnv2_perception.data.images import is_file, read_bytes, read_image
from mnv2_perception.errors import DataError, stand_in
from mnv2_perception.vision.image_files import encoded_size, exif_orientation

logger = logging.getLogger(__name__)
ROUNDED = 1.02  # of an image's side; labelling programs let boxes reach slightly beyond it


@dataclass(frozen=True)
class BoxSample:
    """An image and its objects.

    Attributes:
        image: path of the image.
        boxes: (N, 4) float32 x1, y1, x2, y2, px.
        class_ids: (N,) int64 class ids.
        ignored: (M, 4) float32 regions that training and evaluation ignore (`iscrowd`).
        ignored_ids: (M,) int64 class ids of these.
    """

    image: Path
    boxes: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    ignored: NDArray[np.float32]
    ignored_ids: NDArray[np.int64]


def read_coco(path: Path) -> tuple[tuple[str, ...], list[BoxSample]]:
    """Read boxes from a COCO JSON file.

    Images are searched beside the file and in `images/` beside it. Boxes without an area, of which
    COCO has a few, are left out.

    Returns:
        The class names in the order of their category ids, and one sample for each image in the
        file's order.

    Raises:
        DataError: the file cannot be read or contradicts itself, or an image is missing.
    """
    file = _load(path)
    classes, class_id = file.classes, file.class_id
    if not file.images or not classes:
        raise DataError(f'{path}: has {len(file.images)} images and {len(classes)} categories')
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise DataError(
            f'{path}: calls several categories {twice[0]}; give each category its own name, '
            f'because results are listed by name'
        )
    samples, outside = [], []
    for image_id, name in file.images.items():
        rows = []
        for bbox, category, crowd in file.annotations[image_id]:
            if len(bbox) != 4 or not np.isfinite(bbox).all() or category not in class_id:
                raise DataError(
                    f'{path}: {name} has a box {bbox} of category {category}; expected x, y, '
                    f'width, height and one of the categories {sorted(class_id)}'
                )
            x, y, width, height = bbox
            if width > 0 and height > 0:
                rows.append((x, y, x + width, y + height, class_id[category], crowd))
        table = np.array(rows, np.float64).reshape(-1, 6)
        boxes, ids = table[:, :4].astype(np.float32), table[:, 4].astype(np.int64)
        crowds = table[:, 5] > 0
        image = find_image(path, name)
        if image_id in file.sizes:
            _check_size(path, image, file.sizes[image_id])
            if (table[:, 2:4] > ROUNDED * np.array(file.sizes[image_id])[::-1]).any():
                outside.append(name)
        samples.append(BoxSample(image, boxes[~crowds], ids[~crowds], boxes[crowds], ids[crowds]))
    reach = [sample.boxes.max() for sample in samples if len(sample.boxes)]
    if reach and max(reach) <= 1.0:
        raise DataError(
            f"{path}: all its boxes lie within the first pixel of an image; COCO's boxes are in "
            f'pixels, so multiply them by width and height'
        )
    if outside:
        logger.warning(
            "%s: boxes of %d of %d images end outside of their image, for example in %s; COCO's "
            'boxes are x, y, width, height, not two '
            'corners', path, len(outside), len(samples), outside[0],
        )
    return classes, samples


class _File(NamedTuple):
    """The content of a COCO JSON file.

    Attributes:
        classes: names of the categories, in the order of their ids.
        class_id: index of each category's name, by category id.
        images: file names by image id.
        sizes: (height, width) by image id, where given.
        annotations: bbox, category id and iscrowd of each object, by image id.
    """

    classes: tuple[str, ...]
    class_id: dict[Any, int]
    images: dict[Any, str]
    sizes: dict[Any, tuple[int, int]]
    annotations: dict[Any, list[tuple[list[float], Any, bool]]]


def _load(path: Path) -> _File:
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder, expected COCO's JSON in a file; `mnv2 boxes` makes it from "
            f'masks'
        )
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
        categories = sorted(values['categories'], key=lambda category: category['id'])
        images = {image['id']: str(image['file_name']) for image in values['images']}
        sizes = {
            image['id']: (int(image['height']), int(image['width']))
            for image in values['images'] if 'height' in image and 'width' in image
        }
        annotations: dict[Any, list[Any]] = {image_id: [] for image_id in images}
        for annotation in values['annotations']:
            annotations[annotation['image_id']].append((
                [float(value) for value in annotation['bbox']],
                annotation['category_id'],
                bool(annotation.get('iscrowd', 0)),
            ))
        classes = tuple(str(category['name']) for category in categories)
        class_id = {category['id']: index for index, category in enumerate(categories)}
        return _File(classes, class_id, images, sizes, annotations)
    except OSError as exc:
        raise DataError(f'{path}: cannot be read: {exc.strerror}') from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DataError(f'{path}: ' + (stand_in(path) or (
            f'is not a COCO JSON of boxes ({type(exc).__name__}: {exc}); expected images, '
            f'categories and annotations with image_id, category_id and bbox'
        ))) from exc


def _check_size(path: Path, image: Path, expected: tuple[int, int]) -> None:
    data = read_bytes(image)
    size = encoded_size(data)
    turned = exif_orientation(data) >= 5
    if size and turned:  # rotated by 90 degrees
        size = size[1], size[0]
    if size and size != expected:
        raise DataError(
            f'{path}: its boxes are of {image.name} of {expected[0]} × {expected[1]} (height × '
            f'width), but the file is {size[0]} × {size[1]}; ' + (
                'viewers rotate the picture by its EXIF orientation, so its boxes must be rotated '
                'too' if turned else 'resize boxes and images together'
            )
        )


def find_image(path: Path, name: str) -> Path:
    """Return the path of an image that a COCO file names.

    Raises:
        DataError: the image is missing.
    """
    for image in (path.parent / name, path.parent / 'images' / name):
        if is_file(image):
            return image
    raise DataError(
        f'{path}: image {name} is neither in {path.parent} nor in {path.parent}/images; '
        f'put the file beside the images'
    )


def write_coco(path: Path, classes: Sequence[str], samples: Sequence[BoxSample]) -> None:
    """Write boxes as COCO JSON with image paths relative to the file.

    Raises:
        DataError: an image cannot be read, or the file cannot be written.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, sample in enumerate(samples, start=1):
        height, width = read_image(sample.image).shape[:2]
        name = os.path.relpath(sample.image.absolute(), path.parent.absolute())
        images.append({'id': image_id, 'file_name': name, 'height': height, 'width': width})
        for boxes, ids, crowd in (
            (sample.boxes, sample.class_ids, 0), (sample.ignored, sample.ignored_ids, 1)
        ):
            for (x1, y1, x2, y2), class_id in zip(boxes.tolist(), ids.tolist(), strict=True):
                annotations.append({
                    'id': len(annotations) + 1, 'image_id': image_id, 'category_id': class_id + 1,
                    'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1),
                    'iscrowd': crowd,
                })
    categories = [{'id': index, 'name': name} for index, name in enumerate(classes, start=1)]
    values = {'images': images, 'annotations': annotations, 'categories': categories}
    try:
        with replacing(path) as partial:
            partial.write_text(json.dumps(values), encoding='utf-8')
    except OSError as exc:
        raise DataError(f'{path}: cannot be written: {exc.strerror}') from exc
