"""Targets and loss of the detector: which anchor is responsible for which box."""

import torch
from torch import Tensor
from torch.nn import functional

from mnv2_perception.nets.ssdlite import decode_boxes

BACKGROUND, IGNORED = -1, -2
POSITIVE_IOU = 0.5  # an anchor with this IoU or more is responsible for the box (SSD)
NEGATIVE_IOU = 0.4  # below it, background; between the two, ignored (RetinaNet, section 4.1)
# Few anchors have an IoU of 0.5 with a box of 6×20 pixels, so each box also gets its best ones:
# "scale compensation" of S3FD, Zhang et al., ICCV 2017, https://arxiv.org/abs/1708.05237.
BEST_ANCHORS = 4
BEST_IOU = 0.25
BOX_WEIGHT = 2.0  # weight of the box loss relative to the class loss


def to_corners(anchors: Tensor) -> Tensor:
    """Convert (N, 4) centre x, centre y, width, height to x1, y1, x2, y2."""
    halves = anchors[:, 2:] / 2
    return torch.cat([anchors[:, :2] - halves, anchors[:, :2] + halves], dim=1)


def overlap(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intersections and unions, (N, M) px², of (N, 4) and (M, 4) boxes."""
    x1, y1, x2, y2 = boxes.T[:, :, None]  # (N, 1) each
    u1, v1, u2, v2 = others.T[:, None]  # (1, M) each
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)  # (N, M)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    intersection = width * height
    return intersection, (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection


def match_anchors(anchors: Tensor, boxes: Tensor, ignored: Tensor) -> Tensor:
    """Return for each anchor the index of its box, or BACKGROUND or IGNORED; (N,) int64.

    Args:
        anchors: (N, 4), see `make_anchors`.
        boxes: (M, 4) x1, y1, x2, y2, px.
        ignored: (L, 4) regions that training ignores, px.
    """
    corners = to_corners(anchors)
    matches = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    if len(ignored):
        intersection, union = overlap(corners, ignored)
        inside = intersection / anchors[:, 2:].prod(dim=1, keepdim=True) >= 0.5
        matches[(inside | (intersection / union >= BEST_IOU)).any(dim=1)] = IGNORED
    if len(boxes):
        intersection, union = overlap(corners, boxes)
        iou = intersection / union  # (N, M)
        most, box = iou.max(dim=1)
        matches[most >= NEGATIVE_IOU] = IGNORED
        top, best = iou.topk(min(BEST_ANCHORS, len(anchors)), dim=0)  # (BEST_ANCHORS, M)
        index = torch.arange(len(boxes), device=anchors.device)
        for rank in range(len(best) - 1, 0, -1):
            good = top[rank] >= BEST_IOU
            matches[best[rank][good]] = index[good]
        positive = most >= POSITIVE_IOU
        matches[positive] = box[positive]
        matches[best[0]] = index  # each box gets at least one anchor
    return matches


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the sum of the focal loss, in which well classified examples weigh little.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017,
    https://arxiv.org/abs/1708.02002, equation 5.

    Args:
        logits: (N, classes) logits.
        targets: (N, classes), 0 or 1.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction='none')
    p = logits.sigmoid()
    wrong = targets * (1 - p) + (1 - targets) * p  # 1 - p_t of the paper
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    return (weight * wrong**gamma * cross_entropy).sum()


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of 1 - generalised IoU of (N, 4) boxes with their (N, 4) targets.

    Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019,
    https://arxiv.org/abs/1902.09630.
    """
    larger, smaller = torch.maximum(boxes, targets), torch.minimum(boxes, targets)
    intersection = (smaller[:, 2:] - larger[:, :2]).clamp(min=0).prod(dim=1)
    areas, target_areas = ((b[:, 2:] - b[:, :2]).prod(dim=1) for b in (boxes, targets))
    union = areas + target_areas - intersection
    hull = (larger[:, 2:] - smaller[:, :2]).prod(dim=1)
    return (1 - intersection / union + (hull - union) / hull).sum()


def multibox_loss(
    logits: Tensor, offsets: Tensor, anchors: Tensor, class_ids: Tensor, boxes: Tensor
) -> Tensor:
    """Return SSD's loss (classes and boxes), divided by the number of anchors that have a box.

    Args:
        logits: (N, anchors, classes) for a batch of N images.
        offsets: (N, anchors, 4) predicted offsets, see `decode_boxes`.
        anchors: (anchors, 4), see `make_anchors`.
        class_ids: (N, anchors) int64 target class of each anchor, or BACKGROUND or IGNORED.
        boxes: (N, anchors, 4) target boxes x1, y1, x2, y2, px; used only where there is a class.
    """
    learned, positive = class_ids != IGNORED, class_ids >= 0
    targets = functional.one_hot(class_ids.clamp(min=0), logits.shape[2]) * positive[..., None]
    class_loss = focal_loss(logits[learned].float(), targets[learned].float())
    of_positives = anchors.expand(len(logits), -1, -1)[positive]
    found = decode_boxes(offsets[positive].float(), of_positives)
    box_loss = giou_loss(found, boxes[positive])
    return (class_loss + BOX_WEIGHT * box_loss) / positive.sum().clamp(min=1)
