"""`mnv2 bag report`: one page that shows the results of one or two runs on a recording."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_perception.bags.camera import find_camera
from mnv2_perception.data.files import replacing
from mnv2_perception.data.images import is_bag
from mnv2_perception.errors import BagError, DataError, PerceptionError
from mnv2_perception.evaluation.compare import Check, compare_runs
from mnv2_perception.evaluation.recording import Key, stamp_text
from mnv2_perception.report import FRAMES
from mnv2_perception.report.figures import (
    accuracy_facts,
    agreement,
    Figures,
    latencies,
    measure,
    own_labels,
    spread,
    times_of,
    truth_of,
    worst_frames,
)
from mnv2_perception.report.models import class_colours, models_of
from mnv2_perception.report.page import page_html
from mnv2_perception.report.pictures import layers, Scene, scenes
from mnv2_perception.report.results import (
    bag_images,
    Images,
    images_in,
    read_results,
    Results,
)

MOST_POINTS = 1500  # per curve
MOST_BYTES = 24_000_000  # for all pictures
MOST_REASONS = 12
MOST_TRIED = 500  # frames without a result that are decoded to see if they are damaged


@dataclass
class Report:
    """One or two runs of a recording, as they are reported.

    Attributes:
        runs: the results of each run.
        figures: the figures of each run.
        images: the camera's images; None if there are none.
        labels: source of labels for the masks, see `measure`; empty for none.
        beside: another bag in which a topic of labels may be.
        frames: keys of all frames, in time order.
        times_s: time of each frame since the first.
        agreed: for each frame the share of pixels on which two runs agree.
        notes: what the reader must know: what is missing or left out, and how to get it.
        colours: RGB colours by class.
        models: description of each run's models.
        checks: comparison of the second run with the first.
    """

    runs: list[Results]
    figures: list[Figures]
    images: Images | None
    labels: str
    beside: Path | None
    frames: list[Key]
    times_s: list[float]
    agreed: dict[Key, float]
    notes: list[str]
    colours: dict[str, tuple[int, int, int]]
    models: list[list[dict[str, Any]]]
    checks: list[Check] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of all mask classes of all runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.classes))

    def scenes(self, indices: Sequence[int]) -> Iterator[Scene]:
        """Yield the frames of these indices with image and results, in their order."""
        truths = [
            truth_of(run, self.labels, self.beside) if self.labels else None for run in self.runs
        ]
        return scenes([self.frames[i] for i in indices], self.images, self.runs, truths)


def make_report(
    paths: Sequence[Path], original: Path | None = None, images: Images | None = None,
    labels: str = '', topic: str = '',
) -> Report:
    """Read one or two files of results and compute their figures.

    Args:
        paths: files of results, all for the same recording.
        original: bag with the camera's images and perhaps labels; None for none.
        images: the camera's images, if they are not in a bag.
        labels: see `measure`; empty for labels that the bags contain.
        topic: topic of the camera's images in `original`; empty for the one that looks like it.

    Raises:
        BagError: a file cannot be read or has no results, or the recordings are different ones.
        DataError: the labels cannot be used.
    """
    runs = [read_results(path) for path in paths]
    notes: list[str] = []
    bag = original if original is not None and is_bag(original) else None
    if images is None and bag is not None:
        images = bag_images(bag, topic or find_camera(bag).image)
    elif images is None:
        images = next(
            (bag_images(run.path, own) for run in runs if (own := images_in(run))), None
        )
    said = {key for run in runs for key in run.keys}
    if not said:
        raise BagError(f'{paths[0]}: no message of its results can be read; make the run again')
    images = images_of_results(images, said, paths[0], original, notes)
    if len(runs) == 2 and not set(runs[0].keys) & set(runs[1].keys):
        raise BagError(
            f'{paths[0]} and {paths[1]} have no frame with the same stamp; give two runs of one '
            f'recording'
        )
    beside = bag or paths[-1]
    labels, figures = measure_runs(runs, labels, bag, beside, notes)
    frames = sorted(said | set(images.keys if images else ()))
    times_s, untimed = times_of(frames)
    notes += [untimed] if untimed else []
    models = [models_of(run) for run in runs]
    report = Report(
        runs, figures, images, labels, beside, frames, times_s, {}, notes, {}, models
    )
    report.colours = class_colours(report.names, [each for of in models for each in of])
    if len(runs) == 2:
        report.agreed = agreement(*runs)
        try:
            report.checks = compare_runs(paths[0], paths[1])
        except PerceptionError as exc:
            notes.append(_shortened(f'The two runs were not compared: {exc}', report))
    return report


def images_of_results(
    images: Images | None, said: set[Key], results: Path, original: Path | None,
    notes: list[str],
) -> Images | None:
    """Return the images if any has the stamp of a result, otherwise None.

    Args:
        images: the camera's images; None if there are none.
        said: keys of all frames with a result.
        results: file of these results.
        original: recording that the user named for the images; None if there is none.
        notes: list to which notes for the reader are added.

    Raises:
        BagError: the original is another recording.
    """
    if images is not None and not said & set(images.keys):
        if original is not None:
            raise BagError(
                f'{original}: has no image with a stamp of {results}; give the recording that '
                f'was run'
            )
        notes.append(f'{images.source}: no image has the stamp of a result; they are left out.')
        images = None
    if images is None:
        notes.append(
            'The results contain no camera images, so masks are shown alone, and frames without a '
            'result cannot be found. Give the recording with --bag, or copy the images with `mnv2 '
            'bag run --copy TOPIC`.'
        )
    return images


def measure_runs(
    runs: Sequence[Results], labels: str, bag: Path | None, beside: Path, notes: list[str]
) -> tuple[str, list[Figures]]:
    """Compute the figures of all runs; return the labels that were used, and the figures.

    Args:
        runs: one or two runs.
        labels: see `measure`; empty for labels that the bags contain, if they can be used.
        bag: the original recording; None for none.
        beside: another bag in which a topic of labels may be.
        notes: list to which notes for the reader are added.

    Raises:
        DataError: the labels that the user named cannot be used.
    """
    if labels:
        return labels, [measure(run, labels, beside) for run in runs]
    labels, why = own_labels(runs[0], bag)
    if why:
        notes.append(why)
    if labels:
        try:
            return labels, [measure(run, labels, beside) for run in runs]
        except PerceptionError as exc:
            notes.append(f'The labels in the recording are not used: {exc}')
    return '', [measure(run) for run in runs]


def write_report(
    report: Report, out: Path, most: int = FRAMES,
    tell: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Write the page, completely or not at all.

    Args:
        report: the report.
        out: the .html file.
        most: number of frames with pictures.
        tell: called with the number of pictures drawn and their total.

    Raises:
        DataError: the file cannot be written.
    """
    value, measure_name = worst_by(report)
    worst = worst_frames(report.frames, report.times_s, value)
    chosen = spread(len(report.frames), most, worst)
    pictures: list[dict[str, Any]] = []
    for index, scene in zip(chosen, report.scenes(chosen), strict=True):
        pictures.append({'at': index, **layers(scene, report.runs, report.colours)})
        tell(len(pictures), len(chosen))
    pictures = bounded(pictures, set(worst))
    notes = list(report.notes)
    if len(pictures) < len(report.frames):
        notes.append(
            f'Pictures: {len(pictures)} of {len(report.frames)} frames, evenly spread, and the '
            f'worst ones (--frames sets the number; the page stays below '
            f'{MOST_BYTES // 1_000_000} MB). All figures are for all frames.'
        )
    points = spread(len(report.frames), MOST_POINTS, [each['at'] for each in pictures])
    if len(points) < len(report.frames):
        notes.append(f'Curves: {len(points)} of {len(report.frames)} frames, evenly spread.')
    data = _data(report, points, pictures)
    data['worst'] = [
        {'at': points.index(index), 'value': round(value[report.frames[index]], 4)}
        for index in worst
    ]
    try:
        with replacing(out) as partial:
            page = page_html(_facts(report, notes, measure_name), data)
            partial.write_text(page, encoding='utf-8', errors='replace')  # a path may not be UTF-8
    except OSError as exc:
        raise DataError(f'{out}: cannot be written: {exc.strerror}') from exc


