"""What is rewritten for OpenVINO: what equals it, and nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest

onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
openvino = pytest.importorskip('openvino', reason='no openvino: run make setup-train')

from mnv2_perception.engines import open_engine
from mnv2_perception.engines.openvino_passes import rewrite
from mnv2_perception.errors import EngineError
from mnv2_perception.tasks.models import find_model

pytestmark = pytest.mark.train
Step = tuple[str, str, str, dict[str, Any]]  # kind, inputs, output, attributes


def write(
    path: Path, steps: Sequence[Step], shape: Sequence[int | str], dtype: str,
    constants: dict[str, Any], gives: str = 'FLOAT',
) -> Path:
    """Write a graph from `image` to `result`."""
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node(kind, takes.split(' '), [name], **attributes)
         for kind, takes, name, attributes in steps],
        'graph',
        [helper.make_tensor_value_info('image', getattr(types, dtype), shape)],
        [helper.make_tensor_value_info('result', getattr(types, gives), None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def write_share(
    path: Path, shape: Sequence[int | str] = (1, 5, 5, 5), top: int = 1, back: int = 1,
    total: int = 1, keepdims: int = 0, one: Any = 1.0, top_keepdims: int = 0,
    dtype: str = 'FLOAT',
) -> Path:
    """Write `one` over the sum along `total` of exp(image − its maximum along `top`)."""
    return write(path, [
        ('ReduceMax', 'image', 'top', {'axes': [top], 'keepdims': top_keepdims}),
        ('Unsqueeze', 'top back', 'level', {}),
        ('Sub', 'image level', 'below', {}),
        ('Exp', 'below', 'powers', {}),
        ('ReduceSum', 'powers total', 'sum', {'keepdims': keepdims}),
        ('Div', 'one sum', 'result', {}),
    ], shape, dtype, {
        'one': np.array(one, np.float16 if dtype == 'FLOAT16' else np.float32),
        'back': np.array([back]), 'total': np.array([total]),
    }, dtype)


def write_scaled(
    path: Path, shape: Sequence[int | str] = (1, 4, 6, 3), order: Sequence[int] = (0, 3, 1, 2),
    sides: Sequence[int] = (1, 3, 1, 1),
) -> Path:
    """Write an image as planes, less a mean for each channel, times a factor for each."""
    rng = np.random.default_rng(1)
    return write(path, [
        ('Cast', 'image', 'float', {'to': onnx.TensorProto.FLOAT}),
        ('Transpose', 'float', 'planes', {'perm': list(order)}),
        ('Sub', 'planes mean', 'centred', {}),
        ('Mul', 'centred factor', 'result', {}),
    ], shape, 'UINT8', {
        name: rng.random(sides).astype(np.float32) for name in ('mean', 'factor')
    })


def write_parts(
    path: Path, shape: Sequence[int | str] = (1, 3, 4, 4), names: str = 'large image',
    axis: int = 1, mode: str = 'nearest', quantised: bool = True, shared: bool = False,
    side: int = 1, depth: int = 1, zero: int = 0, middle: int = 0, stride: int = 1,
    along: int = 0, flat: bool = False, resize: str = 'small roi scales',
) -> Path:
    """Write an image beside itself, made smaller and large again, depthwise, then pointwise.

    In whole numbers that int8 holds, so that every runtime computes the same.
    """
    rng = np.random.default_rng(2)
    channels = 3 * (len(names.split()) - names.count('nothing') if axis == 1 else 1)
    numbers = {
        'whole': np.float32(1), 'none': np.int8(0), 'low': np.float32(0), 'high': np.float32(6),
        'scales': np.array([1, 1, 2, 2], np.float32), 'roi': np.zeros(0, np.float32),
        'first': np.array([0]), 'second': np.array([1]), 'sizes': np.array([1, 3, 4, 4]),
        'fixed': np.ones((1, 3, 4, 4), np.float32), 'middle': np.int8(middle),
        'square': np.array([channels * depth, 1, 3, 3]),
        'depthwise_q': rng.integers(-1, 2, (channels * depth, 1, 3, 3), np.int8).reshape(
            (channels * depth, 1, 1, 9) if flat else (channels * depth, 1, 3, 3)
        ),
        'ones': np.ones(channels * depth, np.float32),
        'zeros': np.full(channels * depth, zero, np.int8),
        'bias': rng.integers(-3, 4, channels * depth).astype(np.float32),
        'pointwise_q': rng.integers(-2, 3, (4, channels * depth, side, side), np.int8),
        'halves': np.resize(np.float32([0.5, 1.0, 2.0, 0.25]), channels if along else 4),
        'nones': np.zeros(channels if along else 4, np.int8),
    }
    concat = 'concat_dq' if quantised else 'concat'
    kernel = 'reshaped' if flat else 'depthwise'
    used = 'concat_dq' if shared else 'none_dq'
    return write(path, [
        ('MaxPool', 'image', 'small', {'kernel_shape': [2, 2], 'strides': [2, 2]}),
        ('Resize', resize, 'large', {'mode': mode}),
        ('Slice', 'image first first second', 'nothing', {}),
        ('Concat', names, 'concat', {'axis': axis}),
        ('QuantizeLinear', 'concat whole none', 'concat_q', {}),
        ('DequantizeLinear', 'concat_q whole none', 'concat_dq', {}),
        ('DequantizeLinear', 'depthwise_q ones zeros', 'depthwise', {'axis': 0}),
        ('Reshape', 'depthwise square', 'reshaped', {}),
        ('Conv', f'{concat} {kernel} bias', 'seen', {'group': channels, 'pads': [1] * 4}),
        ('Clip', 'seen low high', 'clipped', {}),
        ('QuantizeLinear', 'clipped whole middle', 'clipped_q', {}),
        ('DequantizeLinear', 'clipped_q whole middle', 'clipped_dq', {}),
        ('DequantizeLinear', 'pointwise_q halves nones', 'pointwise', {'axis': along}),
        ('Conv', 'clipped_dq pointwise', 'sums', {'strides': [stride] * 2}),
        ('DequantizeLinear', 'none whole none', 'none_dq', {}),
        ('ReduceMax', used, 'most', {'keepdims': 0}),
        ('Add', 'sums most', 'result', {}),
    ], shape, 'FLOAT', numbers)


def operations(network: Any) -> list[str]:
    return [each.get_type_name() for each in network.get_ordered_ops()]


def check(
    path: Path, image: NDArray[Any], of_floats: str = 'fp32', atol: float = 1e-6
) -> list[str]:
    """Compare the rewritten graph's result with ONNX Runtime's; return what the graph has."""
    wanted = open_engine(path, 'onnx_runtime').infer({'image': image})['result']
    core = openvino.Core()
    network = core.read_model(str(path))
    rewrite(network, of_floats)
    compiled = core.compile_model(network, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    got = compiled([image])[0]
    assert got.shape == wanted.shape and np.allclose(got, wanted, atol=atol)
    return operations(network)


@pytest.mark.parametrize(
    ('changes', 'taken'),
    [
        ({}, True), ({'keepdims': 1}, True), ({'shape': ['n', 5, 'h', 'w']}, True),
        ({'top': 2, 'total': 2, 'back': 2}, True), ({'total': 2}, False), ({'one': 2.0}, False),
        ({'one': [[[[1.0]]]]}, False), ({'one': [[[1.0]]] * 5}, False),
        ({'top_keepdims': 1}, False),
    ],
)
def test_softmax_or_planes_are_taken_only_for_what_equals_them(
    changes: dict[str, Any], taken: bool, tmp_path: Path
) -> None:
    scores = np.random.default_rng(0).standard_normal((1, 5, 5, 5)).astype(np.float32)
    path = write_share(tmp_path / 'share.onnx', **changes)
    assert ('Softmax' in check(path, scores)) == taken
    assert ('Split' in check(path, scores, 'bf16')) == taken


@pytest.mark.parametrize('classes', [5, 257])
def test_softmax_is_taken_of_any_number_of_classes_and_of_many(
    classes: int, tmp_path: Path
) -> None:
    scores = np.random.default_rng(0).standard_normal((1, classes, 5, 5)).astype(np.float32)
    shape = ['n', 'c' if classes == 5 else classes, 'h', 'w']
    path = write_share(tmp_path / 'share.onnx', shape=shape)
    assert 'Softmax' in check(path, scores, 'bf16')


def test_planes_are_taken_of_half_precision(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).standard_normal((1, 5, 5, 5)).astype(np.float16)
    path = write_share(tmp_path / 'share.onnx', dtype='FLOAT16')
    assert 'Split' in check(path, scores, 'bf16', atol=1e-3)


@pytest.mark.parametrize(
    ('changes', 'by_rows'),
    [
        ({}, True), ({'shape': ['n', 4, 6, 3]}, True), ({'shape': [1, 'h', 'w', 3]}, False),
        ({'sides': (3, 1, 1)}, False), ({'sides': ()}, False), ({'sides': (1, 1, 1, 1)}, False),
        ({'order': (0, 3, 2, 1)}, False),
    ],
)
def test_only_an_image_that_becomes_planes_is_scaled_by_rows(
    changes: dict[str, Any], by_rows: bool, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3), np.uint8)
    found = check(write_scaled(tmp_path / 'scaled.onnx', **changes), image)
    assert ('Reshape' in found) == by_rows


@pytest.mark.parametrize(
    ('changes', 'parted'),
    [
        ({}, 2), ({'mode': 'linear'}, 2), ({'names': 'image large image large'}, 4),
        ({'shape': ['n', 3, 'h', 'w']}, 2), ({'quantised': False}, 0), ({'side': 3}, 0),
        ({'zero': 1}, 0), ({'depth': 2}, 0), ({'shared': True}, 0), ({'axis': 0}, 0),
        ({'shape': ['n', 'c', 'h', 'w']}, 0), ({'along': 1}, 0), ({'flat': True}, 0),
        ({'stride': 2}, 0), ({'names': 'large fixed'}, 0), ({'names': 'large image nothing'}, 0),
        ({'middle': 1}, 0),
        ({'resize': 'small roi  sizes', 'shape': ['n', 3, 'h', 'w']}, 0),
    ],
)
def test_only_what_is_convolved_channel_by_channel_is_parted(
    changes: dict[str, Any], parted: int, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(-4, 5, (1, 3, 4, 4)).astype(np.float32)
    found = check(write_parts(tmp_path / 'parts.onnx', **changes), image)
    assert found.count('Convolution') == max(parted, 1)


def test_what_is_enlarged_is_quantised_before_that(tmp_path: Path) -> None:
    network = openvino.Core().read_model(str(write_parts(tmp_path / 'parts.onnx')))
    rewrite(network, 'fp32')
    enlarged, = (
        node for node in network.get_ordered_ops() if node.get_type_name() == 'Interpolate'
    )
    assert enlarged.input_value(0).get_node().get_type_name() == 'Multiply'  # dequantised


@pytest.mark.parametrize(('precision', 'layers'), [('fp32', 33), ('int8', 36)])
def test_a_shipped_model_is_rewritten_before_it_is_compiled(
    precision: str, layers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compile_model = openvino.Core.compile_model
    found: list[str] = []

    def watched(core: Any, network: Any, *args: Any) -> Any:
        found.extend(operations(network))
        return compile_model(core, network, *args)

    monkeypatch.setattr(openvino.Core, 'compile_model', watched)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    try:
        open_engine(
            find_model('unet_mobilenetv2_ground_fast'), 'openvino', precision=precision
        ).close()
    except EngineError as exc:
        pytest.skip(str(exc))
    assert 'ReduceSum' not in found and found.count('Convolution') == layers
    assert found.index('Transpose') > found.index('Reshape')
