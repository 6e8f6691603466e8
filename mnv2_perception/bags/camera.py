"""Find the camera's topics in a bag and read its images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.files import warn_once
from mnv2_perception.bags.read import BagReader, header_stamp_ns
from mnv2_perception.bags.results import is_result
from mnv2_perception.errors import BagError, ImageError, PerceptionError
from mnv2_perception.vision.encodings import (
    image_from_compressed_msg,
    image_from_fields,
    labels_from_compressed_msg,
    labels_from_msg,
)

RAW = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
NUMBERS = ('16UC', '32FC', '64FC', '32SC', '16SC')
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
Frame = tuple[int, NDArray[np.uint8]]  # header stamp in ns, image or ids
Decode = Callable[[Any], NDArray[np.uint8]]


# Distinct values that a camera's image has at least. Labels and coarsely quantised scores have
# fewer.
MANY_GRAYS, MANY_COLOURS = 48, 256
# Words in a topic's name that speak against a camera. No proof: depth cameras have colour images.
NO_CAMERA = re.compile(
    r'(?<![a-z])(labels?|semantic|segmentation|instance|masks?|confidence|disparity|depth)(?![a-z])'
)
NAMED = 4  # added to the rank, so that such topics come after all others
LOOKED_AT = 5  # messages tried until one decodes
PIXELS_LOOKED_AT = 250_000


@dataclass(frozen=True)
class CameraTopics:
    """The topics of a bag that belong to its camera.

    Attributes:
        image: topic of the images.
        compressed: whether the images are CompressedImage messages.
        label: topic of labels; None if the bag has none.
        info: topic of the camera_info beside the images; None if the bag has none.
        passed_over: the other image topics, each with the reason why it was not chosen.
    """

    image: str
    compressed: bool
    label: str | None
    info: str | None
    passed_over: dict[str, str] = field(default_factory=dict, compare=False)


class Look(NamedTuple):
    """What the first image of a topic shows.

    Attributes:
        rank: 0 for the most likely camera, larger for less likely ones; None if it cannot be one.
        kind: description of the images, in words.
        ids: whether the image can be read as class ids.
    """

    rank: int | None
    kind: str
    ids: bool = False


def find_camera(bag: Path, image: str = '', option: str = '--topic') -> CameraTopics:
    """Find the camera's topics by the first image of each: colour before gray, many values first.

    Labels, depth, confidences and topics that this package publishes itself are excluded. If there
    was a choice, the log says which topic was taken and why the others were not.

    Args:
        bag: path of the bag.
        image: the image topic, if it is known.
        option: how the user of this command or launch file names the topic, for the advice.

    Raises:
        BagError: the bag does not have this topic, or has no images of a camera.
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
        looks = {name: _look(reader, name) for name in topics}
    if image and image not in topics:
        raise BagError(f'{bag}: has no images on {image}; it has {", ".join(topics) or "none"}')
    kinds = {name: look.kind for name, look in looks.items()}
    able = [(look.rank, name) for name, look in looks.items() if look.rank is not None]
    if not image and not able:
        advice = (
            f'it has {_listed(kinds)}; to use one of them anyway, name it with {option}'
            if kinds else 'it has no images at all; record the camera too'
        )
        raise BagError(
            f'{bag}: has no camera images (sensor_msgs Image or CompressedImage); {advice}'
        )
    chosen = image or min(able)[1]
    others = {name: kind for name, kind in kinds.items() if name != chosen}
    if not image and (others or min(able)[0] > 1):
        besides = f', not {_listed(others)}' if others else ''
        warn_once(
            f'{bag}: using {chosen} as the camera ({kinds[chosen]}){besides}; choose another with '
            f'{option}'
        )
    labels = [name for name, look in looks.items() if look.ids and 'label' in name.split('/')]
    info = chosen.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'
    return CameraTopics(
        chosen, topics[chosen], labels[0] if labels else None, info if info in infos else None,
        others,
    )


