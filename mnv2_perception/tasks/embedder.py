"""Embedder: compute the features of an RGB image with the encoder of any of our models."""

from pathlib import Path
import tempfile

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines import Engine, open_engine
from mnv2_perception.engines.encoder import cut_encoder, FEATURES
from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.contract import check_input
from mnv2_perception.tasks.models import find_model
from mnv2_perception.tasks.pipeline import input_tensor
from mnv2_perception.vision.preprocess import check_image


class Embedder:
    """Turns a whole image into a feature vector by a model's encoder; similar for similar images.

    It computes in fp32, whatever the model was verified in, so that machines agree.

    Args:
        engine: the opened encoder (`engines.encoder.cut_encoder`); closed with the embedder.
        spec: ModelSpec of the model that the encoder was cut from.

    Raises:
        ModelError: spec and engine disagree.
    """

    def __init__(self, engine: Engine, spec: ModelSpec) -> None:
        check_input(engine, spec)
        self.engine, self.spec = engine, spec

    @classmethod
    def open(cls, model: str | Path, engine: str = 'auto', threads: int = 0) -> 'Embedder':
        """Open the encoder of a model, given by path or by the name of a shipped one.

        Args:
            model: path of an .onnx file, or name.
            engine: see `open_engine`.
            threads: CPU threads for one inference.

        Raises:
            ModelError: there is no such model, or its encoder cannot be found.
            EngineError: the runtime is missing or refuses the model.
        """
        path = find_model(model)
        encoder = cut_encoder(path)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, path.name)
            file.write_bytes(encoder)
            opened = open_engine(file, engine, threads, precision='fp32')
        try:
            return cls(opened, ModelSpec.from_metadata(opened.metadata, path))
        except BaseException:
            opened.close()
            raise

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (channels,) float32 of an image (H, W, 3) uint8 RGB of any size.

        Raises:
            ImageError: the image has the wrong shape or dtype.
            ModelError: a feature is not finite.
            EngineError: the runtime failed.
        """
        check_image(image)
        taken = self.engine.inputs[0]
        outputs = self.engine.infer({taken.name: input_tensor(image, self.spec, taken.dtype)})
        features = np.asarray(outputs[FEATURES][0], np.float32)
        if not np.isfinite(features).all():
            raise ModelError(
                f'{self.engine.model}: its features for this image are NaN or infinite, so its '
                f'export is broken; export it again'
            )
        return features

    @property
    def channels(self) -> int | None:
        """Number of features of an image; None if the graph does not fix it."""
        return self.engine.outputs[0].shape[-1]

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()
