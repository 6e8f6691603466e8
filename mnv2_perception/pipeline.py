"""One RGB image in, one result out: preprocess, infer, decode. No ROS."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
import sys
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines import Engine, open_engine, TensorSpec
from mnv2_perception.errors import ImageError, ModelError, SetupError
from mnv2_perception.model_spec import ModelSpec, UNLABELLED
from mnv2_perception.vision.decode import (
    class_probabilities,
    ids_and_confidence,
    known_ids,
    resize_ids,
)
from mnv2_perception.vision.detections import boxes_on_image, components, select_boxes
from mnv2_perception.vision.preprocess import (
    check_image,
    fit_image,
    normalise,
    rotate_image,
)

ROTATIONS = (0, 90, 180, 270)

Result = TypeVar('Result')
P = TypeVar('P', bound='Pipeline[Any]')


class Pipeline(ABC, Generic[Result]):
    """One RGB image in, one result out, with one opened model: what the three tasks share.

    A call is `prepare`, the model, `finish`; who runs several images at once, of several cameras,
    calls these with `infer_images` between.

    Args:
        engine: the opened model; closed with the pipeline.
        spec: what the model takes and gives.

    Raises:
        ModelError: the model is for another task, or spec and engine disagree.
    """

    task: str

    def __init__(self, engine: Engine, spec: ModelSpec) -> None:
        if spec.task != self.task:
            raise ModelError(
                f'{engine.model}: is for {spec.task}; choose a model for {self.task}'
            )
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
        """Open a model by path or by the name of a shipped one.

        Args:
            model: its path or name.
            engine: see `open_engine`, as for the next.
            threads: CPU threads for one inference.
            build_engine: build a missing TensorRT plan, which takes minutes.
            precision: of the arithmetic.
            settings: what else the class takes.

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
            ImageError: the image is of another shape or dtype, or see `prepare`.
            EngineError: the runtime failed.
        """
        outputs = infer_images(self.engine, self.spec, [self.prepare(image)])
        return self.finish(image, outputs[0])

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what the network is to see of an image, (H, W, 3) uint8 RGB.

        Raises:
            ImageError: the image is of another shape or dtype.
        """
        check_image(image)
        return image

    @abstractmethod
    def finish(self, image: NDArray[np.uint8], outputs: Sequence[NDArray[Any]]) -> Result:
        """Make the result for an image of the model's outputs for it, batch axis of 1 included."""

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def check_between_0_and_1(**values: float) -> None:
    """Raise ImageError unless each of the named values is."""
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ImageError(f'{name} is {value}, expected 0 to 1')


def check_rotation(rotate: int) -> None:
    """Raise ImageError unless it is one of ROTATIONS."""
    if rotate not in ROTATIONS:
        raise ImageError(f'rotate is {rotate}, expected one of {ROTATIONS} degrees')


@dataclass(frozen=True)
class Segmentation:
    """What a segmenter says of one image.

    Attributes:
        class_ids: (H, W) uint8, the image's size; 255 where no class is sure enough.
        confidence: (H, W) uint8, probability of the winning class × 255; always 255 where there
            is a class if the model gives ids alone.
    """

    class_ids: NDArray[np.uint8]
    confidence: NDArray[np.uint8]


