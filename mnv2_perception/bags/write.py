"""Write ROS 2 bags of serialised messages that ``ros2 bag`` reads in every distro since Humble.

Each bag carries the definitions of its types, so it can be read where they are not installed.
"""

from pathlib import Path
import sqlite3
import time
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, WriterError

from mnv2_perception.bags.definitions import typestore_of
from mnv2_perception.bags.messages import header, make, serialised
from mnv2_perception.bags.read import TopicQos
from mnv2_perception.bags.storages import SteadyWriter
from mnv2_perception.errors import BagError, with_home

# Jazzy writes 9, but Humble reads at most 8, and Jazzy reads 8 too.
METADATA_VERSION: Literal[8] = 8
# The duration that rosbag2 writes for "no limit".
INFINITE = QosTime(9_223_372_036, 854_775_807)
# Written if the depth is unknown: with 0, DDS would keep a single message on replay.
DEFAULT_DEPTH = 10
# Messages wait in memory until one of these is exceeded: a killed recorder loses no more.
FLUSH_PERIOD_S = 0.5
FLUSH_BYTES = 16 * 2**20
CHANNELS = {'mono8': 1, 'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4}


def image_cdr(
    image: NDArray[np.uint8], stamp_ns: int, frame_id: str, encoding: str = 'rgb8'
) -> bytes:
    """Serialise a sensor_msgs/msg/Image, without ROS.

    Args:
        image: (H, W) for mono8, (H, W, 3 or 4) for the other encodings, uint8.
        stamp_ns: Stamp of the header, ns.
        frame_id: Frame of the header.
        encoding: Meaning of the channels: mono8, rgb8, bgr8, rgba8 or bgra8.

    Returns:
        The serialised message, encapsulation header included.

    Raises:
        BagError: The encoding is not one of these, or the image does not have its shape.
    """
    channels = CHANNELS.get(encoding)
    if channels is None:
        raise BagError(f'encoding {encoding!r} is not one of {", ".join(CHANNELS)}; convert first')
    height, width = image.shape[:2]
    if image.dtype != np.uint8 or image.size != height * width * channels:
        raise BagError(
            f'{encoding} takes uint8 of {channels} channels, got {image.dtype} of shape '
            f'{image.shape}; convert the image or name another encoding'
        )
    return serialised(make(
        'sensor_msgs/msg/Image', header=header(stamp_ns, frame_id), height=height, width=width,
        encoding=encoding, step=width * channels, data=np.ascontiguousarray(image).reshape(-1),
    ))


def compressed_image_cdr(data: bytes, stamp_ns: int, frame_id: str, image_format: str) -> bytes:
    """Serialise a sensor_msgs/msg/CompressedImage, without ROS.

    Args:
        data: Content of a JPEG or PNG file.
        stamp_ns: Stamp of the header, ns.
        frame_id: Frame of the header.
        image_format: Value of the field ``format``, such as ``jpeg``, ``png`` or
            ``rgb8; jpeg compressed bgr8``.

    Returns:
        The serialised message, encapsulation header included.
    """
    return serialised(make(
        'sensor_msgs/msg/CompressedImage', header=header(stamp_ns, frame_id),
        format=image_format, data=np.frombuffer(data, np.uint8),
    ))


def camera_info_cdr(
    height: int, width: int, camera_matrix: NDArray[np.float64], stamp_ns: int, frame_id: str
) -> bytes:
    """Serialise a sensor_msgs/msg/CameraInfo of a camera without distortion, without ROS.

    Args:
        height: Height of the images, pixels.
        width: Width of the images, pixels.
        camera_matrix: (3, 3) float64, K: focal lengths and principal point, pixels.
        stamp_ns: Stamp of the header, ns.
        frame_id: Frame of the header.

    Returns:
        The serialised message, encapsulation header included.
    """
    k = np.asarray(camera_matrix, np.float64)
    return serialised(make(
        'sensor_msgs/msg/CameraInfo', header=header(stamp_ns, frame_id), height=height,
        width=width, distortion_model='plumb_bob', d=np.zeros(5), k=k.reshape(-1),
        r=np.eye(3).reshape(-1), p=np.hstack([k, np.zeros((3, 1))]).reshape(-1),
    ))


class BagWriter:
    """A new ROS 2 bag, readable at any moment, and complete after ``close``.

    Messages and a matching metadata.yaml are on disk at most half a second after ``write`` (as
    long as ``write`` or ``flush`` is called), and stay readable if the process is killed or the
    disk is full. An exception that ends the ``with`` block finishes the bag too: the recording is
    worth keeping.
    """

    def __init__(self, path: str | Path, storage: str = 'mcap') -> None:
        """Create the bag's folder.

        Args:
            path: Path of the folder; its parents are created too.
            storage: ``mcap``, or ``sqlite3`` as older distros write by default.

        Raises:
            BagError: The storage is not one of these, the folder exists or cannot be created, or
                the path begins with the ~ of an unknown user.
        """
        self.path = with_home(path)
        if storage not in ('mcap', 'sqlite3'):
            raise BagError(f"storage {storage!r} is not known; expected 'mcap' or 'sqlite3'")
        if str(self.path).startswith('~'):
            raise BagError(f'{self.path}: there is no such home folder; write the full path, '
                           f'beginning with /')
        if self.path.exists():
            raise BagError(
                f'{self.path}: already exists, and bags are never overwritten; choose another '
                f'folder or remove this one'
            )
        self.message_counts: dict[str, int] = {}
        self._connections: dict[str, Connection] = {}
        self._flushed_counts: dict[str, int] = {}
        self._waiting_bytes, self._flushed_s = 0, time.monotonic()
        self._writer = SteadyWriter(
            self.path,
            version=METADATA_VERSION,
            storage_plugin=StoragePlugin[storage.upper()],
        )
        self._open = False
        try:
            self._writer.open()
        except (OSError, sqlite3.Error, WriterError) as exc:
            raise BagError(
                f'{self.path}: cannot be created ({exc}); choose a writable folder'
            ) from exc
        self._open = True

    def __enter__(self) -> 'BagWriter':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_topic(
        self,
        topic: str,
        type_name: str,
        qos: TopicQos | None = None,
        definition: str | None = None,
    ) -> None:
        """Add a topic; call it once, before the topic's first message.

        Args:
            topic: Absolute topic name.
            type_name: ROS 2 type, such as ``sensor_msgs/msg/Image``.
            qos: QoS that the topic's publishers offer; None leaves it open.
            definition: The .msg text of the type and of all types that it uses, in the form
                rosbag2 keeps; None for the installed definition, otherwise Jazzy's.

        Raises:
            BagError: The topic was added before, its name is not absolute, its type is not
                defined, or the disk is full or failed.
        """
        if topic in self._connections:
            raise BagError(f'{self.path}: {topic} was added already; add a topic once')
        if not topic.startswith('/'):
            raise BagError(f"{self.path}: {topic!r} is not absolute; write '/{topic}'")
        typestore = typestore_of(type_name, definition)
        try:
            self._connections[topic] = self._writer.add_connection(
                topic,
                type_name,
                typestore=typestore,
                offered_qos_profiles=() if qos is None else (offered(qos),),
            )
        except (OSError, sqlite3.Error) as exc:
            raise self._ended_by(exc) from exc
        self.message_counts[topic] = 0

    def write(self, topic: str, stamp_ns: int, cdr: bytes | memoryview) -> None:
        """Write one message.

        Args:
            topic: A topic that was added.
            stamp_ns: Time of reception, ns since the epoch.
            cdr: The serialised message, encapsulation header included.

        Raises:
            BagError: The topic was not added, the bag is closed, or the disk is full or failed.
        """
        if topic not in self._connections:
            raise BagError(f'{self.path}: {topic} is not in this bag; call add_topic first')
        if not self._open:
            raise BagError(f'{self.path}: is closed; write to another bag')
        try:
            self._writer.write(self._connections[topic], stamp_ns, cdr)
        except (OSError, sqlite3.Error) as exc:
            raise self._ended_by(exc) from exc
        self.message_counts[topic] += 1
        self._waiting_bytes += len(cdr)
        if self._waiting_bytes > FLUSH_BYTES:
            self._flush()
        else:
            self.flush()

    def flush(self) -> None:
        """Write pending messages to the files, unless that was done less than 0.5 s ago.

        Raises:
            BagError: The disk is full or failed; what was written before is kept.
        """
        if self._open and time.monotonic() - self._flushed_s >= FLUSH_PERIOD_S:
            self._flush()

    def _flush(self) -> None:
        try:
            if self._waiting_bytes or self._flushed_counts != self.message_counts:
                self._writer.flush()
        except (OSError, sqlite3.Error) as exc:
            raise self._ended_by(exc) from exc
        self._flushed_counts = dict(self.message_counts)
        self._waiting_bytes, self._flushed_s = 0, time.monotonic()

    def _ended_by(self, exc: Exception) -> BagError:
        """Close the bag as the last flush left it; return the error to raise."""
        self._open = False
        self._writer.abandon()
        counts = {name: self._writer.kept.get(c.id, 0) for name, c in self._connections.items()}
        kept = ', '.join(f'{name} {count}' for name, count in counts.items() if count)
        return BagError(
            f'{self.path}: cannot be written ({exc}); {sum(counts.values())} messages are '
            f'kept{f" ({kept})" if kept else ""}, those of the last moment are lost; free some '
            f'space and record again'
        )

    def close(self) -> None:
        """Finish the bag with index and metadata.yaml; harmless if it is closed already.

        Raises:
            BagError: The disk is full or failed; what was written before is kept.
        """
        if not self._open:
            return
        self._flush()
        try:
            self._writer.finish()
        except (OSError, sqlite3.Error) as exc:
            raise self._ended_by(exc) from exc
        self._open = False


def offered(qos: TopicQos) -> Qos:
    """Return a topic's QoS in rosbags' form."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=qos.depth or DEFAULT_DEPTH,
        reliability=QosReliability.RELIABLE if qos.reliable else QosReliability.BEST_EFFORT,
        durability=(
            QosDurability.TRANSIENT_LOCAL if qos.transient_local else QosDurability.VOLATILE
        ),
        deadline=INFINITE,
        lifespan=INFINITE,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=INFINITE,
        avoid_ros_namespace_conventions=False,
    )
