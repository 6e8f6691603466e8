"""From a camera's image to a network's input."""

import os
import subprocess
import sys

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.errors import ImageError
from mnv2_perception.vision.preprocess import (
    check_region,
    crop_region,
    crop_to_aspect,
    fit_image,
    normalise,
    place_image,
    resize_image,
    rotate_image,
)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_normalise_subtracts_mean_and_divides_by_std_in_the_networks_order(order: str) -> None:
    image = noise(5, 7)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    tensor = normalise(image, mean, std, order)
    channels = image if order == 'rgb' else image[..., ::-1]
    expected = ((channels - np.array(mean)) / std).transpose(2, 0, 1)
    assert tensor.dtype == np.float32 and tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_normalise_gives_interleaved_channels_too(order: str) -> None:
    planes = normalise(noise(5, 7), (1, 2, 3), (4, 5, 6), order)
    tensor = normalise(noise(5, 7), (1, 2, 3), (4, 5, 6), order, 'nhwc')
    assert np.array_equal(tensor, planes.transpose(1, 2, 0)) and tensor.flags.c_contiguous


@pytest.mark.parametrize(
    ('size', 'aspect', 'rows', 'columns'),
    [
        ((10, 20), (1, 1), slice(0, 10), slice(5, 15)),
        ((20, 10), (224, 224), slice(5, 15), slice(0, 10)),
        ((12, 20), (3, 4), slice(0, 12), slice(2, 18)),
        ((12, 16), (6, 8), slice(0, 12), slice(0, 16)),
        ((1, 90), (9, 1), slice(0, 1), slice(44, 45)),
    ],
)
def test_the_crop_is_the_largest_centred_part_of_the_aspect_ratio(
    size: tuple[int, int], aspect: tuple[int, int], rows: slice, columns: slice
) -> None:
    image = noise(*size)
    assert np.array_equal(crop_to_aspect(image, *aspect), image[rows, columns])


def letterbox_of_ultralytics(
    image: NDArray[np.uint8], height: int, width: int
) -> tuple[NDArray[np.uint8], int, int]:
    """Return what `LetterBox((height, width), auto=False)` makes, its top and left border."""
    rows, columns = image.shape[:2]
    r = min(height / rows, width / columns)
    unpadded = round(columns * r), round(rows * r)
    dw, dh = (width - unpadded[0]) / 2, (height - unpadded[1]) / 2
    if (columns, rows) != unpadded:
        image = np.asarray(cv2.resize(image, unpadded, interpolation=cv2.INTER_LINEAR), np.uint8)
    top, bottom = round(dh - 0.1), round(dh + 0.1)
    left, right = round(dw - 0.1), round(dw + 0.1)
    framed = cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114)
    )
    return np.asarray(framed, np.uint8), top, left


SIZES = [
    (480, 640), (640, 480), (64, 64), (1, 1), (1, 300), (719, 1281), (97, 33), (31, 77),
    (63, 65), (1080, 1920), (45, 64), (64, 45), (3, 5),
]


@pytest.mark.parametrize(('size', 'height', 'width'), [
    (size, height, width) for size in SIZES
    for height, width in ((64, 64), (96, 64), (65, 97), (640, 640))
    if round(min(height / size[0], width / size[1]) * min(size))  # theirs fails at no side
])
def test_a_letterbox_is_that_of_ultralytics(
    size: tuple[int, int], height: int, width: int
) -> None:
    image = noise(*size)
    expected, top, left = letterbox_of_ultralytics(image, height, width)
    assert np.array_equal(fit_image(image, height, width, 'letterbox'), expected)
    placed = place_image(image.shape, height, width, 'letterbox')
    assert (placed.top, placed.left) == (top, left)
    assert (placed.frame_height, placed.frame_width) == (height, width)


def test_a_letterbox_keeps_the_aspect_ratio_and_a_side_of_one_pixel_at_least() -> None:
    placed = place_image((1, 300), 64, 64, 'letterbox')
    assert placed == (31, 0, 1, 64, 64, 64) and not placed.fills
    assert place_image((30, 40), 60, 80, 'letterbox').fills
    assert place_image((30, 41), 60, 80) == (0, 0, 60, 80, 60, 80)  # stretched


def test_the_padding_has_the_models_colour() -> None:
    framed = fit_image(noise(4, 8), 8, 8, 'letterbox', pad=(1, 2, 3))
    assert (framed[:2] == (1, 2, 3)).all() and (framed[6:] == (1, 2, 3)).all()
    assert np.array_equal(framed[2:6], noise(4, 8))


@pytest.mark.parametrize('size', [(256, 256), (375, 500), (500, 333), (101, 57), (3000, 2001)])
def test_a_crop_ratio_is_that_of_resizing_the_short_side_and_cutting_the_middle(
    size: tuple[int, int]
) -> None:
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.stack([y, x, x], axis=2)  # each pixel says where it is from
    part = crop_to_aspect(image, 224, 224, 0.875)
    # Resized to 256 on the short side, 224 cut from the middle: where these lie in the image.
    scale = min(size) / 256
    for axis in (0, 1):
        start = (size[axis] / scale - 224) / 2 * scale
        assert part[0, 0, axis] == pytest.approx(start, abs=1.0)
        assert part[-1, -1, axis] + 1 == pytest.approx(start + 224 * scale, abs=1.0)


