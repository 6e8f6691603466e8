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
    constants: dict[str, Any],
) -> Path:
    """Write a graph from `image` to `result`."""
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node(kind, takes.split(), [gives], **attributes)
         for kind, takes, gives, attributes in steps],
        'graph',
        [helper.make_tensor_value_info('image', getattr(types, dtype), shape)],
        [helper.make_tensor_value_info('result', types.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def write_share(
    path: Path, shape: Sequence[int | str] = (1, 5, 5, 5), top: int = 1, back: int = 1,
    total: int = 1, keepdims: int = 0, one: Any = 1.0, top_keepdims: int = 0,
) -> Path:
    """Write `one` over the sum along `total` of exp(image − its maximum along `top`)."""
    return write(path, [
        ('ReduceMax', 'image', 'top', {'axes': [top], 'keepdims': top_keepdims}),
        ('Unsqueeze', 'top back', 'level', {}),
        ('Sub', 'image level', 'below', {}),
        ('Exp', 'below', 'powers', {}),
        ('ReduceSum', 'powers total', 'sum', {'keepdims': keepdims}),
        ('Div', 'one sum', 'result', {}),
    ], shape, 'FLOAT', {
        'one': np.array(one, np.float32), 'back': np.array([back]), 'total': np.array([total]),
    })


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


def operations(network: Any) -> list[str]:
    return [each.get_type_name() for each in network.get_ordered_ops()]


def check(path: Path, image: NDArray[Any]) -> list[str]:
    """Compare OpenVINO's result with ONNX Runtime's; return what the rewritten graph has."""
    got, wanted = (
        open_engine(path, name).infer({'image': image})['result']
        for name in ('openvino', 'onnx_runtime')
    )
    assert got.shape == wanted.shape and np.allclose(got, wanted, atol=1e-6)
    network = openvino.Core().read_model(str(path))
    rewrite(network)
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
def test_softmax_is_taken_only_for_what_equals_it(
    changes: dict[str, Any], taken: bool, tmp_path: Path
) -> None:
    scores = np.random.default_rng(0).standard_normal((1, 5, 5, 5)).astype(np.float32)
    found = check(write_share(tmp_path / 'share.onnx', **changes), scores)
    assert ('Softmax' in found) == taken


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


@pytest.mark.parametrize('precision', ['fp32', 'int8'])
def test_a_shipped_model_is_rewritten_before_it_is_compiled(
    precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
    assert 'Softmax' in found and 'ReduceSum' not in found
    assert found.index('Transpose') > found.index('Reshape')
