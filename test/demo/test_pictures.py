"""Pictures of a recorded run."""

from identity_network import identity_spec
import numpy as np

from mnv2_perception.bags.results import NamedBoxes
from mnv2_perception.demo.pictures import draw_results, Results
from mnv2_perception.vision.costmap import Grid
from mnv2_perception.vision.overlay import FREE, OCCUPIED


def test_one_picture_shows_mask_boxes_class_time_and_grid() -> None:
    spec = identity_spec(8, 8, classes=['road', 'sky'], colours=[[200, 0, 0], [0, 200, 0]])
    image = np.full((200, 80, 3), 100, np.uint8)
    image.flags.writeable = False
    boxes = NamedBoxes(
        np.array([[20, 30, 60, 50]], np.float32), np.array([0.9], np.float32), ('dog',)
    )
    grid = Grid(np.zeros((16, 16), np.int8), -4.0, -4.0, 0.5)
    grid.cells[:8] = 100  # to the right
    results = Results(
        1.5, image, np.zeros((200, 80), np.uint8), boxes, [('road', 0.8)], grid
    )
    picture = draw_results(results, spec, {'dog': (10, 20, 250)})
    corner = np.argwhere((picture == (150, 50, 50)).all(axis=-1))[0]  # of the mask: a caption
    shown = picture[corner[0] : corner[0] + 200]
    assert corner[0] > 10 and corner[1] == 0
    assert shown[40, 20].tolist() == [10, 20, 250]
    panel = shown[:, -200:]
    assert tuple(panel[150, 20].tolist()) == FREE and tuple(panel[150, 180].tolist()) == OCCUPIED
    silent = draw_results(Results(1.5, image), spec, {})
    assert silent.shape[1] < picture.shape[1]
    assert (picture[: corner[0]] < 80).sum() > (silent[: corner[0]] < 80).sum() > 0