def find_label(bag: Path) -> str:
    """Return the topic of a bag's labels: its name has the part `label`, its images are class ids.

    Raises:
        BagError: the bag has no such topic.
    """
    with BagReader(bag) as reader:
        for topic in reader.topics:
            named = 'label' in topic.name.split('/') and topic.message_count
            if topic.type_name in (RAW, COMPRESSED) and named and _look(reader, topic.name).ids:
                return topic.name
        names = ', '.join(topic.name for topic in reader.topics)
    raise BagError(f'{bag}: has no labels on a topic called label; it has {names}')


def _listed(kinds: dict[str, str]) -> str:
    return ', '.join(f'{name} ({kind})' for name, kind in kinds.items())


def _look(reader: BagReader, topic: str) -> Look:
    """Look at the first image of a topic that can be decoded."""
    if is_result(topic.removesuffix('/compressed'), RAW):
        return Look(None, 'a result of this package')
    look = Look(None, 'no image')
    for message in islice(reader.messages([topic]), LOOKED_AT):
        try:
            msg = reader.deserialize(message)
            packed = message.type_name == COMPRESSED
            # The declared encoding is checked before decoding, which depth would fail.
            about = msg.format if packed else msg.encoding
            if about.startswith(NUMBERS) or 'compressedDepth' in about:
                return Look(None, f'{about[:40]!r}: depth or other numbers')
            image = image_from_compressed_msg(msg) if packed else image_from_fields(msg)
            return _judge(topic, msg, image)
        except PerceptionError as exc:
            look = Look(None, f'no image: {str(exc)[:100]}')
    return look


def _judge(topic: str, msg: Any, image: NDArray[np.uint8]) -> Look:
    """Rank a topic by whether its image has colours, and by how many distinct values it has."""
    height, width = image.shape[:2]
    step = 1 + int((height * width / PIXELS_LOOKED_AT) ** 0.5)
    image = image[::step, ::step]
    codes = image.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    values = len(np.unique(codes))
    gray = bool((image[..., :1] == image).all())
    many = min(MANY_GRAYS if gray else MANY_COLOURS, codes.size // 4)
    kind = f'{"gray" if gray else "colour"}, {height} × {width}'
    few, named, ids = values < many, NO_CAMERA.search(topic.lower()), gray and _are_ids(msg)
    kind += f', values: {values}' if few else ''
    kind += f', called {named[0]}' if named else ''
    if gray and few and named:
        return Look(None, kind, ids)
    # An image with few values may be dark or drawn, unless its topic's name says otherwise.
    return Look(2 * few + gray + (NAMED if named else 0), kind, ids)


def _are_ids(msg: Any) -> bool:
    try:
        (labels_from_msg if hasattr(msg, 'encoding') else labels_from_compressed_msg)(msg)
    except ImageError:
        return False
    return True


def read_images(bag: Path, topic: str, skip_broken: bool = False) -> Iterator[Frame]:
    """Yield (header stamp in ns, (H, W, 3) uint8 RGB) of a bag's images, one at a time.

    Args:
        bag: path of the bag.
        topic: topic of the images.
        skip_broken: skip messages that are no valid images, as the nodes reject them.

    Raises:
        BagError: the topic is not in the bag, or a message cannot be deserialised.
        ImageError: a message is no valid image.
    """
    return _read(bag, topic, image_from_fields, image_from_compressed_msg, skip_broken)


def read_ids(bag: Path, topic: str) -> Iterator[Frame]:
    """Yield (header stamp in ns, (H, W) uint8 ids) of a bag's masks or labels."""
    return _read(bag, topic, labels_from_msg, labels_from_compressed_msg)


def _read(
    bag: Path, topic: str, raw: Decode, compressed: Decode, skip_broken: bool = False
) -> Iterator[Frame]:
    with BagReader(bag) as reader:
        for message in reader.messages([topic]):
            decode = compressed if message.type_name == COMPRESSED else raw
            try:
                frame = header_stamp_ns(message.cdr), decode(reader.deserialize(message))
            except PerceptionError:
                if skip_broken:
                    continue
                raise
            yield frame


def read_stamps(bag: Path, topic: str) -> list[tuple[int, int]]:
    """Return (recording time, header stamp), both in ns, of each message of a topic."""
    with BagReader(bag) as reader:
        return [(item.stamp_ns, header_stamp_ns(item.cdr)) for item in reader.messages([topic])]
