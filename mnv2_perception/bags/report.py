"""What a recorded run was worth: counts, latency, accuracy and pictures, from bags alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.read import BagReader, header_stamp_ns
from mnv2_perception.errors import BagError
from mnv2_perception.metrics import ConfusionMatrix
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.vision.encodings import (
    image_from_compressed_msg,
    image_from_fields,
    labels_from_compressed_msg,
    labels_from_msg,
)
from mnv2_perception.vision.overlay import blend_mask, draw_legend

RAW = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'

Frame = tuple[int, NDArray[np.uint8]]  # header stamp in ns, image or ids
Decode = Callable[[Any], NDArray[np.uint8]]
FramePair = tuple[int, NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class CameraTopics:
    """Which topics of a bag are the camera's.

    Attributes:
        image: topic of the images.
        compressed: whether they are CompressedImage.
        label: topic of the labels with the images' stamps; None without.
    """

    image: str
    compressed: bool
    label: str | None


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
    labels = [name for name in topics if 'label' in name.split('/')]
    images = [name for name in topics if name not in labels and 'depth' not in name.lower()]
    if image and image not in topics:
        raise BagError(f'{bag}: has no images on {image}; it has {", ".join(topics) or "none"}')
    if not image and not images:
        raise BagError(f'{bag}: has no images (sensor_msgs Image or CompressedImage)')
    chosen = image or images[0]
    return CameraTopics(chosen, topics[chosen], labels[0] if labels else None)


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


def read_last_diagnostics(bag: Path, topic: str, name: str) -> dict[str, str]:
    """Return the key-value pairs of the last /diagnostics status whose name begins with `name`.

    Raises:
        BagError: there is none.
    """
    values: dict[str, str] = {}
    with BagReader(bag) as reader:
        for message in reader.messages([topic]):
            for status in reader.deserialize(message).status:
                if status.name.startswith(name):
                    values = {pair.key: pair.value for pair in status.values}
    if not values:
        raise BagError(f'{bag}: {topic} has no status of {name}; did the node run?')
    return values


def latencies_ms(sent_log: Path, received_log: Path, sent: str, received: str) -> list[float]:
    """Return for each result the time from its image's publication to its arrival, ms.

    Args:
        sent_log: CSV of `mnv2 bag play --log`.
        received_log: CSV of `mnv2 bag record --log`.
        sent: topic of the images.
        received: topic of the results.
    """
    sent_ns = dict(_read_log(sent_log, sent, 'published_ns'))
    return [
        (time_ns - sent_ns[stamp_ns]) / 1e6
        for stamp_ns, time_ns in _read_log(received_log, received, 'received_ns')
        if stamp_ns in sent_ns
    ]


def _read_log(path: Path, topic: str, column: str) -> Iterator[tuple[int, int]]:
    with path.open(newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            if row['topic'] == topic and row['stamp_ns']:
                yield int(row['stamp_ns']), int(row[column])


def account(frames_in: int, masks_out: int, node: Mapping[str, str]) -> dict[str, int]:
    """Say where every frame went, from three counters that do not know of each other.

    Args:
        frames_in: images that the player published.
        masks_out: masks that the recorder received.
        node: the node's own counters, from its diagnostics.

    Returns:
        `frames_in`, `masks_out`, `passed_over` and `rejected` (by the node), `lost` (on the way
        to the node or from it to the recorder) and `dropped`, the sum of the last three. If the
        node counts right, frames_in = masks_out + dropped.
    """
    passed_over, rejected = int(node['passed_over']), int(node['rejected'])
    lost = frames_in - int(node['received']) + int(node['published']) - masks_out
    return {
        'frames_in': frames_in,
        'masks_out': masks_out,
        'passed_over': passed_over,
        'rejected': rejected,
        'lost': lost,
        'dropped': passed_over + rejected + lost,
    }


def paired(left: Iterable[Frame], right: Iterable[Frame]) -> Iterator[FramePair]:
    """Yield (stamp, left, right) of the frames with equal stamps; both come in stamp order."""
    others = iter(right)
    other = next(others, None)
    for stamp_ns, frame in left:
        while other is not None and other[0] < stamp_ns:
            other = next(others, None)
        if other is not None and other[0] == stamp_ns:
            yield stamp_ns, frame, other[1]


def accuracy(labels: Iterable[Frame], masks: Iterable[Frame], num_classes: int) -> ConfusionMatrix:
    """Compare masks with the labels of the same stamps and size; both come in stamp order."""
    matrix = ConfusionMatrix(num_classes)
    for _, label, mask in paired(labels, masks):
        if label.shape == mask.shape:
            matrix.add(label, mask)
    return matrix


def spread(stamps: Sequence[int], count: int = 6) -> set[int]:
    """Return up to `count` of the stamps, first and last among them, evenly spread."""
    return {stamps[round(i * (len(stamps) - 1) / max(1, count - 1))] for i in range(count)}


def write_overlays(out: Path, pairs: Iterable[FramePair], spec: ModelSpec) -> list[Path]:
    """Write pictures, the image beside its overlay, with a legend.

    Args:
        out: their folder.
        pairs: (stamp, image, mask); see `paired`.
        spec: of the model, for names and colours.

    Returns:
        The paths, `out/overlay_00.png` and so on.
    """
    paths: list[Path] = []
    for _, image, mask in pairs:
        overlay = blend_mask(image, mask, spec.colours)
        picture = draw_legend(np.hstack([image, overlay]), spec.classes, spec.colours)
        path = out / f'overlay_{len(paths):02d}.png'
        cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        paths.append(path)
    return paths


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return a percentile (share from 0 to 1) of values, None without any."""
    return float(np.quantile(values, share)) if values else None
