"""Write a network whose ids are the red channel and whose confidence is the green channel."""

from collections.abc import Callable
from functools import cache
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnv2_perception.model_spec import ModelSpec

# Takes height, width and changes to the spec; returns the model's path and its engine.
MakeModel = Callable[..., tuple[Path, str]]


def identity_spec(height: int, width: int, **changes: Any) -> ModelSpec:
    """Return the spec of this network."""
    values: dict[str, Any] = {
        'name': 'identity', 'task': 'segmentation', 'height': height, 'width': width,
        'classes': [f'class_{index}' for index in range(255)], 'mean': [0.0] * 3, 'std': [1.0] * 3,
        'licence': 'Apache-2.0', **changes,
    }
    return ModelSpec.from_dict(values, 'the test')


def write_fake(
    path: Path, spec: ModelSpec, latency_ms: float = 0.0, batch: int | None = 1
) -> Path:
    """Write the network for FakeEngine."""
    path.write_text(yaml.safe_dump({
        'height': spec.height, 'width': spec.width, 'latency_ms': latency_ms, 'batch': batch,
        'metadata': spec.to_metadata(),
    }))
    return path


def write_onnx(path: Path, spec: ModelSpec, batch: int | None = 1) -> Path:
    """Write the network as ONNX."""
    onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    from onnx import helper, TensorProto

    uint8, size = TensorProto.UINT8, [batch, spec.height, spec.width]
    graph = helper.make_graph(
        [
            helper.make_node('Gather', ['image', 'red'], ['class_ids'], axis=3),
            helper.make_node('Gather', ['image', 'green'], ['any'], axis=3),
            helper.make_node('Max', ['any', 'least'], ['confidence']),
        ],
        'identity',
        [helper.make_tensor_value_info('image', uint8, [*size, 3])],
        [helper.make_tensor_value_info(name, uint8, size) for name in ('class_ids', 'confidence')],
        [*(helper.make_tensor(name, TensorProto.INT64, [], [index])
           for index, name in enumerate(('red', 'green'))),
         helper.make_tensor('least', uint8, [], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    helper.set_model_props(model, spec.to_metadata())
    onnx.save(model, str(path))
    return path


def write_program(path: Path, spec: ModelSpec) -> Path:
    """Write the network as a program of torch.export."""
    facts = {
        'inputs': ['image'], 'outputs': ['class_ids', 'confidence'],
        'metadata': spec.to_metadata(),
    }
    path.write_bytes(_program(spec.height, spec.width, json.dumps(facts)))
    return path


@cache
def _program(height: int, width: int, facts: str) -> bytes:
    """Export the program once per size: torch takes seconds to import its exporter."""
    torch = pytest.importorskip('torch', reason='no torch: run make setup-train')

    class Identity(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, image: Any) -> Any:
            return image[..., 0].clone(), image[..., 1].clamp(min=1)

    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    file = io.BytesIO()
    torch.export.save(
        torch.export.export(Identity(), (image,)), file,
        extra_files={'mnv2_perception.json': facts},
    )
    return file.getvalue()
