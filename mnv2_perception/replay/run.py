"""`mnv2 bag run`: every frame of a recording through the models, into one file of results.

Frames are read, decoded, inferred and written in four places at once; what comes out is in the
order of the recording, and depends on nothing but the recording, the models and the options.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
import json
from pathlib import Path
import statistics
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.messages import header as make_header
from mnv2_perception.bags.messages import stamp_ns, text_cdr
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.result_file import ResultFile, written_here
from mnv2_perception.bags.results import RESULTS, RUN
from mnv2_perception.bags.unfinished import is_indexed
from mnv2_perception.errors import BagError, CalibrationError, PerceptionError, SetupError
from mnv2_perception.replay.frames import Item, Source
from mnv2_perception.replay.models import blank, LATCHED, Outputs, RESULT, Task
from mnv2_perception.replay.placing import Placer
from mnv2_perception.tasks.contract import images_at_once
from mnv2_perception.tasks.pipeline import infer_images, Pipeline
from mnv2_perception.vision.preprocess import fit_image

STRING = 'std_msgs/msg/String'
MASK, GRID = '/segmentation/mask', '/grid'
PLACED = ('ground', 'obstacles', 'scan', 'grid')
MOST_ITEMS = 64  # of a block
DECODERS = 2
AHEAD = 6  # blocks
Block = list[tuple[int, Item]]
Tell = Callable[[int, int, float], None]


class Decoded(NamedTuple):
    """A frame: its header, its image, and that as each model takes it."""

    header: Any
    image: NDArray[np.uint8]
    fitted: list[NDArray[np.uint8]]


@dataclass
class Summary:
    """What became of a recording.

    Attributes:
        frames: that came.
        done_before: of these, how many an earlier run had done.
        rejected: of these, those without any result.
        lost: frames that the recording promises and that could not be read.
        unplaced: masks without a grid.
        reasons: why, each with its count.
        messages: by topic.
        seconds: that the work took, opening not included.
        inference_ms: median of one frame through all models.
    """

    frames: int = 0
    done_before: int = 0
    rejected: int = 0
    lost: int = 0
    unplaced: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    messages: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    inference_ms: float = 0.0

    @property
    def frames_per_s(self) -> float:
        """Frames of this run a second."""
        return (self.frames - self.done_before) / max(1e-9, self.seconds)

    @property
    def whole(self) -> bool:
        """Whether each frame of the recording has its results."""
        return not (self.rejected or self.lost)


def describe(source: Source, tasks: Sequence[Task], options: dict[str, Any]) -> str:
    """Return what a run is, as JSON: equal for equal runs, so nothing of the clock."""
    return json.dumps(
        {'source': source.facts, 'models': [task.facts for task in tasks], 'options': options},
        indent=1, sort_keys=True,
    )


def read_description(path: Path) -> str:
    """Return what a file of results says of its run, empty where nothing is whole yet.

    Raises:
        BagError: it is no file of results.
    """
    try:
        with BagReader(path) as reader:
            for message in reader.messages([RUN]):
                return str(reader.deserialize(message).data)
    except BagError as exc:
        if not written_here(path):
            raise BagError(f'{path}: was not written by `mnv2 bag run` ({exc})') from exc
    return ''


def open_results(path: Path, description: str, resume: bool) -> ResultFile | None:
    """Make a file of results, or go on with one.

    Args:
        path: of it; what is there is replaced, unless it is gone on with.
        description: of the run, see `describe`.
        resume: go on where there is something to go on with.

    Returns:
        The file; None where it is complete.

    Raises:
        SetupError: what is there is of another run, or of another program.
        BagError: it cannot be made.
    """
    if not (resume and path.exists()):
        return ResultFile(path)
    try:
        found = read_description(path)
    except BagError as exc:
        raise SetupError(f'{exc}; choose another --out') from exc
    if found and found != description:
        raise SetupError(
            f'{path}: is of another run ({_first_difference(found, description)}); give the '
            f'recording, models and options of then, or choose another --out'
        )
    return None if found and is_indexed(path) else ResultFile(path, resume=True)


def _first_difference(before: str, now: str) -> str:
    pairs = zip(before.splitlines(), now.splitlines(), strict=False)
    left, right = next(((a, b) for a, b in pairs if a != b), ('more', 'less'))
    return f'then {left.strip(" ,")}, now {right.strip(" ,")}'


def _fitted(model: Pipeline[Any], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image in the size that the network takes, which inference then leaves alone."""
    spec, image = model.spec, model.prepare(image)
    if spec.crop_ratio < 1.0:  # inference would cut from what is cut already
        return image
    return fit_image(image, spec.height, spec.width, spec.fit, pad=spec.pad)