def test_a_crop_ratio_of_1_is_the_whole_part_and_a_picture_of_256_is_cut_exactly() -> None:
    image = noise(256, 256)
    assert np.array_equal(fit_image(image, 224, 224, 'crop', 0.875), image[16:240, 16:240])
    wide = noise(40, 90)
    assert np.array_equal(crop_to_aspect(wide, 3, 4, 1.0), crop_to_aspect(wide, 3, 4))
    assert crop_to_aspect(noise(1, 1), 3, 4, 0.1).shape == (1, 1, 3)


def test_a_dark_image_stays_dark() -> None:
    dark = np.ones((2, 2, 3), np.uint8)  # max() == 1, as in an image that is scaled already
    assert normalise(dark, (0, 0, 0), (255, 255, 255)).max() == pytest.approx(1 / 255)


@pytest.mark.parametrize(('height', 'width'), [(8, 12), (20, 5), (3, 3), (64, 64), (7, 100)])
def test_resize_keeps_a_ramp_where_it_was(height: int, width: int) -> None:
    # Gray levels that grow with x: half-pixel centres keep the ramp straight and centred.
    x = (np.arange(40) + 0.5) / 40
    image = np.repeat(np.tile(x * 250, (30, 1))[..., None], 3, axis=2).astype(np.uint8)
    resized = resize_image(image, height, width)
    assert resized.shape == (height, width, 3)
    expected = (np.arange(width) + 0.5) / width * 250
    inner = slice(width // 20 + 1, -(width // 20) - 1)  # bilinear repeats the border
    np.testing.assert_allclose(resized[height // 2, inner, 0], expected[inner], atol=2.0)


def test_strong_shrinking_averages_so_that_thin_things_do_not_vanish() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, ::8] = 240  # poles of one pixel
    resized = resize_image(image, 5, 10)
    assert (resized == 30).all()


@pytest.mark.parametrize(('height', 'width'), [(10, 60), (60, 10)])
def test_shrinking_one_side_and_enlarging_the_other_stays_centred(height: int, width: int) -> None:
    image = noise(30, 30)
    mirrored = resize_image(image[::-1, ::-1].copy(), height, width).astype(int)
    assert np.abs(mirrored - resize_image(image, height, width)[::-1, ::-1]).max() <= 1


def test_an_image_of_the_right_size_is_not_copied() -> None:
    image = noise(6, 8)
    assert np.shares_memory(resize_image(image, 6, 8), image)
    assert np.shares_memory(rotate_image(image, 0), image)


def test_resize_gives_contiguous_memory_of_a_strided_view() -> None:
    view = noise(6, 16)[:, ::2]
    for resized in (resize_image(view, 6, 8), resize_image(view, 12, 16)):
        assert resized.flags.c_contiguous
    assert np.array_equal(resize_image(view, 6, 8), view)


@pytest.mark.parametrize('degrees', [-270, -90, 0, 90, 180, 270, 360])
@pytest.mark.parametrize('channels', [(), (3,)])
def test_rotate_turns_clockwise(degrees: int, channels: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6, *channels), np.uint8)
    assert np.array_equal(rotate_image(image, degrees), np.rot90(image, -degrees // 90))


@pytest.mark.parametrize(
    ('region', 'rows', 'columns'),
    [
        ((0.0, 0.0, 1.0, 1.0), slice(0, 10), slice(0, 20)),
        ((0.25, 0.5, 0.75, 1.0), slice(5, 10), slice(5, 15)),
        ((0.26, 0.51, 0.74, 0.99), slice(5, 10), slice(5, 15)),  # what it touches
        ((0.5, 0.5, 0.501, 0.501), slice(5, 6), slice(10, 11)),
    ],
)
def test_a_region_is_of_the_images_width_and_height(
    region: tuple[float, ...], rows: slice, columns: slice
) -> None:
    check_region(region)
    image = noise(10, 20)
    assert np.array_equal(crop_region(image, region), image[rows, columns])


@pytest.mark.parametrize(
    'region', [(), (0, 0, 1), (0.5, 0, 0.5, 1), (0, 1, 1, 0), (-0.1, 0, 1, 1), (0, 0, 1, 1.5)]
)
def test_a_region_that_is_none_is_refused(region: tuple[float, ...]) -> None:
    with pytest.raises(ImageError, match=r'region is \[.*x1 < x2 and y1 < y2'):
        check_region(region)


RESIZED_AGAIN_AND_AGAIN = """
import time
import mnv2_perception
import cv2
import numpy
image = numpy.zeros((480, 640), numpy.uint8)
begun_s = time.process_time()
for _ in range(200):
    cv2.resize(image, (480, 352))
    time.sleep(0.002)
print(time.process_time() - begun_s)
"""


@pytest.mark.skipif(
    cv2.getNumThreads() < 2 or 'Parallel framework:            pthreads'
    not in cv2.getBuildInformation(),
    reason='needs two cores, and OpenCV with threads of its own, as its wheels have',
)
def test_opencvs_idle_threads_take_no_cpu_time() -> None:
    name = 'OPENCV_THREAD_POOL_ACTIVE_WAIT_WORKER'
    environment = {key: value for key, value in os.environ.items() if key != name}

    def cpu_s(**added: str) -> float:
        done = subprocess.run(
            [sys.executable, '-c', RESIZED_AGAIN_AND_AGAIN], env={**environment, **added},
            check=True, capture_output=True, text=True,
        )
        return float(done.stdout)

    as_opencv_has_it = cpu_s(**{name: '2000'})  # who sets it has it
    assert cpu_s() < 0.92 * as_opencv_has_it
