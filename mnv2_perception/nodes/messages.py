"""Conversions between arrays and messages. No node and no DDS: messages are plain objects here.

cv_bridge converts images if it is installed and works correctly; otherwise `vision.encodings`
does, with equal results.
"""

from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from builtin_interfaces.msg import Time
import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from nav_msgs.msg import OccupancyGrid
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, LaserScan, PointCloud2, PointField
from std_msgs.msg import Header
from vision_msgs.msg import (
    Classification,
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    VisionClass,
)

from mnv2_perception.errors import ImageError, quoted
from mnv2_perception.vision.camera import Camera, scaled_matrices
from mnv2_perception.vision.costmap import Grid, Scan
from mnv2_perception.vision.encodings import (
    checked_layout,
    data_bytes,
    depth_from_msg,
    image_from_compressed_msg,
    image_from_fields,
    labels_from_compressed_msg,
    labels_from_msg,
    row_bytes,
)
from mnv2_perception.vision.image_files import mask_to_png, MAX_PIXELS

__all__ = [
    'IMAGE_CONVERTER',
    'camera_info_to_msg',
    'classification_to_msg',
    'cloud_to_msg',
    'depth_from_msg',
    'detections_to_msg',
    'diagnostics_to_msg',
    'grid_to_msg',
    'image_from_compressed_msg',
    'image_from_msg',
    'label_info_to_msg',
    'labels_from_compressed_msg',
    'labels_from_msg',
    'mask_to_msg',
    'mask_to_png_msg',
    'pinhole_to_msg',
    'points_from_msg',
    'rgb_to_msg',
    'scan_to_msg',
    'stamp_to_ns',
]


def _open_cv_bridge() -> tuple[Any, str]:
    """Return cv_bridge's converter, None if it does not work here, and a phrase for the log."""
    try:
        # A cv_bridge built for NumPy 1 and OpenCV 4 crashes the process beside newer ones.
        if int(np.__version__.split('.')[0]) > 1 or int(cv2.__version__.split('.')[0]) > 4:
            raise ImportError(f'not used with NumPy {np.__version__}, OpenCV {cv2.__version__}')
        from cv_bridge import CvBridge

        bridge = CvBridge()
        probe = Image(height=1, width=2, encoding='bgr8', step=6, data=array('B', range(6)))
        if bridge.imgmsg_to_cv2(probe, 'rgb8').tolist() != [[[2, 1, 0], [5, 4, 3]]]:
            raise ImportError('it mixes up colours')
    except Exception as exc:  # a wrong build can fail in many ways
        return None, f'numpy and OpenCV (no cv_bridge: {exc})'
    return bridge, 'cv_bridge'


_CV_BRIDGE, IMAGE_CONVERTER = _open_cv_bridge()
"""IMAGE_CONVERTER: what converts image messages in this process and why, for the node's log."""


def image_from_msg(msg: Image, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Convert an image message of any camera encoding, row padding and byte order to RGB.

    16 bits are scaled by type (65535 → 255), never by content. YUV is BT.601, limited range.

    Args:
        msg: the message.
        max_pixels: largest allowed height × width.

    Returns:
        (height, width, 3) uint8, RGB. For rgb8 a view of the message's data, with strides if the
        rows are padded: do not write to it. Otherwise contiguous and owned by the caller.

    Raises:
        ImageError: The encoding is unknown, or size, step and data contradict each other.
    """
    layout = checked_layout(msg, max_pixels)
    # cv_bridge misreads padding of partial pixels, and swaps bytes in a way NumPy 2 removed.
    plain = msg.step == row_bytes(msg, layout) and not msg.is_bigendian
    if _CV_BRIDGE is not None and layout.in_cv_bridge and plain:
        with suppress(Exception):  # what cv_bridge refuses, the code below converts equally
            bridged: NDArray[np.uint8] = _CV_BRIDGE.imgmsg_to_cv2(msg, 'rgb8')
            return bridged
    return image_from_fields(msg, max_pixels)


def stamp_to_ns(stamp: Time) -> int:
    """Convert a message's stamp to nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def mask_to_msg(ids: NDArray[np.uint8], header: Header) -> Image:
    """Copy class ids or confidences, (height, width) uint8, into a mono8 message.

    Rows are never padded: Nav2's semantic layer checks neither encoding nor step. `header` is the
    source image's, passed on unchanged.

    Raises:
        ImageError: `ids` is not (height, width) uint8, or empty.
    """
    return _image_msg(ids, 'mono8', (), header)


def mask_to_png_msg(ids: NDArray[np.uint8], header: Header) -> CompressedImage:
    """Encode class ids, (height, width) uint8, as PNG, like compressed_image_transport for mono8.

    Raises:
        ImageError: `ids` is not (height, width) uint8, or empty.
    """
    data = array('B')
    data.frombytes(mask_to_png(ids))
    # The plugin writes no colour format behind 'compressed', only the blank.
    return CompressedImage(header=header, format='mono8; png compressed ', data=data)


def rgb_to_msg(image: NDArray[np.uint8], header: Header) -> Image:
    """Copy an RGB image (the overlay) into an rgb8 message with the source image's header.

    Raises:
        ImageError: `image` is not (height, width, 3) uint8, or empty.
    """
    return _image_msg(image, 'rgb8', (3,), header)


def label_info_to_msg(class_names: Sequence[str], header: Header, threshold: float) -> LabelInfo:
    """Name a mask's ids: i is `class_names[i]`; 255 means a confidence below `threshold` (0–1)."""
    classes = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(class_names)]
    return LabelInfo(header=header, class_map=classes, threshold=float(threshold))


