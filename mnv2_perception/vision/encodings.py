"""Convert camera encodings to RGB with numpy and OpenCV only.

An image is checked (encoding, size, step, length) before any byte of it is read; if it contradicts
itself, ImageError is raised, never an exception of numpy or OpenCV. Any object with the fields of
sensor_msgs/Image or CompressedImage works: messages of rclpy as well as those read from bags.
"""

from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import ImageError, quoted
from mnv2_perception.vision.image_decoder import decode
from mnv2_perception.vision.image_files import ids_from_png, MAX_PIXELS
from mnv2_perception.vision.png import check_size


class ImageFields(Protocol):
    """The fields of a sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageFields(Protocol):
    """The fields of a sensor_msgs/CompressedImage."""

    format: str
    data: Any


class Layout(NamedTuple):
    """The memory layout of an encoding, and how to convert it to RGB."""

    dtype: type[np.uint8] | type[np.uint16]
    channels: int  # values per pixel of a row; 1 in the luma plane of nv12, nv21, nv24
    to_rgb: int | None  # OpenCV's conversion code; None: it is RGB already
    in_cv_bridge: bool = False  # cv_bridge of every supported distro converts it
    multiple: tuple[int, int] = (1, 1)  # of which height and width must be multiples
    least: int = 1  # smallest height and width
    plane_rows: float = 1.0  # rows of `step` bytes per image row, chroma planes included


_U8, _U16 = np.uint8, np.uint16
_GRAY, _BGR, _BGRA = cv2.COLOR_GRAY2RGB, cv2.COLOR_BGR2RGB, cv2.COLOR_BGRA2RGB
_UYVY, _YUYV = cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUY2

# 8UCn is what OpenCV programs publish without naming the colours: gray, BGR, BGRA, as RViz takes
# it. ROS names a Bayer pattern by its top left tile (rggb: R G over G B), OpenCV by the tile one
# row down and one pixel right, so the letters differ. OpenCV interpolates only where all
# neighbours exist, hence `least`.
_LAYOUTS = {
    'rgb8': Layout(_U8, 3, None),
    'bgr8': Layout(_U8, 3, _BGR, True),
    'rgba8': Layout(_U8, 4, cv2.COLOR_RGBA2RGB, True),
    'bgra8': Layout(_U8, 4, _BGRA, True),
    'rgb16': Layout(_U16, 3, None, True),
    'bgr16': Layout(_U16, 3, _BGR, True),
    'rgba16': Layout(_U16, 4, cv2.COLOR_RGBA2RGB, True),
    'bgra16': Layout(_U16, 4, _BGRA, True),
    'mono8': Layout(_U8, 1, _GRAY, True),
    'mono16': Layout(_U16, 1, _GRAY, True),
    '8UC1': Layout(_U8, 1, _GRAY),
    '8UC3': Layout(_U8, 3, _BGR),
    '8UC4': Layout(_U8, 4, _BGRA),
    'yuv422': Layout(_U8, 2, _UYVY, True, multiple=(1, 2)),
    'uyvy': Layout(_U8, 2, _UYVY, multiple=(1, 2)),
    'yuv422_yuy2': Layout(_U8, 2, _YUYV, True, multiple=(1, 2)),
    'yuyv': Layout(_U8, 2, _YUYV, multiple=(1, 2)),
    'nv12': Layout(_U8, 1, cv2.COLOR_YUV2RGB_NV12, multiple=(2, 2), plane_rows=1.5),
    'nv21': Layout(_U8, 1, cv2.COLOR_YUV2RGB_NV21, multiple=(2, 2), plane_rows=1.5),
    'nv24': Layout(_U8, 1, _YUYV, plane_rows=3.0),
    'bayer_rggb8': Layout(_U8, 1, cv2.COLOR_BayerBG2RGB, True, least=3),
    'bayer_bggr8': Layout(_U8, 1, cv2.COLOR_BayerRG2RGB, True, least=3),
    'bayer_gbrg8': Layout(_U8, 1, cv2.COLOR_BayerGR2RGB, True, least=3),
    'bayer_grbg8': Layout(_U8, 1, cv2.COLOR_BayerGB2RGB, True, least=3),
    'bayer_rggb16': Layout(_U16, 1, cv2.COLOR_BayerBG2RGB, True, least=3),
    'bayer_bggr16': Layout(_U16, 1, cv2.COLOR_BayerRG2RGB, True, least=3),
    'bayer_gbrg16': Layout(_U16, 1, cv2.COLOR_BayerGR2RGB, True, least=3),
    'bayer_grbg16': Layout(_U16, 1, cv2.COLOR_BayerGB2RGB, True, least=3),
}


def image_from_fields(msg: ImageFields, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
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
    if msg.encoding == 'nv24':
        return _rgb_from_nv24(msg)
    return _rgb(_pixels(msg, layout), layout.to_rgb)


def image_from_compressed_msg(
    msg: CompressedImageFields, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG message (8 or 16 bits) to RGB, as image_transport's subscriber does.

    The data decides how it is decoded; `format` only says what its channels are: 'rgb8; png
    compressed ' without 'bgr' means that they were stored in the wrong order, 'bayer_rggb8; png
    compressed ' is a mosaic. EXIF orientation is ignored, alpha dropped.

    Args:
        msg: the message.
        max_pixels: largest allowed height × width, checked before the data is decoded.

    Returns:
        (height, width, 3) uint8, RGB, owned by the caller.

    Raises:
        ImageError: The data is damaged, cut short, depth, too large, or not a JPEG or PNG.
    """
    pixels = _decoded(msg, max_pixels)
    encoding, signed, stored = msg.format.partition(';')
    swapped = encoding[:3] in ('rgb', 'bgr') and signed and 'compressed bgr' not in stored
    colours = 'rgb' if swapped else 'bgr'
    bits = 8 * pixels.dtype.itemsize
    if pixels.ndim == 3:
        name = f'{colours}a{bits}' if pixels.shape[2] == 4 else f'{colours}{bits}'
    else:
        mosaic = encoding.startswith('bayer_') and 'mono' not in stored
        name = encoding if mosaic else f'mono{bits}'
    layout = _LAYOUTS.get(name)
    if layout is None or layout.dtype != pixels.dtype or min(pixels.shape[:2]) < layout.least:
        raise ImageError(
            f'compressed image (format {quoted(msg.format)}): decoded to {pixels.shape} '
            f'{pixels.dtype}, expected 1, 3 or 4 channels of 8 or 16 bits; publish 8-bit JPEG or '
            'PNG'
        )
    return _rgb(pixels, layout.to_rgb)


