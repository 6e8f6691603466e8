"""Two runs of one recording against each other, and against labels: `mnv2 bag compare`."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnv2_perception.bags.camera import read_ids
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.results import (
    CLASSIFICATION,
    DETECTIONS,
    GRID,
    IMAGE,
    NamedBoxes,
    read_classifications,
    read_detections,
    read_grids,
    read_last_diagnostics,
)
from mnv2_perception.errors import BagError, DataError, quoted
from mnv2_perception.evaluation.labels import read_names, renumbering
from mnv2_perception.evaluation.metrics import by_class, ConfusionMatrix, json_number
from mnv2_perception.evaluation.recording import Key, Keyed, keyed, keys, stamp_text
from mnv2_perception.evaluation.truth import has_messages, Truth
from mnv2_perception.vision.costmap import Grid, UNSEEN_CELL
from mnv2_perception.vision.detections import box_iou

WORST = 5
SAME_BOX = 0.5  # intersection over union of two boxes that are one object
NODES = 'segmentation_node', 'classification_node', 'detection_node', 'costmap_node'


class Frame(NamedTuple):
    """How a frame fared; the lower, the worse."""

    value: float
    key: Key

    def __str__(self) -> str:
        return f'{stamp_text(self.key[0])} ({self.value:+.3f})'


@dataclass
class Check:
    """One thing that was judged.

    Attributes:
        name: of it.
        passed: whether it is good enough.
        told: in words, with figures.
        worst: frames, the worst first.
        figures: by name.
    """

    name: str
    passed: bool
    told: str
    worst: list[Frame] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def compare_runs(
    base: Path, new: Path, labels: str = '', max_drop: float = 0.01,
    max_changed_cells: float = 1.0,
) -> list[Check]:
    """Judge a run by one that is known to be good enough.

    Args:
        base: file or bag of the good results.
        new: of the results that are judged.
        labels: what the masks should be: a topic of one of the two, another bag, or a folder of
            PNGs, one for each mask in the order of their names; empty: there are none.
        max_drop: of mIoU against the labels; where there are none, of agreement below 1.
        max_changed_cells: share of the grids' known cells that may differ.

    Raises:
        BagError: a bag cannot be read, or the two have no results in common.
        DataError: the labels cannot be used.
    """
    checks: list[Check] = []
    for name, type_name, judge in (
        ('segmentation/mask', IMAGE, None), ('detections', DETECTIONS, _judge_boxes),
        ('classification', CLASSIFICATION, _judge_classes), ('grid', GRID, None),
    ):
        topic = find_result(base, name, type_name)
        if topic is None:
            continue
        if find_result(new, name, type_name) is None:
            checks.append(Check(name, False, f'{base} has {topic}, {new} has none'))
            continue
        shared, check = _frames(base, new, topic, _found(new, name, type_name), name)
        checks.append(check)
        if not shared:
            continue
        topics = topic, _found(new, name, type_name)
        if name == 'segmentation/mask':
            checks.append(_judge_masks(base, new, topics, shared, labels, max_drop))
        elif name == 'grid':
            checks.append(_judge_grids(base, new, topics, shared, max_changed_cells))
        elif judge:
            checks.append(judge(base, new, topics, shared, max_drop))
    if not checks:
        raise BagError(f'{base}: has no masks, boxes, classes or grids to compare; run it anew')
    if labels and find_result(base, 'segmentation/mask', IMAGE) is None:
        raise DataError(f'{labels}: labels are compared with masks, and {base} has none')
    return [*checks, *_latencies(base, new)]


def find_result(bag: Path, name: str, type_name: str) -> str | None:
    """Return the topic of a result, in the only namespace that has it.

    Raises:
        BagError: several have.
    """
    with BagReader(bag) as reader:
        found = [
            each.name for each in reader.topics
            if each.type_name == type_name and each.name.endswith(f'/{name}')
            and each.message_count
        ]
    if len(found) > 1 and f'/{name}' not in found:
        raise BagError(f'{bag}: has {", ".join(found)}; compare one camera at a time')
    return f'/{name}' if f'/{name}' in found else next(iter(found), None)


def _found(bag: Path, name: str, type_name: str) -> str:
    topic = find_result(bag, name, type_name)
    assert topic is not None
    return topic


def _frames(base: Path, new: Path, left: str, right: str, name: str) -> tuple[set[Key], Check]:
    """Return the frames that both have, and whether the new run has all."""
    ours, theirs = keys(base, left), keys(new, right)
    known = set(theirs)
    missing = [key for key in ours if key not in known]
    check = Check(
        f'{name}: frames', not missing, f'{len(missing)} of {len(ours)} frames are missing',
        [Frame(-1.0, key) for key in missing[:WORST]],
        {'base': len(ours), 'new': len(theirs), 'missing': len(missing)},
    )
    return known & set(ours), check


def _worst(frames: Iterable[Frame]) -> list[Frame]:
    return sorted(frames)[:WORST]


def _judge_masks(
    base: Path, new: Path, topics: tuple[str, str], shared: set[Key], labels: str,
    max_drop: float,
) -> Check:
    names, others_names = _names(base, topics[0]), _names(new, topics[1])
    classes = [names.get(i, f'id {i}') for i in range(max(names) + 1)]
    table, how = renumbering(topics[1], others_names, classes)
    if table is None:
        found = quoted(', '.join(others_names.values()))
        return Check('masks: agreement', False, (
            f'{base} has the classes {quoted(", ".join(classes))}, {new} has {found}, and '
            f'no name is in both; expected two runs of models for the same classes'
        ))
    truth = Truth(base, new, labels, classes, shared, topics[0]) if labels else None
    agreement = ConfusionMatrix(len(classes))
    before, after = ConfusionMatrix(len(classes)), ConfusionMatrix(len(classes))
    alike, gained = [], []
    others = Keyed(keyed(read_ids(new, topics[1])), shared)
    for key, ids in keyed(read_ids(base, topics[0])):
        if key not in shared or (stored := others.get(key)) is None:
            continue
        if stored.shape != ids.shape:
            raise BagError(
                f'at {stamp_text(key[0])} {base} has a mask of {ids.shape}, {new} of '
                f'{stored.shape}; run both on the same images'
            )
        ours = table[stored]
        agreement.add(ids, ours)
        alike.append(Frame(float((ids == ours).mean()) - 1.0, key))
        if truth and (label := truth.label(key, ids.shape)) is not None:
            before.add(label, ids)
            after.add(label, ours)
            known = label < len(classes)
            gained.append(Frame(
                float((ours == label)[known].mean() - (ids == label)[known].mean())
                if known.any() else 0.0, key,
            ))
    figures: dict[str, Any] = {
        'agreement': json_number(agreement.accuracy()),
        'agreement_miou': json_number(agreement.miou()),
        'agreement_per_class': by_class(tuple(classes), agreement.iou()),
    }
    if truth is None:
        drop = 1.0 - agreement.miou()
        return Check(
            'masks: agreement', drop <= max_drop,
            f'mean IoU of the two {1.0 - drop:.4f}, expected {1.0 - max_drop:.4f} or more'
            + ('' if how == 'by name' else f'; their classes differ: compared {how}'),
            _worst(alike), figures,
        )
    if not gained:
        raise DataError(f'{labels}: no label has the stamp of a mask')
    truth.check()
    drop = before.miou() - after.miou()
    figures |= {
        'labels': len(gained), 'compared': truth.how,
        'miou_base': json_number(before.miou()), 'miou_new': json_number(after.miou()),
        'per_class_base': by_class(tuple(classes), before.iou()),
        'per_class_new': by_class(tuple(classes), after.iou()),
    }
    return Check(
        'accuracy', drop <= max_drop,
        f'mIoU {before.miou():.4f} before, {after.miou():.4f} now: '
        f'{"a drop" if drop > 0 else "a gain"} of {abs(drop):.4f}, allowed is a drop of '
        f'{max_drop:g}', _worst(gained), figures,
    )


def _names(bag: Path, mask: str) -> dict[int, str]:
    names = read_names(bag, mask)
    if not names:
        raise BagError(
            f'{bag}: nothing names the classes of {mask} (label_info beside it); run it anew, or '
            f'record label_info too'
        )
    return names


def _apart(named: tuple[set[str], set[str]]) -> str:
    """Return in words that two runs have no name in common, if both have any."""
    if not all(named) or not named[0].isdisjoint(named[1]):
        return ''
    ours, theirs = (quoted(', '.join(sorted(names))) for names in named)
    return f'; no class is in both, {ours} and {theirs}: are the models for the same ones?'


def _judge_boxes(
    base: Path, new: Path, topics: tuple[str, str], shared: set[Key], max_drop: float
) -> Check:
    same: Counter[str] = Counter()
    every: Counter[str] = Counter()
    named: tuple[set[str], set[str]] = set(), set()
    alike = []
    others = Keyed(keyed(read_detections(new, topics[1])), shared)
    for key, ours in keyed(read_detections(base, topics[0])):
        if key not in shared or (theirs := others.get(key)) is None:
            continue
        matched, all_of = _match(ours, theirs)
        same += matched
        every += all_of
        named[0].update(ours.names)
        named[1].update(theirs.names)
        alike.append(Frame(matched.total() / max(1, all_of.total()) - bool(all_of), key))
    share = same.total() / every.total() if every else 1.0
    return Check(
        'boxes: agreement', 1.0 - share <= max_drop,
        f'{share:.4f} of all boxes are in both runs, expected {1.0 - max_drop:.4f} or more'
        + _apart(named),
        _worst(alike), {
            'agreement': share,
            'agreement_per_class': {name: same[name] / every[name] for name in sorted(every)},
        },
    )


def _match(left: NamedBoxes, right: NamedBoxes) -> tuple[Counter[str], Counter[str]]:
    """Return by class how many boxes are in both, and how many there are in all."""
    same: Counter[str] = Counter()
    free = list(range(len(right.names)))
    for box, name in zip(left.boxes, left.names, strict=True):
        rivals = [i for i in free if right.names[i] == name]
        if not rivals:
            continue
        overlaps = box_iou(box[None], right.boxes[rivals])[0]
        best = int(overlaps.argmax())
        if overlaps[best] >= SAME_BOX:
            same[name] += 1
            free.remove(rivals[best])
    return same, Counter(left.names) + Counter(right.names) - same


def _judge_classes(
    base: Path, new: Path, topics: tuple[str, str], shared: set[Key], max_drop: float
) -> Check:
    same: Counter[str] = Counter()
    every: Counter[str] = Counter()
    named: tuple[set[str], set[str]] = set(), set()
    alike = []
    others = Keyed(keyed(read_classifications(new, topics[1])), shared)
    for key, ours in keyed(read_classifications(base, topics[0])):
        if key not in shared or (theirs := others.get(key)) is None:
            continue
        first, other = (found[0][0] if found else 'no class' for found in (ours, theirs))
        named[0].update(name for name, _ in ours)
        named[1].update(name for name, _ in theirs)
        every[first] += 1
        same[first] += first == other
        alike.append(Frame(float(first == other) - 1.0, key))
    share = same.total() / max(1, every.total())
    return Check(
        'classes: agreement', 1.0 - share <= max_drop,
        f'{share:.4f} of the frames have the same first class, expected {1.0 - max_drop:.4f} or '
        f'more{_apart(named)}', _worst(alike), {
            'agreement': share,
            'agreement_per_class': {name: same[name] / every[name] for name in sorted(every)},
        },
    )


def _judge_grids(
    base: Path, new: Path, topics: tuple[str, str], shared: set[Key], max_changed: float
) -> Check:
    changed = known = 0
    alike = []
    others = Keyed(keyed(read_grids(new, topics[1])), shared)
    for key, ours in keyed(read_grids(base, topics[0])):
        if key not in shared or (theirs := others.get(key)) is None:
            continue
        _require_one_place(ours, theirs, key)
        seen = (ours.cells != UNSEEN_CELL) | (theirs.cells != UNSEEN_CELL)
        differ = int((ours.cells != theirs.cells).sum())
        changed, known = changed + differ, known + int(seen.sum())
        alike.append(Frame(-differ / max(1, int(seen.sum())), key))
    share = changed / max(1, known)
    return Check(
        'grid: changed cells', share <= max_changed,
        f'{share:.4f} of the known cells changed, allowed is {max_changed:g}', _worst(alike),
        {'changed': changed, 'known': known, 'share': share},
    )


def _require_one_place(left: Grid, right: Grid, key: Key) -> None:
    if left.cells.shape != right.cells.shape or not np.allclose(
        (left.origin_x_m, left.origin_y_m, left.resolution_m),
        (right.origin_x_m, right.origin_y_m, right.resolution_m),
    ):
        raise BagError(
            f'the grids at {stamp_text(key[0])} are of two places or sizes; run both with the '
            f'same camera and frames'
        )


def _latencies(base: Path, new: Path) -> Iterator[Check]:
    """Tell latencies that live nodes recorded on /diagnostics; a run without ROS has none."""
    for node in NODES:
        found = {}
        for name, bag in (('base', base), ('new', new)):
            if has_messages(bag, '/diagnostics'):
                try:
                    values = read_last_diagnostics(bag, '/diagnostics', node)
                except BagError:
                    continue
                if 'latency_p50_ms' in values:
                    found[name] = float(values['latency_p50_ms'])
        if len(found) == 2:
            yield Check(
                f'{node}: latency', True, f'{found["base"]} ms before, {found["new"]} ms now',
                figures=dict(found),
            )
