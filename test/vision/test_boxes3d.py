"""Boxes in space: a drawn box at a known place, before a wall, as depth cameras really see it."""

from camera_scene import draw_before_wall, draw_box
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.boxes3d import Box3D, place_boxes
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.marks import points_of_depth
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose

SIZE = 240, 320
CAMERA = Camera(*SIZE, 200.0, 200.0, 159.5, 119.5)
POSE = Pose.from_rpy(0.1, -0.05, 1.0, 0.0, 0.15, 0.0) @ BODY_FROM_OPTICAL
LOW, HIGH = (3.0, 0.2, 0.0), (3.4, 0.8, 1.4)
Corner = tuple[float, float, float]
Depth = NDArray[np.float32]


def draw(
    low: Corner = LOW, high: Corner = HIGH, wall_x: float = 4.0, camera: Camera = CAMERA,
) -> tuple[Depth, NDArray[np.float64]]:
    return draw_before_wall(camera, POSE, low, high, wall_x)


def place(
    depth_m: Depth, boxes: NDArray[np.float64], camera: Camera = CAMERA, pose: Pose = POSE,
    min_height_m: float = 0.05, min_points: int = 10,
) -> list[Box3D | None]:
    points = points_of_depth(depth_m, camera, camera, SIZE, pose)
    return place_boxes(points, pose, boxes, SIZE, min_height_m, min_points)


def check(found: Box3D | None, low: Corner = LOW, high: Corner = HIGH, within_m: float = 0.06,
          ) -> None:
    """Check that a box has the drawn one's face, breadth and height."""
    assert found is not None
    front = found.centre[0] - found.size[0] / 2
    assert front == pytest.approx(low[0], abs=within_m)
    assert 0.0 <= found.size[0] <= high[0] - low[0] + within_m
    assert found.centre[1] == pytest.approx((low[1] + high[1]) / 2, abs=within_m)
    assert found.centre[2] == pytest.approx((low[2] + high[2]) / 2, abs=within_m)
    # Two of a hundred points at either side do not count.
    assert found.size[1] == pytest.approx(high[1] - low[1], abs=0.05 + within_m)
    assert found.size[2] == pytest.approx(high[2] - low[2], abs=0.1 + within_m)


@pytest.mark.parametrize('x', [1.5, 3.0, 5.0, 8.0])
@pytest.mark.parametrize('y', [-0.6, 0.0, 0.5])
def test_a_box_before_a_wall_is_where_it_was_drawn(x: float, y: float) -> None:
    low, high = (x, y - 0.3, 0.0), (x + 0.4, y + 0.3, 1.2)
    found, = place(*draw(low, high, wall_x=x + 0.8))
    check(found, low, high, within_m=0.04 + x / 200)


@pytest.mark.parametrize('turn', [-2.0, 0.7])
def test_a_camera_that_looks_elsewhere_from_the_base_finds_the_same(turn: float) -> None:
    mounted = Pose.from_rpy(0.3, 0.1, 1.0, 0.0, 0.15, turn) @ BODY_FROM_OPTICAL
    depth_m, boxes = draw()
    ahead, = place(depth_m, boxes)
    points = points_of_depth(depth_m, CAMERA, CAMERA, SIZE, mounted)
    turned, = place_boxes(points, mounted, boxes, SIZE, 0.05, 10)
    assert ahead and turned
    there = (mounted @ POSE.inverse()).apply(ahead.centre)
    np.testing.assert_allclose(turned.centre, there, atol=0.1)


@pytest.mark.parametrize('hole', [np.nan, 0.0, np.inf, -1.0])
def test_holes_do_not_pull_a_box(hole: float) -> None:
    depth_m, boxes = draw()
    depth_m[np.random.default_rng(3).random(SIZE) < 0.6] = hole
    check(place(depth_m, boxes)[0])


def test_a_wall_seen_through_most_of_the_middle_does_not_pull_a_box() -> None:
    depth_m, boxes = draw()
    _, wall_m = draw_box(CAMERA, POSE, (4.0, -60.0, -1.0), (5.0, 60.0, 60.0))
    gaps = np.arange(SIZE[1]) % 10 < 7  # of a chair, a bicycle, a railing
    depth_m[:, gaps] = wall_m[:, gaps]
    check(place(depth_m, boxes)[0], within_m=0.08)


def test_mixed_pixels_between_the_box_and_the_wall_do_not_pull_it() -> None:
    depth_m, boxes = draw()
    rng = np.random.default_rng(5)
    mixed = rng.random(SIZE) < 0.08
    depth_m[mixed] = rng.uniform(2.5, 4.2, SIZE)[mixed]
    check(place(depth_m, boxes)[0], within_m=0.08)


def test_a_thin_pole_before_the_box_is_not_taken_for_it() -> None:
    depth_m, boxes = draw()
    x1, _, x2, _ = boxes[0].astype(int)
    middle = (x1 + x2) // 2
    depth_m[:, middle - 1:middle + 2] = 1.5
    check(place(depth_m, boxes)[0])