class Run:
    """A recording, the models and the file that takes the results.

    Args:
        source: the recording.
        tasks: the opened models.
        placer: of the masks; None: no grid.
        out: the file.
        description: see `describe`.
    """

    def __init__(
        self, source: Source, tasks: Sequence[Task], placer: Placer | None, out: ResultFile,
        description: str,
    ) -> None:
        self.source, self.tasks, self.placer, self.out = source, tasks, placer, out
        self.description = description
        self.summary = Summary()
        self._size = max(images_at_once(task.model.engine) or 1 for task in tasks)
        self._inference_ms: list[float] = []

    def __call__(self, tell: Tell) -> Summary:
        """Process the recording to its end and finish the file.

        Args:
            tell: called with the frames done, those there are (0: not known), and seconds.

        Raises:
            EngineError: a runtime failed; what is done is kept, as with the next.
            BagError: the disk took no more.
        """
        try:
            self._announce()
            for task in self.tasks:
                infer_images(task.model.engine, task.model.spec, [blank(task)])
            begun_s = time.perf_counter()
            results_before = self.out.counts[list(self.tasks[0].topics)[-1]]
            self._process(lambda: tell(
                self.summary.frames, self.source.count, time.perf_counter() - begun_s
            ))
            self.out.finish()
        finally:
            self.out.abandon()
        summary = self.summary
        summary.seconds = time.perf_counter() - begun_s
        if rejected := summary.done_before - results_before:
            summary.rejected += rejected
            summary.reasons['rejected by the run before'] += rejected
        summary.lost = self.source.lost
        summary.reasons.update(self.source.reasons)
        summary.messages = dict(self.out.counts)
        if self._inference_ms:
            summary.inference_ms = statistics.median(self._inference_ms)
        return summary

    def _announce(self) -> None:
        topics = {RUN: (STRING, LATCHED)}
        for task in self.tasks:
            for topic, type_name in task.topics.items():
                topics[topic] = type_name, LATCHED if topic == task.label_info else RESULT
        if self.placer is not None:
            for name in PLACED:
                topics[f'/{name}'] = (
                    RESULTS['costmap'][name], LATCHED if name == 'grid' else RESULT
                )
        for topic, (type_name, qos) in topics.items():
            self.out.add_topic(topic, type_name, qos)
        for copied in self.source.copied:
            if copied.name in topics:
                raise SetupError(
                    f'{copied.name}: is what this run writes itself; leave it out of --copy'
                )
            self.out.add_topic(
                copied.name, copied.type_name, copied.qos, copied.definition or None
            )

    def _process(self, tell: Callable[[], None]) -> None:
        pending: deque[tuple[int, Future[None]]] = deque()
        done = self.out.done
        decoders = ThreadPoolExecutor(DECODERS, 'decode')
        engines, writer = ThreadPoolExecutor(1, 'infer'), ThreadPoolExecutor(1, 'write')
        if self.placer is not None and self.source.calibration is not None:
            self.placer.calibrate(self.source.calibration)

        def settle() -> None:
            frames, future = pending.popleft()
            future.result()
            self.summary.frames += frames
            tell()

        try:
            for block in self._blocks():
                frames = sum(item.read is not None for _, item in block)
                if block[-1][0] <= done:
                    self._pass_over(block, frames)
                    continue
                decoded = [decoders.submit(self._decode, item) for _, item in block if item.read]
                inferred = engines.submit(self._infer, decoded)
                pending.append((frames, writer.submit(self._finish, block, decoded, inferred)))
                if len(pending) >= AHEAD:
                    settle()
            while pending:
                settle()
        finally:
            for pool in (decoders, engines, writer):
                pool.shutdown(cancel_futures=True)

    def _blocks(self) -> Iterator[Block]:
        """Go through the items in blocks of as many frames as one inference takes."""
        block: Block = []
        frames = 0
        for numbered in enumerate(self.source.items()):
            block.append(numbered)
            frames += numbered[1].read is not None
            if frames == self._size or len(block) == MOST_ITEMS:
                yield block
                block, frames = [], 0
        if block:
            yield block

    def _pass_over(self, block: Block, frames: int) -> None:
        """Leave out what an earlier run has done."""
        self.summary.frames += frames
        self.summary.done_before += frames
        for _, item in block:
            self._calibrate(item)

    def _calibrate(self, item: Item) -> None:
        message = item.message
        if self.placer is None or message is None or message.topic != self.source.info:
            return
        try:
            self.placer.calibrate(self.source.deserialize(message))
        except BagError as exc:
            self.summary.reasons[str(exc)] += 1

    def _decode(self, item: Item) -> Decoded | PerceptionError:
        assert item.read
        try:
            header, image = item.read()
            models = [task.model for task in self.tasks]
            return Decoded(header, image, [_fitted(model, image) for model in models])
        except PerceptionError as exc:
            return exc

    def _infer(
        self, decoded: Sequence[Future[Decoded | PerceptionError]]
    ) -> list[list[Outputs]]:
        """Return the outputs of each model for each frame that was decoded."""
        frames = [each for future in decoded if isinstance(each := future.result(), Decoded)]
        found: list[list[Outputs]] = [[] for _ in frames]
        begun_s = time.perf_counter()
        for index, task in enumerate(self.tasks):
            engine, spec = task.model.engine, task.model.spec
            room = images_at_once(engine) or 1
            for first in range(0, len(frames), room):
                images = [each.fitted[index] for each in frames[first:first + room]]
                for offset, outputs in enumerate(infer_images(engine, spec, images)):
                    found[first + offset].append(outputs)
        if frames:
            self._inference_ms.append((time.perf_counter() - begun_s) * 1000.0 / len(frames))
        return found

    def _finish(
        self, block: Block, decoded: Sequence[Future[Decoded | PerceptionError]],
        inferred: Future[list[list[Outputs]]],
    ) -> None:
        frames, outputs = iter(decoded), iter(inferred.result())
        copied = {topic.name for topic in self.source.copied}
        number = block[-1][0]  # of all of them: a block is in the file, or it is not
        for _, item in block:
            self._calibrate(item)
            if item.message is not None and item.message.topic in copied:
                self.out.write(item.message.topic, item.stamp_ns, item.message.cdr, number)
            if item.read is None:
                continue
            frame = next(frames).result()
            if isinstance(frame, Decoded):
                self._write_frame(number, item.stamp_ns, frame, next(outputs))
            else:
                self._reject(frame)
        self.out.end_item(number)

    def _write_frame(
        self, number: int, recorded_ns: int, frame: Decoded, outputs: Sequence[Outputs]
    ) -> None:
        messages: dict[str, bytes] = {}
        for task, given in zip(self.tasks, outputs, strict=True):
            try:
                result = task.model.finish(frame.image, given)
            except PerceptionError as exc:
                self._reject(exc)
                return
            messages |= task.messages(result, frame.header)
            if self.placer is not None and MASK in task.topics:
                try:
                    messages |= self.placer.place(result.class_ids, frame.header, recorded_ns)
                except CalibrationError as exc:
                    self.summary.unplaced += 1
                    self.summary.reasons[str(exc)] += 1
        if not self.out.counts[RUN]:
            self.out.write(RUN, recorded_ns, text_cdr(self.description), number)
            latched = make_header(stamp_ns(frame.header), '')
            for task in self.tasks:
                self.out.write(task.label_info, recorded_ns, task.names_cdr(latched), number)
        for topic, cdr in messages.items():
            self.out.write(topic, recorded_ns, cdr, number)

    def _reject(self, exc: PerceptionError) -> None:
        self.summary.rejected += 1
        self.summary.reasons[str(exc)] += 1
