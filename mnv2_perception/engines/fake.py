"""An engine without a network, for testing the code around engines.

Its class ids are the image's red channel, and its confidence is the green one (at least 1, like
that of a network), so a test knows every pixel of the result. Its model is a YAML file::

    height: 64
    width: 96
    latency_ms: 100.0
    batch: 4                # images at once; null: any number; default 1
    opening_s: 2.0          # duration of opening; default 0
    hang_after: 3           # number of inferences after which it hangs; default never
    metadata: {mnv2_perception.model_spec: '{"name": ...}'}   # ModelSpec.to_metadata()
"""

from pathlib import Path
import time

import numpy as np
import yaml

from mnv2_perception.engines.base import Engine, Opening, Tensors, TensorSpec
from mnv2_perception.errors import EngineError


class FakeEngine(Engine):
    """Returns the red channel as class ids and the green one as confidence, after a given time.

    Raises:
        EngineError: the YAML file is missing or lacks a key.
    """

    name = 'fake'

    def __init__(self, model: Path, how: Opening) -> None:
        try:
            values = yaml.safe_load(model.read_text(encoding='utf-8'))
            height, width = int(values['height']), int(values['width'])
            self._latency_s = float(values['latency_ms']) / 1000.0
            batch = values.get('batch', 1)
            opening_s = float(values.get('opening_s', 0.0))
            self._hang_after = float(values.get('hang_after', 'inf'))
            self.metadata = dict(values['metadata'])
        except (OSError, yaml.YAMLError, KeyError, TypeError, ArithmeticError, ValueError) as exc:
            raise EngineError(
                f'{model}: the fake engine takes a YAML file with height, width, latency_ms and '
                f'metadata ({type(exc).__name__}: {exc})'
            ) from exc
        time.sleep(opening_s)
        self._inferences = 0
        self.at_once = how.at_once
        self.model = model.name
        uint8 = np.dtype(np.uint8)
        self.inputs = (TensorSpec('image', (batch, height, width, 3), uint8),)
        self.outputs = (
            TensorSpec('class_ids', (batch, height, width), uint8),
            TensorSpec('confidence', (batch, height, width), uint8),
        )

    def _infer(self, tensors: Tensors) -> Tensors:
        while self._inferences >= self._hang_after:
            time.sleep(0.1)
        self._inferences += 1
        time.sleep(self._latency_s)
        image = tensors['image']
        return {'class_ids': image[..., 0].copy(), 'confidence': np.maximum(image[..., 1], 1)}

    def _release(self) -> None:
        pass
