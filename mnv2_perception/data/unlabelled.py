"""Images without labels, from a folder or a bag: what a model is calibrated with."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.folders import IMAGE_SUFFIXES, read_image
from mnv2_perception.errors import DataError

BAG_SUFFIXES = ('.mcap', '.db3')


def spread_images(source: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield at most `count` images (H, W, 3) uint8 RGB, spread evenly over a folder or a bag.

    Args:
        source: a folder of images, at any depth (`images/` of it alone if there is one); or a
            bag, of which the first camera's are taken.
        count: at least 1.

    Raises:
        DataError: there is none, or one does not decode.
        BagError: the bag cannot be read.
    """
    if source.suffix in BAG_SUFFIXES or any(
        path.suffix in BAG_SUFFIXES for path in source.glob('*')
    ):
        # Folders are read also where rosbags is not installed.
        from mnv2_perception.bags.camera import find_camera, read_images
        from mnv2_perception.bags.read import BagReader

        topic = find_camera(source).image
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
