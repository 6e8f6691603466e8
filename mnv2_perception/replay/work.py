"""What becomes of one frame: decoded, through the models, as messages; of no file, of no order."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.messages import header, stamp_ns
from mnv2_perception.errors import CalibrationError, PerceptionError
from mnv2_perception.replay.frames import Calibration, Frame
from mnv2_perception.replay.models import blank, Outputs, Task
from mnv2_perception.replay.placing import Placer
from mnv2_perception.tasks.contract import images_at_once
from mnv2_perception.tasks.pipeline import infer_images, Pipeline
from mnv2_perception.vision.preprocess import fit_image

MASK = '/segmentation/mask'


class Decoded(NamedTuple):
    """A frame: its header, its image, and that as each model takes it."""

    header: Any
    image: NDArray[np.uint8]
    fitted: list[NDArray[np.uint8]]


class Found(NamedTuple):
    """What is found of a frame; can be pickled.

    Attributes:
        stamp_ns: of its image.
        messages: by topic.
        unplaced: why its mask has no place on the ground; empty where it has, or needs none.
    """

    stamp_ns: int
    messages: dict[str, bytes]
    unplaced: str = ''


class Rejected(NamedTuple):
    """Why a frame has no results; can be pickled."""

    reason: str


class Work:
    """Opened models, and what places their masks.

    Args:
        tasks: the models.
        placer: of the masks; None: no grid.
    """

    def __init__(self, tasks: Sequence[Task], placer: Placer | None) -> None:
        self.tasks, self.placer = tasks, placer

    def warm_up(self) -> None:
        """Let the runtimes load their kernels, and what makes messages its definitions."""
        for task in self.tasks:
            image = blank(task)
            outputs, = infer_images(task.model.engine, task.model.spec, [image])
            with suppress(PerceptionError):  # of a blank image: what counts are the frames'
                task.messages(task.model.finish(image, outputs), header(0, ''))

    def calibrate(self, calibration: Calibration | None) -> None:
        """Take a calibration: it counts from now on.

        Raises:
            BagError: it cannot be read; the one before goes on counting.
        """
        if self.placer is not None:
            self.placer.calibrate(calibration and calibration.read())

    def decode(self, frame: Frame) -> Decoded | Rejected:
        """Return a frame's image as the models take it."""
        try:
            header, image = frame()
            models = [task.model for task in self.tasks]
            return Decoded(header, image, [_fitted(model, image) for model in models])
        except PerceptionError as exc:
            return Rejected(str(exc))

    def infer(self, frames: Sequence[Decoded]) -> list[list[Outputs]]:
        """Return the outputs of each model for each frame.

        Raises:
            EngineError: a runtime failed.
        """
        found: list[list[Outputs]] = [[] for _ in frames]
        for index, task in enumerate(self.tasks):
            engine, spec = task.model.engine, task.model.spec
            room = images_at_once(engine) or 1
            for first in range(0, len(frames), room):
                images = [each.fitted[index] for each in frames[first:first + room]]
                for offset, outputs in enumerate(infer_images(engine, spec, images)):
                    found[first + offset].append(outputs)
        return found

    def finish(
        self, frame: Decoded, outputs: Sequence[Outputs], recorded_ns: int
    ) -> Found | Rejected:
        """Return the messages of a frame's outputs."""
        messages: dict[str, bytes] = {}
        unplaced = ''
        for task, given in zip(self.tasks, outputs, strict=True):
            try:
                result = task.model.finish(frame.image, given)
            except PerceptionError as exc:
                return Rejected(str(exc))
            messages |= task.messages(result, frame.header)
            if self.placer is not None and MASK in task.topics:
                try:
                    messages |= self.placer.place(result.class_ids, frame.header, recorded_ns)
                except CalibrationError as exc:
                    unplaced = str(exc)
        return Found(stamp_ns(frame.header), messages, unplaced)


def _fitted(model: Pipeline[Any], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image in the size that the network takes, which inference then leaves alone."""
    spec, image = model.spec, model.prepare(image)
    if spec.crop_ratio < 1.0:  # inference would cut from what is cut already
        return image
    return fit_image(image, spec.height, spec.width, spec.fit, pad=spec.pad)
