"""One RGB image in, one result out: preprocess, infer, decode. No ROS."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
import sys
from typing import Any

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


class Segmenter:
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

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        min_confidence: float = 0.0,
        rotate: int = 0,
        ignore_mask: NDArray[np.bool_] | None = None,
    ) -> None:
        check_task(engine, spec, 'segmentation')
        check_model(engine, spec)
        if not 0.0 <= min_confidence <= 1.0:
            raise ImageError(f'min_confidence is {min_confidence}, expected 0 to 1')
        if rotate not in ROTATIONS:
            raise ImageError(f'rotate is {rotate}, expected one of {ROTATIONS} degrees')
        self.engine = engine
        self.spec = spec
        self.min_confidence = min_confidence
        self.rotate = rotate
        self.ignore_mask = ignore_mask

    @classmethod
    def open(
        cls,
        model: str | Path,
        engine: str = 'auto',
        threads: int = 0,
        min_confidence: float = 0.0,
        rotate: int = 0,
        ignore_mask: NDArray[np.bool_] | None = None,
    ) -> 'Segmenter':
        """Open a model by path or by the name of a shipped one; see Segmenter for the rest.

        Raises:
            ModelError: there is no such model, or it is not for segmentation.
            EngineError: the runtime is missing or refuses the model.
        """
        with opening(model, engine, threads) as (opened, spec):
            return cls(opened, spec, min_confidence, rotate, ignore_mask)

    def __call__(self, image: NDArray[np.uint8]) -> Segmentation:
        """Segment one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size; only read.

        Raises:
            ImageError: the image is of another shape or dtype, or not of ignore_mask's size.
            EngineError: the runtime failed.
        """
        check_image(image)
        height, width = image.shape[:2]
        if self.ignore_mask is not None and self.ignore_mask.shape != (height, width):
            raise ImageError(
                f'ignore_mask is {self.ignore_mask.shape}, the image {(height, width)}; '
                f'draw it on an image of this camera'
            )
        upright = rotate_image(image, self.rotate)
        ids, confidence = self._infer(upright)
        if self.min_confidence > 0.0:
            ids[confidence < round(self.min_confidence * 255)] = UNLABELLED
        ids = rotate_image(resize_ids(ids, *upright.shape[:2]), -self.rotate)
        confidence = rotate_image(resize_ids(confidence, *upright.shape[:2]), -self.rotate)
        if self.ignore_mask is not None:
            ids[self.ignore_mask] = UNLABELLED
        return Segmentation(ids, confidence)

    def _infer(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return ids and confidence (h, w) at the network's output stride."""
        spec = self.spec
        arrays = infer_image(self.engine, spec, image)
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

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


@dataclass(frozen=True)
class Classification:
    """What a classifier says of one image: the likeliest classes, best first.

    Attributes:
        class_ids: (K,) int64, K at most `top_k`; empty where no class is sure enough.
        scores: (K,) float32, their probabilities, 0 to 1.
    """

    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]


class Classifier:
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

    def __init__(
        self, engine: Engine, spec: ModelSpec, top_k: int = 5, min_confidence: float = 0.0
    ) -> None:
        check_task(engine, spec, 'classification')
        check_model(engine, spec)
        if top_k < 1:
            raise ImageError(f'top_k is {top_k}, expected 1 or more')
        if not 0.0 <= min_confidence <= 1.0:
            raise ImageError(f'min_confidence is {min_confidence}, expected 0 to 1')
        self.engine = engine
        self.spec = spec
        self.top_k = top_k
        self.min_confidence = min_confidence

    @classmethod
    def open(
        cls,
        model: str | Path,
        engine: str = 'auto',
        threads: int = 0,
        top_k: int = 5,
        min_confidence: float = 0.0,
    ) -> 'Classifier':
        """Open a model by path or by the name of a shipped one; see Classifier for the rest.

        Raises:
            ModelError: there is no such model, or it is not for classification.
            EngineError: the runtime is missing or refuses the model.
        """
        with opening(model, engine, threads) as (opened, spec):
            return cls(opened, spec, top_k, min_confidence)

    def __call__(self, image: NDArray[np.uint8]) -> Classification:
        """Classify one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size; only read.

        Raises:
            ImageError: the image is of another shape or dtype.
            EngineError: the runtime failed.
        """
        check_image(image)
        scores = infer_image(self.engine, self.spec, image)[0]
        probabilities = class_probabilities(
            scores.reshape(-1).astype(np.float32, copy=False), self.spec.output
        )
        if self.spec.background:
            probabilities = probabilities[1:]
        best = np.argsort(-probabilities, kind='stable')[: self.top_k]
        best = best[probabilities[best] >= self.min_confidence]
        return Classification(best.astype(np.int64, copy=False), probabilities[best])

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


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


