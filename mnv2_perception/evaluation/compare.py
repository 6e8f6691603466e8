"""Compare two runs on one recording with each other, and with labels: `mnv2 bag compare`."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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
SAME_BOX = 0.5  # minimum IoU of two boxes that count as the same
Value = TypeVar('Value')
NODES = 'segmentation_node', 'classification_node', 'detection_node', 'costmap_node'


class Frame(NamedTuple):
    """The score of a frame; lower is worse."""

    value: float
    key: Key

    def __str__(self) -> str:
        return f'{stamp_text(self.key[0])} ({self.value:+.3f})'


@dataclass
class Check:
    """The result of one comparison.

    Attributes:
        name: what was compared.
        passed: whether the new run is good enough.
        told: explanation with figures.
        worst: the worst frames, the worst first.
        figures: figures by name.
    """

    name: str
    passed: bool
    told: str
    worst: list[Frame] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Both:
    """A result that both runs have.

    Attributes:
        base: file or bag of the base run.
        new: file or bag of the new run.
        topic: topic of the result in `base`.
        other: topic of the result in `new`.
        shared: keys of the frames that both have.
    """

    base: Path
    new: Path
    topic: str
    other: str
    shared: set[Key]

    def pairs(
        self, read: Callable[[Path, str], Iterator[tuple[int, Value]]]
    ) -> Iterator[tuple[Key, Value, Value]]:
        """Yield the key of each shared frame with what `read` yields for it in either run."""
        others = Keyed(keyed(read(self.new, self.other)), self.shared)
        for key, ours in keyed(read(self.base, self.topic)):
            if key in self.shared and (theirs := others.get(key)) is not None:
                yield key, ours, theirs


@dataclass
class Agreement:
    """How often two runs agree, by class.

    Attributes:
        same: number of predictions that both runs share, by class.
        every: number of different predictions of both runs, by class.
        named: the classes that occur in each run.
        frames: the score of each frame.
    """

    same: Counter[str] = field(default_factory=Counter)
    every: Counter[str] = field(default_factory=Counter)
    named: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))
    frames: list[Frame] = field(default_factory=list)

    def add(
        self, key: Key, same: Counter[str], every: Counter[str], ours: Iterable[str],
        theirs: Iterable[str],
    ) -> None:
        """Count a frame; `ours` and `theirs` are the classes that each run names in it."""
        self.same += same
        self.every += every
        self.named[0].update(ours)
        self.named[1].update(theirs)
        self.frames.append(Frame(same.total() / max(1, every.total()) - bool(every), key))

    def check(self, name: str, what: str, max_drop: float) -> Check:
        """Return whether the share of `same` in `every` is large enough."""
        share = self.same.total() / self.every.total() if self.every else 1.0
        return Check(
            name, 1.0 - share <= max_drop,
            f'{share:.4f} of {what}, expected {1.0 - max_drop:.4f} or more{_apart(self.named)}',
            _worst(self.frames), {
                'agreement': share,
                'agreement_per_class': {
                    name: self.same[name] / self.every[name] for name in sorted(self.every)
                },
            },
        )


def compare_runs(
    base: Path, new: Path, labels: str = '', max_drop: float = 0.01,
    max_changed_cells: float = 1.0,
) -> list[Check]:
    """Judge a run by a base run that is known to be good enough.

    Args:
        base: file or bag of the base results.
        new: file or bag of the results to judge.
        labels: true masks: a topic of one of the two, another bag, or a folder of PNGs, one for
            each mask in the order of their names; empty for none.
        max_drop: allowed drop of mIoU against the labels; without labels, allowed drop of
            agreement below 1.
        max_changed_cells: share of the grids' known cells that may differ.

    Raises:
        BagError: a bag cannot be read, or there is nothing to compare.
        DataError: the labels cannot be used.
    """
    judges = {
        ('segmentation/mask', IMAGE): partial(_judge_masks, labels=labels, max_drop=max_drop),
        ('detections', DETECTIONS): partial(_judge_boxes, max_drop=max_drop),
        ('classification', CLASSIFICATION): partial(_judge_classes, max_drop=max_drop),
        ('grid', GRID): partial(_judge_grids, max_changed=max_changed_cells),
    }
    checks: list[Check] = []
    for (name, type_name), judge in judges.items():
        topic = find_result(base, name, type_name)
        if topic is None:
            continue
        other = find_result(new, name, type_name)
        if other is None:
            checks.append(Check(name, False, f'{base} has {topic}, but {new} does not'))
            continue
        shared, check = _frames(base, new, topic, other, name)
        checks.append(check)
        if shared:
            checks.append(judge(Both(base, new, topic, other, shared)))
    if not checks:
        raise BagError(f'{base}: has no masks, boxes, classes or grids to compare; make the run '
                       f'again')
    if labels and find_result(base, 'segmentation/mask', IMAGE) is None:
        raise DataError(f'{labels}: labels are compared with masks, but {base} has none')
    return [*checks, *_latencies(base, new)]


def find_result(bag: Path, name: str, type_name: str) -> str | None:
    """Return the topic of a result; None if no namespace has it.

    The root namespace comes first.

    Raises:
        BagError: several namespaces have it, but not the root.
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


