"""Make serialised messages from results, as the nodes publish them, without ROS.

Each function has a counterpart in `nodes.messages`, which makes ROS's own messages; a test
compares the output of both for the same result.
"""

from collections.abc import Sequence
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.serde import SerdeError

from mnv2_perception.bags.definitions import jazzy_types
from mnv2_perception.errors import BagError
from mnv2_perception.vision.costmap import Grid, Scan

IMAGE = 'sensor_msgs/msg/Image'


def make(type_name: str, **values: Any) -> Any:
    """Return a message with these field values; other fields are zero, empty or no rotation."""
    definition = jazzy_types().fielddefs[type_name][1]
    return jazzy_types().types[type_name](**{
        name: values[name] if name in values else _default(kind) for name, kind in definition
    })


def _default(kind: Any) -> Any:
    what, detail = kind
    if what.name == 'BASE':
        return '' if detail[0] == 'string' else 0
    if what.name == 'NAME':
        zero = make(detail)
        if detail == 'geometry_msgs/msg/Quaternion':
            zero.w = 1.0
        return zero
    inner, length = detail
    if inner[0].name == 'BASE' and inner[1][0] != 'string':
        return np.zeros(length if what.name == 'ARRAY' else 0, inner[1][0])
    return []


def serialised(message: Any) -> bytes:
    """Return a message as CDR, encapsulation header included."""
    return bytes(jazzy_types().serialize_cdr(message, message.__msgtype__))


def deserialised(cdr: bytes, type_name: str) -> Any:
    """Return the message that CDR bytes contain, by Jazzy's definition of its type.

    This is done in Python because Kilted's Fast CDR reads beyond bytes that declare more padding
    than they have.

    Raises:
        BagError: the bytes do not fit the type.
    """
    try:
        return jazzy_types().deserialize_cdr(cdr, type_name)
    except SerdeError as exc:
        raise BagError(f'not a {type_name}: {exc}') from exc


def header(stamp_ns: int, frame_id: str) -> Any:
    """Return a std_msgs/Header."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return make('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def stamp_ns(of: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(of.stamp.sec) * 1_000_000_000 + int(of.stamp.nanosec)


def in_frame(of: Any, frame_id: str) -> Any:
    """Return a header with the stamp of another one and a new frame_id."""
    return make('std_msgs/msg/Header', stamp=of.stamp, frame_id=frame_id)


def mask_cdr(ids: NDArray[np.uint8], of: Any) -> bytes:
    """Serialise class ids or confidences, (height, width) uint8, as a mono8 Image."""
    height, width = ids.shape
    start = serialised(make(
        IMAGE, header=of, height=height, width=width, encoding='mono8', step=width
    ))
    # The message ends with the number of pixels and the pixels. Appending them here copies them
    # only once, which takes a tenth of the time.
    return start[:-4] + struct.pack('=I', ids.size) + ids.tobytes()


def label_info_cdr(class_names: Sequence[str], of: Any, threshold: float) -> bytes:
    """Serialise the class names of a mask's ids; see `nodes.messages.label_info_to_msg`."""
    return serialised(make(
        'vision_msgs/msg/LabelInfo', header=of, threshold=threshold, class_map=[
            make('vision_msgs/msg/VisionClass', class_id=i, class_name=name)
            for i, name in enumerate(class_names)
        ],
    ))


def _hypothesis(class_id: int, score: float, class_names: Sequence[str]) -> Any:
    return make(
        'vision_msgs/msg/ObjectHypothesis', class_id=class_names[class_id], score=float(score)
    )


def classification_cdr(
    class_ids: NDArray[np.integer[Any]], scores: NDArray[np.float32],
    class_names: Sequence[str], of: Any,
) -> bytes:
    """Serialise an image's classes; see `nodes.messages.classification_to_msg`."""
    return serialised(make('vision_msgs/msg/Classification', header=of, results=[
        _hypothesis(class_id, score, class_names)
        for class_id, score in zip(class_ids, scores, strict=True)
    ]))


def detections_cdr(
    boxes: NDArray[np.float32], scores: NDArray[np.float32],
    class_ids: NDArray[np.integer[Any]], class_names: Sequence[str], of: Any,
) -> bytes:
    """Serialise the objects in an image; see `nodes.messages.detections_to_msg`."""
    found = []
    for (x1, y1, x2, y2), score, class_id in zip(boxes.tolist(), scores, class_ids, strict=True):
        place = make('vision_msgs/msg/Point2D', x=(x1 + x2) / 2, y=(y1 + y2) / 2)
        found.append(make(
            'vision_msgs/msg/Detection2D', header=of,
            results=[make(
                'vision_msgs/msg/ObjectHypothesisWithPose',
                hypothesis=_hypothesis(class_id, score, class_names),
            )],
            bbox=make(
                'vision_msgs/msg/BoundingBox2D', size_x=x2 - x1, size_y=y2 - y1,
                center=make('vision_msgs/msg/Pose2D', position=place),
            ),
        ))
    return serialised(make('vision_msgs/msg/Detection2DArray', header=of, detections=found))


def cloud_cdr(points: NDArray[np.float32], of: Any) -> bytes:
    """Serialise points, (N, 3) float32 in metres in the header's frame, as PointCloud2.

    N may be 0.
    """
    return serialised(make(
        'sensor_msgs/msg/PointCloud2', header=of, height=1, width=len(points), point_step=12,
        row_step=12 * len(points), is_dense=True, is_bigendian=False,
        fields=[
            make('sensor_msgs/msg/PointField', name=name, offset=4 * i, datatype=7, count=1)
            for i, name in enumerate('xyz')
        ],
        data=np.ascontiguousarray(points, '<f4').reshape(-1).view(np.uint8),
    ))


def scan_cdr(scan: Scan, of: Any) -> bytes:
    """Serialise a scan as LaserScan; free beams are +inf, unknown ones NaN (REP 117)."""
    return serialised(make(
        'sensor_msgs/msg/LaserScan', header=of, angle_min=scan.angle_min,
        angle_max=scan.angle_min + (len(scan.ranges_m) - 1) * scan.angle_increment,
        angle_increment=scan.angle_increment, range_max=scan.range_max_m,
        ranges=np.ascontiguousarray(scan.ranges_m, np.float32),
    ))


def grid_cdr(grid: Grid, of: Any) -> bytes:
    """Serialise a grid as OccupancyGrid; the header has the image's stamp and the grid's frame."""
    height, width = grid.cells.shape
    corner = make('geometry_msgs/msg/Point', x=grid.origin_x_m, y=grid.origin_y_m)
    return serialised(make(
        'nav_msgs/msg/OccupancyGrid', header=of, data=grid.cells.reshape(-1),
        info=make(
            'nav_msgs/msg/MapMetaData', map_load_time=of.stamp, resolution=grid.resolution_m,
            height=height, width=width, origin=make('geometry_msgs/msg/Pose', position=corner),
        ),
    ))


def text_cdr(value: str) -> bytes:
    """Serialise a std_msgs/String."""
    return serialised(make('std_msgs/msg/String', data=value))
