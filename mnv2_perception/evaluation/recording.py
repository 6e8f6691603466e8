"""Evaluate recorded runs: keys of frames, latency, lost frames, accuracy."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.camera import Frame, read_stamps
from mnv2_perception.evaluation.metrics import ConfusionMatrix

Value = TypeVar('Value')
Key = tuple[int, int]  # stamp in ns, and its number among equal stamps (some bags have zeros)


def keyed(frames: Iterable[tuple[int, Value]]) -> Iterator[tuple[Key, Value]]:
    """Yield (key, value) for values with stamps, some of which may be equal."""
    came: Counter[int] = Counter()
    for stamp_ns, value in frames:
        yield (stamp_ns, came[stamp_ns]), value
        came[stamp_ns] += 1


def keys(bag: Path, topic: str) -> list[Key]:
    """Return the keys of a topic's messages in their order; the messages begin with a header."""
    return [key for key, _ in keyed((stamp_ns, None) for _, stamp_ns in read_stamps(bag, topic))]


def stamp_text(stamp_ns: int) -> str:
    """Return a stamp as seconds.nanoseconds."""
    return '{}.{:09d}'.format(*divmod(stamp_ns, 10**9))


class Keyed(Generic[Value]):
    """Frames by key, read only as far as needed.

    Args:
        frames: keys and values, in any order.
        wanted: keys that will be requested; other frames are not kept.
    """

    def __init__(self, frames: Iterator[tuple[Key, Value]], wanted: set[Key]) -> None:
        self._frames, self._wanted = frames, wanted
        self._waiting: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Return a frame and forget it; None if there is no such frame."""
        while key not in self._waiting:
            found = next(self._frames, None)
            if found is None:
                return None
            if found[0] in self._wanted:
                self._waiting[found[0]] = found[1]
        return self._waiting.pop(key)


def latencies_ms(sent_log: Path, received_log: Path, sent: str, received: str) -> list[float]:
    """Return for each result the time from its image's publication to its arrival, in ms.

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
    """Account for every frame, from three independent counters.

    Args:
        frames_in: number of images that the player published.
        masks_out: number of masks that the recorder received.
        node: the node's own counters, from its diagnostics.

    Returns:
        `frames_in`, `masks_out`, `passed_over` and `rejected` (by the node), `lost` (on the way
        to the node or from it to the recorder) and `dropped`, the sum of the last three. If the
        node counts correctly, frames_in = masks_out + dropped.
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
    """Yield (stamp, left, right) of frames with equal stamps; both inputs are in stamp order."""
    others = iter(right)
    other = next(others, None)
    for stamp_ns, frame in left:
        while other is not None and other[0] < stamp_ns:
            other = next(others, None)
        if other is not None and other[0] == stamp_ns:
            yield stamp_ns, frame, other[1]


def accuracy(labels: Iterable[Frame], masks: Iterable[Frame], num_classes: int) -> ConfusionMatrix:
    """Compare masks with labels of equal stamp and size; both inputs are in stamp order."""
    matrix = ConfusionMatrix(num_classes)
    for _, label, mask in paired(labels, masks):
        if label.shape == mask.shape:
            matrix.add(label, mask)
    return matrix


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return a percentile (share from 0 to 1) of values; None if there are no values."""
    return float(np.quantile(values, share)) if values else None
