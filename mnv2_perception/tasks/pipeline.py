"""Turn one RGB image into one result: preprocess, infer, decode. No ROS."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
import math
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines import Engine, TensorSpec
from mnv2_perception.errors import ImageError, ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.contract import check_model, check_output, find_outputs, images_at_once
from mnv2_perception.tasks.models import opening
from mnv2_perception.vision.preprocess import (
    check_image,
    fit_image,
    normalise,
    place_image,
    Placement,
)

ROTATIONS = (0, 90, 180, 270)
ROUNDING = 0.05  # of a probability in fp16 or int8
Result = TypeVar('Result')
P = TypeVar('P', bound='Pipeline[Any]')


class Pipeline(ABC, Generic[Result]):
    """The base class of the three tasks: one RGB image in, one result out, with one opened model.

    A call runs `prepare`, the model and `finish`; to run several images at once, of several
    cameras, call these two yourself, with `infer_images` in between.

    Args:
        engine: the opened model; closed with the pipeline.
        spec: ModelSpec of the model.

    Raises:
        ModelError: the model is for another task, or spec and engine disagree.
    """

    task: str

    def __init__(self, engine: Engine, spec: ModelSpec) -> None:
        require_task(engine.model, spec, self.task)
        check_model(engine, spec)
        self.engine = engine
        self.spec = spec

    @classmethod
    def open(
        cls: type[P],
        model: str | Path,
        engine: str = 'auto',
        threads: int = 0,
        build_engine: bool = False,
        precision: str = 'auto',
        **settings: Any,
    ) -> P:
        """Open a model, given by path or by the name of a shipped one.

        Args:
            model: path or name.
            engine: see `open_engine`, also for the following ones.
            threads: CPU threads for one inference.
            build_engine: whether to build a missing TensorRT plan, which takes minutes.
            precision: precision of the computation.
            settings: other arguments of the class.

        Raises:
            ModelError: there is no such model, or it is for another task.
            EngineError: the runtime is missing or refuses the model.
        """
        with opening(model, engine, threads, build_engine, precision) as (opened, spec):
            return cls(opened, spec, **settings)

    def __call__(self, image: NDArray[np.uint8]) -> Result:
        """Run the model on one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size; only read.

        Raises:
            ImageError: the image has the wrong shape or dtype, or see `prepare`.
            ModelError: the outputs are not usable, see `finish`.
            EngineError: the runtime failed.
        """
        outputs = infer_images(self.engine, self.spec, [self.prepare(image)])
        return self.finish(image, outputs[0])

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image that the network is to get, (H, W, 3) uint8 RGB.

        Raises:
            ImageError: the image has the wrong shape or dtype.
        """
        check_image(image)
        return image

    @abstractmethod
    def finish(self, image: NDArray[np.uint8], outputs: Sequence[NDArray[Any]]) -> Result:
        """Make an image's result from the model's outputs for it, which have a batch axis of 1."""

    def placement(self, image: NDArray[np.uint8], rotate: int = 0) -> Placement:
        """Return where an image (H, W, 3), once upright, lies in the network's frame."""
        shape = image.shape[1::-1] if rotate in (90, 270) else image.shape
        return place_image(shape, self.spec.height, self.spec.width, self.spec.fit)

    def require_finite(self, finite: NDArray[np.bool_]) -> None:
        """Raise ModelError unless all is True: no result of a network that overflows is usable.

        Args:
            finite: bool of any shape: whether the scores of each result of an image are finite.
        """
        if not finite.all():
            precision = self.engine.precision
            run = f'run it with precision fp32 (now {precision}), or ' * (precision != 'fp32')
            raise ModelError(
                f'{self.engine.model}: {1.0 - finite.mean():.1%} of its output for this image is '
                f'NaN or infinite, because the network overflows in fp16, or its training or '
                f'export is broken; {run}export it again, in fp32'
            )

    def require_probabilities(self, scores: NDArray[Any]) -> None:
        """Raise ModelError unless all scores are between 0 and 1, except for rounding.

        Scores that are not finite are left to `require_finite`.
        """
        low, high = (float(scores.min()), float(scores.max())) if scores.size else (0.0, 0.0)
        if math.isfinite(high - low) and not -ROUNDING <= low <= high <= 1.0 + ROUNDING:
            raise ModelError(
                f'{self.engine.model}: its scores for this image go from {low:.3g} to {high:.3g}, '
                f'expected 0 to 1, as the spec says {self.spec.output}; export it with softmax or '
                'sigmoid' + ', or correct the spec (logits?)' * (self.spec.task != 'detection')
            )

    def require_logits(self, scores: NDArray[Any]) -> None:
        """Raise ModelError if scores look like a softmax's output: confidence would be wrong.

        Args:
            scores: (C, …); some of the pixels are enough. Fewer than 16 numbers are not judged.
        """
        if scores.size >= 16 and scores.min() >= 0.0 and abs(scores.sum(0) - 1.0).max() < 0.01:
            raise ModelError(
                f'{self.engine.model}: its scores for this image are not negative and sum to 1, '
                f'as after a softmax, but the spec says logits; correct it (probabilities)'
            )

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def require_task(model: str, spec: ModelSpec, task: str) -> None:
    """Raise ModelError unless a model is for the task."""
    if spec.task != task:
        raise ModelError(f'{model}: is for {spec.task}; choose a model for {task}')


