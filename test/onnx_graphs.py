"""Write small ONNX files with inputs and outputs like networks that others exported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

Tensor = tuple[str, Sequence[int | str | None]]  # dtype, shape


def onnx() -> Any:
    """Return the package onnx, or skip the test."""
    return pytest.importorskip('onnx', reason='no onnx: run make setup-train')


def node(kind: str, takes: str, gives: str, **attributes: Any) -> Any:
    """Return a node with one input and one output; `to` is a numpy type."""
    helper = onnx().helper
    if 'to' in attributes:
        attributes['to'] = helper.np_dtype_to_tensor_dtype(np.dtype(attributes['to']))
    return helper.make_node(kind, [takes], [gives], **attributes)


def write_graph(
    path: Path, nodes: list[Any], takes: Tensor, gives: dict[str, Tensor], **spec: Any
) -> Path:
    """Write a graph with the input `image`, and a YAML with its ModelSpec if `spec` is given."""
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


CLASSES = ('road', 'sky', 'car')
LAYERS = ('first', 'outlier', 'last')


def write_convolutions(path: Path, height: int = 16, width: int = 24) -> Path:
    """Write a segmenter with three layers, with scaling and decoding as in `mnv2 export`.

    The input of the layer `outlier` has one channel a thousand times larger than the others, so
    that a single int8 scale for all channels cannot represent it.
    """
    from mnv2_perception.model_spec import ModelSpec

    helper, rng = onnx().helper, np.random.default_rng(0)
    constants: dict[str, Any] = {
        'mean': np.full((1, 3, 1, 1), 127.0, np.float32),
        'scale': np.full((1, 3, 1, 1), 1 / 64, np.float32),
        'axis': np.array([1]), 'half': np.float32(0.5), 'bytes': np.float32(255.0),
    }
    for layer, shape in zip(LAYERS, [(8, 3, 3, 3), (8, 8, 1, 1), (3, 8, 1, 1)], strict=True):
        constants[f'{layer}.weight'] = rng.standard_normal(shape).astype(np.float32)
        constants[f'{layer}.bias'] = rng.standard_normal(shape[0]).astype(np.float32)
    constants['first.weight'][0] *= 1000.0
    constants['outlier.weight'][:, 0] /= 1000.0

    def make(kind: str, takes: str, gives: str, name: str = '', **attributes: Any) -> Any:
        return helper.make_node(kind, takes.split(), [gives], name, **attributes)

    def conv(layer: str, takes: str, gives: str) -> Any:
        pad = constants[f'{layer}.weight'].shape[2] // 2
        return make('Conv', f'{takes} {layer}.weight {layer}.bias', gives, layer, pads=[pad] * 4)

    types = onnx().TensorProto
    graph = helper.make_graph(
        [
            make('Cast', 'image', 'float', to=types.FLOAT),
            make('Transpose', 'float', 'planes', perm=[0, 3, 1, 2]),
            make('Sub', 'planes mean', 'centred'),
            make('Mul', 'centred scale', 'scaled'),
            conv('first', 'scaled', 'a'),
            conv('outlier', 'a', 'b'),
            make('Relu', 'b', 'c'),
            conv('last', 'c', 'logits'),
            make('ReduceMax', 'logits', 'top', axes=[1], keepdims=1),
            make('ArgMax', 'logits', 'ids', axis=1, keepdims=0),
            make('Cast', 'ids', 'float_ids', to=types.FLOAT),
            make('Cast', 'float_ids', 'class_ids', to=types.UINT8),
            make('Sub', 'logits top', 'below'),
            make('Exp', 'below', 'powers'),
            make('ReduceSum', 'powers axis', 'sum', keepdims=0),
            make('Div', 'bytes sum', 'share'),
            make('Add', 'share half', 'rounded'),
            make('Cast', 'rounded', 'confidence', to=types.UINT8),
        ],
        'convolutions',
        [helper.make_tensor_value_info('image', types.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info(name, types.UINT8, [1, height, width])
         for name in ('class_ids', 'confidence')],
        [onnx().numpy_helper.from_array(np.asarray(value), name)
         for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    spec = ModelSpec.from_dict({
        'name': 'convolutions', 'task': 'segmentation', 'height': height, 'width': width,
        'classes': CLASSES, 'mean': [127.0] * 3, 'std': [64.0] * 3, 'licence': 'CC0-1.0',
    }, 'the test')
    helper.set_model_props(model, spec.to_metadata())
    onnx().checker.check_model(model, full_check=True)
    onnx().save(model, str(path))
    return path


def write_mean_colour(path: Path, shape: tuple[int, ...] = (1, 3), **changes: Any) -> Path:
    """Write a network whose scores are the mean of each colour channel, 0 to 1."""
    last = 'Identity' if len(shape) == 4 else 'Flatten'
    spec = {
        'task': 'classification', 'height': 4, 'width': 6, 'classes': ['red', 'green', 'blue'],
        'input': 'float_nchw', 'output': 'probabilities', 'std': [255.0] * 3, **changes,
    }
    return write_graph(
        path, [node('GlobalAveragePool', 'image', 'means'), node(last, 'means', 'scores')],
        ('float32', (1, 3, 4, 6)), {'scores': ('float32', shape)}, **spec,
    )
