"""Compute figures for the frames of a run: class shares, confidence, accuracy, agreement."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.camera import find_camera, find_label
from mnv2_perception.data.images import is_bag
from mnv2_perception.errors import BagError, DataError
from mnv2_perception.evaluation.labels import read_names, renumbering
from mnv2_perception.evaluation.metrics import by_class, ConfusionMatrix, json_number
from mnv2_perception.evaluation.parts import table_of
from mnv2_perception.evaluation.recording import Key, Keyed
from mnv2_perception.evaluation.truth import has_messages, Truth
from mnv2_perception.report.results import CONFIDENCE, MASK, Results

WORST = 6
OTHER = 'no class'  # pixels whose id has no name
APART = 20  # two worst frames are at least 1/20 of the recording's length apart


@dataclass
class Figures:
    """The figures of a run.

    Attributes:
        shares: for each frame (classes + 1,) float64, each class's share of the mask's pixels; the
            last entry is for ids without a class.
        confidence: mean confidence of each frame, 0 to 1.
        first: the most likely class of each frame, and its score.
        right: share of the labelled pixels that are correct, for each frame.
        matrix: confusion matrix; None without labels.
        compared: how labels were matched with classes, in words.
        reasons: what could not be read, with counts.
    """

    shares: dict[Key, NDArray[np.float64]] = field(default_factory=dict)
    confidence: dict[Key, float] = field(default_factory=dict)
    first: dict[Key, tuple[str, float]] = field(default_factory=dict)
    right: dict[Key, float] = field(default_factory=dict)
    matrix: ConfusionMatrix | None = None
    compared: str = ''
    reasons: Counter[str] = field(default_factory=Counter)


def measure(results: Results, labels: str = '', beside: Path | None = None) -> Figures:
    """Compute the figures of a run, and how accurate its masks are.

    Args:
        results: results of the run.
        labels: a topic of the run's file or of `beside`, another bag, or a folder of PNGs; empty
            for none.
        beside: another bag in which a topic of labels may be.

    Raises:
        DataError: the labels cannot be used.
    """
    found, classes = Figures(), len(results.classes)
    truth = truth_of(results, labels, beside) if labels else None
    if truth:
        found.matrix, found.compared = ConfusionMatrix(classes), truth.how
    for key, _, ids in results.stream(MASK, reasons=found.reasons):
        pixels = np.bincount(ids.ravel(), minlength=256) / max(1, ids.size)
        found.shares[key] = np.append(pixels[:classes], pixels[classes:].sum())
        if truth and found.matrix and (label := truth.label(key, ids.shape)) is not None:
            found.matrix.add(label, ids)
            if (known := label < classes).any():
                found.right[key] = float((label == ids)[known].mean())
    if truth:
        truth.check()
    if found.matrix and not found.right:
        raise DataError(f'{labels}: no label has the stamp of a mask in {results.path}')
    for key, _, ids in results.stream(CONFIDENCE, reasons=found.reasons):
        found.confidence[key] = float(ids.mean()) / 255.0 if ids.size else 0.0
    for key, _, classified in results.stream('classification', reasons=found.reasons):
        if classified and np.isfinite(classified[0][1]):
            found.first[key] = classified[0]
            if not results.mask:
                found.confidence[key] = classified[0][1]
    for name in ('detections', 'grid'):
        for _ in results.stream(name, reasons=found.reasons):
            pass  # only to count what cannot be read
    return found


def truth_of(results: Results, labels: str, beside: Path | None) -> Truth:
    """Return the labels for a run's masks.

    Raises:
        DataError: the labels cannot be used, or the run has no masks or no class names.
    """
    if not results.mask or not results.classes:
        lacks = 'names its classes' if results.mask else 'has masks'
        raise DataError(
            f'{labels}: labels are compared with masks, but nothing in {results.path} {lacks}'
        )
    return Truth(
        results.path, beside or results.path, labels, results.classes, set(results.keys),
        results.mask,
    )


def own_labels(results: Results, original: Path | None) -> tuple[str, str]:
    """Find labels that a recording contains.

    They are used if something names their classes and the run has one of these names: a comparison
    by number alone could mix up classes.

    Returns:
        The topic of the labels, empty if there are none to use; and a note why existing ones are
        not used, empty otherwise.
    """
    for bag in (results.path, *([original] if original and is_bag(original) else [])):
        try:
            topic = find_camera(bag).label if bag == original else find_label(bag)
        except BagError:
            continue
        if not topic or not has_messages(bag, topic) or not results.classes:
            continue
        names = read_names(bag, topic)
        table, how = renumbering(topic, names, results.classes)
        if names is not None and table is not None:
            return topic, ''
        if names is None:
            return '', (
                f'{bag.name} has labels on {topic}, which are not used, because their class names '
                f'are missing (LabelInfo beside them); --labels {topic} compares them by number.'
            )
        return '', f'{bag.name} has labels on {topic}, which are not used: {how}.'
    return '', ''


def agreement(base: Results, new: Results) -> dict[Key, float]:
    """Return the share of pixels on which two runs agree, for each frame that both have.

    Empty if they have no class in common. Frames whose masks differ in size are left out.
    """
    table, _ = renumbering(new.mask, dict(enumerate(new.classes)), base.classes)
    if table is None or not (base.mask and new.mask):
        return {}
    wanted = set(base.keys) & set(new.keys)
    others = Keyed(((each.key, each.value) for each in new.stream(MASK, wanted)), wanted)
    found = {}
    for key, _, ids in base.stream(MASK, wanted):
        other = others.get(key)
        if other is not None and other.shape == ids.shape:
            found[key] = float((table[other] == ids).mean())
    return found


def worst_frames(
    frames: Sequence[Key], times_s: Sequence[float], value: Mapping[Key, float]
) -> list[int]:
    """Return the indices of the frames with the lowest values, spread in time, the worst first.

    Args:
        frames: keys of the frames, in time order.
        times_s: time of each frame.
        value: values of the frames that have one; lower is worse.
    """
    apart_s = (times_s[-1] - times_s[0]) / APART if times_s else 0.0
    chosen: list[int] = []
    for index in sorted(
        (i for i, key in enumerate(frames) if key in value), key=lambda i: value[frames[i]]
    ):
        if all(abs(times_s[index] - times_s[other]) > apart_s for other in chosen):
            chosen.append(index)
        if len(chosen) == WORST:
            break
    return chosen


def accuracy_facts(figures: Figures, classes: Sequence[str]) -> dict[str, Any]:
    """Return mIoU, IoU by class and confusion matrix, ready for the page; empty without labels."""
    if figures.matrix is None:
        return {}
    return {
        'miou': json_number(figures.matrix.miou()),
        'accuracy': json_number(figures.matrix.accuracy()),
        'iou': by_class(tuple(classes), figures.matrix.iou()),
        'confusion': table_of(figures.matrix.counts, classes, [*classes, OTHER]),
        'labels': len(figures.right), 'compared': figures.compared,
    }


def spread(count: int, most: int, kept: Sequence[int] = ()) -> list[int]:
    """Return up to `most` of `count` indices, evenly spread; includes first, last and `kept`."""
    if count <= most:
        return list(range(count))
    evenly = max(2, most - len(set(kept)))
    return sorted({*kept, *(round(i * (count - 1) / (evenly - 1)) for i in range(evenly))})


def times_of(frames: Sequence[Key]) -> tuple[list[float], str]:
    """Return the frames' times in s since the first; and a note if stamps do not give them."""
    stamps = [stamp_ns for stamp_ns, _ in frames]
    if len(frames) > 1 and stamps[0] > 0 and stamps[-1] > stamps[0]:
        return [(stamp_ns - stamps[0]) / 1e9 for stamp_ns in stamps], ''
    return [float(i) for i in range(len(frames))], (
        'The frames have no usable stamps: they are counted instead, one per second.'
        if len(frames) > 1 else ''
    )


def latencies(results: Results, times_s: Mapping[Key, float]) -> Iterator[dict[str, Any]]:
    """Yield each node's latency: its name, times (s, on the frames' scale), p50 and p95 (ms)."""
    at = sorted(
        (recorded_ns, times_s[key])
        for key, recorded_ns in zip(results.keys, results.recorded_ns, strict=True)
    )
    for node, told in results.diagnostics.items():
        rows = [
            (recorded_ns, float(values['latency_p50_ms']), float(values['latency_p95_ms']))
            for recorded_ns, values in told
            if _is_number(values.get('latency_p50_ms'))
            and _is_number(values.get('latency_p95_ms'))
        ]
        if rows and at:
            recorded, p50, p95 = zip(*rows, strict=True)
            seconds = np.interp(recorded, [a for a, _ in at], [b for _, b in at])
            yield {
                'node': node, 'time': seconds.round(3).tolist(), 'p50': list(p50),
                'p95': list(p95),
            }


def _is_number(text: str | None) -> bool:
    try:
        return bool(np.isfinite(float(text or 'nan')))
    except ValueError:
        return False
