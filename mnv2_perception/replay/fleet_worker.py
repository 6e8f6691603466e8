"""Process slices of a recording in a worker of a Ray cluster; see `fleet`."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
import os
import socket
import time
from typing import Any, NamedTuple

from mnv2_perception.errors import PerceptionError, SetupError
from mnv2_perception.replay.frames import Calibration, Frame
from mnv2_perception.replay.models import open_tasks
from mnv2_perception.replay.placing import Placer
from mnv2_perception.replay.work import Decoded, Found, Rejected, Work

_works: dict[str, tuple[Work, ExitStack]] = {}


@dataclass(frozen=True)
class Orders:
    """What the workers of a run need to open it.

    Attributes:
        run: a random name of the run.
        models: names of shipped models, or absolute paths.
        opening: keyword arguments of `open_tasks`.
        facts: expected facts of the opened models, see `Task`.
        placer: places the masks on the ground; None for no grid.
    """

    run: str
    models: Sequence[str]
    opening: Mapping[str, Any]
    facts: Sequence[Mapping[str, Any]]
    placer: Placer | None


class Piece(NamedTuple):
    """The part of an `Item` that a worker needs."""

    stamp_ns: int
    frame: Frame | None
    calibration: Calibration | None


class Done(NamedTuple):
    """The results of a slice.

    Attributes:
        results: results of the frames, for each block.
        inference_ms: inference time per frame, for each block that has frames.
        worker: machine and process id.
    """

    results: list[list[Found | Rejected]]
    inference_ms: list[float]
    worker: str


def work_on(
    run: str, orders: Sequence[Any], start: Calibration | None, blocks: Sequence[Sequence[Piece]]
) -> Done:
    """Process a slice.

    Args:
        run: name of the run, see `Orders`.
        orders: a list with Ray's reference to the `Orders`.
        start: calibration that is valid at the beginning of the slice.
        blocks: blocks of the slice.

    Raises:
        SetupError: the models cannot be opened here, or are not the same here.
        EngineError: a runtime failed.
    """
    if run not in _works:
        import ray

        while _works:
            _works.popitem()[1][1].close()
        _works[run] = open_work(ray.get(orders[0]))
    work, _ = _works[run]
    work.calibrate(start)
    done = Done([], [], f'{socket.gethostname()} {os.getpid()}')
    for pieces in blocks:
        frames = [work.decode(piece.frame) for piece in pieces if piece.frame]
        good = [frame for frame in frames if isinstance(frame, Decoded)]
        begun_s = time.perf_counter()
        outputs = iter(work.infer(good))
        if good:
            done.inference_ms.append((time.perf_counter() - begun_s) * 1000.0 / len(good))
        of_frames, results = iter(frames), []
        for piece in pieces:
            if piece.calibration is not None:
                work.calibrate(piece.calibration)
            if piece.frame is not None:
                frame = next(of_frames)
                results.append(
                    work.finish(frame, next(outputs), piece.stamp_ns)
                    if isinstance(frame, Decoded) else frame
                )
        done.results.append(results)
    return done


def open_work(orders: Orders) -> tuple[Work, ExitStack]:
    """Open the models of a run.

    Raises:
        SetupError: they cannot be opened here, or differ from those where the run was started.
    """
    here, stack = socket.gethostname(), ExitStack()
    try:
        tasks = open_tasks(orders.models, stack, **orders.opening)
    except PerceptionError as exc:
        stack.close()
        raise SetupError(
            f'on {here}: {exc}; each machine of the cluster needs the model at the same path (a '
            f'shared folder), and the same engine'
        ) from exc
    for task, expected in zip(tasks, orders.facts, strict=True):
        for name, value in expected.items():
            if task.facts[name] != value:
                stack.close()
                raise SetupError(
                    f'on {here}: {task.facts["file"]} has {name} {task.facts[name]}, expected '
                    f'{value}, as on the machine where the run was started: the results would '
                    f'depend on the machine; copy the model there, or give --engine and '
                    f'--precision'
                )
    work = Work(tasks, orders.placer)
    work.warm_up()
    return work, stack
