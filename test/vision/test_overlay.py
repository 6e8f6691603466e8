"""Pictures of masks, boxes and grids."""

import itertools

import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.vision.costmap import Grid, Scan
from mnv2_perception.vision.overlay import (
    blend_mask,
    colour_table,
    draw_beside,
    draw_boxes,
    draw_grid,
    draw_legend,
    FREE,
    ink_on,
    OBSTACLE_POINT,
    OCCUPIED,
    ROBOT,
    UNSEEN,
)
from mnv2_perception.vision.pose import Pose

COLOURS = [(200, 0, 0), (0, 100, 0)]


def test_colours_are_mixed_with_the_image_by_alpha() -> None:
    image = np.full((1, 2, 3), 100, np.uint8)
    blended = blend_mask(image, np.array([[0, 1]], np.uint8), COLOURS, alpha=0.25)
    assert blended.tolist() == [[[125, 75, 75], [75, 100, 75]]]


def test_pixels_without_a_class_keep_the_images_colour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 3), np.uint8)
    blended = blend_mask(image, np.array([[255, 2, 0]], np.uint8), COLOURS, alpha=1.0)
    assert np.array_equal(blended[0, :2], image[0, :2])
    assert blended[0, 2].tolist() == [200, 0, 0]


def test_the_image_is_only_read() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image.flags.writeable = False
    blend_mask(image, np.zeros((4, 4), np.uint8), COLOURS)
    draw_legend(image, ['road', 'sky'], COLOURS)
    assert not image.any()


def test_ids_without_a_colour_are_black_in_the_table() -> None:
    table = colour_table(COLOURS)
    assert table.shape == (256, 3)
    assert table[:2].tolist() == [list(colour) for colour in COLOURS]
    assert not table[2:].any()


def test_the_legend_lies_below_the_image_and_shows_every_colour() -> None:
    image = np.zeros((30, 260, 3), np.uint8)
    colours = [(10 * index, 50, 200) for index in range(11)]
    picture = draw_legend(image, [f'class {index}' for index in range(11)], colours)
    assert np.array_equal(picture[:30], image)
    shown = {tuple(pixel) for pixel in picture[30:].reshape(-1, 3).tolist()}
    assert set(colours) <= shown
    assert (0, 0, 0) in shown or any(max(pixel) < 60 for pixel in shown)  # the names


def test_long_names_of_a_legend_do_not_run_into_each_other() -> None:
    names = ['a class of which the name is long'] * 2
    below = draw_legend(np.zeros((30, 400, 3), np.uint8), names, COLOURS)[30:]
    assert len(below) == 8 + 2 * 18  # a row for each
    assert (draw_legend(np.zeros((30, 700, 3), np.uint8), names, COLOURS)[30:].shape[0]) == 26


def test_a_legend_fits_on_a_narrow_image() -> None:
    picture = draw_legend(np.zeros((10, 40, 3), np.uint8), ['road', 'sky'], COLOURS)
    assert picture.shape[1] == 40


def test_boxes_have_their_classes_colours_and_the_best_lies_on_top() -> None:
    image = np.zeros((90, 200, 3), np.uint8)
    image.flags.writeable = False
    boxes = np.array([[20, 20, 60, 50], [40, 20, 80, 50]], np.float32)
    scores, ids = np.array([0.9, 0.5], np.float32), np.array([0, 1])
    picture = draw_boxes(image, boxes, scores, ids, ['car', 'dog'], COLOURS)
    assert picture[35, 20].tolist() == picture[35, 59].tolist() == list(COLOURS[0])
    assert picture[35, 79].tolist() == list(COLOURS[1])
    assert picture[49, 50].tolist() == list(COLOURS[0])
    assert not image.any() and not picture[25:45, 25:35].any()


