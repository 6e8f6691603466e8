"""Draw an evaluation: the confusion matrix, and masks beside their labels."""

from collections.abc import Mapping, Sequence
import unicodedata

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.evaluation.parts import NOTHING
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.overlay import blend_mask, Colours, draw_caption, draw_legend
from mnv2_perception.vision.preprocess import resize_image

Picture = NDArray[np.uint8]

# One hue from light to dark: readable with any colour vision, and in print.
NONE, ALL = np.array([247, 251, 255]), np.array([8, 48, 107])
WRONG = (230, 159, 0)  # Okabe and Ito's orange: visible on gray with any colour vision
INK, PAPER = (0, 0, 0), (255, 255, 255)
MOST_ROWS = 40
CELL_PX, MARGIN_PX = 46, 10
PANEL_PX = 480  # largest width of a picture beside others
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45


def draw_confusion(table: Mapping[str, Mapping[str, int]], title: str) -> Picture:
    """Draw a confusion matrix as percentages of its rows.

    If there are more than MOST_ROWS true classes, those with most errors are drawn.

    Args:
        table: counts by true class and predicted class.
        title: title above the matrix.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rows = list(table)
    if len(rows) > MOST_ROWS:
        wrong = {row: sum(table[row].values()) - table[row].get(row, 0) for row in rows}
        rows = sorted(sorted(rows, key=lambda row: -wrong[row])[:MOST_ROWS], key=rows.index)
        title += f'; the {MOST_ROWS} of {len(table)} classes with the most errors'
    others = dict.fromkeys(name for row in rows for name in table[row] if name not in rows)
    columns = [*(row for row in rows if row != NOTHING), *others]
    labels = [[_label(name) for name in names] for names in (rows, columns)]
    left = max(label.shape[1] for label in labels[0]) + 2 * MARGIN_PX
    top = max(label.shape[1] for label in labels[1]) + 2 * MARGIN_PX
    height, width = top + CELL_PX * len(rows), left + CELL_PX * len(columns)
    picture = np.full((height + MARGIN_PX, width + MARGIN_PX, 3), 255, np.uint8)
    for number, label in enumerate(labels[1]):
        turned = np.rot90(label)
        x = left + CELL_PX * number + (CELL_PX - turned.shape[1]) // 2
        y = top - MARGIN_PX - turned.shape[0]
        picture[y : y + turned.shape[0], x : x + turned.shape[1]] = turned
    for row, (name, label) in enumerate(zip(rows, labels[0], strict=True)):
        y = top + CELL_PX * row
        start = y + (CELL_PX - label.shape[0]) // 2
        x = left - MARGIN_PX - label.shape[1]
        picture[start : start + label.shape[0], x : x + label.shape[1]] = label
        total = sum(table[name].values())
        for column, predicted in enumerate(columns):
            share = table[name].get(predicted, 0) / total
            _draw_cell(picture, left + CELL_PX * column, y, share, name == predicted)
    texts = [_label(title), _label('rows: label; columns: prediction; % of the row')]
    wide = max(picture.shape[1], *(text.shape[1] + 2 * MARGIN_PX for text in texts))
    sheet = np.full((sum(len(text) + MARGIN_PX for text in texts) + len(picture), wide, 3), 255,
                    np.uint8)
    y = MARGIN_PX
    for text in texts:
        sheet[y : y + len(text), MARGIN_PX : MARGIN_PX + text.shape[1]] = text
        y += len(text) + MARGIN_PX
    y -= MARGIN_PX
    sheet[y : y + len(picture), : picture.shape[1]] = picture
    return sheet


def _draw_cell(picture: Picture, x: int, y: int, share: float, right: bool) -> None:
    colour = (NONE + (ALL - NONE) * share).round().astype(int)
    cv2.rectangle(
        picture, (x, y), (x + CELL_PX - 2, y + CELL_PX - 2), colour.tolist(), cv2.FILLED
    )
    if right:
        cv2.rectangle(picture, (x, y), (x + CELL_PX - 2, y + CELL_PX - 2), INK, 1)
    if not share:
        return
    percent = 100.0 * share
    text = f'{percent:.0f}' if percent >= 9.95 else f'{percent:.1f}'
    text = '<.1' if text == '0.0' else text
    (width, height), _ = cv2.getTextSize(text, _FONT, _SCALE, 1)
    at = x + (CELL_PX - width) // 2, y + (CELL_PX + height) // 2
    cv2.putText(picture, text, at, _FONT, _SCALE, PAPER if share > 0.5 else INK, 1, cv2.LINE_AA)


def _label(text: str) -> Picture:
    """Return a line of text on white; replaces what OpenCV's ASCII fonts lack."""
    text = unicodedata.normalize('NFKD', text).encode('ascii', 'replace').decode()[:120]
    (width, height), below = cv2.getTextSize(text, _FONT, _SCALE, 1)
    label = np.full((height + below + 2, width + 2, 3), 255, np.uint8)
    cv2.putText(label, text, (1, height + 1), _FONT, _SCALE, INK, 1, cv2.LINE_AA)
    return label


def draw_masks(
    image: Picture,
    truth: NDArray[np.uint8],
    found: NDArray[np.uint8],
    names: Sequence[str],
    colours: Colours,
    caption: str,
) -> Picture:
    """Draw a label, a mask and their differences side by side.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) uint8 class ids; other ids than those of `names` are unlabelled.
        found: (H, W) uint8 class ids.
        names: names of the classes.
        colours: one (R, G, B) for each class.
        caption: text above the pictures.
    """
    height, width = image.shape[:2]
    if width > PANEL_PX:
        height, width = max(1, round(height * PANEL_PX / width)), PANEL_PX
    image = resize_image(image, height, width)
    truth, found = (resize_ids(ids, height, width) for ids in (truth, found))
    errors = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2) // 2
    errors[(truth < len(names)) & (truth != found)] = WRONG
    panels = [blend_mask(image, ids, colours, 0.6) for ids in (truth, found)]
    return draw_legend(
        draw_caption(side_by_side([*panels, errors]), f'{caption}: label, model, differences'),
        names, colours,
    )


def side_by_side(panels: Sequence[Picture]) -> Picture:
    """Return pictures of equal height in a row, separated by white."""
    gap = np.full((len(panels[0]), 4, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (panel, gap)][:-1])


def legible(image: Picture, width: int = 320) -> Picture:
    """Return a picture wide enough for a caption, enlarged by an integer factor."""
    times = -(-width // image.shape[1])
    return image.repeat(times, axis=0).repeat(times, axis=1)
