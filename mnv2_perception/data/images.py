"""Read and write pictures in files and folders, and read those of a bag."""

from collections.abc import Iterator
import logging
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.files import replacing
from mnv2_perception.errors import DataError, ImageError, stand_in
from mnv2_perception.vision.image_files import check_file, MAX_PIXELS

logger = logging.getLogger(__name__)
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')
BAG_SUFFIXES = ('.mcap', '.db3', '.mcap.zstd', '.db3.zstd', '.bag')
BAG_NAMES = (*BAG_SUFFIXES, '.bag.active')  # the last is refused later, with advice


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB, rotated by its EXIF orientation.

    Viewers and labelling tools show it in the same way.

    Raises:
        DataError: the file cannot be decoded, its end is missing, or it has more than MAX_PIXELS.
    """
    return decode_image(read_bytes(path), path)


def decode_image(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the content of an image file, see `read_image`; `path` is for error messages.

    Raises:
        DataError: as in `read_image`.
    """
    try:
        check_file(data, MAX_PIXELS)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except (ImageError, cv2.error) as exc:
        reason = exc if isinstance(exc, ImageError) else 'OpenCV cannot decode it'
        raise DataError(f'{path}: {reason}; copy it again, or remove it') from exc
    if image is None:
        other = stand_in(path) or 'is not a readable image; copy it again, or remove it'
        raise DataError(f'{path}: {other}')
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image completely or not at all.

    Args:
        path: path of the file; its suffix selects the format.
        image: (H, W, 3) uint8 RGB or (H, W) uint8.

    Raises:
        DataError: OpenCV does not have the format, or the format cannot hold the image (.pgm has
            no colours, .webp at most 16383 px); or the file cannot be written.
    """
    data = _encode(path, image)
    try:
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as exc:
        raise DataError(f'{path}: cannot be written: {exc.strerror}') from exc


def check_format(path: Path) -> None:
    """Check that a path's suffix is of a format that holds a coloured image.

    OpenCV is asked to encode one pixel, because its list of writers has .exr, which may be
    disabled, and .pgm, which is gray.

    Raises:
        DataError: it is not.
    """
    _encode(path, np.zeros((1, 1, 3), np.uint8))


def _encode(path: Path, image: NDArray[np.uint8]) -> bytes:
    coloured = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    try:
        done, data = cv2.imencode(path.suffix, coloured)
    except cv2.error as exc:
        raise DataError(f'{path}: OpenCV cannot write it ({exc.err}); use a name that ends in '
                        f'.png') from exc
    if not done:
        raise DataError(
            f'{path}: this format cannot hold colours or an image of this size; use a name that '
            f'ends in .png'
        )
    return data.tobytes()


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DataError(f'{path}: cannot be read: {exc.strerror}') from exc


def is_file(path: Path) -> bool:
    """Return whether a file exists; False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or has a NUL
        return False


def is_bag(path: Path) -> bool:
    """Return whether a path is a bag: by its name, or by the files in a folder."""
    try:
        return path.name.endswith(BAG_NAMES) or (path.is_dir() and any(
            each.name.endswith(BAG_NAMES) for each in path.iterdir()
        ))
    except (OSError, ValueError):  # as above
        return False


def list_images(folder: Path) -> list[Path]:
    """Return a folder's images, sorted by name; other visible files are logged."""
    visible = sorted(path for path in folder.glob('*') if path.name[0] != '.')
    images = [path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path.name for path in visible if path.is_file() and path not in images]
    if images and others:
        logger.warning(
            '%s: %d files are left out (%s%s); images are %s', folder, len(others),
            ', '.join(others[:3]), ' …' if others[3:] else '', ' '.join(IMAGE_SUFFIXES),
        )
    return images


def spread_images(source: Path, count: int, topic: str = '') -> Iterator[NDArray[np.uint8]]:
    """Yield at most `count` images (H, W, 3) uint8 RGB, evenly spread over a folder or a bag.

    Args:
        source: a folder of images, searched recursively (only its `images/` if there is one); or a
            bag, whose camera images are taken.
        count: maximum number of images, at least 1.
        topic: topic of the bag's images; empty for the one that looks like its camera.

    Raises:
        DataError: there are no images, or one cannot be decoded.
        BagError: the bag cannot be read.
    """
    if is_bag(source):
        from mnv2_perception.bags.camera import find_camera, read_images
        from mnv2_perception.bags.read import BagReader

        topic = find_camera(source, topic).image
        with BagReader(source) as reader:
            total = next(each.message_count for each in reader.topics if each.name == topic)
        chosen = set(np.linspace(0, total - 1, min(count, total)).astype(int).tolist())
        for index, (_, image) in enumerate(read_images(source, topic)):
            if index in chosen:
                yield image
        return
    folder = source / 'images' if (source / 'images').is_dir() else source
    paths = sorted(path for path in folder.rglob('*') if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f'{source}: no images; expected a folder of .jpg or .png files, or a bag')
    for index in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int):
        yield read_image(paths[index])