def bounded(pictures: list[dict[str, Any]], kept: set[int]) -> list[dict[str, Any]]:
    """Return pictures of at most MOST_BYTES: every other one is dropped until they fit."""
    while len(pictures) > 1 + len(kept) and sum(len(str(e)) for e in pictures) > MOST_BYTES:
        pictures = [
            each for i, each in enumerate(pictures) if i % 2 == 0 or each['at'] in kept
        ]
    return pictures


def worst_by(report: Report) -> tuple[dict[Key, float], str]:
    """Return for each frame how good it is, and a name of this measure."""
    first = report.figures[0]
    if first.right:
        new = report.figures[-1].right
        return new, 'fewest pixels right' + (' in B' if len(report.runs) == 2 else '')
    if report.agreed:
        return report.agreed, 'fewest pixels on which A and B agree'
    return report.figures[-1].confidence, 'lowest mean confidence'


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in values]


def _data(
    report: Report, points: list[int], pictures: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what the page's script draws."""
    place = {index: number for number, index in enumerate(points)}
    keys = [report.frames[i] for i in points]
    times = dict(zip(report.frames, report.times_s, strict=True))
    runs = []
    for run, figures in zip(report.runs, report.figures, strict=True):
        shares = [figures.shares.get(key) for key in keys]
        has = set(run.keys)
        runs.append({
            'share': {
                name: _rounded([None if each is None else float(each[i]) for each in shares])
                for i, name in enumerate(run.classes)
            } if figures.shares else {},
            'confidence': _rounded([figures.confidence.get(key) for key in keys]),
            'right': _rounded([figures.right.get(key) for key in keys]),
            'first': [figures.first.get(key) for key in keys],
            'missing': [number for number, key in enumerate(keys) if key not in has],
            'latency': list(latencies(run, times)),
        })
    for each in pictures:
        each['at'] = place[each['at']]
    return {
        'times': [round(report.times_s[i], 3) for i in points],
        'stamps': [stamp_text(key[0]) for key in keys],
        'classes': [
            {'name': name, 'colour': '#{:02x}{:02x}{:02x}'.format(*report.colours[name])}
            for name in report.names
        ],
        'runs': runs, 'agreed': _rounded([report.agreed.get(key) for key in keys]),
        'pictures': pictures,
    }


def _facts(report: Report, notes: list[str], worst: str) -> dict[str, Any]:
    """Return what the page shows as text and tables."""
    source = report.runs[0].run.get('source')
    told = source if isinstance(source, dict) else {}
    name = told.get('bags') or told.get('pictures') or told.get('video')
    if isinstance(name, list):
        name = ', '.join(map(str, name))
    runs = []
    for run, figures, models in zip(report.runs, report.figures, report.models, strict=True):
        confidence, reasons = list(figures.confidence.values()), run.reasons + figures.reasons
        shares = np.array(list(figures.shares.values()))
        runs.append({
            'path': run.path.name, 'models': models, 'results': len(run.keys),
            'live': not run.run, 'run': run.run, 'missing': _missing(report, run),
            'nodes': {node: rows[-1][1] for node, rows in run.diagnostics.items()},
            'reasons': dict(reasons.most_common(MOST_REASONS)),
            'more_reasons': max(0, len(reasons) - MOST_REASONS),
            'confidence': float(np.mean(confidence)) if confidence else None,
            'shares': dict(zip(run.classes, shares.mean(axis=0), strict=False))
            if len(shares) else {},
            'accuracy': accuracy_facts(figures, run.classes),
            'has': list(run.topics), 'topics': run.topics, 'grid_frame': run.grid_frame,
        })
    return {
        'name': str(name or (report.images.source if report.images else report.runs[0].path.stem)),
        'frames': len(report.frames), 'seconds': report.times_s[-1], 'runs': runs,
        'images': report.images.source if report.images else '', 'labels': report.labels,
        'agreed': float(np.mean(list(report.agreed.values()))) if report.agreed else None,
        'notes': notes, 'worst': worst, 'colours': report.colours,
        'checks': [
            {'name': check.name, 'passed': check.passed, 'told': _shortened(check.told, report)}
            for check in report.checks
        ],
    }


def _shortened(told: str, report: Report) -> str:
    """Return a text without the folders of this machine, because the page may be shared."""
    for run in report.runs:
        told = told.replace(str(run.path), run.path.name)
    return told


def _missing(report: Report, run: Results) -> dict[str, Any]:
    """Return how many of the camera's frames have no result, and the reasons where known."""
    if report.images is None:
        return {}
    has = set(run.keys)
    without = [key for key in report.frames if key not in has]
    tried = {without[i] for i in spread(len(without), MOST_TRIED)}
    for _ in report.images.read(tried) if tried else ():
        pass  # only to note what does not decode
    failed = Counter(report.images.failed[key] for key in tried if key in report.images.failed)
    return {
        'frames': len(without), 'tried': len(tried),
        'damaged': dict(failed.most_common(MOST_REASONS)),
    }
