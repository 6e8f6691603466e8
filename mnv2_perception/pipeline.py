"""One RGB image in, one result out: preprocess, infer, decode. No ROS."""

from dataclasses import dataclass
import os
from pathlib import Path
import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines import Engine, open_engine
from mnv2_perception.errors import ImageError, ModelError, SetupError
from mnv2_perception.model_spec import ModelSpec, UNLABELLED
from mnv2_perception.vision.decode import ids_and_confidence, resize_ids
from mnv2_perception.vision.detections import boxes_on_image, select_boxes
from mnv2_perception.vision.preprocess import check_image, normalise, resize_image, rotate_image

ROTATIONS = (0, 90, 180, 270)


@dataclass(frozen=True)
class Segmentation:
    """What a segmenter says of one image.

    Attributes:
        class_ids: (H, W) uint8, the image's size; 255 where no class is sure enough.
        confidence: (H, W) uint8, probability of the winning class × 255.
    """

    class_ids: NDArray[np.uint8]
    confidence: NDArray[np.uint8]


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
        if spec.task != 'segmentation':
            raise ModelError(
                f'{engine.model}: is for {spec.task}; choose a model for segmentation'
            )
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
        path = find_model(model)
        opened = open_engine(path, engine, threads)
        try:
            spec = ModelSpec.from_metadata(opened.metadata, path)
            return cls(opened, spec, min_confidence, rotate, ignore_mask)
        except Exception:
            opened.close()
            raise

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
        resized = resize_image(upright, self.spec.height, self.spec.width)
        ids, confidence = self._infer(resized)
        if self.min_confidence > 0.0:
            ids[confidence < round(self.min_confidence * 255)] = UNLABELLED
        ids = rotate_image(resize_ids(ids, *upright.shape[:2]), -self.rotate)
        confidence = rotate_image(resize_ids(confidence, *upright.shape[:2]), -self.rotate)
        if self.ignore_mask is not None:
            ids[self.ignore_mask] = UNLABELLED
        return Segmentation(ids, confidence)

    def _infer(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        spec = self.spec
        tensor: NDArray[Any]
        if spec.input == 'uint8_nhwc':
            tensor = (image if spec.channel_order == 'rgb' else image[:, :, ::-1])[None]
        else:
            tensor = normalise(image, spec.mean, spec.std, spec.channel_order)[None]
        outputs = self.engine.infer({self.engine.inputs[0].name: tensor})
        arrays = [outputs[out.name][0] for out in self.engine.outputs]
        if spec.output == 'ids_confidence':
            return arrays[0], arrays[1]
        return ids_and_confidence(arrays[0], spec.output)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


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
        if spec.task != 'detection':
            raise ModelError(f'{engine.model}: is for {spec.task}; choose a model for detection')
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
        path = find_model(model)
        opened = open_engine(path, engine, threads)
        try:
            spec = ModelSpec.from_metadata(opened.metadata, path)
            return cls(opened, spec, min_score, nms_iou, rotate)
        except Exception:
            opened.close()
            raise

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Find the objects of one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size; only read.

        Raises:
            ImageError: the image is of another shape or dtype.
            EngineError: the runtime failed.
        """
        check_image(image)
        spec = self.spec
        upright = rotate_image(image, self.rotate)
        resized = resize_image(upright, spec.height, spec.width)
        tensor: NDArray[Any]
        if spec.input == 'uint8_nhwc':
            tensor = (resized if spec.channel_order == 'rgb' else resized[:, :, ::-1])[None]
        else:
            tensor = normalise(resized, spec.mean, spec.std, spec.channel_order)[None]
        outputs = self.engine.infer({self.engine.inputs[0].name: tensor})
        candidates, scores, class_ids = (outputs[out.name][0] for out in self.engine.outputs)
        height, width = image.shape[:2]
        boxes = boxes_on_image(candidates, height, width, self.rotate)
        kept = select_boxes(boxes, scores, class_ids, self.min_score, self.nms_iou)
        return Detections(boxes[kept], scores[kept], class_ids[kept].astype(np.int32))

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def check_model(engine: Engine, spec: ModelSpec) -> None:
    """Raise ModelError unless the graph takes and gives what the spec says."""
    if len(engine.inputs) != 1:
        raise ModelError(f'{engine.model}: has {len(engine.inputs)} inputs, expected one image')
    found = engine.inputs[0]
    shape, dtype = {
        'uint8_nhwc': ((1, spec.height, spec.width, 3), np.uint8),
        'float_nchw': ((1, 3, spec.height, spec.width), np.float32),
    }[spec.input]
    if not found.fits(np.empty(shape, dtype)):
        raise ModelError(
            f'{engine.model}: takes {found}, but its spec says {spec.input} of height '
            f'{spec.height} and width {spec.width}; correct the spec or export again'
        )
    count = {'ids_confidence': 2, 'boxes': 3}.get(spec.output, 1)
    if len(engine.outputs) != count:
        raise ModelError(
            f'{engine.model}: gives {len(engine.outputs)} outputs, but its spec says '
            f'{spec.output}, which is {count}; correct the spec or export again'
        )
    if spec.output == 'boxes':
        check_boxes(engine)
        return
    channels = 1 if spec.output == 'sigmoid' else len(spec.classes)
    for out in engine.outputs:
        if spec.output == 'ids_confidence':
            expected, fits = '(1, H, W) uint8', len(out.shape) == 3 and out.dtype == np.uint8
        else:
            expected = f'(1, {channels}, H, W) float'
            fits = len(out.shape) == 4 and out.shape[1] in (None, channels)
            fits = fits and out.dtype.kind == 'f'
        if not fits:
            raise ModelError(
                f'{engine.model}: gives {out}, but {spec.output} of {len(spec.classes)} classes '
                f'is {expected}; correct the spec or export again'
            )


def check_boxes(engine: Engine) -> None:
    """Raise ModelError unless the outputs are a detector's: boxes, scores, class ids."""
    boxes, scores, class_ids = engine.outputs
    count = boxes.shape[1] if len(boxes.shape) == 3 else None
    for out, sides, kind, expected in (
        (boxes, (count, 4), 'f', '(1, K, 4) float'),
        (scores, (count,), 'f', '(1, K) float'),
        (class_ids, (count,), 'i', '(1, K) int'),
    ):
        if out.shape[1:] != sides or out.dtype.kind != kind:
            raise ModelError(
                f'{engine.model}: gives {out}, but boxes are {expected}, in the order boxes, '
                f'scores, class ids; correct the spec or export again'
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