class Segmenter(Pipeline[Segmentation]):
    """Segments images with one opened model.

    Args:
        engine: the opened model; closed with the segmenter.
        spec: what the model takes and gives.
        min_confidence: pixels below it (0 to 1) get id 255. May be changed between calls.
        rotate: degrees clockwise (0, 90, 180, 270) that set a tilted camera's image upright
            for the network; the mask comes back in the camera's own orientation.
        ignore_mask: (H, W) bool; True pixels (the robot's own bumper) get id 255.

    Raises:
        ModelError: the model is not for segmentation, or spec and engine disagree.
        ImageError: `rotate` is no multiple of 90, or `min_confidence` not between 0 and 1.
    """

    task = 'segmentation'

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        min_confidence: float = 0.0,
        rotate: int = 0,
        ignore_mask: NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__(engine, spec)
        check_between_0_and_1(min_confidence=min_confidence)
        check_rotation(rotate)
        self.min_confidence = min_confidence
        self.rotate = rotate
        self.ignore_mask = ignore_mask

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Set an image upright.

        Raises:
            ImageError: the image is of another shape or dtype, or not of ignore_mask's size.
        """
        check_image(image)
        size = image.shape[:2]
        if self.ignore_mask is not None and self.ignore_mask.shape != size:
            raise ImageError(
                f'ignore_mask is {self.ignore_mask.shape}, the image {size}; '
                f'draw it on an image of this camera'
            )
        return rotate_image(image, self.rotate)

    def finish(self, image: NDArray[np.uint8], outputs: Sequence[NDArray[Any]]) -> Segmentation:
        """Make the mask of the model's outputs, at the image's size."""
        ids, confidence = self._decode(outputs)
        if self.min_confidence > 0.0:
            ids[confidence < round(self.min_confidence * 255)] = UNLABELLED
        height, width = image.shape[:2]
        upright = (width, height) if self.rotate in (90, 270) else (height, width)
        ids = rotate_image(resize_ids(ids, *upright), -self.rotate)
        confidence = rotate_image(resize_ids(confidence, *upright), -self.rotate)
        if self.ignore_mask is not None:
            ids[self.ignore_mask] = UNLABELLED
        return Segmentation(ids, confidence)

    def _decode(
        self, arrays: Sequence[NDArray[Any]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return ids and confidence (h, w) at the network's output stride."""
        spec = self.spec
        if spec.output == 'ids_confidence':
            ids, confidence = arrays[0][0], arrays[1][0]
        else:
            planes = score_planes(arrays[0], spec.output_layout)
            if spec.output == 'ids':
                return known_ids(planes[0], len(spec.classes), spec.background, UNLABELLED)
            scores = planes.astype(np.float32, copy=False)
            ids, confidence = ids_and_confidence(scores, spec.output)
        if spec.background:
            ids -= np.uint8(1)  # wraps: the network's 0 becomes 255, "no class"
        return ids, confidence


@dataclass(frozen=True)
class Classification:
    """What a classifier says of one image: the likeliest classes, best first.

    Attributes:
        class_ids: (K,) int64, K at most `top_k`; empty where no class is sure enough.
        scores: (K,) float32, their probabilities, 0 to 1.
    """

    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]


class Classifier(Pipeline[Classification]):
    """Classifies images with one opened model.

    Args:
        engine: the opened model; closed with the classifier.
        spec: what the model takes and gives.
        top_k: how many classes to give at most. May be changed between calls.
        min_confidence: classes below it (0 to 1) are left out. May be changed between calls.

    Raises:
        ModelError: the model is not for classification, or spec and engine disagree.
        ImageError: `top_k` is below 1, or `min_confidence` not between 0 and 1.
    """

    task = 'classification'

    def __init__(
        self, engine: Engine, spec: ModelSpec, top_k: int = 5, min_confidence: float = 0.0
    ) -> None:
        super().__init__(engine, spec)
        if top_k < 1:
            raise ImageError(f'top_k is {top_k}, expected 1 or more')
        check_between_0_and_1(min_confidence=min_confidence)
        self.top_k = top_k
        self.min_confidence = min_confidence

    def finish(self, image: NDArray[np.uint8], outputs: Sequence[NDArray[Any]]) -> Classification:
        """Sort the classes."""
        probabilities = class_probabilities(
            outputs[0].reshape(-1).astype(np.float32, copy=False), self.spec.output
        )
        if self.spec.background:
            probabilities = probabilities[1:]
        best = np.argsort(-probabilities, kind='stable')[: self.top_k]
        best = best[probabilities[best] >= self.min_confidence]
        return Classification(best.astype(np.int64, copy=False), probabilities[best])


