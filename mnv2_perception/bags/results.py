"""Read recorded results: detections, classifications, grids, diagnostics."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
import json
from pathlib import Path
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.read import BagReader, header_stamp_ns
from mnv2_perception.errors import BagError
from mnv2_perception.vision.costmap import Grid

DETECTIONS = 'vision_msgs/msg/Detection2DArray'
CLASSIFICATION = 'vision_msgs/msg/Classification'
GRID = 'nav_msgs/msg/OccupancyGrid'
IMAGE, LABEL_INFO = 'sensor_msgs/msg/Image', 'vision_msgs/msg/LabelInfo'
CLOUD = 'sensor_msgs/msg/PointCloud2'
RUN = '/mnv2/run'  # the description that `mnv2 bag run` writes of its run
# The topics that each node publishes, in its namespace; * stands for the name of a class.
RESULTS = {
    'segmentation': {
        'segmentation/mask': IMAGE, 'segmentation/confidence': IMAGE,
        'segmentation/mask/compressed': 'sensor_msgs/msg/CompressedImage',
        'segmentation/overlay': IMAGE, 'segmentation/label_info': LABEL_INFO,
        'detections': DETECTIONS,
    },
    'classification': {
        'classification': CLASSIFICATION, 'classification/label_info': LABEL_INFO,
    },
    'detection': {
        'detections': DETECTIONS, 'detections/label_info': LABEL_INFO,
        'detections/overlay': IMAGE,
    },
    'costmap': {
        'obstacles': CLOUD, 'obstacles/*': CLOUD, 'ground': CLOUD,
        'scan': 'sensor_msgs/msg/LaserScan', 'grid': GRID,
        'semantic/mask': IMAGE, 'semantic/confidence': IMAGE, 'semantic/points': CLOUD,
        'semantic/camera_info': 'sensor_msgs/msg/CameraInfo', 'semantic/label_info': LABEL_INFO,
    },
    'detection3d': {'detections3d': 'vision_msgs/msg/Detection3DArray'},
}


def is_result(topic: str, type_name: str) -> bool:
    """Return whether a node of this package publishes such a topic, in any namespace."""
    return any(
        type_name == of_type and fnmatchcase(f'/{topic}', f'*/{name}')
        for results in RESULTS.values()
        for name, of_type in results.items()
    )


def label_infos(bag: BagReader, label: str) -> list[str]:
    """Return the LabelInfo topics beside a label topic, which name its class ids."""
    place = label.removesuffix('/compressed').rpartition('/')[0]
    return [
        topic.name for topic in bag.topics
        if topic.type_name == LABEL_INFO and topic.message_count
        and topic.name.startswith(f'{place}/')
    ]


def own_results(bag: Path, nodes: Collection[str], spaces: Collection[str]) -> list[str]:
    """Return the topics of a bag that nodes in these namespaces would publish too.

    Args:
        bag: path of the bag.
        nodes: `segmentation`, `costmap` and so on.
        spaces: namespaces; extra slashes in them are ignored.
    """
    published = [
        (re.sub('/+', '/', f'/{space}/{name}'), type_name)
        for space in spaces
        for node in nodes
        for name, type_name in RESULTS.get(node, {}).items()
    ]
    with BagReader(bag) as reader:
        return [
            each.name for each in reader.topics
            if any(
                fnmatchcase(each.name, name) and each.type_name == type_name
                for name, type_name in published
            )
        ]


@dataclass(frozen=True)
class NamedBoxes:
    """The recorded detections of one image, in the message's order.

    Attributes:
        boxes: (N, 4) float32: x1, y1, x2, y2 in pixels of the image.
        scores: (N,) float32, 0 to 1.
        names: class names of the N boxes.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    names: tuple[str, ...]


def read_detections(bag: Path, topic: str) -> Iterator[tuple[int, NamedBoxes]]:
    """Yield (header stamp in ns, boxes) of a bag's vision_msgs/Detection2DArray messages.

    Raises:
        BagError: the topic is missing or has another type, or a detection has no class.
    """
    for stamp_ns, msg in _read_messages(bag, topic, DETECTIONS):
        yield stamp_ns, boxes_of(msg, f'{bag}: {topic}')


def boxes_of(msg: Any, source: str) -> NamedBoxes:
    """Return the boxes of a vision_msgs/Detection2DArray.

    Raises:
        BagError: a detection has no class.
    """
    boxes = np.array([
        (box.center.position.x, box.center.position.y, box.size_x, box.size_y)
        for box in (detection.bbox for detection in msg.detections)
    ], np.float64).reshape(-1, 4)
    centres, halves = boxes[:, :2], boxes[:, 2:] / 2
    if not all(len(detection.results) for detection in msg.detections):
        raise BagError(f'{source} has a detection without a class; name another topic')
    best = [detection.results[0].hypothesis for detection in msg.detections]
    return NamedBoxes(
        np.hstack([centres - halves, centres + halves]).astype(np.float32),
        np.array([hypothesis.score for hypothesis in best], np.float32),
        tuple(hypothesis.class_id for hypothesis in best),
    )


def read_classifications(
    bag: Path, topic: str
) -> Iterator[tuple[int, list[tuple[str, float]]]]:
    """Yield (header stamp in ns, names and scores, best first) of vision_msgs/Classification.

    Raises:
        BagError: the topic is missing or has another type.
    """
    for stamp_ns, msg in _read_messages(bag, topic, CLASSIFICATION):
        yield stamp_ns, classes_of(msg)


def classes_of(msg: Any) -> list[tuple[str, float]]:
    """Return class names and scores of a vision_msgs/Classification, best first."""
    return [(result.class_id, float(result.score)) for result in msg.results]


def read_grids(bag: Path, topic: str) -> Iterator[tuple[int, Grid]]:
    """Yield (header stamp in ns, grid) of a bag's nav_msgs/OccupancyGrid; rotation is ignored.

    Raises:
        BagError: the topic is missing or has another type, or a grid contradicts itself.
    """
    for stamp_ns, msg in _read_messages(bag, topic, GRID):
        yield stamp_ns, grid_of(msg, f'{bag}: {topic}')


def grid_of(msg: Any, source: str) -> Grid:
    """Return the grid of a nav_msgs/OccupancyGrid; a rotation of its origin is ignored.

    Raises:
        BagError: the number of cells is not height × width.
    """
    height, width = msg.info.height, msg.info.width
    if len(msg.data) != height * width:
        raise BagError(
            f'{source} has a grid of {len(msg.data)} cells, expected {height} × {width}; record '
            f'it again'
        )
    cells = np.asarray(msg.data, np.int8).reshape(height, width)
    origin = msg.info.origin.position
    return Grid(cells, float(origin.x), float(origin.y), float(msg.info.resolution))


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
        BagError: there is no such status, or it has no values.
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


def read_run(results: Path) -> dict[str, Any]:
    """Return the description that `mnv2 bag run` wrote of its run; empty for a live recording.

    Raises:
        BagError: the file cannot be read, or the description is no JSON.
    """
    with BagReader(results) as reader:
        if RUN not in {topic.name for topic in reader.topics}:
            return {}
        for message in reader.messages([RUN]):
            text = str(reader.deserialize(message).data)
            try:
                told = json.loads(text)
            except ValueError as exc:
                raise BagError(f'{results}: {RUN} is not valid JSON ({exc}); make the run '
                               f'again') from exc
            return told if isinstance(told, dict) else {}
    return {}