def check_between_0_and_1(**values: float) -> None:
    """Raise ImageError unless each of the named values is between 0 and 1."""
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ImageError(f'{name} is {value}, expected 0 to 1')


def check_rotation(rotate: int) -> None:
    """Raise ImageError unless the angle is one of ROTATIONS."""
    if rotate not in ROTATIONS:
        raise ImageError(f'rotate is {rotate}, expected one of {ROTATIONS} degrees')


def infer_images(
    engine: Engine, spec: ModelSpec, images: Sequence[NDArray[np.uint8]]
) -> list[list[NDArray[Any]]]:
    """Run a model once on images of any sizes.

    Args:
        engine: an engine that `check_model` accepted.
        spec: ModelSpec of the model.
        images: (H, W, 3) uint8 RGB each; at most `images_at_once`.

    Returns:
        For each image the outputs that the spec describes, with a batch axis of 1.

    Raises:
        ModelError: an output differs from the spec, which a graph with open sides shows only now.
        EngineError: the runtime failed.
    """
    taken = engine.inputs[0]
    tensors = [input_tensor(image, spec, taken.dtype) for image in images]
    empty = (images_at_once(engine) or len(images)) - len(images)  # a fixed batch is always full
    tensors += [np.zeros_like(tensors[0])] * empty
    batch = np.concatenate(tensors) if len(tensors) > 1 else tensors[0]  # (N, …)
    outputs = engine.infer({taken.name: batch})
    arrays = []
    for out in find_outputs(engine, spec):
        array = outputs[out.name]
        if None in out.shape or not out.shape:
            check_output(engine, TensorSpec(out.name, array.shape, array.dtype), spec, len(batch))
        arrays.append(array)
    return [[array[i:i + 1] for array in arrays] for i in range(len(images))]


def input_tensor(
    image: NDArray[np.uint8], spec: ModelSpec, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Convert an RGB image (H, W, 3) of any size to the network's input tensor, batch of 1."""
    image = fit_image(image, spec.height, spec.width, spec.fit, spec.crop_ratio, spec.pad)
    kind, layout = spec.input.split('_')
    if kind == 'float':
        tensor = normalise(image, spec.mean, spec.std, spec.channel_order, layout)
        return tensor.astype(dtype, copy=False)[None]
    if spec.channel_order == 'bgr':
        image = image[:, :, ::-1]
    return (image if layout == 'nhwc' else image.transpose(2, 0, 1))[None]


def score_planes(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """Return an output (1, C, H, W), (1, H, W, C) or (1, H, W) as (C, H, W), contiguous."""
    if array.ndim == 3:
        return array
    return np.ascontiguousarray(array[0] if layout == 'nchw' else np.moveaxis(array[0], -1, 0))