@dataclass(frozen=True)
class Detections:
    """What a detector finds in one image, best first.

    Attributes:
        boxes: (N, 4) float32, x1, y1, x2, y2 in the image's own pixels; x2 and y2 are the first
            beyond the box.
        scores: (N,) float32, 0 to 1.
        class_ids: (N,) int32.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]


class Detector(Pipeline[Detections]):
    """Finds objects in images with one opened model.

    Args:
        engine: the opened model; closed with the detector.
        spec: what the model takes and gives.
        min_score: boxes below it (0 to 1) are left out. May be changed between calls.
        nms_iou: a box that overlaps a better one of its class by more (intersection over union,
            0 to 1) is left out. May be changed between calls.
        rotate: degrees clockwise (0, 90, 180, 270) that set a tilted camera's image upright
            for the network; the boxes come back in the camera's own orientation.

    Raises:
        ModelError: the model is not for detection, or spec and engine disagree.
        ImageError: `rotate` is no multiple of 90, or a threshold not between 0 and 1.
    """

    task = 'detection'

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        min_score: float = 0.3,
        nms_iou: float = 0.5,
        rotate: int = 0,
    ) -> None:
        super().__init__(engine, spec)
        check_between_0_and_1(min_score=min_score, nms_iou=nms_iou)
        check_rotation(rotate)
        self.min_score = min_score
        self.nms_iou = nms_iou
        self.rotate = rotate

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Set an image upright.

        Raises:
            ImageError: the image is of another shape or dtype.
        """
        check_image(image)
        return rotate_image(image, self.rotate)

    def finish(self, image: NDArray[np.uint8], outputs: Sequence[NDArray[Any]]) -> Detections:
        """Put the best of the model's boxes on the image."""
        candidates, scores, class_ids = (array[0] for array in outputs)
        height, width = image.shape[:2]
        boxes = boxes_on_image(candidates, height, width, self.rotate)
        kept = select_boxes(boxes, scores, class_ids, self.min_score, self.nms_iou)
        return Detections(boxes[kept], scores[kept], class_ids[kept].astype(np.int32))


def detections_from_mask(
    mask: Segmentation, class_ids: Sequence[int], min_area: int = 1
) -> Detections:
    """Take a mask's connected components for objects, best first: boxes without a detector.

    Args:
        mask: of one image.
        class_ids: whose components count.
        min_area: pixels that a component has at least.
    """
    boxes, scores, ids, _ = components(mask.class_ids, mask.confidence, class_ids, min_area)
    order = np.argsort(-scores, kind='stable')
    return Detections(boxes[order], scores[order], ids[order])


@contextmanager
def opening(
    model: str | Path,
    engine: str = 'auto',
    threads: int = 0,
    build: bool = False,
    precision: str = 'auto',
) -> Iterator[tuple[Engine, ModelSpec]]:
    """Open a model, by path or by the name of a shipped one; it is closed if the block fails.

    See `open_engine` for the rest.

    Raises:
        ModelError: there is no such model, or nothing says what it takes and gives.
        EngineError: the runtime is missing or refuses the model.
    """
    path = find_model(model)
    opened = open_engine(path, engine, threads, build, precision)
    try:
        yield opened, ModelSpec.from_metadata(opened.metadata, path)
    except BaseException:
        opened.close()
        raise


