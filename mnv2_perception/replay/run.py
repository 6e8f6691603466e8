"""`mnv2 bag run`: process every frame of a recording with the models, into one file of results.

Reading, decoding, inference (as many images at once as the engine takes) and writing run in
parallel. The output has the order of the recording and depends only on the recording, the models
and the options.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
import json
from pathlib import Path
import statistics
import time
from typing import Any

from mnv2_perception.bags.messages import header as make_header
from mnv2_perception.bags.messages import text_cdr
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.result_file import ResultFile, written_here
from mnv2_perception.bags.results import RESULTS, RUN
from mnv2_perception.bags.unfinished import is_indexed
from mnv2_perception.errors import BagError, EngineError, SetupError
from mnv2_perception.replay.frames import Item, Source
from mnv2_perception.replay.models import LATCHED, Outputs, RESULT, Task
from mnv2_perception.replay.placing import Placer
from mnv2_perception.replay.work import Decoded, Found, Rejected, Work
from mnv2_perception.tasks.contract import images_at_once

STRING = 'std_msgs/msg/String'
PLACED = ('ground', 'obstacles', 'scan', 'grid')
MOST_ITEMS = 64  # per block
DECODERS = 2
AHEAD = 6  # blocks in work, besides those in inference
Block = list[tuple[int, Item]]
Tell = Callable[[int, int, float], None]


@dataclass
class Summary:
    """The outcome of a run.

    Attributes:
        frames: number of frames that were read.
        done_before: number of these that an earlier run had processed.
        rejected: number of frames without any result.
        lost: number of frames that the recording promises but that could not be read.
        unplaced: number of masks without a grid.
        reasons: the reasons for all these, with their counts.
        messages: number of messages by topic.
        seconds: duration of the work, without opening the models.
        inference_ms: median time of one frame through all models, beside other frames if the
            engine processes several at once.
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
        """Frames of this run per second."""
        return (self.frames - self.done_before) / max(1e-9, self.seconds)

    @property
    def whole(self) -> bool:
        """Whether each frame of the recording has its results."""
        return not (self.rejected or self.lost)


def describe(source: Source, tasks: Sequence[Task], options: dict[str, Any]) -> str:
    """Return the description of a run as JSON: equal for equal runs, so without any times."""
    return json.dumps(
        {'source': source.facts, 'models': [task.facts for task in tasks], 'options': options},
        indent=1, sort_keys=True,
    )


