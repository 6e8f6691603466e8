"""Choose the frames of a recording that are worth labelling."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WAYS = {
    'time': 'evenly spaced',
    'uncertainty': 'lowest mean confidence of the model',
    'diversity': "most different from each other, by the features of the model's encoder",
}


class Choice(NamedTuple):
    """A chosen frame.

    Attributes:
        frame: index among the frames that were looked at.
        why: reason, in words.
    """

    frame: int
    why: str


def evenly(frames: int, count: int) -> list[Choice]:
    """Choose the middle frames of equal parts of a recording, in their order.

    The parts have equal numbers of frames, not equal times: pauses, or a day between two bags,
    need no frames.
    """
    count = min(count, frames)
    return [
        Choice((2 * part + 1) * frames // (2 * count), f'middle of part {part + 1} of {count}')
        for part in range(count)
    ]


def least_sure(confidence: Sequence[float], count: int, spacing: int) -> list[Choice]:
    """Choose the frames of lowest confidence, the lowest first; the earlier one of equal frames.

    Args:
        confidence: confidence of each frame, 0 to 1.
        count: maximum number of frames to choose.
        spacing: minimum distance between chosen frames, in frames, because neighbours look alike.
    """
    free = np.ones(len(confidence), bool)
    chosen: list[Choice] = []
    for index in np.argsort(np.asarray(confidence), kind='stable').tolist():
        if len(chosen) == count:
            break
        if free[index]:
            free[max(0, index - spacing + 1):index + spacing] = False
            chosen.append(Choice(index, f'mean confidence {confidence[index]:.4f}'))
    return chosen


def default_spacing(frames: int, count: int) -> int:
    """Return the largest spacing that always leaves `count` frames to choose."""
    return max(1, (frames // max(1, count) + 1) // 2)


def farthest_first(features: NDArray[np.float32], count: int) -> list[Choice]:
    """Choose frames that represent all: always the one that is least like those chosen before.

    Greedy k-centre: the largest distance of a frame to its nearest chosen frame is at most twice
    that of the best choice of equal size (Gonzalez, "Clustering to minimize the maximum
    intercluster distance", 1985; for choosing what to label: Sener and Savarese,
    https://arxiv.org/abs/1708.00489). It begins with the frame nearest to the mean and ends early
    if all others equal chosen ones.

    Args:
        features: (frames, channels) float32.
        count: maximum number of frames to choose.
    """
    if not len(features):
        return []
    first = int(np.linalg.norm(features - features.mean(axis=0), axis=1).argmin())
    chosen = [Choice(first, 'nearest to the mean of all')]
    nearest = np.linalg.norm(features - features[first], axis=1)  # to a chosen frame
    while len(chosen) < count and nearest.max() > 0.0:
        index = int(nearest.argmax())
        chosen.append(Choice(index, f'distance {nearest[index]:.4f} to those before'))
        nearest = np.minimum(nearest, np.linalg.norm(features - features[index], axis=1))
    return chosen
