"""What a file of results says, frame by frame: of `mnv2 bag run`, or recorded from live nodes."""

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
# What the report shows, and of what type; what stands first decides which frames there are.
SHOWN = {
    MASK: IMAGE, f'{MASK}/compressed': COMPRESSED, 'detections': DETECTIONS,
    'classification': CLASSIFICATION, 'grid': GRID, CONFIDENCE: IMAGE,
}
DIAGNOSTICS = '/diagnostics'
COUNTS = ('received', 'published', 'passed_over', 'rejected', 'lost')


class Message(NamedTuple):
    """A message of a frame, read: its key, when it was recorded (ns), and what it says."""

    key: Key
    recorded_ns: int
    value: Any


def ids_of(msg: Any, _: str) -> NDArray[np.uint8]:
    """Return the ids, or confidences, of a mask or a PNG of one: (H, W) uint8."""
    return labels_from_msg(msg) if hasattr(msg, 'encoding') else labels_from_compressed_msg(msg)


def image_of(msg: Any, _: str) -> NDArray[np.uint8]:
    """Return the image of a message, (H, W, 3) uint8 RGB."""
    return image_from_fields(msg) if hasattr(msg, 'encoding') else image_from_compressed_msg(msg)


DECODED: Mapping[str, Callable[[Any, str], Any]] = {
    DETECTIONS: boxes_of, CLASSIFICATION: lambda msg, _: classes_of(msg), GRID: grid_of,
    IMAGE: ids_of, COMPRESSED: ids_of,
}


def stream(
    bag: Path, topic: str, reasons: Counter[str], wanted: Collection[Key] | None = None,
    decode: Callable[[Any, str], Any] | None = None,
) -> Iterator[Message]:
    """Go through the messages of a topic, past what is damaged.

    Args:
        bag: file or folder.
        topic: of messages that begin with a header.
        reasons: takes what could not be read, and how often; each once a bag's damage.
        wanted: keys of those that are to be decoded; None: all.
        decode: makes of a message what it says; None takes what its type asks for.
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
    """The camera's images, from wherever they are.

    Attributes:
        source: what they are from, for people.
        keys: of all, those too that do not decode.
        read: goes through those of some keys; what does not decode is counted by its reason.
        failed: why images did not decode, by key; filled by `read`.
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
        path: of the file.
        run: what `mnv2 bag run` says of itself; empty for a live recording.
        topics: by the name that a node gives it, of those that have messages.
        classes: names of the masks' ids.
        keys: of the frames with a result: a mask; where there is none a box list, and so on.
        recorded_ns: when each of these was recorded, in their order.
        reasons: what of this could not be read, with how often.
        diagnostics: of each node that told, when (ns) and what.
        grid_frame: of the first grid; empty without.
        robot_frame: of the scan or clouds beside it, in which the robot is the origin.
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
        """Topic of the masks; empty without."""
        return self.topics.get(MASK) or self.topics.get(f'{MASK}/compressed', '')

    def stream(
        self, name: str, wanted: Collection[Key] | None = None,
        reasons: Counter[str] | None = None,
    ) -> Iterator[Message]:
        """Go through the messages of a result, see `stream`; none where the file has none."""
        topic = self.mask if name == MASK else self.topics.get(name)
        if topic:
            yield from stream(
                self.path, topic, Counter() if reasons is None else reasons, wanted
            )


def read_results(path: Path) -> Results:
    """Read what a file of results is about.

    Raises:
        BagError: it cannot be read, or has no results.
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
    """Return the frame of the first message on the first of some topics that has one."""
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
    """Return the topic of the camera's images in a file of results; empty without."""
    with BagReader(results.path) as reader:
        if not any(each.type_name in (RAW, COMPRESSED) for each in reader.topics):
            return ''
    try:
        return find_camera(results.path).image
    except BagError:
        return ''