def read_description(path: Path) -> str:
    """Return the run's description in a file of results; empty if nothing complete is in it yet.

    Raises:
        BagError: the file is not one of `mnv2 bag run`.
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
    """Create a file of results, or continue one.

    Args:
        path: path of the file; an existing one is replaced unless it is continued.
        description: description of the run, see `describe`.
        resume: continue the file if it exists.

    Returns:
        The file; None if it is complete already.

    Raises:
        SetupError: the existing file is of another run or another program.
        BagError: the file cannot be written.
    """
    if not (resume and path.exists()):
        return ResultFile(path)
    try:
        found = read_description(path)
    except BagError as exc:
        raise SetupError(f'{exc}; choose another --out') from exc
    if found and found != description:
        raise SetupError(
            f'{path}: belongs to another run ({_first_difference(found, description)}); use the '
            f'same recording, models and options, or choose another --out'
        )
    return None if found and is_indexed(path) else ResultFile(path, resume=True)


def _first_difference(before: str, now: str) -> str:
    pairs = zip(before.splitlines(), now.splitlines(), strict=False)
    left, right = next(((a, b) for a, b in pairs if a != b), ('more', 'less'))
    return f'then {left.strip(" ,")}, now {right.strip(" ,")}'


class Run:
    """A recording, the models, and the file for the results.

    Args:
        source: the recording.
        tasks: the opened models.
        placer: places the masks on the ground; None for no grid.
        out: the file for the results.
        description: see `describe`.
    """

    def __init__(
        self, source: Source, tasks: Sequence[Task], placer: Placer | None, out: ResultFile,
        description: str,
    ) -> None:
        self.source, self.tasks, self.out = source, tasks, out
        self.work = Work(tasks, placer)
        self.description = description
        self.summary = Summary()
        self.inference_ms: list[float] = []
        self._size = max(images_at_once(task.model.engine) or 1 for task in tasks)
        self._at_once = min(task.model.engine.at_once for task in tasks)

    def __call__(self, tell: Tell) -> Summary:
        """Process the recording to its end and finish the file.

        Args:
            tell: called with the number of frames done, their total (0: unknown) and the seconds.

        Raises:
            SetupError: a topic to be copied is one that this run writes.
            EngineError: a runtime failed; what is done is kept.
            BagError: the disk is full or failed; what is done is kept.
        """
        try:
            self._announce()
            self.warm_up()
            begun_s = time.perf_counter()
            results_before = self.out.counts[list(self.tasks[0].topics)[-1]]
            self.process(lambda: tell(
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
        if self.inference_ms:
            summary.inference_ms = statistics.median(self.inference_ms)
        return summary

    def warm_up(self) -> None:
        """Load what the first inference would load, before the time counts."""
        self.work.warm_up()

    def _announce(self) -> None:
        topics = {RUN: (STRING, LATCHED)}
        for task in self.tasks:
            for topic, type_name in task.topics.items():
                topics[topic] = type_name, LATCHED if topic == task.label_info else RESULT
        if self.work.placer is not None:
            for name in PLACED:
                topics[f'/{name}'] = (
                    RESULTS['costmap'][name], LATCHED if name == 'grid' else RESULT
                )
        for topic, (type_name, qos) in topics.items():
            self.out.add_topic(topic, type_name, qos)
        for copied in self.source.copied:
            if copied.name in topics:
                raise SetupError(
                    f'{copied.name}: is a topic that this run writes itself; leave it out of '
                    f'--copy'
                )
            self.out.add_topic(
                copied.name, copied.type_name, copied.qos, copied.definition or None
            )

    def process(self, tell: Callable[[], None]) -> None:
        """Process the blocks, each stage in its own threads.

        Args:
            tell: called after each block.
        """
        pending: deque[Future[None]] = deque()
        decoders = ThreadPoolExecutor(DECODERS, 'decode')
        engines = ThreadPoolExecutor(self._at_once, 'infer')
        writer = ThreadPoolExecutor(1, 'write')
        written = writer.submit(lambda: None)
        self.work.calibrate(self.source.calibration)

        def settle() -> None:
            pending.popleft().result()
            tell()

        try:
            for block in self.blocks(self.calibrate):
                decoded = [
                    decoders.submit(self.work.decode, item.frame) for _, item in block
                    if item.frame
                ]
                inferred = engines.submit(self._infer, block, decoded)
                written = writer.submit(self._finish, written, block, decoded, inferred)
                pending.append(written)
                if len(pending) >= AHEAD + self._at_once:
                    settle()
            while pending:
                settle()
        finally:
            for pool in (decoders, engines, writer):
                pool.shutdown(cancel_futures=True)

    def blocks(self, pass_over: Callable[[Item], None]) -> Iterator[Block]:
        """Yield blocks of items that are still to be done, each with the frames of one inference.

        Args:
            pass_over: called with each item that an earlier run has done.
        """
        done = self.out.done
        for block in self._all_blocks():
            if block[-1][0] > done:
                yield block
                continue
            frames = sum(item.frame is not None for _, item in block)
            self.summary.frames += frames
            self.summary.done_before += frames
            for _, item in block:
                pass_over(item)

    def _all_blocks(self) -> Iterator[Block]:
        block: Block = []
        frames = 0
        for numbered in enumerate(self.source.items()):
            block.append(numbered)
            frames += numbered[1].frame is not None
            if frames == self._size or len(block) == MOST_ITEMS:
                yield block
                block, frames = [], 0
        if block:
            yield block

    def calibrate(self, item: Item) -> None:
        """Use the calibration if an item is one; count one that is damaged."""
        try:
            if item.calibration is not None:
                self.work.calibrate(item.calibration)
        except BagError as exc:
            self.summary.reasons[str(exc)] += 1

    def _infer(
        self, block: Block, decoded: Sequence[Future[Decoded | Rejected]]
    ) -> list[list[Outputs]]:
        """Return the outputs of each model for each decoded frame."""
        frames = [each for future in decoded if isinstance(each := future.result(), Decoded)]
        begun_s = time.perf_counter()
        try:
            found = self.work.infer(frames)
        except EngineError as exc:
            first, last = block[0][1].stamp_ns, block[-1][1].stamp_ns
            raise EngineError(
                f'what was recorded from {first} to {last} ns: {exc}; the results before that are '
                f'kept: continue with --resume'
            ) from exc
        if frames:
            self.inference_ms.append((time.perf_counter() - begun_s) * 1000.0 / len(frames))
        return found

    def _finish(
        self, before: Future[None], block: Block, decoded: Sequence[Future[Decoded | Rejected]],
        inferred: Future[list[list[Outputs]]],
    ) -> None:
        before.result()  # after a failed block nothing is written: --resume begins there
        frames, outputs = iter(decoded), iter(inferred.result())
        results = []
        for _, item in block:
            self.calibrate(item)
            if item.frame is not None:
                frame = next(frames).result()
                results.append(
                    self.work.finish(frame, next(outputs), item.stamp_ns)
                    if isinstance(frame, Decoded) else frame
                )
        self.write(block, results)

    def write(self, block: Block, results: Sequence[Found | Rejected]) -> None:
        """Write a block; blocks are written in their order.

        Args:
            block: items of the block.
            results: results of its frames.

        Raises:
            BagError: the disk is full or failed.
        """
        of_frames = iter(results)
        number = block[-1][0]  # for all items: a block is in the file as a whole or not at all
        for _, item in block:
            if item.message is not None:
                self.out.write(item.message.topic, item.stamp_ns, item.message.cdr, number)
            if item.frame is None:
                continue
            result = next(of_frames)
            if isinstance(result, Found):
                self._write_frame(number, item.stamp_ns, result)
            else:
                self.summary.rejected += 1
                self.summary.reasons[result.reason] += 1
        self.out.end_item(number)
        self.summary.frames += len(results)

    def _write_frame(self, number: int, recorded_ns: int, found: Found) -> None:
        if found.unplaced:
            self.summary.unplaced += 1
            self.summary.reasons[found.unplaced] += 1
        if not self.out.counts[RUN]:
            self.out.write(RUN, recorded_ns, text_cdr(self.description), number)
            latched = make_header(found.stamp_ns, '')
            for task in self.tasks:
                self.out.write(task.label_info, recorded_ns, task.names_cdr(latched), number)
        for topic, cdr in found.messages.items():
            self.out.write(topic, recorded_ns, cdr, number)