def classification_to_msg(
    class_ids: NDArray[np.integer],
    scores: NDArray[np.float32],
    class_names: Sequence[str],
    header: Header,
) -> Classification:
    """Make a message of an image's classes, in the given order, with the image's header.

    Args:
        class_ids: (K,), indices into `class_names`; the message contains the names.
        scores: (K,), 0 to 1.
        class_names: names of all classes of the model.
        header: header of the source image.
    """
    results = [
        ObjectHypothesis(class_id=class_names[class_id], score=float(score))
        for class_id, score in zip(class_ids, scores, strict=True)
    ]
    return Classification(header=header, results=results)


def detections_to_msg(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.integer],
    class_names: Sequence[str],
    header: Header,
) -> Detection2DArray:
    """Make a message of the objects in an image, in the given order, with the image's header.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in pixels of the image; x2 and y2 are exclusive, so a box over
            the whole width of a 640 px image has its centre at 320 and a size of 640.
        scores: (N,), 0 to 1.
        class_ids: (N,), indices into `class_names`; the message contains the names.
        class_names: names of all classes of the model.
        header: header of the source image; each detection gets it too.
    """
    msg = Detection2DArray(header=header)
    for box, score, class_id in zip(boxes.tolist(), scores, class_ids, strict=True):
        x1, y1, x2, y2 = box
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = class_names[class_id]
        result.hypothesis.score = float(score)
        detection = Detection2D(header=header, results=[result])
        detection.bbox.center.position.x = (x1 + x2) / 2
        detection.bbox.center.position.y = (y1 + y2) / 2
        detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
        msg.detections.append(detection)
    return msg


def diagnostics_to_msg(
    name: str,
    hardware_id: str,
    level: bytes,
    message: str,
    values: Mapping[str, object],
    stamp: Time,
) -> DiagnosticArray:
    """Make a /diagnostics message with a single status.

    Args:
        name: node and subject, such as 'segmentation_node: frames'.
        hardware_id: what the status is about; our nodes pass their name.
        level: `DiagnosticStatus.OK`, `WARN`, `ERROR` or `STALE`: one byte.
        message: one sentence.
        values: figures by name, with the units in the names.
        stamp: present time of the node's clock.
    """
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    status = DiagnosticStatus(name=name, hardware_id=hardware_id, level=level, message=message)
    status.values = pairs
    return DiagnosticArray(header=Header(stamp=stamp), status=[status])


def camera_info_to_msg(info: CameraInfo, height: int, width: int, header: Header) -> CameraInfo:
    """Convert a camera_info to that of the same image at another size.

    Raises:
        CalibrationError: the camera is not calibrated.
    """
    k, p = scaled_matrices(info, height, width)
    return CameraInfo(
        header=header, height=height, width=width, distortion_model=info.distortion_model,
        d=info.d, k=k.ravel().tolist(), r=info.r, p=p.ravel().tolist(),
    )


def pinhole_to_msg(camera: Camera) -> CameraInfo:
    """Make the camera_info of a camera without distortion; its header stays empty."""
    return CameraInfo(
        height=camera.height, width=camera.width, distortion_model='plumb_bob',
        d=[0.0] * 5, k=camera.matrix.ravel().tolist(), r=np.eye(3).ravel().tolist(),
        p=np.column_stack([camera.matrix, np.zeros(3)]).ravel().tolist(),
    )


