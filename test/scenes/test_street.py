"""The drawn street scenes: exact, repeatable, moving, and distributed as a street is."""
import hashlib
from itertools import pairwise
import subprocess
import sys

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.errors import ImageError
from mnv2_perception.scenes.drive import drive_of
from mnv2_perception.scenes.layout import block_of
from mnv2_perception.scenes.street import CLASSES, draw_scene

_CAMVID_SHARES = {'sky': 0.17, 'building': 0.24, 'road': 0.33, 'pavement': 0.047, 'tree': 0.10,
                  'car': 0.061}


def _digest(seed: int, time_s: float) -> str:
    image, class_ids = draw_scene(seed, time_s, 120, 160)
    return hashlib.sha256(image.tobytes() + class_ids.tobytes()).hexdigest()


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


@pytest.fixture(scope='module')
def class_shares() -> NDArray[np.float64]:
    counts = np.zeros(256)
    for seed in range(30):
        _, class_ids = draw_scene(seed, 0.7 * seed, 120, 160)
        counts += np.bincount(class_ids.ravel(), minlength=256)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


@pytest.mark.parametrize(('height', 'width'), [(64, 64), (65, 199), (201, 67), (97, 131),
                                               (360, 480)])
def test_image_and_labels_have_the_size_asked_for(height: int, width: int) -> None:
    image, class_ids = draw_scene(3, 1.25, height, width)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert class_ids.shape == (height, width)
    assert class_ids.dtype == np.uint8
    assert image.flags.c_contiguous
    assert class_ids.flags.c_contiguous
    assert class_ids.max() < len(CLASSES)


def test_same_seed_and_time_draw_the_same_frame_whatever_was_drawn_between() -> None:
    before = _digest(5, 2.0)
    for seed in range(6, 20):
        draw_scene(seed, 1.0, 64, 64)
    assert _digest(5, 2.0) == before


def test_another_process_draws_the_same_frame() -> None:
    code = ('import hashlib; from mnv2_perception.scenes.street import draw_scene; '
            'i, l = draw_scene(5, 2.0, 120, 160); '
            'print(hashlib.sha256(i.tobytes() + l.tobytes()).hexdigest())')
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                           check=True)
    assert other.stdout.strip() == _digest(5, 2.0)


def test_a_seed_is_the_same_street_on_every_machine() -> None:
    # Not by the pixels' hash: their last bit is the processor's.
    drive = drive_of(7)
    assert (drive.sunny, drive.drive_side, drive.parking, drive.storeys) == (False, -1, True, 2)
    assert drive.camera_height_m == pytest.approx(1.5460525590)
    assert drive.road_half_m == pytest.approx(4.6119686831)
    left, right = block_of(7, -1, 1), block_of(7, 1, 1)
    assert [len(things) for things in (left.buildings, left.signs, left.parked)] == [4, 3, 2]
    assert [len(things) for things in (right.trees, right.posts, right.side_roads)] == [3, 4, 1]
    assert left.signs[0].distance_m == pytest.approx(47.2176124015)
    _, class_ids = draw_scene(7, 0.0, 240, 320)
    shares = np.bincount(class_ids.ravel(), minlength=len(CLASSES)) / class_ids.size
    np.testing.assert_allclose(shares, [0.2275, 0.2244, 0.0171, 0.3203, 0.0184, 0.0183, 0.0040,
                                        0.0148, 0.1525, 0.0013, 0.0013], atol=0.001)


def test_returned_arrays_belong_to_the_caller() -> None:
    before = _digest(5, 2.0)
    image, class_ids = draw_scene(5, 2.0, 120, 160)
    image[:], class_ids[:] = 0, 0
    assert _digest(5, 2.0) == before


def test_seeds_are_different_streets() -> None:
    assert _difference(draw_scene(1, 1.0, 120, 160)[0], draw_scene(2, 1.0, 120, 160)[0]) > 15


@pytest.mark.parametrize('seed', [1, 4, 9])
def test_consecutive_frames_differ_less_than_frames_a_second_apart(seed: int) -> None:
    times_s = (2.0, 2.0 + 1 / 15, 3.0)
    now, soon, later = (draw_scene(seed, t, 240, 320) for t in times_s)
    blurred = [cv2.GaussianBlur(image, (0, 0), 1.5) for image, _ in (now, soon, later)]
    step, second = _difference(blurred[0], blurred[1]), _difference(blurred[0], blurred[2])
    assert 0 < step < 12
    assert second > 1.5 * step
    changed = float((now[1] != soon[1]).mean())
    assert 0 < changed < 0.1
    assert float((now[1] != later[1]).mean()) > 1.5 * changed


def test_nothing_large_pops_up_or_vanishes_between_frames() -> None:
    frames = [draw_scene(12, i / 15, 96, 128)[1] for i in range(120)]
    changes = [float((a != b).mean()) for a, b in pairwise(frames)]
    assert max(changes) < 0.125


def test_every_class_appears_and_nothing_else(class_shares: NDArray[np.float64]) -> None:
    assert (class_shares[:len(CLASSES)] > 0).all()
    assert class_shares[len(CLASSES):].sum() == 0


@pytest.mark.parametrize('name', list(_CAMVID_SHARES))
def test_class_shares_are_near_those_of_real_streets(
        name: str, class_shares: NDArray[np.float64]) -> None:
    share = class_shares[CLASSES.index(name)]
    assert 0.5 * _CAMVID_SHARES[name] < share < 2 * _CAMVID_SHARES[name]


@pytest.mark.parametrize('seed', range(8))
def test_road_is_ahead_and_sky_is_above_it(seed: int) -> None:
    _, class_ids = draw_scene(seed, 1.0, 120, 160)
    assert (class_ids[-6:, 70:90] == CLASSES.index('road')).mean() > 0.8
    assert not (class_ids[:40] == CLASSES.index('road')).any()
    assert not (class_ids[75:] == CLASSES.index('sky')).any()


@pytest.mark.parametrize('seed', [0, 7, 21])
def test_image_edges_lie_where_labels_change(seed: int) -> None:
    image, class_ids = draw_scene(seed, 3.0, 240, 320)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.int16)
    across = np.abs(np.diff(grey, axis=1))
    border = np.diff(class_ids.astype(np.int16), axis=1) != 0
    assert across[border].mean() > 2.5 * across[~border].mean()


@pytest.mark.parametrize(('height', 'width'), [(63, 64), (64, 63), (0, 100), (-5, 80)])
def test_too_small_a_size_is_refused(height: int, width: int) -> None:
    with pytest.raises(ImageError, match=f'{height}x{width}.*at least 64x64'):
        draw_scene(0, 0.0, height, width)


@pytest.mark.parametrize(('seed', 'time_s'), [(-1, 0.0), (0, -0.1), (0, float('nan'))])
def test_a_negative_seed_or_time_is_refused(seed: int, time_s: float) -> None:
    with pytest.raises(ImageError, match='0 or more'):
        draw_scene(seed, time_s, 64, 64)
