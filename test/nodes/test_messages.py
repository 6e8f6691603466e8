"""Array <-> message conversion: every camera encoding, damaged messages, what Nav2 reads."""

from array import array
from contextlib import suppress
import time
from types import SimpleNamespace

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass

from mnv2_perception.errors import ImageError
from mnv2_perception.nodes import messages
from mnv2_perception.nodes.costmap_inputs import CostmapInputs
from mnv2_perception.vision.costmap import Grid, Scan

pytestmark = pytest.mark.ros

PACKED = {
    'rgb8': (0, 1, 2), 'bgr8': (2, 1, 0), '8UC3': (2, 1, 0), 'rgba8': (0, 1, 2, 3),
    'bgra8': (2, 1, 0, 3), '8UC4': (2, 1, 0, 3), 'rgb16': (0, 1, 2), 'bgr16': (2, 1, 0),
    'rgba16': (0, 1, 2, 3), 'bgra16': (2, 1, 0, 3),
}  # fmt: skip
MONO = ('mono8', '8UC1', 'mono16')
YUV = ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv', 'nv12', 'nv21', 'nv24')
BAYER = tuple(
    f'bayer_{tile}{bits}' for bits in (8, 16) for tile in ('rggb', 'bggr', 'gbrg', 'grbg')
)
EVERY = (*PACKED, *MONO, *YUV, *BAYER)


def message(
    encoding: str,
    rows: NDArray[np.generic],
    height: int,
    padding: int = 0,
    big_endian: bool = False,
) -> Image:
    """Pack (rows, ...) values as a driver would: `padding` bytes of noise after each row."""
    values = rows.astype(rows.dtype.newbyteorder('>' if big_endian else '<'))
    raw = np.frombuffer(values.tobytes(), np.uint8).reshape(len(rows), -1)
    noise = np.random.default_rng(1).integers(0, 256, (len(rows), padding), np.uint8)
    data = array('B', np.hstack([raw, noise]).tobytes())
    return Image(
        encoding=encoding,
        height=height,
        width=rows.shape[1],
        step=raw.shape[1] + padding,
        is_bigendian=int(big_endian),
        data=data,
    )


def scene(height: int, width: int, dtype: type = np.uint8) -> NDArray[np.generic]:
    high = int(np.iinfo(dtype).max)
    return np.random.default_rng(7).integers(0, high, (height, width, 3), dtype, endpoint=True)


def to_8_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    return np.rint(values.astype(np.float64) * 255 / 65535).astype(np.uint8)


def bt601(yuv: NDArray[np.uint8]) -> NDArray[np.float64]:
    """RGB of limited-range YUV, from the standard's luma weights 0.299 and 0.114."""
    y, u, v = np.moveaxis(yuv.astype(np.float64), -1, 0)
    y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = y + 2 * (1 - 0.299) * v, y + 2 * (1 - 0.114) * u
    g = (y - 0.299 * r - 0.114 * b) / 0.587
    return np.clip(np.stack([r, g, b], axis=-1) * 255, 0, 255)


