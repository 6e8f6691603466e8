"""Process one frame: decode it, run the models, make messages; no files, no order of frames."""

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
    """A frame: its header, its image, and the image fitted for each model."""

    header: Any
    image: NDArray[np.uint8]
    fitted: list[NDArray[np.uint8]]


class Found(NamedTuple):
    """The results of a frame; can be pickled.

    Attributes:
        stamp_ns: stamp of its image, ns.
        messages: serialised messages by topic.
        unplaced: reason why its mask is not placed on the ground; empty if it is, or need not be.
    """

    stamp_ns: int
    messages: dict[str, bytes]
    unplaced: str = ''


class Rejected(NamedTuple):
    """The reason why a frame has no results; can be pickled."""

    reason: str


class Work:
    """The opened models, and the placer of their masks.

    Args:
        tasks: the models.
        placer: places the masks on the ground; None for no grid.
    """

    def __init__(self, tasks: Sequence[Task], placer: Placer | None) -> None:
        self.tasks, self.placer = tasks, placer

    def warm_up(self) -> None:
        """Let the runtimes load their kernels, and load the message definitions."""
        for task in self.tasks:
            image = blank(task)
            outputs, = infer_images(task.model.engine, task.model.spec, [image])
            with suppress(PerceptionError):  # a blank image may be rejected
                task.messages(task.model.finish(image, outputs), header(0, ''))

    def calibrate(self, calibration: Calibration | None) -> None:
        """Use a calibration from now on.

        Raises:
            BagError: it cannot be read; the previous one stays in use.
        """
        if self.placer is not None:
            self.placer.calibrate(calibration and calibration.read())

    def decode(self, frame: Frame) -> Decoded | Rejected:
        """Decode a frame and fit its image for each model."""
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
        """Return the messages for a frame's outputs, or why it is rejected."""
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
    """Return an image in the network's size, so that inference need not resize it again."""
    spec, image = model.spec, model.prepare(image)
    if spec.crop_ratio < 1.0:  # inference would crop it a second time
        return image
    return fit_image(image, spec.height, spec.width, spec.fit, pad=spec.pad)
