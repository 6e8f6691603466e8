"""Read a file of results frame by frame, from `mnv2 bag run` or recorded from live nodes."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.camera import COMPRESSED, find_camera, RAW
from mnv2_perception.bags.read import BagReader, header_stamp_ns
from mnv2_perception.bags.results import (
    boxes_of,
    classes_of,
    CLASSIFICATION,
    DETECTIONS,
    GRID,
    grid_of,
    IMAGE,
    read_run,
    RESULTS,
)
from mnv2_perception.errors import BagError, PerceptionError
from mnv2_perception.evaluation.compare import find_result
from mnv2_perception.evaluation.labels import read_names
from mnv2_perception.evaluation.recording import Key
from mnv2_perception.model_spec import UNLABELLED
from mnv2_perception.vision.encodings import (
    image_from_compressed_msg,
    image_from_fields,
    labels_from_compressed_msg,
    labels_from_msg,
)

MASK, CONFIDENCE = 'segmentation/mask', 'segmentation/confidence'
# Results that the report shows, with their types; the first one that a file has defines its
# frames.
SHOWN = {
    MASK: IMAGE, f'{MASK}/compressed': COMPRESSED, 'detections': DETECTIONS,
    'classification': CLASSIFICATION, 'grid': GRID, CONFIDENCE: IMAGE,
}
DIAGNOSTICS = '/diagnostics'
COUNTS = ('received', 'published', 'passed_over', 'rejected', 'lost')


class Message(NamedTuple):
    """A frame's message: its key, time of recording (ns), and decoded content."""

    key: Key
    recorded_ns: int
    value: Any


def ids_of(msg: Any, _: str) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 ids or confidences of an Image or a compressed PNG."""
    return labels_from_msg(msg) if hasattr(msg, 'encoding') else labels_from_compressed_msg(msg)


def image_of(msg: Any, _: str) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 RGB image of a message."""
    return image_from_fields(msg) if hasattr(msg, 'encoding') else image_from_compressed_msg(msg)


DECODED: Mapping[str, Callable[[Any, str], Any]] = {
    DETECTIONS: boxes_of, CLASSIFICATION: lambda msg, _: classes_of(msg), GRID: grid_of,
    IMAGE: ids_of, COMPRESSED: ids_of,
}


def stream(
    bag: Path, topic: str, reasons: Counter[str], wanted: Collection[Key] | None = None,
    decode: Callable[[Any, str], Any] | None = None,
) -> Iterator[Message]:
    """Yield the messages of a topic, skipping what is damaged.

    Args:
        bag: file or folder of the bag.
        topic: topic whose messages begin with a header.
        reasons: counter to which unreadable messages are added; damage of the bag is added once.
        wanted: keys of the messages to decode; None for all.
        decode: function that decodes a message; None for the one of its type.
    """
    came: Counter[int] = Counter()
    with BagReader(bag) as reader:
        for message in reader.readable([topic]):
            try:
                stamp_ns = header_stamp_ns(message.cdr)
                key = stamp_ns, came[stamp_ns]
                came[stamp_ns] += 1
                if wanted is None or key in wanted:
                    read = decode or DECODED[message.type_name]
                    said = read(reader.deserialize(message), f'{bag.name}: {topic}')
                    yield Message(key, message.stamp_ns, said)
            except PerceptionError as exc:
                reasons[str(exc)] += 1
        if lost := reader.losses.messages[topic] + reader.missing.get(topic, 0):
            reasons[f'{bag.name}: {topic}: damaged or missing'] += lost
        for reason in reader.losses.reasons:
            reasons.setdefault(f'{bag.name}: {reason}', 1)


@dataclass
class Images:
    """The camera's images, from any source.

    Attributes:
        source: description of the source, for the reader.
        keys: keys of all images, including those that cannot be decoded.
        read: yields the images of the given keys.
        failed: reasons why images could not be decoded, by key; filled by `read`.
    """

    source: str
    keys: list[Key]
    read: Callable[[Collection[Key]], Iterator[tuple[Key, NDArray[np.uint8]]]]
    failed: dict[Key, str] = field(default_factory=dict)


def bag_images(bag: Path, topic: str) -> Images:
    """Return the images of a bag's topic.

    Raises:
        BagError: the bag cannot be read.
    """
    reasons: Counter[str] = Counter()
    keys = [each.key for each in stream(bag, topic, reasons, decode=lambda *_: None)]
    images = Images(f'{bag.name}, {topic}', keys, lambda wanted: read(wanted))

    def read(wanted: Collection[Key]) -> Iterator[tuple[Key, NDArray[np.uint8]]]:
        def tried(msg: Any, source: str) -> Any:
            try:
                return image_of(msg, source)
            except PerceptionError as exc:
                return str(exc)

        for key, _, image in stream(bag, topic, Counter(), wanted, tried):
            if isinstance(image, str):
                images.failed[key] = image
            else:
                yield key, image

    return images