class Detector:
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

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        min_score: float = 0.3,
        nms_iou: float = 0.5,
        rotate: int = 0,
    ) -> None:
        check_task(engine, spec, 'detection')
        check_model(engine, spec)
        for name, value in (('min_score', min_score), ('nms_iou', nms_iou)):
            if not 0.0 <= value <= 1.0:
                raise ImageError(f'{name} is {value}, expected 0 to 1')
        if rotate not in ROTATIONS:
            raise ImageError(f'rotate is {rotate}, expected one of {ROTATIONS} degrees')
        self.engine = engine
        self.spec = spec
        self.min_score = min_score
        self.nms_iou = nms_iou
        self.rotate = rotate

    @classmethod
    def open(
        cls,
        model: str | Path,
        engine: str = 'auto',
        threads: int = 0,
        min_score: float = 0.3,
        nms_iou: float = 0.5,
        rotate: int = 0,
    ) -> 'Detector':
        """Open a model by path or by the name of a shipped one; see Detector for the rest.

        Raises:
            ModelError: there is no such model, or it is not for detection.
            EngineError: the runtime is missing or refuses the model.
        """
        with opening(model, engine, threads) as (opened, spec):
            return cls(opened, spec, min_score, nms_iou, rotate)

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Find the objects of one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size; only read.

        Raises:
            ImageError: the image is of another shape or dtype.
            EngineError: the runtime failed.
        """
        check_image(image)
        outputs = infer_image(self.engine, self.spec, rotate_image(image, self.rotate))
        candidates, scores, class_ids = (array[0] for array in outputs)
        height, width = image.shape[:2]
        boxes = boxes_on_image(candidates, height, width, self.rotate)
        kept = select_boxes(boxes, scores, class_ids, self.min_score, self.nms_iou)
        return Detections(boxes[kept], scores[kept], class_ids[kept].astype(np.int32))

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


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
    model: str | Path, engine: str = 'auto', threads: int = 0
) -> Iterator[tuple[Engine, ModelSpec]]:
    """Open a model, by path or by the name of a shipped one; it is closed if the block fails.

    Raises:
        ModelError: there is no such model, or nothing says what it takes and gives.
        EngineError: the runtime is missing or refuses the model.
    """
    path = find_model(model)
    opened = open_engine(path, engine, threads)
    try:
        yield opened, ModelSpec.from_metadata(opened.metadata, path)
    except BaseException:
        opened.close()
        raise


def infer_image(
    engine: Engine, spec: ModelSpec, image: NDArray[np.uint8]
) -> list[NDArray[Any]]:
    """Run a model on one image of any size.

    Args:
        engine: an engine that `check_model` accepted.
        spec: the model's.
        image: (H, W, 3) uint8 RGB.

    Returns:
        The outputs that count, batch axis included.

    Raises:
        ModelError: a graph of open sides shows only now that it gives what the spec does not say.
        EngineError: the runtime failed.
    """
    image = fit_image(image, spec.height, spec.width, spec.fit)
    taken = engine.inputs[0]
    outputs = engine.infer({taken.name: input_tensor(image, spec, taken.dtype)})
    arrays = []
    for out in find_outputs(engine, spec):
        array = outputs[out.name]
        if None in out.shape or not out.shape:
            check_output(engine, TensorSpec(out.name, array.shape, array.dtype), spec)
        arrays.append(array)
    return arrays


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


def check_task(engine: Engine, spec: ModelSpec, task: str) -> None:
    """Raise ModelError unless the model is for `task`."""
    if spec.task != task:
        raise ModelError(f'{engine.model}: is for {spec.task}; choose a model for {task}')


def check_model(engine: Engine, spec: ModelSpec) -> None:
    """Raise ModelError unless the graph takes and gives what the spec says."""
    if len(engine.inputs) != 1:
        raise ModelError(f'{engine.model}: has {len(engine.inputs)} inputs, expected one image')
    found = engine.inputs[0]
    kind, layout = spec.input.split('_')
    size = (spec.height, spec.width)
    shape = (1, 3, *size) if layout == 'nchw' else (1, *size, 3)
    fits = found.dtype.kind == 'f' if kind == 'float' else found.dtype == np.uint8
    if not fits or not found.fits(np.empty(shape, found.dtype)):
        raise ModelError(
            f'{engine.model}: takes {found}, but its spec says {spec.input} of height '
            f'{spec.height} and width {spec.width}; correct the spec or export again'
        )
    if spec.output == 'boxes':
        check_boxes(engine, spec)
        return
    for out in find_outputs(engine, spec):
        if out.shape:  # else the graph does not even tell the number of axes
            check_output(engine, out, spec)


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


def check_output(engine: Engine, out: TensorSpec, spec: ModelSpec) -> None:
    """Raise ModelError unless an output, as announced or as given, is what the spec says."""
    channels, sides = spec.channels, out.shape[1:]
    dtype, fits = {
        'ids_confidence': ('uint8', out.dtype == np.uint8),
        'ids': ('integers', out.dtype.kind in 'iub'),
    }.get(spec.output, ('float', out.dtype.kind == 'f'))
    if spec.task == 'classification':
        expected = f'(1, {channels})'  # or with sides of one, as pooling leaves them
        told = [side for side in sides if side not in (1, None)]
        fits = fits and len(sides) > 0
        fits = fits and (told or [channels]) == [channels]
        fits = fits and (bool(told) or None in sides or channels == 1)
    elif spec.output == 'ids_confidence' or (channels == 1 and len(sides) == 2):
        expected = '(1, H, W)'
        fits = fits and len(sides) == 2
    else:
        first = spec.output_layout == 'nchw'
        expected = f'(1, {channels}, H, W)' if first else f'(1, H, W, {channels})'
        fits = fits and len(sides) == 3 and sides[0 if first else 2] in (None, channels)
    if not fits or out.shape[0] not in (None, 1):
        raise ModelError(
            f'{engine.model}: gives {out}, but {spec.output} of {len(spec.classes)} classes'
            f'{" and a background" if spec.background else ""} is {expected} {dtype}'
            f'{f" in {spec.output_layout}" if len(sides) == 3 else ""}; '
            f'correct the spec or export again'
        )


def check_boxes(engine: Engine, spec: ModelSpec) -> None:
    """Raise ModelError unless the outputs are a detector's, of a fixed number of boxes."""
    boxes, scores, class_ids = find_outputs(engine, spec)
    count = boxes.shape[1] if len(boxes.shape) == 3 else None
    for out, shape, kind, expected in (
        (boxes, (1, count, 4), 'f', '(1, K, 4) float'),
        (scores, (1, count), 'f', '(1, K) float'),
        (class_ids, (1, count), 'i', '(1, K) int'),
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