def labels_from_msg(msg: ImageFields) -> NDArray[np.uint8]:
    """Return the class ids of a mono8 or 8UC1 message: (height, width) uint8, a read-only view.

    Raises:
        ImageError: Another encoding, or size, step and data contradict each other.
    """
    layout = checked_layout(msg)
    if msg.encoding not in ('mono8', '8UC1'):
        raise ImageError(f'{_described(msg)}: labels are mono8 or 8UC1; is this the label topic?')
    return _pixels(msg, layout)


def labels_from_compressed_msg(msg: CompressedImageFields) -> NDArray[np.uint8]:
    """Read the class ids of a PNG message: (height, width) uint8, owned by the caller.

    Raises:
        ImageError: see `ids_from_png`.
    """
    described = f'compressed labels (format {quoted(msg.format)})'
    data_bytes(msg.data, described)
    try:
        return ids_from_png(bytes(msg.data))
    except ImageError as exc:
        raise ImageError(f'{described}: {exc}') from exc


FARTHEST_M = 100.0  # no depth camera's nearest measurement is farther away
_DEPTH = {'16UC1': ('u2', 0.001), 'mono16': ('u2', 0.001), '32FC1': ('f4', 1.0)}


def depth_from_msg(msg: ImageFields) -> NDArray[np.float32]:
    """Read depth: 16UC1 (or mono16) in millimetres, 32FC1 in metres (REP 118).

    Returns:
        (height, width) float32, metres, NaN where it is invalid (0, NaN, infinite), owned by the
        caller.

    Raises:
        ImageError: Another encoding or unit, or size, step and data contradict each other.
    """
    if msg.encoding not in _DEPTH:
        raise ImageError(
            f'{_described(msg)}: expected depth as 16UC1 (millimetres) or 32FC1 (metres); is this '
            'the depth topic? Compressed depth must be decoded (image_transport republish)'
        )
    code, unit_m = _DEPTH[msg.encoding]
    dtype = np.dtype(code).newbyteorder('>' if msg.is_bigendian else '<')
    least, got = msg.width * dtype.itemsize, data_bytes(msg.data, _described(msg))
    if min(msg.height, msg.width) < 1 or msg.step < least or got < msg.height * msg.step:
        raise ImageError(
            f'{_described(msg)}: got {got} bytes, expected a step of at least {least} bytes and '
            'height × step of them; correct the camera driver, or what cut the image short'
        )
    _check_size(msg, MAX_PIXELS)
    strides = (msg.step, dtype.itemsize)
    shape = (msg.height, msg.width)
    stored: NDArray[Any] = np.ndarray(shape, dtype, msg.data, strides=strides)
    depth_m: NDArray[np.float32] = stored.astype(np.float32) * np.float32(unit_m)
    valid = (depth_m > 0) & (depth_m < np.inf)
    depth_m[~valid] = np.nan
    # Only if many are valid: a few far ones may be noise before the sky. 16 bits reach 66 m.
    if unit_m == 1.0 and 10 * np.count_nonzero(valid) > valid.size:
        nearest_m = float(np.nanmin(depth_m))
        if nearest_m > FARTHEST_M:
            raise ImageError(
                f'{_described(msg)}: the nearest depth is {nearest_m:.0f} m, expected less than '
                f'{FARTHEST_M:.0f}: 32FC1 holds metres (REP 118); does the driver send '
                'millimetres? Those are 16UC1'
            )
    return depth_m


def _described(msg: ImageFields) -> str:
    return f'image message ({quoted(msg.encoding)}, {msg.height} × {msg.width}, step {msg.step})'