def yuv_message(encoding: str, yuv: NDArray[np.uint8], padding: int) -> Image:
    """Lay YUV out by the V4L2 pages; chroma must be constant over each 2 x 2 block."""
    height, width = yuv.shape[:2]
    y, u, v = np.moveaxis(yuv, -1, 0)
    if encoding in ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'):
        chroma = np.where(np.arange(width) % 2 == 0, u, v)
        pair = (chroma, y) if encoding in ('yuv422', 'uyvy') else (y, chroma)
        return message(encoding, np.stack(pair, axis=-1), height, padding)
    if encoding == 'nv24':  # the chroma rows are two steps long: padding at the end of both
        luma, chroma = message('nv24', y, height, padding), np.stack([u, v], axis=-1)
        both = message('', chroma.reshape(height, 2 * width), height, 2 * padding)
        luma.data = luma.data + both.data
        return luma
    first, second = (u, v) if encoding == 'nv12' else (v, u)
    chroma = np.stack([first[::2, ::2], second[::2, ::2]], axis=-1).reshape(height // 2, width)
    return message(encoding, np.vstack([y, chroma]), height, padding)


def some_message(encoding: str, height: int = 6, width: int = 8, padding: int = 0) -> Image:
    """Give a valid message of noise."""
    dtype = np.uint16 if '16' in encoding else np.uint8
    if encoding in YUV:
        blocks = scene(height // 2, width // 2)
        return yuv_message(encoding, blocks.repeat(2, axis=0).repeat(2, axis=1), padding)
    image = scene(height, width, dtype)
    if encoding in PACKED:
        image = np.dstack([image, image[..., :1]])[..., PACKED[encoding]]
    else:
        image = image[..., 0]
    return message(encoding, image, height, padding)


def compressed(image: NDArray[np.generic], extension: str, text: str) -> CompressedImage:
    return CompressedImage(
        format=text, data=array('B', cv2.imencode(extension, image)[1].tobytes())
    )


# ---- image_from_msg ----------------------------------------------------------------------------


@pytest.mark.parametrize('padding', [0, 5, 6])
@pytest.mark.parametrize('encoding', PACKED)
def test_packed_colours_come_back_in_rgb_order(encoding: str, padding: int) -> None:
    dtype = np.uint16 if encoding.endswith('16') else np.uint8
    image = scene(5, 7, dtype)
    stored = np.dstack([image, image[..., :1]])[..., PACKED[encoding]]
    rgb = messages.image_from_msg(message(encoding, stored, 5, padding))
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, to_8_bits(image))


@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize('encoding', MONO)
def test_gray_is_repeated_in_three_channels(encoding: str, padding: int) -> None:
    gray = scene(5, 7, np.uint16 if encoding == 'mono16' else np.uint8)[..., 0]
    rgb = messages.image_from_msg(message(encoding, gray, 5, padding))
    np.testing.assert_array_equal(rgb, np.dstack([to_8_bits(gray)] * 3))


@pytest.mark.parametrize('encoding', ['rgb16', 'mono16', 'bayer_rggb16'])
def test_both_byte_orders_give_the_same_image(encoding: str) -> None:
    image = scene(5, 7, np.uint16)
    stored = image if encoding == 'rgb16' else image[..., 0]
    little = messages.image_from_msg(message(encoding, stored, 5))
    big = messages.image_from_msg(message(encoding, stored, 5, big_endian=True))
    np.testing.assert_array_equal(little, big)


def test_sixteen_bits_scale_by_type_and_not_by_content() -> None:
    dark = np.full((4, 4), 514, np.uint16)  # 2 of 255, although nothing in the frame is brighter
    assert set(messages.image_from_msg(message('mono16', dark, 4)).ravel()) == {2}


@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize('encoding', YUV)
def test_yuv_gives_the_colours_of_bt601(encoding: str, padding: int) -> None:
    rng = np.random.default_rng(3)
    chroma = rng.integers(90, 166, (3, 5, 2), np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    yuv = np.dstack([rng.integers(16, 236, (6, 10), np.uint8), chroma])
    rgb = messages.image_from_msg(yuv_message(encoding, yuv, padding))
    assert rgb.shape == (6, 10, 3)
    np.testing.assert_allclose(rgb, bt601(yuv), atol=2)


def test_nv24_has_chroma_of_its_own_for_every_pixel_at_odd_sizes() -> None:
    yuv = scene(5, 7)
    yuv = (64 + yuv.astype(np.int64) * 128 // 255).astype(np.uint8)
    rgb = messages.image_from_msg(yuv_message('nv24', yuv, 3))
    np.testing.assert_allclose(rgb, bt601(yuv), atol=2)


@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize('encoding', BAYER)
def test_bayer_names_the_top_left_tile_as_ros_does(encoding: str, padding: int) -> None:
    dtype, high = (np.uint16, 257) if encoding.endswith('16') else (np.uint8, 1)
    colour = {'r': 200, 'g': 100, 'b': 30}
    tile = encoding.removeprefix('bayer_')[:4]
    mosaic = np.empty((7, 9), dtype)
    for i, letter in enumerate(tile):
        mosaic[i // 2 :: 2, i % 2 :: 2] = colour[letter] * high
    rgb = messages.image_from_msg(message(encoding, mosaic, 7, padding))
    np.testing.assert_array_equal(rgb, np.full((7, 9, 3), (200, 100, 30)))


@pytest.mark.parametrize('padding', [0, 5])
def test_rgb8_is_a_view_of_the_message(padding: int) -> None:
    msg = some_message('rgb8', padding=padding)
    assert np.shares_memory(messages.image_from_msg(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize('encoding', [name for name in EVERY if name != 'rgb8'])
def test_a_converted_image_is_contiguous_and_no_view(encoding: str) -> None:
    msg = some_message(encoding, padding=4)
    rgb = messages.image_from_msg(msg)
    assert rgb.flags.c_contiguous
    assert not np.shares_memory(rgb, np.frombuffer(msg.data, np.uint8))


def test_cv_bridge_and_numpy_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = messages._CV_BRIDGE
    if bridge is None:
        pytest.skip(f'no working cv_bridge: images go through {messages.IMAGE_CONVERTER}')
    monkeypatch.setattr(messages, '_CV_BRIDGE', None)
    no_colours = {'8UC1', '8UC3', '8UC4', 'uyvy', 'yuyv', 'nv12', 'nv21', 'nv24'}
    for encoding in sorted({*EVERY} - no_colours):  # what cv_bridge makes rgb8 of
        msg = some_message(encoding, 12, 14)
        expected = bridge.imgmsg_to_cv2(msg, 'rgb8')
        np.testing.assert_array_equal(messages.image_from_msg(msg), expected, encoding)


def test_the_converter_in_use_is_named_for_the_log() -> None:
    if messages._CV_BRIDGE is None:
        assert messages.IMAGE_CONVERTER.startswith('numpy and OpenCV (no cv_bridge: ')
    else:
        assert messages.IMAGE_CONVERTER == 'cv_bridge'


@pytest.mark.parametrize(
    ('fields', 'says'),
    [
        ({'data': array('B')}, 'got 0 bytes of data, expected 144'),
        ({'data': array('B', bytes(143))}, 'got 143 bytes of data, expected 144'),
        ({'step': 23}, 'step of at least 24'),
        ({'step': 0}, 'step of at least 24'),
        ({'height': 0}, 'at least 1'),
        ({'width': 0, 'step': 0}, 'at least 1'),
        ({'height': 2**32 - 1}, 'got 144 bytes of data'),
        ({'encoding': 'nv12', 'height': 5}, 'height a multiple of 2'),
        ({'encoding': 'yuyv', 'width': 7}, 'width of 2'),
        ({'encoding': 'bayer_rggb8', 'height': 2}, 'at least 3'),
        ({'encoding': ''}, 'unknown colour encoding'),
        ({'encoding': '16UC1'}, 'depth'),
    ],
)
def test_a_contradictory_image_is_refused_with_its_numbers(
    fields: dict[str, object], says: str
) -> None:
    msg = some_message('rgb8')
    for name, value in fields.items():
        setattr(msg, name, value)
    with pytest.raises(ImageError, match=says):
        messages.image_from_msg(msg)


def test_random_fields_and_lengths_raise_nothing_but_image_error() -> None:
    rng = np.random.default_rng(11)
    sizes = (0, 1, 2, 3, 4, 5, 7, 8, 16, 33, 2**31, 2**32 - 1)
    outcomes = {'image': 0, 'error': 0}
    for _ in range(1500):
        msg = some_message(str(rng.choice(EVERY)), padding=int(rng.integers(0, 4)))
        for name in rng.choice(['height', 'width', 'step'], int(rng.integers(0, 3))):
            setattr(msg, str(name), int(rng.choice(sizes)))
        if rng.random() < 0.3:
            msg.encoding = str(rng.choice((*EVERY, '', '16UC1', '32FC1', 'RGB8', '8UC99')))
        if rng.random() < 0.3:
            msg.data = msg.data[: int(rng.integers(0, len(msg.data) + 1))]
        msg.is_bigendian = int(rng.integers(0, 256))
        for convert in (messages.image_from_msg, messages.labels_from_msg):
            try:
                result = convert(msg)
            except ImageError:
                outcomes['error'] += 1
            else:
                outcomes['image'] += 1
                assert result.shape[:2] == (msg.height, msg.width)
                assert result.dtype == np.uint8
    assert min(outcomes.values()) > 200, outcomes


# ---- compressed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'text', ['rgb8; jpeg compressed bgr8', 'bgr8; jpeg compressed bgr8', 'jpeg', 'jpg', '']
)
def test_jpeg_colours_are_right_whatever_the_format_says(text: str) -> None:
    image = np.full((16, 24, 3), (200, 100, 30), np.uint8)
    rgb = messages.image_from_compressed_msg(compressed(image[..., ::-1], '.jpg', text))
    np.testing.assert_allclose(rgb, image, atol=3)


@pytest.mark.parametrize(
    'text',
    ['rgb8; png compressed bgr8', 'bgr8; png compressed bgr8', '8UC3; png compressed ', 'png', ''],
)
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_png_comes_back_exactly(text: str, dtype: type) -> None:
    image = scene(5, 7, dtype)
    rgb = messages.image_from_compressed_msg(compressed(image[..., ::-1], '.png', text))
    np.testing.assert_array_equal(rgb, to_8_bits(image))


@pytest.mark.parametrize('text', ['rgb8; png compressed ', 'bgr8; png compressed rgb8'])
def test_a_png_stored_in_rgb_order_is_turned_as_image_transport_does(text: str) -> None:
    image = scene(5, 7)
    rgb = messages.image_from_compressed_msg(compressed(image, '.png', text))
    np.testing.assert_array_equal(rgb, image)


def test_png_with_alpha_loses_the_alpha() -> None:
    image = scene(5, 7)
    stored = np.dstack([image[..., ::-1], image[..., 0]])
    rgb = messages.image_from_compressed_msg(compressed(stored, '.png', 'png'))
    np.testing.assert_array_equal(rgb, image)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_gray_png_is_repeated_in_three_channels(dtype: type) -> None:
    gray = scene(5, 7, dtype)[..., 0]
    rgb = messages.image_from_compressed_msg(compressed(gray, '.png', 'mono8; png compressed '))
    np.testing.assert_array_equal(rgb, np.dstack([to_8_bits(gray)] * 3))


def test_a_mosaic_stored_in_a_png_is_developed() -> None:
    raw = some_message('bayer_grbg8', 8, 10)
    mosaic = np.frombuffer(raw.data, np.uint8).reshape(8, 10)
    png_msg = compressed(mosaic, '.png', 'bayer_grbg8; png compressed ')
    np.testing.assert_array_equal(
        messages.image_from_compressed_msg(png_msg), messages.image_from_msg(raw)
    )
    gray_msg = compressed(mosaic, '.png', 'bayer_grbg8; jpeg compressed mono8')
    np.testing.assert_array_equal(
        messages.image_from_compressed_msg(gray_msg), np.dstack([mosaic] * 3)
    )


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
@pytest.mark.parametrize('kept', [0.0, 0.05, 0.5, 0.9, 0.999])
def test_a_cut_compressed_image_is_refused(extension: str, kept: float) -> None:
    msg = compressed(cv2.resize(scene(12, 16), (160, 120)), extension, 'jpeg')
    msg.data = msg.data[: int(len(msg.data) * kept)]
    with pytest.raises(ImageError, match=r'cut short|damaged'):
        messages.image_from_compressed_msg(msg)


def test_a_jpeg_with_padding_after_its_end_is_taken() -> None:
    msg = compressed(scene(16, 16), '.jpg', 'jpeg')
    msg.data = msg.data + array('B', bytes(100))
    assert messages.image_from_compressed_msg(msg).shape == (16, 16, 3)


def test_damaged_compressed_data_raises_nothing_but_image_error() -> None:
    rng = np.random.default_rng(5)
    for extension in ('.jpg', '.png'):
        whole = compressed(scene(12, 16), extension, 'jpeg').data
        for _ in range(150):
            data = array('B', whole[: int(rng.integers(0, len(whole) + 1))])
            # Past the header: a flipped size makes OpenCV reserve gigabytes.
            for at in rng.integers(30, max(31, len(data)), 3):
                if at < len(data) and extension == '.png':
                    data[int(at)] ^= 1 << int(rng.integers(0, 8))
            msg = CompressedImage(format='', data=data)
            for convert in (
                messages.image_from_compressed_msg,
                messages.labels_from_compressed_msg,
            ):
                with suppress(ImageError):
                    assert convert(msg).dtype == np.uint8


def test_compressed_depth_is_refused_as_depth() -> None:
    msg = CompressedImage(format='16UC1; compressedDepth png', data=array('B', bytes(40)))
    with pytest.raises(ImageError, match='depth'):
        messages.image_from_compressed_msg(msg)


# ---- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_labels_come_back_without_a_copy(encoding: str) -> None:
    ids = scene(5, 7)[..., 0]
    msg = message(encoding, ids, 5, padding=3)
    labels = messages.labels_from_msg(msg)
    np.testing.assert_array_equal(labels, ids)
    assert np.shares_memory(labels, np.frombuffer(msg.data, np.uint8))


def test_labels_in_a_colour_image_are_refused() -> None:
    with pytest.raises(ImageError, match='label topic'):
        messages.labels_from_msg(some_message('rgb8'))


def test_png_labels_come_back_exactly() -> None:
    ids = scene(5, 7)[..., 0]
    msg = compressed(ids, '.png', 'mono8; png compressed ')
    np.testing.assert_array_equal(messages.labels_from_compressed_msg(msg), ids)


@pytest.mark.parametrize(
    'data',
    [
        pytest.param(cv2.imencode('.jpg', np.zeros((8, 8), np.uint8))[1].tobytes(), id='jpeg'),
        pytest.param(
            cv2.imencode('.png', np.full((8, 8, 3), (1, 2, 3), np.uint8))[1].tobytes(), id='colour'
        ),
        pytest.param(
            cv2.imencode('.png', np.full((8, 8), 256, np.uint16))[1].tobytes(), id='16 bits'
        ),
        pytest.param(b'', id='empty'),
        pytest.param(b'\x89PNG\r\n\x1a\n', id='cut'),
    ],
)
def test_compressed_labels_that_hold_no_ids_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=r'compressed labels \(format .png.\): class ids: '):
        messages.labels_from_compressed_msg(CompressedImage(format='png', data=array('B', data)))


# ---- to messages -------------------------------------------------------------------------------


def test_stamp_is_exact_in_nanoseconds() -> None:
    assert (
        messages.stamp_to_ns(Time(sec=1_700_000_000, nanosec=999_999_999)) == 1700000000999999999
    )


def test_a_mask_keeps_the_source_header_and_has_no_padding() -> None:
    header = Header(stamp=Time(sec=3, nanosec=4), frame_id='camera')
    ids = scene(7, 5)[..., 0].T  # not contiguous
    msg = messages.mask_to_msg(ids, header)
    assert msg.header == Header(stamp=Time(sec=3, nanosec=4), frame_id='camera')
    assert (msg.encoding, msg.height, msg.width, msg.step) == ('mono8', 5, 7, 7)
    assert msg.is_bigendian == 0
    assert msg.data.tobytes() == ids.tobytes()
    np.testing.assert_array_equal(messages.labels_from_msg(msg), ids)


def test_an_overlay_comes_back_as_it_was() -> None:
    image = scene(6, 10)[:, ::2]  # not contiguous
    msg = messages.rgb_to_msg(image, Header())
    assert (msg.encoding, msg.height, msg.width, msg.step) == ('rgb8', 6, 5, 15)
    np.testing.assert_array_equal(messages.image_from_msg(msg), image)


@pytest.mark.parametrize(
    'wrong',
    [
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_what_is_no_mask_is_refused(wrong: NDArray[np.generic]) -> None:
    with pytest.raises(ImageError, match='mono8 message'):
        messages.mask_to_msg(wrong, Header())


def test_a_full_hd_mask_is_packed_in_milliseconds() -> None:
    ids = np.zeros((1080, 1920), np.uint8)
    durations_s = []
    for _ in range(5):
        start = time.perf_counter()
        messages.mask_to_msg(ids, Header())
        durations_s.append(time.perf_counter() - start)
    assert min(durations_s) < 0.02  # rclpy's look at every element takes 0.1 s and more


def test_label_info_names_ids_in_the_order_of_the_classes() -> None:
    info = messages.label_info_to_msg(('road', 'car'), Header(frame_id='camera'), 0.5)
    assert [(c.class_id, c.class_name) for c in info.class_map] == [(0, 'road'), (1, 'car')]
    assert (info.header.frame_id, info.threshold) == ('camera', 0.5)


def test_diagnostics_hold_one_status_with_values_as_text() -> None:
    values = {'latency_ms': 12.5, 'frames': 3}
    msg = messages.diagnostics_to_msg(
        'node: inference', 'cpu', DiagnosticStatus.WARN, 'slow', values, Time(sec=9)
    )
    (status,) = msg.status
    assert msg.header.stamp.sec == 9
    assert (status.name, status.hardware_id, status.message) == ('node: inference', 'cpu', 'slow')
    assert status.level == DiagnosticStatus.WARN
    assert [(v.key, v.value) for v in status.values] == [('latency_ms', '12.5'), ('frames', '3')]


def test_a_classification_has_names_and_the_source_header() -> None:
    source = Header(stamp=Time(sec=3, nanosec=4), frame_id='camera')
    ids, scores = np.array([1, 0]), np.array([0.75, 0.25], np.float32)
    msg = messages.classification_to_msg(ids, scores, ('road', 'grass'), source)
    assert msg.header == source
    assert [(r.class_id, r.score) for r in msg.results] == [('grass', 0.75), ('road', 0.25)]


def test_detections_have_centre_and_size_in_pixels_names_and_the_source_header() -> None:
    source = Header(stamp=Time(sec=3, nanosec=4), frame_id='camera')
    boxes = np.array([[0, 0, 640, 480], [10.5, 20, 11.5, 40]], np.float32)
    scores, ids = np.array([0.75, 0.5], np.float32), np.array([1, 0], np.int32)
    msg = messages.detections_to_msg(boxes, scores, ids, ('car', 'dog'), source)
    assert msg.header == source and all(d.header == source for d in msg.detections)
    found = [
        (d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y)
        for d in msg.detections
    ]
    assert found == [(320, 240, 640, 480), (11, 30, 1, 20)]
    results = [d.results[0].hypothesis for d in msg.detections]
    assert [(r.class_id, r.score) for r in results] == [('dog', 0.75), ('car', 0.5)]


def test_no_detections_are_a_message_too() -> None:
    none = np.empty(0, np.float32)
    source = Header(frame_id='camera')
    msg = messages.detections_to_msg(none.reshape(0, 4), none, none.astype(int), (), source)
    assert (msg.header, msg.detections) == (source, [])


def test_an_organised_cloud_comes_back_as_it_was() -> None:
    points = np.random.default_rng(0).random((3, 5, 3), np.float32)
    points[1, 2] = np.nan
    msg = messages.cloud_to_msg(points, Header(frame_id='camera'))
    assert (msg.height, msg.width, msg.point_step, msg.row_step) == (3, 5, 12, 60)
    assert [(f.name, f.offset, f.datatype, f.count) for f in msg.fields] == [
        ('x', 0, 7, 1), ('y', 4, 7, 1), ('z', 8, 7, 1),
    ]
    assert msg.header.frame_id == 'camera' and not msg.is_dense
    np.testing.assert_array_equal(messages.points_from_msg(msg), points)


def test_what_a_driver_fills_with_zeros_was_not_measured() -> None:
    points = np.array([[(0, 0, 0), (0, 0, 1)], [(1, 0, 0), (0, -1, 0)]], np.float32)
    found = messages.points_from_msg(messages.cloud_to_msg(points, Header()))
    points[0, 0] = np.nan
    np.testing.assert_array_equal(found, points)


def test_a_drivers_cloud_with_colour_and_padded_rows_is_read() -> None:
    values = np.arange(24, dtype='<f4').reshape(2, 3, 4)  # x, y, z, rgb
    rows = np.pad(values.reshape(2, 12).view(np.uint8), ((0, 0), (0, 8)))
    fields = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate('xyz')]
    msg = PointCloud2(height=2, width=3, point_step=16, row_step=56, fields=fields)
    msg.data = array('B', rows.tobytes())
    np.testing.assert_array_equal(messages.points_from_msg(msg), values[..., :3])


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'height': 1}, 'expected an organised cloud'),
        ({'width': 0, 'point_step': 2**32 - 1}, 'expected an organised cloud'),
        ({'fields': []}, 'expected an organised cloud'),
        ({'row_step': 3}, 'row_step 3'),
        ({'point_step': 8}, 'point_step 8'),
        ({'data': array('B')}, 'got 0 bytes'),
    ],
)
def test_a_cloud_that_cannot_be_used_is_refused(change: dict[str, object], told: str) -> None:
    msg = messages.cloud_to_msg(np.ones((2, 2, 3), np.float32), Header())
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(ImageError, match=told):
        messages.points_from_msg(msg)


def test_a_cloud_in_a_buffer_that_numpy_cannot_see_is_refused_with_the_reason() -> None:
    cloud = messages.cloud_to_msg(np.ones((2, 2, 3), np.float32), Header())
    names = ('height', 'width', 'fields', 'point_step', 'row_step', 'is_bigendian')
    msg = SimpleNamespace(data=object(), **{name: getattr(cloud, name) for name in names})
    with pytest.raises(ImageError, match=r'its data \(object\) is not in memory'):
        messages.points_from_msg(msg)


def test_an_empty_cloud_keeps_its_fields() -> None:
    msg = messages.cloud_to_msg(np.empty((0, 3), np.float32), Header())
    assert (msg.height, msg.width, len(msg.fields), len(msg.data)) == (1, 0, 3, 0)
    assert msg.is_dense


def test_a_scan_has_its_angles_and_keeps_inf_and_nan() -> None:
    ranges_m = np.array([1.5, np.inf, np.nan], np.float32)
    msg = messages.scan_to_msg(Scan(ranges_m, -0.5, 0.5, 8.0), Header(frame_id='base_link'))
    assert (msg.angle_min, msg.angle_max, msg.range_min, msg.range_max) == (-0.5, 0.5, 0.0, 8.0)
    np.testing.assert_array_equal(msg.ranges, ranges_m)


def test_a_grid_lies_row_by_row_along_x_from_its_origin() -> None:
    cells = np.array([[0, 100, -1], [-1, 0, 0]], np.int8)
    msg = messages.grid_to_msg(Grid(cells, -1.5, 2.0, 0.5), Header(frame_id='odom'))
    assert (msg.info.width, msg.info.height, msg.info.resolution) == (3, 2, 0.5)
    assert list(msg.data) == [0, 100, -1, -1, 0, 0]
    origin = msg.info.origin
    assert (origin.position.x, origin.position.y, origin.orientation.w) == (-1.5, 2.0, 1.0)


def test_a_resized_camera_info_has_scaled_matrices_and_the_same_lens() -> None:
    info = CameraInfo(height=480, width=640, distortion_model='plumb_bob', d=[0.1] * 5)
    info.k = [500.0, 0.0, 319.5, 0.0, 500.0, 239.5, 0.0, 0.0, 1.0]
    msg = messages.camera_info_to_msg(info, 240, 320, Header(frame_id='camera'))
    assert (msg.height, msg.width, msg.distortion_model) == (240, 320, 'plumb_bob')
    assert list(msg.d) == [0.1] * 5
    assert list(msg.k) == [250.0, 0.0, 159.5, 0.0, 250.0, 119.5, 0.0, 0.0, 1.0]
    assert list(msg.p[:4]) == [250.0, 0.0, 159.5, 0.0]  # P is K where the driver left it out


def test_names_and_fields_of_strangers_are_bounded() -> None:
    inputs = CostmapInputs(1)
    classes = [VisionClass(class_id=i % 300, class_name=f'c{i}') for i in range(100_000)]
    classes.append(VisionClass(class_id=3, class_name='x' * 1_000_000))
    assert inputs.take_label_info(LabelInfo(class_map=classes))
    assert inputs.label_info is not None
    held = inputs.label_info.class_map
    assert len(held) == 255 and held[3].class_name == 'c99903'
    cloud = messages.cloud_to_msg(np.zeros((2, 3, 3), np.float32), Header())
    cloud.fields = [PointField(name='w\n' * 1000, datatype=PointField.FLOAT32)] * 100_000
    with pytest.raises(ImageError, match=r"fields 'w\\nw.* …\): expected an organised") as caught:
        messages.points_from_msg(cloud)
    assert len(str(caught.value)) < 500
