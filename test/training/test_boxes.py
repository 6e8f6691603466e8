"""Which anchor answers for which box, and a loss that is lowest where the boxes are found."""

import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')

from mnv2_perception.nets.ssdlite import encode_boxes, make_anchors
from mnv2_perception.training.boxes import (
    BACKGROUND,
    focal_loss,
    giou_loss,
    IGNORED,
    match_anchors,
    multibox_loss,
    to_corners,
)

pytestmark = pytest.mark.train

ANCHORS = make_anchors(96, 128)
NONE = torch.empty(0, 4)


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    w, h = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(w * h / (sum(areas) - w * h))


def test_an_anchor_answers_for_the_box_that_it_overlaps_by_half() -> None:
    boxes = torch.tensor([[20.0, 10.0, 60.0, 70.0], [90.0, 40.0, 120.0, 60.0]])
    matches = match_anchors(ANCHORS, boxes, NONE)
    corners = to_corners(ANCHORS)
    overlaps = torch.tensor([[iou(corner, box) for box in boxes] for corner in corners])
    most, box = overlaps.max(dim=1)
    assert torch.equal(matches[most >= 0.5], box[most >= 0.5])
    assert (matches[most < 0.25] == BACKGROUND).all()
    assert (matches[(most >= 0.4) & (most < 0.5)] != BACKGROUND).all()
    assert (matches == 0).any() and (matches == 1).any() and (matches == IGNORED).any()


def test_no_box_is_without_an_anchor_however_small() -> None:
    corner = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * 80
    boxes = torch.cat([corner, corner + torch.tensor([3.0, 5.0])], dim=1)
    matches = match_anchors(ANCHORS, boxes[::6], NONE)
    assert set(matches[matches >= 0].tolist()) == set(range(5))


def test_a_small_box_has_more_than_one_anchor() -> None:
    box = torch.tensor([[50.0, 33.0, 56.0, 53.0]])  # a pedestrian far away
    matches = match_anchors(ANCHORS, box, NONE)
    assert 2 <= (matches == 0).sum() <= 4


def test_an_image_without_boxes_is_background() -> None:
    assert (match_anchors(ANCHORS, NONE, NONE) == BACKGROUND).all()


def test_anchors_in_an_ignored_region_learn_nothing_unless_they_have_a_box() -> None:
    region = torch.tensor([[0.0, 0.0, 64.0, 96.0]])
    box = torch.tensor([[20.0, 20.0, 40.0, 50.0]])
    matches = match_anchors(ANCHORS, box, region)
    corners = to_corners(ANCHORS)
    inside = (corners[:, 2] <= 64) & (corners[:, :2] >= 0).all(1) & (corners[:, 3] <= 96)
    assert (matches[inside] != BACKGROUND).all() and (matches[inside] == IGNORED).any()
    assert (matches == 0).any()
    assert (matches[corners[:, 0] > 64] == BACKGROUND).all()


def test_the_focal_loss_is_that_of_the_paper() -> None:
    logits, targets = torch.tensor([[0.3, -2.0]]), torch.tensor([[1.0, 0.0]])
    p = logits.sigmoid()[0]
    expected = -0.25 * (1 - p[0]) ** 2 * p[0].log() - 0.75 * p[1] ** 2 * (1 - p[1]).log()
    assert focal_loss(logits, targets).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ('box', 'loss'),
    [
        ([0.0, 0.0, 10.0, 10.0], 0.0),
        ([5.0, 0.0, 15.0, 10.0], 1 - 50 / 150),  # the hull is the union
        ([20.0, 0.0, 30.0, 10.0], 1 + 100 / 300),  # apart: a third of the hull is between them
    ],
)
def test_the_giou_loss_is_that_of_the_paper(box: list[float], loss: float) -> None:
    target = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert giou_loss(torch.tensor([box]), target).item() == pytest.approx(loss)


def test_the_loss_is_zero_where_everything_is_found() -> None:
    boxes = torch.tensor([[20.0, 10.0, 60.0, 70.0], [90.0, 40.0, 120.0, 60.0]])
    matches = match_anchors(ANCHORS, boxes, NONE)
    positive = matches >= 0
    targets = torch.zeros(len(ANCHORS), 4)
    targets[positive] = boxes[matches[positive]]
    offsets = torch.zeros(len(ANCHORS), 4)
    offsets[positive] = encode_boxes(targets[positive], ANCHORS[positive])
    logits = torch.full((len(ANCHORS), 2), -20.0)
    logits[positive, matches[positive]] = 20.0
    batch = [tensor[None] for tensor in (logits, offsets, matches, targets)]

    def loss() -> float:
        return float(multibox_loss(batch[0], batch[1], ANCHORS, batch[2], batch[3]))

    assert loss() == pytest.approx(0.0, abs=1e-5)
    ignored = int((matches == IGNORED).nonzero()[0])
    batch[0][0, ignored] = 5.0
    assert loss() == pytest.approx(0.0, abs=1e-5)
    background = int((matches == BACKGROUND).nonzero()[0])
    batch[0][0, background] = 5.0
    assert loss() > 0.1


def test_a_batch_without_boxes_has_a_finite_loss() -> None:
    logits = torch.zeros(2, len(ANCHORS), 3, requires_grad=True)
    offsets = torch.zeros(2, len(ANCHORS), 4, requires_grad=True)
    for ids in (BACKGROUND, IGNORED):
        class_ids = torch.full((2, len(ANCHORS)), ids)
        loss = multibox_loss(logits, offsets, ANCHORS, class_ids, offsets.detach())
        loss.backward()
        assert loss.isfinite() and offsets.grad is not None and offsets.grad.isfinite().all()
