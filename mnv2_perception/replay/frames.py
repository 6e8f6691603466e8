"""Read frames from bags, a folder of pictures, or a video file."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
import heapq
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.camera import CameraTopics, COMPRESSED, find_camera, RAW
from mnv2_perception.bags.message_types import MessageType
from mnv2_perception.bags.messages import header
from mnv2_perception.bags.read import BagMessage, BagReader, BagTopic
from mnv2_perception.bags.results import is_result, label_infos
from mnv2_perception.bags.transforms import add_transforms
from mnv2_perception.data.images import (
    BAG_SUFFIXES,
    decode_image,
    IMAGE_SUFFIXES,
    is_bag,
    list_images,
    read_bytes,
)
from mnv2_perception.errors import BagError, DataError, stand_in
from mnv2_perception.vision.camera import named_rectified
from mnv2_perception.vision.encodings import image_from_compressed_msg, image_from_fields
from mnv2_perception.vision.low_bits import LowBits
from mnv2_perception.vision.transforms import TransformTree

FPS = 10.0  # default for pictures, which have no rate
FIRST_NS = 1_000_000_000  # stamp of the first picture; a stamp of zero would mean none
FRAME_ID = 'camera'
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mkv', '.mov', '.webm', '.m4v', '.mpg', '.mpeg')

_LOW_BITS = LowBits()


class Frame(ABC):
    """A frame of a source, not decoded yet; can be pickled."""

    @abstractmethod
    def __call__(self) -> tuple[Any, NDArray[np.uint8]]:
        """Decode the frame.

        Returns:
            The header and the (H, W, 3) uint8 RGB image.

        Raises:
            PerceptionError: the frame is no valid image.
        """

    @property
    @abstractmethod
    def size(self) -> int:
        """Size of the undecoded frame in bytes."""

    def carried(self) -> 'Frame':
        """Return the frame with all data that it needs on another machine."""
        return self


@dataclass(frozen=True)
class BagFrame(Frame):
    """An image message of a bag."""

    type: MessageType
    message: BagMessage

    def __call__(self) -> tuple[Any, NDArray[np.uint8]]:
        message = self.message
        if message.type_name not in (RAW, COMPRESSED):
            raise BagError(
                f'{message.topic}: a message of type {message.type_name}, expected {RAW} or '
                f'{COMPRESSED}; record other types on topics of their own'
            )
        msg = self.type.deserialize(message.topic, message.cdr)
        compressed = message.type_name == COMPRESSED
        image = image_from_compressed_msg(msg) if compressed else image_from_fields(msg)
        _LOW_BITS.look(message.topic, msg, image)
        return msg.header, image

    @property
    def size(self) -> int:
        return len(self.message.cdr)


@dataclass(frozen=True)
class PictureFrame(Frame):
    """A picture file; `data` is its content if it was read already."""

    path: Path
    stamp_ns: int
    data: bytes | None = None

    def __call__(self) -> tuple[Any, NDArray[np.uint8]]:
        data = read_bytes(self.path) if self.data is None else self.data
        return header(self.stamp_ns, FRAME_ID), decode_image(data, self.path)

    @property
    def size(self) -> int:
        return len(self.data or b'')

    def carried(self) -> 'PictureFrame':
        try:
            return replace(self, data=read_bytes(self.path))
        except DataError:
            return replace(self, data=b'')  # rejected there, as it would be here


@dataclass(frozen=True)
class VideoFrame(Frame):
    """A video frame that OpenCV decoded: (H, W, 3) uint8 BGR."""

    pixels: NDArray[Any]
    stamp_ns: int

    def __call__(self) -> tuple[Any, NDArray[np.uint8]]:
        image = cv2.cvtColor(self.pixels, cv2.COLOR_BGR2RGB)
        return header(self.stamp_ns, FRAME_ID), np.asarray(image, np.uint8)

    @property
    def size(self) -> int:
        return int(self.pixels.nbytes)


@dataclass(frozen=True)
class Calibration:
    """A camera_info message of a bag; can be pickled."""

    type: MessageType
    message: BagMessage

    def read(self) -> Any:
        """Return the sensor_msgs/CameraInfo.

        Raises:
            BagError: the message cannot be deserialised.
        """
        return self.type.deserialize(self.message.topic, self.message.cdr)


class Item(NamedTuple):
    """The next item of a source.

    Attributes:
        stamp_ns: time of recording, ns.
        frame: a frame of the camera; None for another message.
        message: a message to be copied; None otherwise.
        calibration: a calibration of the camera, valid from here on; None otherwise.
        name: name of a picture's file without its suffix; empty for other frames.
    """

    stamp_ns: int
    frame: Frame | None = None
    message: BagMessage | None = None
    calibration: Calibration | None = None
    name: str = ''


@dataclass
class Source:
    """A recording.

    Attributes:
        name: name of the recording, for messages.
        count: number of frames that it promises; 0 if unknown.
        items: iterates from the beginning, and ends where nothing more can be read.
        facts: names of its files, its topic and rate, for the run's description.
        copied: topics whose messages are passed on.
        info: topic of the camera's calibration among the items; empty if there is none.
        rectified: whether the topic's name says that the images are rectified.
        transforms: transforms from /tf; None if there are none.
        lost: number of frames that could not be read; set at the end of the items.
        reasons: reasons why something could not be read.
        calibration: the camera's first readable calibration; None if there is none.
    """

    name: str
    count: int
    items: Callable[[], Iterator[Item]]
    facts: dict[str, Any]
    copied: Sequence[BagTopic] = ()
    info: str = ''
    rectified: bool = False
    transforms: TransformTree | None = None
    lost: int = 0
    reasons: list[str] = field(default_factory=list)
    calibration: Calibration | None = None


def open_source(
    paths: Sequence[Path], stack: ExitStack, topic: str = '', copied: Collection[str] = (),
    fps: float = 0.0, transforms: bool = True,
) -> Source:
    """Open bags, a folder of pictures, or a video file.

    Pictures come in the order of their names; pictures and video frames have the stamp
    1 s + index / fps.

    Args:
        paths: one or more bags, which are merged by time; or one folder or video.
        stack: closes what is opened.
        topic: topic of a bag's images; empty for the one that looks like its camera.
        copied: topics of a bag to pass on.
        fps: frames per second; 0 for the video's own rate, and 10 for a folder.
        transforms: read /tf if a bag has it.

    Raises:
        PerceptionError: something cannot be used.
    """
    first = paths[0]
    if not first.exists():
        raise DataError(
            f'{first}: no such file or folder; give bags, a folder of pictures, or a video file'
        )
    if is_bag(first) or (first / 'metadata.yaml').exists():
        return _open_bags(paths, stack, topic, copied, transforms)
    if len(paths) > 1 or copied or topic:
        raise DataError(
            f'{first}: is not a bag; --topic, --copy and several recordings need bags'
        )
    if first.is_dir():
        return _open_pictures(first, fps or FPS)
    if first.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(first, fps)
    raise DataError(
        f'{first}: is not a bag, a folder of pictures or a video; bags end in '
        f'{" ".join(BAG_SUFFIXES)}, videos in {" ".join(VIDEO_SUFFIXES)}, pictures in '
        f'{" ".join(IMAGE_SUFFIXES)}'
    )


def picture_stamp_ns(index: int, fps: float) -> int:
    """Return the stamp of a picture or video frame, ns."""
    return FIRST_NS + round(index * 1e9 / fps)


def _open_pictures(folder: Path, fps: float) -> Source:
    files = list_images(folder)
    if not files and (folder / 'images').is_dir():  # a data set
        files = list_images(folder / 'images')
    if not files:
        raise DataError(f'{folder}: contains neither a bag nor pictures '
                        f'({" ".join(IMAGE_SUFFIXES)})')

    def items() -> Iterator[Item]:
        for index, path in enumerate(files):
            stamp_ns = picture_stamp_ns(index, fps)
            yield Item(stamp_ns, PictureFrame(path, stamp_ns), name=path.stem)

    return Source(
        str(folder), len(files), items, {'pictures': folder.resolve().name, 'fps': fps}
    )


def _open_video(path: Path, fps: float) -> Source:
    video = cv2.VideoCapture(str(path))
    count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    told, opened = video.get(cv2.CAP_PROP_FPS), video.isOpened()
    video.release()
    fps = fps or told
    if not opened or not fps > 0:
        raise DataError(f'{path}: ' + (stand_in(path) or (
            'OpenCV cannot read this video'
            + (' at the rate it states; give --fps' if opened else '; convert it to H.264 in .mp4')
        )))

    source = Source(path.name, count, lambda: items(), {'video': path.name, 'fps': fps})

    def items() -> Iterator[Item]:
        video = cv2.VideoCapture(str(path))
        came = 0
        try:
            while (got := video.read())[0]:
                stamp_ns = picture_stamp_ns(came, fps)
                came += 1
                yield Item(stamp_ns, VideoFrame(got[1], stamp_ns))
        finally:
            video.release()
        source.lost = max(0, count - came)
        if source.lost:
            source.reasons.append(f'{path.name}: OpenCV read only {came} of {count} frames')

    return source


def _open_bags(
    paths: Sequence[Path], stack: ExitStack, topic: str, copied: Collection[str],
    transforms: bool,
) -> Source:
    cameras, failure = [], None
    for path in paths:
        try:
            cameras.append(find_camera(path, topic))
        except BagError as exc:  # perhaps a bag of another camera, or of odometry
            failure = exc
    if failure and not cameras:
        raise failure
    if len({(camera.image, camera.compressed) for camera in cameras}) > 1:
        raise BagError(
            f'the bags have their images on {", ".join(camera.image for camera in cameras)}; give '
            f'--topic, or run the bags one by one'
        )
    camera = cameras[0]
    readers = [stack.enter_context(BagReader(path)) for path in paths]
    handed_on: dict[str, BagTopic] = {}
    for name in copied:
        found = [each for reader in readers for each in reader.topics if each.name == name]
        if not found:
            readers[0].require([name])
        handed_on[name] = found[0]
    for name in [each.name for each in handed_on.values() if each.type_name in (RAW, COMPRESSED)]:
        for reader in readers:  # with labels goes the LabelInfo that names their classes
            infos = label_infos(reader, name)
            handed_on |= {each.name: each for each in reader.topics if each.name in infos
                          and not is_result(each.name, each.type_name)}
    info = next((each.info for each in cameras if each.info), None) or ''
    wanted = {camera.image, *handed_on, *([info] if info else [])}
    source = Source(
        ', '.join(map(str, paths)),
        sum(each.message_count for reader in readers for each in reader.topics
            if each.name == camera.image),
        lambda: _items(source, readers, camera, wanted),
        {'bags': [path.resolve().name for path in paths], 'topic': camera.image},
        list(handed_on.values()), info, named_rectified(camera.image),
        _read_transforms(paths) if transforms else None,
        calibration=_first_calibration(readers, info) if info else None,
    )
    return source


def _first_calibration(readers: Sequence[BagReader], topic: str) -> Calibration | None:
    for reader in readers:
        if topic in {each.name for each in reader.topics}:
            for message in reader.readable([topic]):
                found = Calibration(reader.message_type(message.type_name), message)
                with suppress(BagError):
                    found.read()
                    return found
    return None


def _items(
    source: Source, readers: Sequence[BagReader], camera: CameraTopics, wanted: set[str]
) -> Iterator[Item]:
    streams = [
        _of_bag(reader, number, wanted & {each.name for each in reader.topics})
        for number, reader in enumerate(readers)
    ]
    copied = {each.name for each in source.copied}
    source.lost = 0
    source.reasons = []
    try:
        for _, number, message in heapq.merge(*streams, key=lambda each: each[:2]):
            type_ = readers[number].message_type(message.type_name)
            if message.topic == camera.image:
                yield Item(message.stamp_ns, BagFrame(type_, message))
            if message.topic == source.info or message.topic in copied:
                yield Item(
                    message.stamp_ns, None, message if message.topic in copied else None,
                    Calibration(type_, message) if message.topic == source.info else None,
                )
    except BagError as exc:
        source.reasons.append(str(exc))
    for reader in readers:
        lost = Counter(reader.losses.messages) | Counter(reader.missing)
        source.lost += lost[camera.image]
        source.reasons += [f'{reader.path.name}: {reason}' for reason in reader.losses.reasons]
        if reader.missing:
            source.reasons.append(f'{reader.path.name}: fewer messages than metadata.yaml '
                                  f'promises')


def _of_bag(
    reader: BagReader, number: int, wanted: set[str]
) -> Iterator[tuple[int, int, BagMessage]]:
    for message in reader.readable(wanted):
        yield message.stamp_ns, number, message


def _read_transforms(paths: Sequence[Path]) -> TransformTree | None:
    """Read all transforms in advance: those for a frame may be recorded after it."""
    tree = TransformTree()
    for path in paths:
        add_transforms(path, tree)
    return tree if tree.frames else None