def test_a_box_at_the_border_is_drawn() -> None:
    boxes = np.array([[0, 0, 30, 20]], np.float32)
    picture = draw_boxes(
        np.zeros((20, 30, 3), np.uint8), boxes, np.ones(1, np.float32), np.zeros(1, int),
        ['car'], COLOURS,
    )
    assert picture[19, 29].tolist() == list(COLOURS[0])
    assert (picture.max(axis=2) > 220).any()  # the name, white on dark red


def test_the_name_of_a_box_at_the_right_border_stays_in_the_image() -> None:
    image = np.zeros((60, 200, 3), np.uint8)
    one = np.array([[190, 30, 200, 50]], np.float32), np.ones(1, np.float32), np.zeros(1, int)
    named = draw_boxes(image, *one, ['pedestrian'], COLOURS)[:28]
    in_the_middle = one[0] - (80, 0, 80, 0), *one[1:]
    whole = draw_boxes(image, *in_the_middle, ['pedestrian'], COLOURS)[:28]
    assert (named > 100).sum() == (whole > 100).sum() > 0


def test_the_labels_of_objects_that_stand_together_are_all_read() -> None:
    one = np.array([[60, 60, 100, 100]], np.float32), np.ones(1, np.float32), np.zeros(1, int)
    image = np.zeros((200, 200, 3), np.uint8)
    both = [np.concatenate([each, each]) for each in one]
    labels = [
        (draw_boxes(image, *some, ['car'], COLOURS) == 255).all(axis=-1).sum()
        for some in (one, both)
    ]
    assert labels[0] > 100 and labels[1] == 2 * labels[0]


def test_a_label_far_from_its_box_is_tied_to_it() -> None:
    boxes = np.tile(np.array([[90, 90, 110, 110]], np.float32), (20, 1))
    tied = draw_boxes(
        np.zeros((200, 200, 3), np.uint8), boxes, np.ones(20, np.float32), np.arange(20),
        [str(number) for number in range(20)], [(0, 0, 200)] * 19 + [(0, 200, 0)],
    )
    green = np.argwhere((tied == (0, 200, 0)).all(axis=-1))  # box, line and label of the last
    assert np.ptp(green, axis=0).max() > 40


def test_text_and_frames_grow_with_the_image() -> None:
    heights = []
    for times in (1, 4):
        image = np.zeros((480 * times, 640 * times, 3), np.uint8)
        box = np.array([[100, 100, 300, 300]], np.float32) * times
        picture = draw_boxes(
            image, box, np.ones(1, np.float32), np.zeros(1, int), ['car'], COLOURS
        )
        above = picture[: 99 * times].any(axis=(1, 2))
        heights.append(above.sum())
        middle = picture[200 * times, 50 * times : 200 * times].any(axis=-1)
        assert middle.sum() in (2 * times, 2 * times + 1)
    assert heights[1] == pytest.approx(4 * heights[0], rel=0.15)


def test_names_are_read_on_every_colour() -> None:
    def luminance(colour: tuple[int, ...]) -> float:
        linear = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
            for value in (channel / 255 for channel in colour)
        ]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for colour in itertools.product(range(0, 256, 15), repeat=3):
        low, high = sorted((luminance(colour), luminance(ink_on(colour))))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def test_no_boxes_leave_the_image() -> None:
    image = np.full((5, 5, 3), 7, np.uint8)
    empty = np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, int)
    assert np.array_equal(draw_boxes(image, *empty, ['car'], COLOURS), image)


def street_grid() -> Grid:
    """10 m square around the origin: free, but a box 3 m ahead and 2 m to the left; no rear."""
    grid = Grid(np.zeros((100, 100), np.int8), -5.0, -5.0, 0.1)
    grid.cells[:, :50] = -1  # x < 0
    grid.cells[65:75, 75:85] = 100  # y 1.5 to 2.5, x 2.5 to 3.5
    return grid


def pixel(picture: NDArray[np.uint8], ahead: float, left: float) -> tuple[int, ...]:
    """Colour at a place before the robot of a 500 × 400 picture that reaches 5 m ahead."""
    px_per_m = 500 * 0.92 / 5
    return tuple(picture[int(460 - ahead * px_per_m), int(200 - left * px_per_m)].tolist())


