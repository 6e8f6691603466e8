"""mnv2_perception.vision.transforms: what tf2 answers."""

import math

import numpy as np
import pytest

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.transforms import TransformTree

NO_TURN = (0.0, 0.0, 0.0, 1.0)


def yaw(angle: float) -> tuple[float, ...]:
    return 0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2)


@pytest.fixture
def tree() -> TransformTree:
    """A robot that drives along x and turns left, with a camera 1 m up and a wheel."""
    tree = TransformTree()
    tree.add('odom', 'base_link', 1000, (1.0, 0.0, 0.0, *yaw(0.0)), static=False)
    tree.add('odom', 'base_link', 3000, (3.0, 2.0, 0.0, *yaw(1.0)), static=False)
    tree.add('/base_link', 'camera', 0, (0.5, 0.0, 1.0, *NO_TURN), static=True)
    tree.add('base_link', 'wheel', 0, (0.0, 0.3, 0.0, *NO_TURN), static=True)
    return tree


def test_places_are_interpolated_linearly_and_turns_along_the_arc(tree: TransformTree) -> None:
    pose = tree.look_up('odom', 'base_link', 1500)
    np.testing.assert_allclose(pose.translation, [1.5, 0.5, 0.0])
    assert pose.yaw == pytest.approx(0.25)
    assert tree.look_up('odom', 'base_link', 3000).yaw == pytest.approx(1.0)


def test_the_short_way_round_is_taken_between_opposite_quaternions() -> None:
    tree = TransformTree()
    tree.add('a', 'b', 0, (0.0, 0.0, 0.0, *yaw(0.2)), static=False)
    far = tuple(-value for value in yaw(0.4))
    tree.add('a', 'b', 10, (0.0, 0.0, 0.0, *far), static=False)
    assert tree.look_up('a', 'b', 5).yaw == pytest.approx(0.3)


def test_up_and_down_the_tree(tree: TransformTree) -> None:
    up = tree.look_up('odom', 'camera', 1000)
    np.testing.assert_allclose(up.translation, [1.5, 0.0, 1.0])
    np.testing.assert_allclose(
        (tree.look_up('camera', 'odom', 1000) @ up).translation, 0.0, atol=1e-12
    )
    across = tree.look_up('wheel', 'camera', 99999)  # static on both sides: at any time
    np.testing.assert_allclose(across.translation, [0.5, -0.3, 1.0])
    np.testing.assert_allclose(tree.look_up('camera', 'camera', 0).translation, 0.0)


@pytest.mark.parametrize(('time_ns', 'told'), [(999, 'later'), (3001, 'earlier')])
def test_nothing_is_extrapolated(tree: TransformTree, time_ns: int, told: str) -> None:
    with pytest.raises(CalibrationError, match=f'{told} than the image'):
        tree.look_up('odom', 'camera', time_ns)


def test_frames_that_are_not_connected_are_named(tree: TransformTree) -> None:
    tree.add('map', 'elsewhere', 0, (0.0, 0.0, 0.0, *NO_TURN), static=True)
    with pytest.raises(CalibrationError, match="no transform of 'lidar'"):
        tree.look_up('odom', 'lidar', 1000)
    with pytest.raises(CalibrationError, match='the frames are not connected'):
        tree.look_up('odom', 'elsewhere', 1000)


def test_the_newest_common_time_serves_a_stamp_of_zero(tree: TransformTree) -> None:
    assert tree.newest_ns('odom', 'camera', 9999) == 3000
    assert tree.newest_ns('odom', 'camera', 2000) == 2000
    assert tree.newest_ns('base_link', 'camera', 9999) == 9999


def test_a_circle_of_frames_ends() -> None:
    tree = TransformTree()
    for parent, child in (('a', 'b'), ('b', 'c'), ('c', 'a')):
        tree.add(parent, child, 0, (1.0, 0.0, 0.0, *NO_TURN), static=True)
    with pytest.raises(CalibrationError):
        tree.look_up('d', 'a', 0)
