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
        build_engine: bool = False,
    ) -> 'Segmenter':
        """Open a model by path or by the name of a shipped one; see Segmenter for the rest.

        `build_engine` lets it build a missing TensorRT plan, which takes minutes.

        Raises:
            ModelError: there is no such model, or it is not for segmentation.
            EngineError: the runtime is missing or refuses the model.
        """
        path = find_model(model)
        opened = open_engine(path, engine, threads, build_engine)
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
    count = 2 if spec.output == 'ids_confidence' else 1
    if len(engine.outputs) != count:
        raise ModelError(
            f'{engine.model}: gives {len(engine.outputs)} outputs, but its spec says '
            f'{spec.output}, which is {count}; correct the spec or export again'
        )
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
