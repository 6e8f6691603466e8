"""`mnv2 bag frames`: write frames that are worth labelling, with the model's masks.

The recording is read twice, to choose and to write, so that only one image is in memory at a time.
"""

from collections import Counter
from collections.abc import Callable
import csv
from dataclasses import dataclass, field
from pathlib import Path
import re
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.messages import stamp_ns
from mnv2_perception.errors import EngineError, ModelError, PerceptionError
from mnv2_perception.replay.choose import (
    Choice,
    default_spacing,
    evenly,
    farthest_first,
    least_sure,
)
from mnv2_perception.replay.frames import Source
from mnv2_perception.tasks.embedder import Embedder
from mnv2_perception.tasks.segmenter import Segmenter
from mnv2_perception.vision.png import indexed_png

COLUMNS = ('picture', 'frame', 'stamp_ns', 'topic', 'by', 'rank', 'why')
Measure = Callable[[NDArray[np.uint8]], Any]
Tell = Callable[[int, int, float], None]


@dataclass
class Found:
    """The outcome of choosing frames from a recording.

    Attributes:
        frames: number of frames that were read.
        looked_at: number of these that could be chosen.
        chosen: number of frames that were written.
        spacing: minimum distance of chosen frames, in frames; 0 if it does not apply.
        rejected: number of frames that are no valid images.
        lost: number of frames that the recording promises but that could not be read.
        reasons: the reasons for rejections and losses, with their counts.
    """

    frames: int = 0
    looked_at: int = 0
    chosen: int = 0
    spacing: int = 0
    rejected: int = 0
    lost: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def whole(self) -> bool:
        """Whether the whole recording could be read."""
        return not (self.rejected or self.lost)


def collect(
    source: Source, segmenter: Segmenter, embedder: Embedder | None, out: Path, by: str,
    count: int, spacing: int, every: int, tell: Tell,
) -> Found:
    """Choose frames and write `out/images`, `out/labels` and `out/frames.csv`.

    Args:
        source: the recording.
        segmenter: makes the labels and gives the confidence.
        embedder: gives the features; needed only for `diversity`.
        out: an empty folder.
        by: one of `choose.WAYS`.
        count: maximum number of frames to write.
        spacing: minimum distance in frames for `uncertainty`; 0 for half of an even spacing.
        every: look only at every Nth frame.
        tell: called with the number of frames done, their total (0: unknown) and the seconds.

    Raises:
        ModelError: the model gives no confidence, which `uncertainty` needs.
        EngineError: a runtime failed.
    """
    found = Found()
    if by == 'uncertainty' and segmenter.spec.output == 'ids':
        raise ModelError(
            f'{segmenter.spec.name}: outputs ids without confidence; choose --by time or diversity'
        )
    measures: dict[str, Measure] = {
        'time': lambda image: None,
        'uncertainty': lambda image: float(segmenter(image).confidence.mean()) / 255.0,
    }
    measure = embedder or measures[by]
    places, values = _look(source, measure, every, found, tell)
    if by == 'time':
        choices = evenly(len(places), count)
    elif by == 'diversity':
        choices = farthest_first(np.array(values, np.float32), count)
    else:
        found.spacing = spacing or default_spacing(len(places), count)
        choices = least_sure(values, count, found.spacing)
    found.chosen = len(choices)
    if choices:
        _write(source, segmenter, out, by, {places[each.frame]: each for each in choices})
    return found


def _look(
    source: Source, measure: Measure, every: int, found: Found, tell: Tell
) -> tuple[list[int], list[Any]]:
    """Return the indices of the frames that can be chosen, and a measured value for each."""
    places, values = [], []
    begun_s = time.perf_counter()
    for item in source.items():
        if item.frame is None:
            continue
        found.frames += 1
        if (found.frames - 1) % every:
            continue
        try:
            _, image = item.frame()
            values.append(measure(image))
            places.append(found.frames - 1)
        except EngineError:
            raise
        except PerceptionError as exc:
            found.rejected += 1
            found.reasons[str(exc)] += 1
        tell(found.frames, source.count, time.perf_counter() - begun_s)
    found.looked_at = len(places)
    found.lost = source.lost  # of the full pass; the second one ends with the last chosen frame
    found.reasons.update(source.reasons)
    return places, values


def _write(
    source: Source, segmenter: Segmenter, out: Path, by: str, chosen: dict[int, Choice]
) -> None:
    ranks = {frame: rank for rank, frame in enumerate(chosen, 1)}
    images, labels = out / 'images', out / 'labels'
    images.mkdir()
    labels.mkdir()
    prefix = re.sub(r'[^\w.-]+|_', '-', next(iter(_names(source))))
    written: set[str] = set()
    with (out / 'frames.csv').open('w', newline='', encoding='utf-8') as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        frame = -1
        for item in source.items():
            if item.frame is None:
                continue
            frame += 1
            if frame not in chosen:
                continue
            header, image = item.frame()
            name = item.name or f'{prefix}_{frame:06}'
            name = f'{name}_{frame:06}' if name in written else name
            written.add(name)
            ids = segmenter(image).class_ids
            # The label first, so that no picture is without one if this is interrupted.
            (labels / f'{name}.png').write_bytes(indexed_png(ids, segmenter.spec.colours))
            _, png = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            (images / f'{name}.png').write_bytes(png.tobytes())
            table.writerow((
                f'{name}.png', frame, stamp_ns(header), source.facts.get('topic', ''), by,
                ranks[frame], chosen[frame].why,
            ))
            if len(written) == len(chosen):
                break


def _names(source: Source) -> list[str]:
    """Return the names of the recording's files without suffixes."""
    facts = source.facts
    given = facts.get('bags') or [facts.get('video') or facts['pictures']]
    return [Path(name).stem for name in given]