@dataclass
class Results:
    """A file of results.

    Attributes:
        path: path of the file.
        run: description that `mnv2 bag run` wrote; empty for a live recording.
        topics: topics that have messages, by the name that a node gives them.
        classes: class names of the masks' ids.
        keys: keys of the frames with a result: a mask; in a file without masks, boxes, and so on.
        recorded_ns: recording time of each of these, in the same order.
        reasons: what could not be read, with counts.
        diagnostics: for each node its diagnostics, with their times in ns.
        grid_frame: frame of the first grid; empty if there is none.
        robot_frame: frame of the scan or the clouds beside it, whose origin is the robot.
    """

    path: Path
    run: dict[str, Any]
    topics: dict[str, str]
    classes: tuple[str, ...] = ()
    keys: list[Key] = field(default_factory=list)
    recorded_ns: list[int] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    diagnostics: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    grid_frame: str = ''
    robot_frame: str = ''

    @property
    def mask(self) -> str:
        """Topic of the masks; empty if there are none."""
        return self.topics.get(MASK) or self.topics.get(f'{MASK}/compressed', '')

    def stream(
        self, name: str, wanted: Collection[Key] | None = None,
        reasons: Counter[str] | None = None,
    ) -> Iterator[Message]:
        """Yield the messages of a result, see `stream`; nothing if the file does not have it."""
        topic = self.mask if name == MASK else self.topics.get(name)
        if topic:
            yield from stream(
                self.path, topic, Counter() if reasons is None else reasons, wanted
            )


def read_results(path: Path) -> Results:
    """Read the topics, classes, frames and diagnostics of a file of results.

    Raises:
        BagError: the file cannot be read, or has no results.
    """
    topics = {
        name: topic for name, type_name in SHOWN.items()
        if (topic := find_result(path, name, type_name))
    }
    if not topics:
        raise BagError(
            f'{path}: has no masks, boxes, classes or grids; make results with `mnv2 bag run`, or '
            f"record the nodes' topics with `mnv2 bag record`"
        )
    results = Results(path, {}, topics)
    try:
        results.run = read_run(path)
    except BagError as exc:
        results.reasons[str(exc)] += 1
    if results.mask:
        names = read_names(path, results.mask) or {}
        most = max((i for i in names if 0 <= i < UNLABELLED), default=-1)
        results.classes = tuple(names.get(i, f'id {i}') for i in range(most + 1))
    first = next(iter(topics.values()))
    for key, recorded_ns, _ in stream(path, first, Counter(), decode=lambda *_: None):
        results.keys.append(key)
        results.recorded_ns.append(recorded_ns)
    _read_diagnostics(results)
    if 'grid' in topics:
        results.grid_frame = _frame_of(path, {topics['grid']: GRID})
        results.robot_frame = _frame_of(path, {
            topics['grid'][: -len('grid')] + name: RESULTS['costmap'][name]
            for name in ('scan', 'obstacles', 'ground')
        })
    return results


def _frame_of(path: Path, topics: Mapping[str, str]) -> str:
    """Return the frame_id of the first readable message on the first topic that has one."""
    with BagReader(path) as reader:
        for name, type_name in topics.items():
            if any((each.name, each.type_name) == (name, type_name) for each in reader.topics):
                for message in reader.readable([name]):
                    try:
                        return str(reader.deserialize(message).header.frame_id)
                    except BagError:
                        continue
    return ''


def _read_diagnostics(results: Results) -> None:
    with BagReader(results.path) as reader:
        types = {each.name: each.type_name for each in reader.topics}
        if types.get(DIAGNOSTICS) != 'diagnostic_msgs/msg/DiagnosticArray':
            return
        for message in reader.readable([DIAGNOSTICS]):
            try:
                told = reader.deserialize(message).status
            except BagError as exc:
                results.reasons[str(exc)] += 1
                continue
            for status in told:
                values = {pair.key: pair.value for pair in status.values}
                if 'passed_over' in values:  # a node of this package
                    node = status.name.removesuffix(': frames')
                    results.diagnostics.setdefault(node, []).append((
                        message.stamp_ns, {'message': status.message, **values}
                    ))


def images_in(results: Results) -> str:
    """Return the topic of the camera's images in a file of results; empty if there is none."""
    with BagReader(results.path) as reader:
        if not any(each.type_name in (RAW, COMPRESSED) for each in reader.topics):
            return ''
    try:
        return find_camera(results.path).image
    except BagError:
        return ''
