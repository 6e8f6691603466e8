"""What a recorded run was worth: counts, latency and accuracy, from bags alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.camera import Frame
from mnv2_perception.evaluation.metrics import ConfusionMatrix


def latencies_ms(sent_log: Path, received_log: Path, sent: str, received: str) -> list[float]:
    """Return for each result the time from its image's publication to its arrival, ms.

    Args:
        sent_log: CSV of `mnv2 bag play --log`.
        received_log: CSV of `mnv2 bag record --log`.
        sent: topic of the images.
        received: topic of the results.
    """
    sent_ns = dict(_read_log(sent_log, sent, 'published_ns'))
    return [
        (time_ns - sent_ns[stamp_ns]) / 1e6
        for stamp_ns, time_ns in _read_log(received_log, received, 'received_ns')
        if stamp_ns in sent_ns
    ]


def _read_log(path: Path, topic: str, column: str) -> Iterator[tuple[int, int]]:
    with path.open(newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            if row['topic'] == topic and row['stamp_ns']:
                yield int(row['stamp_ns']), int(row[column])


def account(frames_in: int, masks_out: int, node: Mapping[str, str]) -> dict[str, int]:
    """Say where every frame went, from three counters that do not know of each other.

    Args:
        frames_in: images that the player published.
        masks_out: masks that the recorder received.
        node: the node's own counters, from its diagnostics.

    Returns:
        `frames_in`, `masks_out`, `passed_over` and `rejected` (by the node), `lost` (on the way
        to the node or from it to the recorder) and `dropped`, the sum of the last three. If the
        node counts right, frames_in = masks_out + dropped.
    """
    passed_over, rejected = int(node['passed_over']), int(node['rejected'])
    lost = frames_in - int(node['received']) + int(node['published']) - masks_out
    return {
        'frames_in': frames_in,
        'masks_out': masks_out,
        'passed_over': passed_over,
        'rejected': rejected,
        'lost': lost,
        'dropped': passed_over + rejected + lost,
    }


def paired(
    left: Iterable[Frame], right: Iterable[Frame]
) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield (stamp, left, right) of the frames with equal stamps; both come in stamp order."""
    others = iter(right)
    other = next(others, None)
    for stamp_ns, frame in left:
        while other is not None and other[0] < stamp_ns:
            other = next(others, None)
        if other is not None and other[0] == stamp_ns:
            yield stamp_ns, frame, other[1]


def accuracy(labels: Iterable[Frame], masks: Iterable[Frame], num_classes: int) -> ConfusionMatrix:
    """Compare masks with the labels of the same stamps and size; both come in stamp order."""
    matrix = ConfusionMatrix(num_classes)
    for _, label, mask in paired(labels, masks):
        if label.shape == mask.shape:
            matrix.add(label, mask)
    return matrix


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return a percentile (share from 0 to 1) of values, None without any."""
    return float(np.quantile(values, share)) if values else None
