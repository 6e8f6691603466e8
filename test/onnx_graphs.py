"""Small ONNX files with the inputs and outputs of networks that somebody else exported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

Tensor = tuple[str, Sequence[int | str | None]]  # dtype, shape


def onnx() -> Any:
    """Return the package, or skip the test that needs it."""
    return pytest.importorskip('onnx', reason='no onnx: run make setup-train')


def node(kind: str, takes: str, gives: str, **attributes: Any) -> Any:
    """Return a node of one input and one output; `to` is a numpy type."""
    helper = onnx().helper
    if 'to' in attributes:
        attributes['to'] = helper.np_dtype_to_tensor_dtype(np.dtype(attributes['to']))
    return helper.make_node(kind, [takes], [gives], **attributes)


def write_graph(
    path: Path, nodes: list[Any], takes: Tensor, gives: dict[str, Tensor], **spec: Any
) -> Path:
    """Write a graph that takes `image`, and its ModelSpec as YAML beside it if there is one."""
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    helper = onnx().helper

    def info(name: str, tensor: Tensor) -> Any:
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(tensor[0]))
        return helper.make_tensor_value_info(name, dtype, tensor[1])

    graph = helper.make_graph(
        nodes, 'foreign', [info('image', takes)],
        [info(name, tensor) for name, tensor in gives.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx().save(model, str(path))
    if spec:
        values = {'name': 'foreign', 'mean': [0.0] * 3, 'std': [1.0] * 3, **spec}
        path.with_suffix('.yaml').write_text(yaml.safe_dump(values))
    return path


def write_mean_colour(path: Path, shape: tuple[int, ...] = (1, 3), **changes: Any) -> Path:
    """Write a network whose scores are the mean of each colour, 0 to 1."""
    last = 'Identity' if len(shape) == 4 else 'Flatten'
    spec = {
        'task': 'classification', 'height': 4, 'width': 6, 'classes': ['red', 'green', 'blue'],
        'input': 'float_nchw', 'output': 'probabilities', 'std': [255.0] * 3, **changes,
    }
    return write_graph(
        path, [node('GlobalAveragePool', 'image', 'means'), node(last, 'means', 'scores')],
        ('float32', (1, 3, 4, 6)), {'scores': ('float32', shape)}, **spec,
    )