def data_bytes(data: Any, described: str) -> int:
    """Return the number of bytes of a message's data, after checking that numpy can read it.

    Raises:
        ImageError: it cannot, e.g. because the buffer is in a GPU's memory.
    """
    try:
        return memoryview(data).nbytes
    except (TypeError, BufferError, ValueError) as exc:
        raise ImageError(
            f'{described}: its data ({type(data).__name__}) is not in memory that the CPU can '
            f'read ({exc}), such as a GPU buffer; let the publisher send plain bytes'
        ) from exc


def _check_size(msg: ImageFields, max_pixels: int) -> None:
    try:
        check_size(msg.height, msg.width, max_pixels)
    except ImageError as exc:
        raise ImageError(f'{_described(msg)}: {exc}') from exc


def row_bytes(msg: ImageFields, layout: Layout) -> int:
    """Return the number of bytes of a row without padding."""
    return int(msg.width) * layout.channels * np.dtype(layout.dtype).itemsize


def checked_layout(msg: ImageFields, max_pixels: int = MAX_PIXELS) -> Layout:
    """Return the layout of a message's encoding after checking size, step and length against it.

    Raises:
        ImageError: The encoding is unknown, or size, step and data contradict each other.
    """
    layout = _LAYOUTS.get(msg.encoding)
    if layout is None:
        cure = 'is this a depth topic?' if msg.encoding in ('16UC1', '32FC1') else 'convert it'
        raise ImageError(
            f'{_described(msg)}: unknown colour encoding; {cure}; known: {", ".join(_LAYOUTS)}'
        )
    rows, columns = layout.multiple
    if min(msg.height, msg.width) < layout.least or msg.height % rows or msg.width % columns:
        raise ImageError(
            f'{_described(msg)}: expected height and width of at least {layout.least}, height a '
            f'multiple of {rows}, width of {columns}; correct the camera driver or crop elsewhere'
        )
    if msg.step < row_bytes(msg, layout):
        raise ImageError(
            f'{_described(msg)}: expected a step of at least {row_bytes(msg, layout)} bytes for '
            'this width; the publisher must set step to the bytes of a row'
        )
    expected = int(msg.height * layout.plane_rows) * msg.step
    if (got := data_bytes(msg.data, _described(msg))) < expected:
        raise ImageError(
            f'{_described(msg)}: got {got} bytes of data, expected {expected}; '
            'the publisher or the transport cut the image short'
        )
    _check_size(msg, max_pixels)
    return layout


def _pixels(msg: ImageFields, layout: Layout) -> NDArray[Any]:
    """View the checked data as (rows, width) or (rows, width, channels), without its padding."""
    dtype = np.dtype(layout.dtype).newbyteorder('>' if msg.is_bigendian else '<')
    shape = (int(msg.height * layout.plane_rows), msg.width, layout.channels)
    strides = (msg.step, layout.channels * dtype.itemsize, dtype.itemsize)
    pixels: NDArray[Any] = np.ndarray(shape, dtype, msg.data, strides=strides)
    return pixels[..., 0] if layout.channels == 1 else pixels


def _rgb(pixels: NDArray[Any], code: int | None) -> NDArray[np.uint8]:
    """Convert the colours, then 16 bits to 8 (rounded, as cv_bridge does)."""
    if pixels.dtype.itemsize == 2:
        pixels = np.ascontiguousarray(pixels, dtype=np.uint16)  # native byte order, contiguous
    try:
        rgb: NDArray[Any] = pixels if code is None else cv2.cvtColor(pixels, code)
        if rgb.dtype == np.uint16:
            rgb = cv2.convertScaleAbs(rgb, alpha=255 / 65535)
    except cv2.error as exc:
        raise ImageError(f'image of shape {pixels.shape}: OpenCV cannot convert it') from exc
    return rgb


def _rgb_from_nv24(msg: ImageFields) -> NDArray[np.uint8]:
    """Convert 4:4:4 planes, for which OpenCV has no code, as 4:2:2 of twice the width."""
    height, width, step = msg.height, msg.width, msg.step
    y = np.ndarray((height, width), np.uint8, msg.data, 0, (step, 1))
    uv = np.ndarray((height, width, 2), np.uint8, msg.data, height * step, (2 * step, 2, 1))
    yuyv = cv2.merge([y, uv[..., 0], y, uv[..., 1]]).reshape(height, 2 * width, 2)
    return np.ascontiguousarray(_rgb(yuyv, _YUYV)[:, ::2])


def _decoded(msg: CompressedImageFields, max_pixels: int) -> NDArray[Any]:
    """Decode to the stored pixels, in OpenCV's channel order."""
    described = f'compressed image (format {quoted(msg.format)})'
    described = f'{described[:-1]}, {data_bytes(msg.data, described)} bytes)'
    if 'compressedDepth' in msg.format:
        raise ImageError(f'{described}: this is depth; subscribe to the colour image instead')
    try:
        return decode(bytes(msg.data), cv2.IMREAD_UNCHANGED, max_pixels)
    except ImageError as exc:
        raise ImageError(
            f'{described}: {exc}; check that the publisher sends JPEG or PNG, and that the '
            f'transport loses no data'
        ) from exc