def test_a_stereo_camera_s_noise_moves_a_box_by_centimetres() -> None:
    depth_m, boxes = draw(wall_x=5.0)
    rng = np.random.default_rng(7)
    depth_m *= rng.normal(1.0, 0.01, SIZE).astype(np.float32)
    check(place(depth_m, boxes)[0], within_m=0.12)


def test_the_ground_in_a_box_does_not_pull_it() -> None:
    low, high = (2.0, -0.3, 0.0), (2.4, 0.3, 0.2)  # flat: the camera sees much ground around it
    depth_m, boxes = draw(low, high, wall_x=9.0)
    wide = boxes + np.array([-12.0, -6.0, 12.0, 6.0])
    found, = place(depth_m, wide)
    assert found is not None
    assert found.centre[:2] == pytest.approx([2.2, 0.0], abs=0.08)
    assert found.centre[2] - found.size[2] / 2 > 0.04 and found.centre[2] < 0.2


@pytest.mark.parametrize('size', [(120, 160), (240, 160), (480, 640)])
def test_depth_of_another_resolution_gives_the_same_box(size: tuple[int, int]) -> None:
    _, boxes = draw()
    camera = CAMERA.resized(*size)
    depth_m, _ = draw(camera=camera)
    check(place(depth_m, boxes, camera)[0])


def test_what_was_not_measured_has_no_place() -> None:
    depth_m, boxes = draw()
    x1, y1, x2, y2 = boxes[0].astype(int)
    empty = depth_m.copy()
    empty[y1:y2, x1:x2] = np.nan
    assert place(empty, boxes) == [None]
    # Nothing in its middle, and all around.
    dx, dy = (x2 - x1) // 4 + 1, (y2 - y1) // 4 + 1
    hollow = depth_m.copy()
    hollow[y1 + dy - 2:y2 - dy + 2, x1 + dx - 2:x2 - dx + 2] = np.nan
    assert place(hollow, boxes) == [None]


def test_fewer_points_than_asked_for_are_no_place() -> None:
    depth_m, boxes = draw()
    few = np.full_like(depth_m, np.nan)
    rows, columns = (boxes[0, [1, 0]] + boxes[0, [3, 2]]).astype(int) // 2
    few[rows:rows + 3, columns:columns + 4] = depth_m[rows:rows + 3, columns:columns + 4]
    assert place(few, boxes, min_points=13) == [None]
    found, = place(few, boxes, min_points=12)
    assert found and found.centre[0] == pytest.approx(3.0, abs=0.05)


def test_a_middle_that_shows_nothing_in_particular_has_no_place() -> None:
    _, boxes = draw()
    scattered = np.random.default_rng(1).uniform(0.5, 40.0, SIZE).astype(np.float32)
    assert place(scattered, boxes, min_height_m=-100.0) == [None]


def test_each_box_has_its_own_answer_in_their_order() -> None:
    depth_m, (box,) = draw()
    nowhere = [0.0, 0.0, 0.4, 0.4]
    not_finite = [np.nan, 0.0, np.inf, 5.0]
    found = place(depth_m, np.array([nowhere, box, not_finite, box[[2, 3, 0, 1]]]))
    check(found[1])
    assert [each is None for each in found] == [True, False, True, True]
    assert place(depth_m, np.empty((0, 4))) == []


def test_a_box_of_another_image_is_refused() -> None:
    depth_m, boxes = draw()
    with pytest.raises(CalibrationError, match=r'around \(366, 327\) .* image of 240 × 320'):
        place(depth_m, np.concatenate([boxes, boxes * 3.0]))


def test_of_anything_comes_a_box_among_the_measured_points_or_none() -> None:
    rng = np.random.default_rng(11)
    placed = 0
    for _ in range(300):
        size = rng.integers(1, 60, 2)
        points = rng.normal([3.0, 0.0, 1.0], rng.uniform(0.0, 0.5, 3), (*size, 3))
        points = points.astype(np.float32)
        points[rng.random(size) < rng.random()] = rng.choice([np.nan, np.inf, -np.inf])
        boxes = rng.uniform(0, 1, (4, 4)) * np.tile(size[::-1], 2)
        boxes[:3] = np.sort(boxes[:3].reshape(3, 2, 2), axis=1).reshape(3, 4)
        boxes[rng.random((4, 4)) < 0.02] = np.nan
        found = place_boxes(points, POSE, boxes, (int(size[0]), int(size[1])), 0.0, 3)
        assert len(found) == 4
        finite = points[np.isfinite(points).all(axis=-1)].astype(np.float64)
        for box in filter(None, found):
            placed += 1
            low, high = box.centre - box.size / 2, box.centre + box.size / 2
            assert np.all(box.size >= 0.0)
            assert np.all(low >= finite.min(axis=0) - 1e-6)
            assert np.all(high <= finite.max(axis=0) + 1e-6)
            assert box.centre[2] >= 0.0
    assert placed > 100