def _frames(base: Path, new: Path, left: str, right: str, name: str) -> tuple[set[Key], Check]:
    """Return the frames that both runs have, and a check that the new run has all."""
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


def _judge_masks(both: Both, labels: str, max_drop: float) -> Check:
    base, new = both.base, both.new
    names, others_names = _names(base, both.topic), _names(new, both.other)
    classes = [names.get(i, f'id {i}') for i in range(max(names) + 1)]
    table, how = renumbering(both.other, others_names, classes)
    if table is None:
        found = quoted(', '.join(others_names.values()))
        return Check('masks: agreement', False, (
            f'{base} has the classes {quoted(", ".join(classes))}, {new} has {found}, with no '
            f'name in common; expected two runs of models for the same classes'
        ))
    truth = Truth(base, new, labels, classes, both.shared, both.topic) if labels else None
    agreement, before, after = (ConfusionMatrix(len(classes)) for _ in range(3))
    alike, gained = [], []
    for key, ids, stored in both.pairs(read_ids):
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
            f'mean IoU between the two runs {1.0 - drop:.4f}, expected {1.0 - max_drop:.4f} or '
            f'more'
            + ('' if how == 'by name' else f'; their classes differ: compared {how}'),
            _worst(alike), figures,
        )
    if not gained:
        raise DataError(f'{labels}: no label has the stamp of a mask')
    truth.check()
    figures |= {
        'labels': len(gained), 'compared': truth.how,
        'miou_base': json_number(before.miou()), 'miou_new': json_number(after.miou()),
        'per_class_base': by_class(tuple(classes), before.iou()),
        'per_class_new': by_class(tuple(classes), after.iou()),
    }
    return _judge_accuracy(before.miou(), after.miou(), max_drop, gained, figures)


def _judge_accuracy(
    before: float, after: float, max_drop: float, frames: Iterable[Frame],
    figures: dict[str, Any],
) -> Check:
    """Judge by labels: mean IoU of either run, and each frame's gain in accuracy."""
    drop = before - after
    return Check(
        'accuracy', drop <= max_drop,
        f'mIoU {before:.4f} before, {after:.4f} now: {"a drop" if drop > 0 else "a gain"} of '
        f'{abs(drop):.4f}, allowed drop {max_drop:g}', _worst(frames), figures,
    )


def _names(bag: Path, mask: str) -> dict[int, str]:
    names = read_names(bag, mask)
    if not names:
        raise BagError(
            f'{bag}: the class names of {mask} are missing (label_info beside it); make the run '
            f'again, or record label_info too'
        )
    return names


def _apart(named: tuple[set[str], set[str]]) -> str:
    """Return a warning if two runs have no class name in common; empty if one names no class."""
    if not all(named) or not named[0].isdisjoint(named[1]):
        return ''
    ours, theirs = (quoted(', '.join(sorted(names))) for names in named)
    return (
        f'; they have no class in common, {ours} and {theirs}: are the models for the same '
        f'classes?'
    )


def _judge_boxes(both: Both, max_drop: float) -> Check:
    found = Agreement()
    for key, ours, theirs in both.pairs(read_detections):
        found.add(key, *_match(ours, theirs), ours.names, theirs.names)
    return found.check('boxes: agreement', 'all boxes are in both runs', max_drop)


def _match(left: NamedBoxes, right: NamedBoxes) -> tuple[Counter[str], Counter[str]]:
    """Return by class how many boxes are in both runs, and how many different ones there are."""
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


def _judge_classes(both: Both, max_drop: float) -> Check:
    found = Agreement()
    for key, ours, theirs in both.pairs(read_classifications):
        first, other = (each[0][0] if each else 'no class' for each in (ours, theirs))
        same = Counter([first] if first == other else [])
        found.add(
            key, same, Counter([first]), (name for name, _ in ours), (name for name, _ in theirs)
        )
    return found.check(
        'classes: agreement', 'the frames have the same first class', max_drop
    )


def _judge_grids(both: Both, max_changed: float) -> Check:
    changed = known = 0
    alike = []
    for key, ours, theirs in both.pairs(read_grids):
        _require_one_place(ours, theirs, key)
        seen = (ours.cells != UNSEEN_CELL) | (theirs.cells != UNSEEN_CELL)
        differ = int((ours.cells != theirs.cells).sum())
        changed, known = changed + differ, known + int(seen.sum())
        alike.append(Frame(-differ / max(1, int(seen.sum())), key))
    share = changed / max(1, known)
    return Check(
        'grid: changed cells', share <= max_changed,
        f'{share:.4f} of the known cells changed, allowed {max_changed:g}', _worst(alike),
        {'changed': changed, 'known': known, 'share': share},
    )


def _require_one_place(left: Grid, right: Grid, key: Key) -> None:
    if left.cells.shape != right.cells.shape or not np.allclose(
        (left.origin_x_m, left.origin_y_m, left.resolution_m),
        (right.origin_x_m, right.origin_y_m, right.resolution_m),
    ):
        raise BagError(
            f'the grids at {stamp_text(key[0])} have different places or sizes; run both with the '
            f'same camera and frames'
        )


def _latencies(base: Path, new: Path) -> Iterator[Check]:
    """Yield latencies of live nodes, from /diagnostics; a run without ROS has none."""
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