def test_a_grid_is_seen_from_above_with_ahead_up_and_left_at_the_left() -> None:
    picture = draw_grid(street_grid(), 500, 400)
    assert picture.shape == (500, 400, 3) and picture.dtype == np.uint8
    for ahead, left, colour in (
        (3.3, 2.0, OCCUPIED), (2.6, 1.6, OCCUPIED), (3.3, -2.0, FREE), (2.4, 2.0, FREE),
        (1.5, 0.5, FREE), (-0.2, 1.0, UNSEEN),
    ):
        assert pixel(picture, ahead, left) == colour, (ahead, left)


def test_a_grid_of_a_fixed_frame_is_turned_with_the_robot() -> None:
    cells = street_grid().cells
    # The same street, seen by a robot at (7, −4) that looks along y: its left is −x.
    turned = Grid(np.rot90(cells, -1).copy(), 7.0 - 5.0, -4.0 - 5.0, 0.1)
    pose = Pose.from_rpy(7.0, -4.0, 0.0, 0.0, 0.0, np.pi / 2)
    picture = draw_grid(turned, 500, 400, grid_from_base=pose)
    assert (picture != draw_grid(street_grid(), 500, 400)).any(axis=-1).mean() < 0.01


def test_a_grid_s_rings_lie_at_their_distances_and_the_robot_at_their_centre() -> None:
    picture = draw_grid(street_grid(), 500, 400, ahead_m=5.0)
    grey = picture[..., 1].astype(int)
    for ring_m in (1.0, 2.0, 3.0, 4.0):
        along = [int(grey[int(460 - (ring_m + off) * 92), 195]) for off in (-0.1, 0.0, 0.1)]
        assert along[1] < min(along[0], along[2]) - 20, ring_m
    assert pixel(picture, 0.0, 0.0) == ROBOT
    labels = picture[460 - 92 : 460 - 92 + 14, 202:230]
    assert (labels < 60).all(axis=-1).any()  # 1 m


def test_what_lies_beyond_a_grid_is_unseen() -> None:
    picture = draw_grid(street_grid(), 500, 400, ahead_m=10.0)
    assert tuple(picture[40, 50].tolist()) == UNSEEN


def test_probabilities_are_drawn_between_free_and_occupied() -> None:
    grid = Grid(np.full((10, 10), 50, np.int8), -5.0, -5.0, 1.0)
    half = np.array(draw_grid(grid, 500, 400)[300, 50], int)
    assert np.abs(half - (np.array(FREE) + OCCUPIED) / 2).max() <= 1


def test_beams_reach_to_their_obstacles_and_obstacles_are_dots() -> None:
    ranges_m = np.array([np.nan, 2.5, np.inf], np.float32)  # at −45°, 0° and 45°
    scan = Scan(ranges_m, -np.pi / 4, np.pi / 4, 5.0)
    points = np.array([[3.0, -1.2, 0.2]], np.float32)
    picture = draw_grid(street_grid(), 500, 400, obstacles=points, scan=scan)
    assert pixel(picture, 1.5, 0.0) != FREE
    assert pixel(picture, 2.6, 0.0) == pixel(picture, 1.2, 1.2) == FREE
    assert pixel(picture, 1.2, -1.2) == FREE
    assert pixel(picture, 3.0, -1.2) == OBSTACLE_POINT


def test_a_panel_stands_beside_the_picture_below_the_caption() -> None:
    picture, panel = np.full((50, 80, 3), 10, np.uint8), np.full((50, 30, 3), 200, np.uint8)
    both = draw_beside(picture, panel, 'road 0.93')
    above = len(both) - 50
    assert np.array_equal(both[above:, :80], picture)
    assert np.array_equal(both[above:, -30:], panel)
    assert (both[:above] < 80).any() and (both[:above] == 255).mean() > 0.5
