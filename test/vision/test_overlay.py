"""Pictures of masks."""

import numpy as np

from mnv2_perception.vision.overlay import blend_mask, colour_table, draw_boxes, draw_legend

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


def test_a_legend_fits_on_a_narrow_image() -> None:
    picture = draw_legend(np.zeros((10, 40, 3), np.uint8), ['road', 'sky'], COLOURS)
    assert picture.shape[1] == 40


def test_boxes_have_their_classes_colours_and_the_best_lies_on_top() -> None:
    image = np.zeros((60, 200, 3), np.uint8)
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


def test_no_boxes_leave_the_image() -> None:
    image = np.full((5, 5, 3), 7, np.uint8)
    empty = np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, int)
    assert np.array_equal(draw_boxes(image, *empty, ['car'], COLOURS), image)
