"""What a recorded run was worth: counts, latency, accuracy and pictures, from bags alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.read import BagReader, header_stamp_ns
from mnv2_perception.errors import BagError
from mnv2_perception.metrics import ConfusionMatrix
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.vision.costmap import Grid
from mnv2_perception.vision.encodings import (
    image_from_compressed_msg,
    image_from_fields,
    labels_from_compressed_msg,
    labels_from_msg,
)
from mnv2_perception.vision.overlay import (
    blend_mask,
    draw_beside,
    draw_boxes,
    draw_grid,
    draw_legend,
    FREE,
    OCCUPIED,
    UNSEEN,
)

RAW = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
DETECTIONS = 'vision_msgs/msg/Detection2DArray'
CLASSIFICATION = 'vision_msgs/msg/Classification'
GRID = 'nav_msgs/msg/OccupancyGrid'

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


@dataclass(frozen=True)
class NamedBoxes:
    """What a recorded detector found in one image, in the message's order.

    Attributes:
        boxes: (N, 4) float32, x1, y1, x2, y2 in the image's pixels.
        scores: (N,) float32, 0 to 1.
        names: (N) of their classes.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """What was said of one image; None where nothing was.

    Attributes:
        time_s: when it was taken.
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) uint8 class ids.
        boxes: the objects in it.
        classes: name and score of its classes, best first.
        grid: around the robot, in the base frame.
        note: what else the caption is to say.
    """

    time_s: float
    image: NDArray[np.uint8]
    ids: NDArray[np.uint8] | None = None
    boxes: NamedBoxes | None = None
    classes: Sequence[tuple[str, float]] | None = None
    grid: Grid | None = None
    note: str = ''


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


def read_detections(bag: Path, topic: str) -> Iterator[tuple[int, NamedBoxes]]:
    """Yield (header stamp in ns, boxes) of a bag's vision_msgs/Detection2DArray.

    Raises:
        BagError: the topic is not in the bag, or of another type.
    """
    for stamp_ns, msg in _read_messages(bag, topic, DETECTIONS):
        boxes = np.array([
            (box.center.position.x, box.center.position.y, box.size_x, box.size_y)
            for box in (detection.bbox for detection in msg.detections)
        ], np.float64).reshape(-1, 4)
        centres, halves = boxes[:, :2], boxes[:, 2:] / 2
        best = [detection.results[0].hypothesis for detection in msg.detections]
        yield stamp_ns, NamedBoxes(
            np.hstack([centres - halves, centres + halves]).astype(np.float32),
            np.array([hypothesis.score for hypothesis in best], np.float32),
            tuple(hypothesis.class_id for hypothesis in best),
        )


def read_classifications(
    bag: Path, topic: str
) -> Iterator[tuple[int, list[tuple[str, float]]]]:
    """Yield (header stamp in ns, names and scores, best first) of vision_msgs/Classification.

    Raises:
        BagError: the topic is not in the bag, or of another type.
    """
    for stamp_ns, msg in _read_messages(bag, topic, CLASSIFICATION):
        yield stamp_ns, [(result.class_id, float(result.score)) for result in msg.results]


def read_grids(bag: Path, topic: str) -> Iterator[tuple[int, Grid]]:
    """Yield (header stamp in ns, grid) of a bag's nav_msgs/OccupancyGrid without a rotation.

    Raises:
        BagError: the topic is not in the bag, or of another type.
    """
    for stamp_ns, msg in _read_messages(bag, topic, GRID):
        cells = np.asarray(msg.data, np.int8).reshape(msg.info.height, msg.info.width)
        origin = msg.info.origin.position
        yield stamp_ns, Grid(cells, float(origin.x), float(origin.y), float(msg.info.resolution))


def _read_messages(bag: Path, topic: str, type_name: str) -> Iterator[tuple[int, Any]]:
    with BagReader(bag) as reader:
        for message in reader.messages([topic]):
            if message.type_name != type_name:
                raise BagError(
                    f'{bag}: {topic} is of type {message.type_name}, expected {type_name}; '
                    f'name another topic'
                )
            yield header_stamp_ns(message.cdr), reader.deserialize(message)


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


def paired(
    left: Iterable[Frame], right: Iterable[Frame]
) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
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


def draw_results(
    results: Results, spec: ModelSpec, box_colours: Mapping[str, tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """Draw all that was said of one image, the grid beside it, with a caption and a legend.

    Args:
        results: of one image.
        spec: of the segmentation model, for names and colours.
        box_colours: (R, G, B) for each class of boxes; white for those that it lacks.

    Returns:
        (H, W, 3) uint8 RGB, larger than the image.
    """
    picture = results.image
    names, colours = list(spec.classes), list(spec.colours)
    if results.ids is not None:
        picture = blend_mask(picture, results.ids, spec.colours)
    if results.boxes is not None:
        found = results.boxes
        picture = draw_boxes(
            picture, found.boxes, found.scores, np.arange(len(found.names)), found.names,
            [box_colours.get(name, (255, 255, 255)) for name in found.names],
        )
    height = len(picture)
    panel = np.empty((height, 0, 3), np.uint8)
    if results.grid is not None:
        panel = draw_grid(results.grid, height, height)
        names += ['grid: free', 'grid: occupied', 'grid: unseen']
        colours += [FREE, OCCUPIED, UNSEEN]
    caption = f'{results.time_s:.2f} s'
    if results.classes:
        name, score = results.classes[0]
        caption += f'   ahead: {name} {score:.2f}'
    if results.note:
        caption += f'   {results.note}'
    return draw_legend(draw_beside(picture, panel, caption), names, colours)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return a percentile (share from 0 to 1) of values, None without any."""
    return float(np.quantile(values, share)) if values else None
