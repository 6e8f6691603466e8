"""mnv2 quantize's graphs: the rules that TensorRT sets, what stays float, what they compute."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx_graphs import LAYERS, write_convolutions, write_graph
from onnx_graphs import node as make_node
import pytest

onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
onnxruntime = pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from mnv2_perception.engines import open_engine
from mnv2_perception.engines.graph import QDQ, to_fp16
from mnv2_perception.engines.quantize import (
    choose_kept,
    leave_in_float,
    Quantised,
    quantize_model,
)
from mnv2_perception.errors import EngineError, ModelError
from mnv2_perception.model_spec import ModelSpec

pytestmark = pytest.mark.train


def images(seed: int, count: int = 4) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (1, 16, 24, 3), np.uint8) for _ in range(count)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_convolutions(tmp_path / 'model.onnx')


def quantise(model: Path, tolerance: float) -> tuple[Quantised, Any]:
    """Return what was done, and the graph that was written."""
    out = model.with_name('int8.onnx')
    done = quantize_model(model, out, images(0), tolerance)
    return done, onnx.load(str(out)).graph


def test_the_graph_keeps_the_rules_of_tensorrt(model: Path) -> None:
    _, graph = quantise(model, 1e9)
    makers = {name: node for node in graph.node for name in node.output}
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer
    }
    pairs = [node for node in graph.node if node.op_type in
             ('QuantizeLinear', 'DequantizeLinear')]
    assert len(pairs) == 4 * len(LAYERS)  # Q and DQ of an input and a weight
    for pair in pairs:
        zero_point = constants[pair.input[2]]
        assert zero_point.dtype == np.int8 and not zero_point.any()
    for layer in (node for node in graph.node if node.op_type == 'Conv'):
        activation, weight, bias = layer.input
        assert makers[activation].op_type == makers[weight].op_type == 'DequantizeLinear'
        assert constants[bias].dtype == np.float32
        assert constants[makers[weight].input[1]].shape == constants[bias].shape  # per channel
    # Scaling and decoding are float: nothing but layers takes what was dequantised.
    dequantised = {pair.output[0] for pair in pairs if pair.op_type == 'DequantizeLinear'}
    takers = {node.op_type for node in graph.node if dequantised & set(node.input)}
    assert takers == {'Conv'}
    elements = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    assert elements == [onnx.TensorProto.UINT8] * 3


def test_the_layer_that_disturbs_most_stays_float(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mnv2_perception.engines.quantize.MOST_FLOAT', 0.34)
    done, graph = quantise(model, 0.01)
    assert (list(done.kept), done.layers) == (['outlier'], 2)
    assert done.kept['outlier'] > 0.01 > done.error
    assert done.error_of_all > 10 * done.error
    outlier = next(node for node in graph.node if node.name == 'outlier')
    assert list(outlier.input)[1:] == ['outlier.weight', 'outlier.bias']
    assert sum(node.op_type == 'QuantizeLinear' for node in graph.node) == 4
    assert 'outlier.weight_scale' not in {tensor.name for tensor in graph.initializer}


def test_no_more_layers_stay_float_than_may() -> None:
    alone = {f'layer_{index}': 1.0 + index for index in range(20)}
    assert choose_kept(alone, 0.0) == ['layer_19', 'layer_18']
    assert choose_kept(alone, 195.0) == ['layer_19']
    assert choose_kept(alone, 210.0) == []


def test_of_a_small_network_the_worst_layer_stays_float_but_not_its_only_one() -> None:
    assert choose_kept({'a': 1.0, 'b': 3.0, 'c': 2.0}, 0.0) == ['b']
    assert choose_kept({'a': 1.0}, 0.0) == []


@pytest.mark.parametrize('name', ['onnx_runtime', 'openvino'])
def test_it_computes_what_the_float_model_does(
    name: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == 'openvino':
        pytest.importorskip('openvino', reason='no openvino: run make setup-train')
    monkeypatch.setattr('mnv2_perception.engines.quantize.MOST_FLOAT', 0.34)
    quantise(model, 0.01)
    expected = open_engine(model, 'onnx_runtime').infer({'image': images(1)[0]})
    found = open_engine(model.with_name('int8.onnx'), name).infer({'image': images(1)[0]})
    assert len(np.unique(expected['class_ids'])) == 3
    assert (found['class_ids'] == expected['class_ids']).mean() >= 0.95
    difference = found['confidence'].astype(int) - expected['confidence']
    assert np.abs(difference).mean() < 6


def test_in_half_precision_the_rest_computes_what_it_did(model: Path) -> None:
    done, graph = quantise(model, 1e9)
    assert done.layers == len(LAYERS)
    proto = onnx.load(str(model.with_name('int8.onnx')))
    # A channel without weights has next to no scale; in half precision it would be none.
    scale = next(node.input[1] for node in graph.node if node.input[0] == 'last.weight')
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == scale)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] = 1e-12
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, scale))
    onnx.save(proto, str(model.with_name('int8.onnx')))

    half = to_fp16(proto)
    onnx.save(half, str(model.with_name('half.onnx')))
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in half.graph.initializer
    }
    pairs = [node for node in half.graph.node if node.op_type in QDQ]
    scales = [constants[node.input[1]] for node in pairs]
    assert scales and all(each.dtype == np.float16 and (each > 0).all() for each in scales)
    # Node by node: what ONNX Runtime 1.31 optimises in half precision is wrong at times.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    first, last = (
        onnxruntime.InferenceSession(str(model.with_name(name)), options).run(
            ['class_ids'], {'image': images(1)[0]}
        )[0]
        for name in ('int8.onnx', 'half.onnx')
    )
    assert (first == last).mean() >= 0.98


@pytest.mark.parametrize('name', ['onnx_runtime', 'openvino'])
def test_small_holds_the_weights_in_int8_and_computes_the_same(name: str, model: Path) -> None:
    if name == 'openvino':
        pytest.importorskip('openvino', reason='no openvino: run make setup-train')
    _, graph = quantise(model, 1e9)
    small = model.with_name('small.onnx')
    quantize_model(model, small, images(0), 1e9, small=True)
    held = {tensor.name: tensor for tensor in onnx.load(str(small)).graph.initializer}
    weights = [node.input[0] for node in onnx.load(str(small)).graph.node
               if node.op_type == 'DequantizeLinear' and node.input[0] in held]
    assert len(weights) == len(LAYERS)
    assert all(held[each].data_type == onnx.TensorProto.INT8 for each in weights)
    assert not {'first.weight', 'last.weight'} & set(held)
    assert {'first.weight', 'last.weight'} < {tensor.name for tensor in graph.initializer}
    for seed in range(3):
        large_says, small_says = (
            open_engine(path, name, precision='fp32').infer({'image': images(seed)[0]})
            for path in (model.with_name('int8.onnx'), small)
        )
        for output, value in large_says.items():
            np.testing.assert_array_equal(value, small_says[output])


def test_layers_held_in_int8_can_be_taken_back_to_float(model: Path) -> None:
    small = model.with_name('small.onnx')
    quantize_model(model, small, images(0), 1e9, small=True)
    back = leave_in_float(onnx.load(str(small)), LAYERS)
    kinds = {node.op_type for node in back.graph.node}
    assert not kinds & QDQ and 'Conv' in kinds
    onnx.checker.check_model(back, full_check=True)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in back.graph.initializer}
    first = next(node for node in back.graph.node if node.name == 'first')
    original = next(
        onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(model)).graph.initializer
        if tensor.name == 'first.weight'
    )
    off = np.abs(values[first.input[1]] - original).max(axis=(1, 2, 3))
    assert (off <= 0.51 * np.abs(original).max(axis=(1, 2, 3)) / 127).all()


def test_the_spec_travels_and_says_int8(model: Path) -> None:
    quantise(model, 1e9)
    before, after = (
        ModelSpec.from_metadata(open_engine(path, 'onnx_runtime').metadata, path)
        for path in (model, model.with_name('int8.onnx'))
    )
    assert (before.name, after.name) == ('convolutions', 'convolutions_int8')
    assert after.description == 'int8, 0 of 3 layers in float'
    assert (after.classes, after.mean, after.licence) == (
        before.classes, before.mean, before.licence
    )


def test_what_is_int8_already_is_refused(model: Path) -> None:
    quantise(model, 1e9)
    with pytest.raises(ModelError, match=r'int8\.onnx: is int8 already; quantise the fp32 file'):
        quantize_model(model.with_name('int8.onnx'), model, images(0))


def test_without_images_it_is_refused(model: Path) -> None:
    with pytest.raises(EngineError, match='no image to calibrate with'):
        quantize_model(model, model.with_name('int8.onnx'), [])


def test_a_model_without_layers_is_refused(tmp_path: Path) -> None:
    path = write_graph(
        tmp_path / 'm.onnx', [make_node('Identity', 'image', 'logits')], ('float32', (1, 3, 8, 8)),
        {'logits': ('float32', (1, 3, 8, 8))}, task='segmentation', height=8, width=8,
        classes=['a', 'b', 'c'], input='float_nchw', output='logits',
    )
    with pytest.raises(ModelError, match='no layer that can be quantised'):
        quantize_model(path, tmp_path / 'int8.onnx', [np.zeros((1, 3, 8, 8), np.float32)])


@pytest.mark.parametrize('weight', [np.nan, 1e38])
def test_a_network_that_gives_no_numbers_is_refused(model: Path, weight: float) -> None:
    proto = onnx.load(str(model))
    kernel = next(each for each in proto.graph.initializer if len(each.dims) == 4)
    kernel.CopyFrom(onnx.numpy_helper.from_array(
        np.full(kernel.dims, weight, np.float32), kernel.name
    ))
    onnx.save(proto, str(model))
    with pytest.raises(ModelError, match=r'NaN or infinite even in float.*export it again'):
        quantise(model, 0.01)


def test_a_folder_that_is_not_there_is_told_before_the_work(model: Path) -> None:
    with pytest.raises(ModelError, match='folder does not exist'):
        quantize_model(model, model.parent / 'absent/int8.onnx', images(0))