def cloud_to_msg(points: NDArray[np.float32], header: Header) -> PointCloud2:
    """Copy points into a point cloud message with the fields x, y, z.

    Args:
        points: (height, width, 3) organised, or (N, 3), N may be 0; metres in the header's frame;
            NaN where an organised cloud has no point.
        header: stamp of the source image, frame of the points.
    """
    height, width = points.shape[:2] if points.ndim == 3 else (1, len(points))
    msg = PointCloud2(header=header, height=height, width=width, point_step=12)
    msg.fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate('xyz')
    ]
    msg.row_step, msg.is_dense = 12 * width, points.ndim == 2
    data = array('B')
    data.frombytes(np.ascontiguousarray(points, '<f4').tobytes())
    msg.data = data
    return msg


def points_from_msg(msg: PointCloud2) -> NDArray[np.float32]:
    """Read an organised cloud: (height, width, 3) float32, metres, owned by the caller.

    Points at the sensor itself are NaN: so drivers, librealsense's for one, fill in what was not
    measured.

    Raises:
        ImageError: it is not organised, has no float32 x, y and z, or contradicts itself.
    """
    names = ', '.join(f.name for f in msg.fields[:16])
    described = f'cloud ({msg.height} × {msg.width}, fields {quoted(names)})'
    offset_of = {f.name: f.offset for f in msg.fields if f.datatype == PointField.FLOAT32}
    if msg.height < 2 or not msg.width or not offset_of.keys() >= {'x', 'y', 'z'}:
        raise ImageError(
            f'{described}: expected an organised cloud (height above 1) with float32 x, '
            'y and z; switch the camera driver to organised clouds'
        )
    offsets = [offset_of[name] for name in 'xyz']
    fits = max(offsets) + 4 <= msg.point_step and msg.width * msg.point_step <= msg.row_step
    got = data_bytes(msg.data, described)
    if not fits or got < msg.height * msg.row_step:
        raise ImageError(
            f'{described}: got {got} bytes, point_step {msg.point_step} and row_step '
            f'{msg.row_step}, which contradict each other; correct the camera driver'
        )
    kind = '>f4' if msg.is_bigendian else '<f4'
    dtype = np.dtype(
        {'names': list('xyz'), 'formats': [kind] * 3, 'offsets': offsets,
         'itemsize': msg.point_step}
    )
    strides = (msg.row_step, msg.point_step)
    stored = np.ndarray((msg.height, msg.width), dtype, msg.data, strides=strides)
    x, y, z = (stored[name] for name in 'xyz')
    points = np.stack([x, y, z], axis=-1).astype(np.float32)
    points[(z == 0) & (x == 0) & (y == 0)] = np.nan
    return points


def scan_to_msg(scan: Scan, header: Header) -> LaserScan:
    """Convert a scan to a message; free beams are +inf, unknown ones NaN (REP 117)."""
    msg = LaserScan(header=header, angle_min=scan.angle_min, angle_increment=scan.angle_increment)
    msg.angle_max = scan.angle_min + (len(scan.ranges_m) - 1) * scan.angle_increment
    msg.range_max = scan.range_max_m
    ranges = array('f')
    ranges.frombytes(np.ascontiguousarray(scan.ranges_m, np.float32).tobytes())
    msg.ranges = ranges
    return msg


def grid_to_msg(grid: Grid, header: Header) -> OccupancyGrid:
    """Convert a grid to a message; `header` has the image's stamp and the grid's frame."""
    msg = OccupancyGrid(header=header)
    msg.info.map_load_time = header.stamp
    msg.info.resolution = grid.resolution_m
    msg.info.height, msg.info.width = grid.cells.shape
    msg.info.origin.position.x, msg.info.origin.position.y = grid.origin_x_m, grid.origin_y_m
    msg.info.origin.orientation.w = 1.0
    data = array('b')
    data.frombytes(grid.cells.tobytes())
    msg.data = data
    return msg


def _image_msg(
    pixels: NDArray[np.uint8], encoding: str, channels: tuple[int, ...], header: Header
) -> Image:
    fits = pixels.ndim == 2 + len(channels) and pixels.shape[2:] == channels
    if not fits or pixels.dtype != np.uint8 or not pixels.size:
        raise ImageError(
            f'{encoding} message: got {pixels.shape} {pixels.dtype}, expected uint8 of shape '
            f'(height, width{", 3" if channels else ""}), not empty; convert it first'
        )
    height, width = pixels.shape[:2]
    data = array('B')  # rclpy checks every single element of most other types
    data.frombytes(np.ascontiguousarray(pixels).data)
    msg = Image(header=header, height=height, width=width, encoding=encoding)
    msg.step, msg.data = len(data) // height, data  # the constructor would copy it again
    return msg