class OpenModels:
    """Models that are opened once in a process, however many pipelines use them.

    Each of these closes its engine; the last one does it.
    """

    def __init__(self) -> None:
        self._opened: dict[tuple[object, ...], tuple[Engine, ModelSpec]] = {}

    @contextmanager
    def opening(
        self,
        model: str | Path,
        engine: str = 'auto',
        threads: int = 0,
        build: bool = False,
        precision: str = 'auto',
    ) -> Iterator[tuple[Engine, ModelSpec]]:
        """Open a model, or share it if it is open in the same way; else see `opening`."""
        path = find_model(model)
        # A file that was replaced since is another model.
        how = (path, path.stat().st_mtime_ns, engine, threads, precision)
        self._opened = {key: held for key, held in self._opened.items() if not held[0].closed}
        if how in self._opened:
            opened, spec = self._opened[how]
            opened.share()
            try:
                yield opened, spec
            except BaseException:
                opened.close()
                raise
            return
        with opening(path, engine, threads, build, precision) as (opened, spec):
            self._opened[how] = opened, spec
            yield opened, spec


def images_at_once(engine: Engine) -> int | None:
    """Return how many images one inference takes; None is any number."""
    first = {spec.shape[0] if spec.shape else 1 for spec in (*engine.inputs, *engine.outputs)}
    return first.pop() if len(first) == 1 else 1  # where outputs do not follow, one by one


def infer_images(
    engine: Engine, spec: ModelSpec, images: Sequence[NDArray[np.uint8]]
) -> list[list[NDArray[Any]]]:
    """Run a model once on images of any sizes.

    Args:
        engine: an engine that `check_model` accepted.
        spec: the model's.
        images: (H, W, 3) uint8 RGB each; at most `images_at_once`.

    Returns:
        For each image the outputs that count, batch axis of 1 included.

    Raises:
        ModelError: a graph of open sides shows only now that it gives what the spec does not say.
        EngineError: the runtime failed.
    """
    taken = engine.inputs[0]
    tensors = [
        input_tensor(fit_image(image, spec.height, spec.width, spec.fit), spec, taken.dtype)
        for image in images
    ]
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
    """Return an RGB image (H, W, 3) of the network's size as the tensor that it takes."""
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


def check_model(engine: Engine, spec: ModelSpec) -> None:
    """Raise ModelError unless the graph takes and gives what the spec says."""
    if len(engine.inputs) != 1:
        raise ModelError(f'{engine.model}: has {len(engine.inputs)} inputs, expected one image')
    found = engine.inputs[0]
    kind, layout = spec.input.split('_')
    size, batch = (spec.height, spec.width), images_at_once(engine)
    shape = (batch or 1, 3, *size) if layout == 'nchw' else (batch or 1, *size, 3)
    fits = found.dtype.kind == 'f' if kind == 'float' else found.dtype == np.uint8
    if not fits or not found.fits(np.empty(shape, found.dtype)):
        raise ModelError(
            f'{engine.model}: takes {found}, but its spec says {spec.input} of height '
            f'{spec.height} and width {spec.width}; correct the spec or export again'
        )
    if spec.output == 'boxes':
        check_boxes(engine, spec, batch)
        return
    for out in find_outputs(engine, spec):
        if out.shape:  # else the graph does not even tell the number of axes
            check_output(engine, out, spec, batch)


def find_outputs(engine: Engine, spec: ModelSpec) -> list[TensorSpec]:
    """Return the outputs that count.

    Raises:
        ModelError: there are too few or too many of them.
    """
    found = [out for out in engine.outputs if spec.output_name in ('', out.name)]
    count = {'ids_confidence': 2, 'boxes': 3}.get(spec.output, 1)
    if len(found) != count:
        names = ', '.join(out.name for out in engine.outputs)
        raise ModelError(
            f'{engine.model}: gives {len(engine.outputs)} outputs ({names}), but its spec says '
            f'{spec.output}, which is {count}'
            + (f', named {spec.output_name}' if spec.output_name else '')
            + '; correct the spec (output_name tells which counts) or export again'
        )
    return found


