"""Segmenter: find the class id and the confidence of each pixel of an RGB image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines import Engine
from mnv2_perception.errors import ImageError
from mnv2_perception.model_spec import ModelSpec, UNLABELLED
from mnv2_perception.tasks.pipeline import (
    check_between_0_and_1,
    check_rotation,
    Pipeline,
    score_planes,
)
from mnv2_perception.vision.decode import ids_and_confidence, ids_on_image, known_ids
from mnv2_perception.vision.image_files import check_file
from mnv2_perception.vision.preprocess import check_image, rotate_image


@dataclass(frozen=True)
class Segmentation:
    """A segmenter's result for one image.

    Args:
        class_ids: (H, W) uint8, the image's size; 255 where no class is confident enough.
        find_confidence: called when `confidence` is first read, because not every robot needs it.
    """

    class_ids: NDArray[np.uint8]
    find_confidence: Callable[[], NDArray[np.uint8]]

    @cached_property
    def confidence(self) -> NDArray[np.uint8]:
        """(H, W) uint8, probability of the winning class × 255.

        If the model outputs only ids, it is 255 wherever there is a class.
        """
        return self.find_confidence()


class Segmenter(Pipeline[Segmentation]):
    """Segments images with one opened model.

    Args:
        engine: the opened model; closed with the segmenter.
        spec: ModelSpec of the model.
        min_confidence: pixels below it (0 to 1) get id 255. May be changed between calls.
        rotate: degrees clockwise (0, 90, 180, 270) that turn a tilted camera's image upright for
            the network; the mask comes back in the camera's own orientation.
        ignore_mask: (H, W) bool; True pixels (such as the robot's own bumper) get id 255.

    Raises:
        ModelError: the model is not for segmentation, or spec and engine disagree.
        ImageError: `rotate` is not one of these, or `min_confidence` not between 0 and 1.
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
        """Turn an image upright.

        Raises:
            ImageError: the image has the wrong shape or dtype, or not the size of `ignore_mask`.
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
        """Make the mask from the model's outputs, at the image's size.

        Raises:
            ModelError: an output is not finite, or scores are not what the spec says.
        """
        ids, confidence = self._decode(outputs)
        if self.spec.output != 'ids':  # of 255 classes, even the least probable winner has 1
            self.require_finite(confidence != 0)
        if self.min_confidence > 0.0:
            ids[confidence < round(self.min_confidence * 255)] = UNLABELLED
        height, width = image.shape[:2]
        rotate = self.rotate
        upright = (width, height) if rotate in (90, 270) else (height, width)
        placed = self.placement(image, rotate)

        def on_image(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
            return rotate_image(ids_on_image(cells, *upright, placed), -rotate)

        ids = on_image(ids)
        if self.ignore_mask is not None:
            ids[self.ignore_mask] = UNLABELLED
        return Segmentation(ids, partial(on_image, confidence))

    def _decode(
        self, arrays: Sequence[NDArray[Any]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return class ids and confidence (h, w) uint8 at the network's output stride."""
        spec = self.spec
        if spec.output == 'ids_confidence':
            ids, confidence = arrays[0][0], arrays[1][0]
        else:
            planes = score_planes(arrays[0], spec.output_layout)
            if spec.output == 'ids':
                return known_ids(planes[0], len(spec.classes), spec.background, UNLABELLED)
            scores = planes.astype(np.float32, copy=False)
            if spec.output != 'logits':
                self.require_probabilities(scores)
            else:
                _, rows, columns = scores.shape
                self.require_logits(scores[:, :: 1 + rows // 8, :: 1 + columns // 8])
            ids, confidence = ids_and_confidence(scores, spec.output)
        if spec.background:
            ids -= np.uint8(1)  # wraps: the network's 0 becomes 255, "no class"
        return ids, confidence


def read_ignore_mask(path: Path) -> NDArray[np.bool_]:
    """Read a PNG whose non-black pixels are to be ignored, as (H, W) bool.

    Raises:
        ImageError: the file is missing, not an image, or larger than any camera's.
    """
    try:
        data = path.read_bytes()
        check_file(data)
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    except (OSError, ImageError, cv2.error) as exc:
        raise ImageError(f'{path}: {exc}; give a PNG that is white where pixels are '
                         f'ignored') from exc
    if mask is None:
        raise ImageError(f'{path}: is not a readable image; give a PNG that is white where pixels '
                         f'are ignored')
    return np.asarray(mask > 0)
