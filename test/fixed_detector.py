"""Write a detector that finds the same boxes in every image, as ONNX."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from identity_network import identity_spec
import numpy as np
import pytest

# x1, y1, x2, y2 in 0..1, score, class id
Row = tuple[float, float, float, float, float, int]
ROWS: tuple[Row, ...] = (
    (0.5, 0.25, 1.0, 0.5, 0.9, 1),
    (0.5, 0.25, 0.9, 0.5, 0.8, 1),  # overlaps the first by 0.8
    (0.5, 0.25, 1.0, 0.5, 0.6, 0),
    (-0.1, 0.5, 0.25, 1.2, 0.2, 0),
)


def write_detector(
    path: Path, height: int, width: int, rows: Sequence[Row] = ROWS, **changes: Any
) -> Path:
    """Write the detector with classes `car` and `dog`; `changes` apply to its spec."""
    onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    from onnx import helper, TensorProto

    table = np.array(rows, np.float32).reshape(1, -1, 6)
    outputs = {
        'boxes': (table[..., :4], TensorProto.FLOAT),
        'scores': (table[..., 4], TensorProto.FLOAT),
        'class_ids': (table[..., 5].astype(np.int32), TensorProto.INT32),
    }
    graph = helper.make_graph(
        [
            helper.make_node(
                'Constant', [], [name], value=onnx.numpy_helper.from_array(np.ascontiguousarray(a))
            )
            for name, (a, _) in outputs.items()
        ],
        'fixed',
        [helper.make_tensor_value_info('image', TensorProto.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info(name, kind, a.shape)
         for name, (a, kind) in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    spec = identity_spec(
        height, width,
        **{'task': 'detection', 'output': 'boxes', 'classes': ['car', 'dog'], **changes},
    )
    helper.set_model_props(model, spec.to_metadata())
    onnx.save(model, str(path))
    return path