def check_output(
    engine: Engine, out: TensorSpec, spec: ModelSpec, batch: int | None
) -> None:
    """Raise ModelError unless an output, as announced or as given, is what the spec says."""
    channels, sides, images = spec.channels, out.shape[1:], batch or 'N'
    dtype, fits = {
        'ids_confidence': ('uint8', out.dtype == np.uint8),
        'ids': ('integers', out.dtype.kind in 'iub'),
    }.get(spec.output, ('float', out.dtype.kind == 'f'))
    if spec.task == 'classification':
        expected = f'({images}, {channels})'  # or with sides of one, as pooling leaves them
        told = [side for side in sides if side not in (1, None)]
        fits = fits and len(sides) > 0
        fits = fits and (told or [channels]) == [channels]
        fits = fits and (bool(told) or None in sides or channels == 1)
    elif spec.output == 'ids_confidence' or (channels == 1 and len(sides) == 2):
        expected = f'({images}, H, W)'
        fits = fits and len(sides) == 2
    else:
        first = spec.output_layout == 'nchw'
        inner = f'{channels}, H, W' if first else f'H, W, {channels}'
        expected = f'({images}, {inner})'
        fits = fits and len(sides) == 3 and sides[0 if first else 2] in (None, channels)
    if not fits or out.shape[0] not in (None, batch):
        raise ModelError(
            f'{engine.model}: gives {out}, but {spec.output} of {len(spec.classes)} classes'
            f'{" and a background" if spec.background else ""} is {expected} {dtype}'
            f'{f" in {spec.output_layout}" if len(sides) == 3 else ""}; '
            f'correct the spec or export again'
        )


def check_boxes(engine: Engine, spec: ModelSpec, batch: int | None) -> None:
    """Raise ModelError unless the outputs are a detector's, of a fixed number of boxes."""
    boxes, scores, class_ids = find_outputs(engine, spec)
    count = boxes.shape[1] if len(boxes.shape) == 3 else None
    images = batch or 'N'
    for out, shape, kind, expected in (
        (boxes, (batch, count, 4), 'f', f'({images}, K, 4) float'),
        (scores, (batch, count), 'f', f'({images}, K) float'),
        (class_ids, (batch, count), 'i', f'({images}, K) int'),
    ):
        if count is None or out.shape != shape or out.dtype.kind != kind:
            raise ModelError(
                f'{engine.model}: gives {out}, but boxes are {expected} of one fixed K, in the '
                f'order boxes, scores, class ids; correct the spec or export again'
            )


def find_model(model: str | Path) -> Path:
    """Return the path of a model given by path, or by the name of a shipped one.

    Raises:
        ModelError: there is none; the message lists those that are shipped.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path.absolute()
    folders = shared_folders('models')
    for folder in folders:
        shipped = folder / f'{model}.onnx'
        if shipped.is_file():
            return shipped
    names = sorted({file.stem for folder in folders for file in folder.glob('*.onnx')})
    raise ModelError(
        f'{model}: is neither a model file nor a shipped model; shipped are: '
        f'{", ".join(names) or "none (was the package installed whole?)"}'
    )


def find_shared_file(name: str) -> Path:
    """Return the path of a file that the package ships, such as `config/fastdds.xml`.

    Raises:
        SetupError: the package is not installed whole.
    """
    folder, _, file = name.rpartition('/')
    for candidate in shared_folders(folder):
        if (candidate / file).is_file():
            return candidate / file
    raise SetupError(f'{name} is missing; build the package with colcon, or run `make setup`')


def shared_folders(folder: str) -> list[Path]:
    """Return where files of the package's share folder may lie, best first.

    In a checkout they lie beside the code; once installed, in the package's share folder, which
    is looked up as the ament index does.
    """
    package = Path(__file__).parent
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    return [
        package / folder,
        package.parent / folder,
        *(Path(prefix, 'share', package.name, folder) for prefix in prefixes if prefix),
    ]


def read_ignore_mask(path: Path) -> NDArray[np.bool_]:
    """Read a PNG whose non-black pixels are to be ignored, as (H, W) bool.

    Raises:
        ImageError: the file is missing or no image.
    """
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ImageError(f'{path}: is no readable image; give a PNG, white where to ignore')
    return np.asarray(mask > 0)
