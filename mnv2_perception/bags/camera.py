"""The camera of a bag: which topics are its own, and its images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.read import BagReader, header_stamp_ns
from mnv2_perception.errors import BagError
from mnv2_perception.vision.encodings import (
    image_from_compressed_msg,
    image_from_fields,
    labels_from_compressed_msg,
    labels_from_msg,
)

RAW = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
Frame = tuple[int, NDArray[np.uint8]]  # header stamp in ns, image or ids
Decode = Callable[[Any], NDArray[np.uint8]]


@dataclass(frozen=True)
class CameraTopics:
    """Which topics of a bag are the camera's.

    Attributes:
        image: topic of the images.
        compressed: whether they are CompressedImage.
        label: topic of the labels with the images' stamps; None without.
        info: topic of the camera_info beside the images; None without.
    """

    image: str
    compressed: bool
    label: str | None
    info: str | None


def find_camera(bag: Path, image: str = '') -> CameraTopics:
    """Find the camera's topics: the first images that are neither depth nor labels.

    Args:
        bag: the bag.
        image: the image topic, if not the first.

    Raises:
        BagError: the bag has no such topic, or no images.
    """
    with BagReader(bag) as reader:
        topics = {
            topic.name: topic.type_name == COMPRESSED
            for topic in reader.topics
            if topic.type_name in (RAW, COMPRESSED) and topic.message_count
        }
        infos = {
            topic.name for topic in reader.topics
            if topic.type_name == CAMERA_INFO and topic.message_count
        }
    labels = [name for name in topics if 'label' in name.split('/')]
    images = [name for name in topics if name not in labels and 'depth' not in name.lower()]
    if image and image not in topics:
        raise BagError(f'{bag}: has no images on {image}; it has {", ".join(topics) or "none"}')
    if not image and not images:
        raise BagError(f'{bag}: has no images (sensor_msgs Image or CompressedImage)')
    chosen = image or images[0]
    info = chosen.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'
    return CameraTopics(
        chosen, topics[chosen], labels[0] if labels else None, info if info in infos else None
    )


def read_images(bag: Path, topic: str) -> Iterator[Frame]:
    """Yield (header stamp in ns, (H, W, 3) RGB) of a bag's images, one at a time."""
    return _read(bag, topic, image_from_fields, image_from_compressed_msg)


def read_ids(bag: Path, topic: str) -> Iterator[Frame]:
    """Yield (header stamp in ns, (H, W) uint8 ids) of a bag's masks or labels."""
    return _read(bag, topic, labels_from_msg, labels_from_compressed_msg)


def _read(bag: Path, topic: str, raw: Decode, compressed: Decode) -> Iterator[Frame]:
    with BagReader(bag) as reader:
        for message in reader.messages([topic]):
            decode = compressed if message.type_name == COMPRESSED else raw
            yield header_stamp_ns(message.cdr), decode(reader.deserialize(message))


def read_stamps(bag: Path, topic: str) -> list[tuple[int, int]]:
    """Return (time of recording, header stamp), both in ns, of a topic's messages."""
    with BagReader(bag) as reader:
        return [(item.stamp_ns, header_stamp_ns(item.cdr)) for item in reader.messages([topic])]
