"""Camera encodings without ROS: plain objects, messages of bags. test_messages.py has the rest."""

from collections.abc import Callable
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mnv2_perception.bags.definitions import jazzy_types
from mnv2_perception.bags.write import image_cdr
from mnv2_perception.errors import ImageError
from mnv2_perception.vision import encodings

RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 60, 30]]], np.uint8)


def fields(encoding: str, pixels: np.ndarray, padding: int = 0, big: int = 0) -> SimpleNamespace:
    rows = pixels.reshape(len(pixels), -1)
    raw = rows.astype(rows.dtype.newbyteorder('>' if big else '<')).view(np.uint8)
    padded = np.pad(raw, ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, is_bigendian=big,
        step=padded.shape[1], data=padded.tobytes(),
    )


@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize(
    ('encoding', 'channels'),
    [('rgb8', [0, 1, 2]), ('bgr8', [2, 1, 0]), ('rgba8', [0, 1, 2, 0]), ('bgra8', [2, 1, 0, 0])],
)
def test_colours_come_back_in_rgb_order(encoding: str, channels: list[int], padding: int) -> None:
    image = encodings.image_from_fields(fields(encoding, RGB[..., channels], padding))
    assert np.array_equal(image, RGB)


@pytest.mark.parametrize('big', [0, 1])
def test_sixteen_bits_scale_by_type_in_either_byte_order(big: int) -> None:
    gray = np.array([[0, 257], [256 * 128, 65535]], np.uint16)
    image = encodings.image_from_fields(fields('mono16', gray, big=big))
    assert image[..., 0].tolist() == [[0, 1], [128, 255]]


def test_a_message_of_a_bag_is_taken_as_it_is() -> None:
    msg = jazzy_types().deserialize_cdr(image_cdr(RGB, 0, 'camera'), 'sensor_msgs/msg/Image')
    assert np.array_equal(encodings.image_from_fields(msg), RGB)


def test_labels_come_back_from_a_png_exactly() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    png = cv2.imencode('.png', ids)[1].tobytes()
    msg = SimpleNamespace(format='mono8; png compressed ', data=png)
    assert np.array_equal(encodings.labels_from_compressed_msg(msg), ids)


def test_labels_in_a_jpeg_are_refused() -> None:
    jpeg = cv2.imencode('.jpg', np.zeros((16, 16), np.uint8))[1].tobytes()
    with pytest.raises(ImageError, match='PNG'):
        encodings.labels_from_compressed_msg(SimpleNamespace(format='jpeg', data=jpeg))


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'encoding': '32FC1'}, 'depth topic'),
        ({'encoding': 'h264'}, 'unknown colour encoding'),
        ({'step': 5}, 'step of at least 6'),
        ({'data': b'\x00' * 11}, 'got 11 bytes of data, expected 12'),
        ({'height': 0}, 'at least 1'),
    ],
)
def test_what_contradicts_itself_is_refused(change: dict[str, object], told: str) -> None:
    msg = fields('rgb8', RGB)
    vars(msg).update(change)
    with pytest.raises(ImageError, match=told):
        encodings.image_from_fields(msg)


@pytest.mark.parametrize('big', [0, 1])
@pytest.mark.parametrize('padding', [0, 6])
def test_depth_comes_in_metres_and_nan_from_millimetres_and_metres(big: int, padding: int) -> None:
    millimetres = np.array([[0, 1500], [1, 65535]], np.uint16)
    depth_m = encodings.depth_from_msg(fields('16UC1', millimetres, padding, big))
    np.testing.assert_allclose(depth_m, [[np.nan, 1.5], [0.001, 65.535]], rtol=1e-6)
    assert depth_m.dtype == np.float32
    metres = np.array([[np.nan, 1.5], [np.inf, -1.0]], np.float32)
    rows = metres.view(np.uint32)  # what `fields` swaps is integers
    depth_m = encodings.depth_from_msg(fields('32FC1', rows, padding, big))
    np.testing.assert_array_equal(depth_m, [[np.nan, 1.5], [np.nan, np.nan]])


def test_millimetres_as_32fc1_are_refused_and_a_few_far_points_are_not() -> None:
    depth_mm = np.full((8, 8), 543.0, '<f4')
    with pytest.raises(ImageError, match=r'nearest depth is 543 m.* does the driver send milli'):
        encodings.depth_from_msg(fields('32FC1', depth_mm))
    far = np.full((8, 8), np.nan, '<f4')
    far[0, :3] = 150.0
    assert np.nanmin(encodings.depth_from_msg(fields('32FC1', far))) == 150.0
    depth_mm[0, 0] = 2.0
    assert encodings.depth_from_msg(fields('32FC1', depth_mm))[0, 0] == 2.0


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'encoding': 'rgb8'}, 'is this the depth topic'),
        ({'step': 3}, 'step of at least 4'),
        ({'data': b'\x00' * 7}, 'got 7 bytes'),
        ({'width': 0}, 'step'),
    ],
)
def test_depth_that_contradicts_itself_is_refused(change: dict[str, object], told: str) -> None:
    msg = fields('16UC1', np.ones((2, 2), np.uint16))
    vars(msg).update(change)
    with pytest.raises(ImageError, match=told):
        encodings.depth_from_msg(msg)


class GpuBuffer:
    """A message's data as Lyrical may give it: it has a length, and no bytes that numpy sees."""

    def __len__(self) -> int:
        return 1 << 20


@pytest.mark.parametrize(
    ('read', 'encoding'),
    [(encodings.image_from_fields, 'rgb8'), (encodings.image_from_fields, 'nv24'),
     (encodings.depth_from_msg, '32FC1'), (encodings.labels_from_msg, 'mono8'),
     (encodings.image_from_compressed_msg, ''), (encodings.labels_from_compressed_msg, '')],
)
def test_data_in_a_buffer_that_numpy_cannot_see_is_refused_with_the_reason(
    read: Callable[..., object], encoding: str
) -> None:
    msg = SimpleNamespace(
        height=2, width=2, encoding=encoding, is_bigendian=0, step=24, format='jpeg',
        data=GpuBuffer(),
    )
    with pytest.raises(ImageError, match=r'its data \(GpuBuffer\) .*CPU.* send plain bytes'):
        read(msg)
