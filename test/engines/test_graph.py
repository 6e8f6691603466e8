"""ONNX graphs for TensorRT: uint8 only at the ends, half precision only between convolutions."""

from pathlib import Path
import sys
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
from onnx import helper, TensorProto

from mnv2_perception.engines.graph import fix_batch, precision_of, read_onnx, to_fp16
from mnv2_perception.errors import EngineError, ModelError

# In int8: see test_quantize.py, and test_rtx.py for the shipped ones.
SHIPPED = sorted(
    path for path in (Path(__file__).parents[2] / 'mnv2_perception/models').glob('*.onnx')
    if not path.stem.endswith('_int8')
)
SEGMENTERS = [path for path in SHIPPED if path.stem.startswith('unet')]
UINT8, FLOAT, FLOAT16 = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT16


def element_types(proto: Any) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type
             for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize('half', [False, True], ids=['float', 'half'])
@pytest.mark.parametrize('model', SEGMENTERS, ids=lambda path: path.stem)
def test_uint8_is_only_at_the_ends_and_converted_from_and_to_float(
    model: Path, half: bool
) -> None:
    proto = read_onnx(model)
    proto = to_fp16(proto) if half else proto
    types = element_types(proto)
    ends = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    assert {name for name, kind in types.items() if kind == UINT8} == ends
    for node in proto.graph.node:
        kinds = {types[name] for name in (*node.input, *node.output) if name}
        if UINT8 in kinds:
            assert node.op_type == 'Cast' and kinds == {UINT8, FLOAT}, node.name


@pytest.mark.parametrize('model', SEGMENTERS, ids=lambda path: path.stem)
def test_half_precision_reaches_from_the_first_convolution_to_the_last(model: Path) -> None:
    proto = to_fp16(read_onnx(model))
    types = element_types(proto)
    assert precision_of(proto) == 'fp16'
    weighted = [index for index, node in enumerate(proto.graph.node) if node.op_type == 'Conv']
    for index, node in enumerate(proto.graph.node):
        kinds = {types[name] for name in (node.input[0], *node.output)}
        if weighted[0] <= index <= weighted[-1]:
            assert kinds == {FLOAT16}, node.name
        elif node.op_type != 'Cast':
            assert FLOAT16 not in kinds, node.name


@pytest.mark.parametrize('model', SHIPPED, ids=lambda path: path.stem)
def test_half_precision_gives_the_same_answers(
    model: Path, tmp_path: Path, mnv2_data: Path
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    from mnv2_perception.data.images import read_image
    from mnv2_perception.tasks.models import opening
    from mnv2_perception.tasks.pipeline import infer_images

    onnx.save(to_fp16(read_onnx(model)), str(tmp_path / 'half.onnx'))
    image = read_image(sorted((mnv2_data / 'camvid/val/images').iterdir())[0])
    answers = []
    for path in (model, tmp_path / 'half.onnx'):
        with opening(path, 'onnx_runtime') as (engine, spec), engine:
            arrays = infer_images(engine, spec, [image])[0]
            answers.append([array.astype(np.float32) for array in arrays])
    whole, half = answers
    if spec.output == 'ids_confidence':
        assert (whole[0] == half[0]).mean() >= 0.998
        # At a border between classes a few pixels are as sure of one as of the other.
        assert np.quantile(np.abs(whole[1] - half[1]), 0.99) <= 5.0
    else:  # logits, or the scores of boxes, best first
        scores = [answer[0 if spec.output == 'logits' else 1] for answer in answers]
        assert np.abs(np.subtract(*scores)).max() <= 0.02 * np.abs(scores[0]).max()


def make_graph(*nodes: Any, tensors: tuple[Any, ...] = (), output: str = 'y') -> Any:
    graph = helper.make_graph(
        list(nodes), 'graph',
        [helper.make_tensor_value_info('x', FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info(output, FLOAT, None)], list(tensors),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)


def weights(name: str, value: float = 1.0) -> Any:
    return helper.make_tensor(name, FLOAT, [2, 2, 1, 1], [value] * 4)


def test_a_tensor_that_is_also_decoded_is_given_in_both_precisions() -> None:
    proto = to_fp16(make_graph(
        helper.make_node('Conv', ['x', 'w'], ['a']),
        helper.make_node('Conv', ['a', 'w'], ['b']),
        helper.make_node('Add', ['a', 'b'], ['y']),  # outside: of the first and of the last
        tensors=(weights('w'),),
    ))
    types = element_types(proto)
    assert (types['a'], types['b'], types['y'], types['a__fp16']) == (
        FLOAT, FLOAT, FLOAT, FLOAT16
    )
    assert [node.op_type for node in proto.graph.node] == [
        'Cast', 'Conv', 'Cast', 'Conv', 'Cast', 'Add'
    ]


def test_limits_beyond_half_precision_are_clipped() -> None:
    proto = to_fp16(make_graph(
        helper.make_node('Conv', ['x', 'w'], ['a']),
        helper.make_node('Clip', ['a', '', 'most'], ['b']),
        helper.make_node('Conv', ['b', 'w'], ['y']),
        tensors=(weights('w'), helper.make_tensor('most', FLOAT, [], [3.4e38])),
    ))
    most = next(tensor for tensor in proto.graph.initializer if tensor.name == 'most__fp16')
    assert onnx.numpy_helper.to_array(most) == 65504.0


def test_a_graph_within_the_graph_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node('Identity', ['x'], ['z'])], 'branch', [],
        [helper.make_tensor_value_info('z', FLOAT, [1, 2, 4, 4])],
    )
    proto = make_graph(
        helper.make_node('If', ['yes'], ['y'], then_branch=branch, else_branch=branch),
        tensors=(helper.make_tensor('yes', TensorProto.BOOL, [], [True]),),
    )
    with pytest.raises(ModelError, match=r'If .* --precision fp32'):
        to_fp16(proto)


def test_missing_onnx_names_its_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(EngineError, match='pip install onnx'):
        read_onnx(tmp_path / 'model.onnx')


@pytest.mark.parametrize('content', [None, b'', b'no model'])
def test_what_is_no_model_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / 'broken.onnx'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r'broken\.onnx'):
        read_onnx(path)


# Several images at once


@pytest.mark.parametrize('model', [
    path for path in SHIPPED if not path.stem.startswith('ssdlite')
], ids=lambda path: path.stem)
def test_a_shipped_model_of_one_image_takes_several(model: Path, tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    from mnv2_perception.scenes.street import draw_scene
    from mnv2_perception.tasks.models import opening
    from mnv2_perception.tasks.pipeline import infer_images

    proto = read_onnx(model)
    (shape,) = fix_batch(proto, 3, model)
    assert shape.startswith('image 3x')
    onnx.save(proto, str(tmp_path / 'three.onnx'))
    images = [draw_scene(seed, 0.0, 480, 640)[0] for seed in range(3)]
    with opening(tmp_path / 'three.onnx', 'onnx_runtime') as (engine, spec), engine:
        together = infer_images(engine, spec, images)
    with opening(model, 'onnx_runtime') as (engine, spec), engine:
        for image, found in zip(images, together, strict=True):
            for array, alone in zip(found, infer_images(engine, spec, [image])[0], strict=True):
                assert array.shape == alone.shape
                off = np.abs(array.astype(np.float32) - alone.astype(np.float32))
                assert np.mean(off > 1e-3 * np.abs(alone).max()) < 1e-3


def test_a_model_that_holds_the_number_of_images_keeps_it() -> None:
    model = next(path for path in SHIPPED if path.stem.startswith('ssdlite'))
    with pytest.raises(ModelError, match='takes image 1x480x640x3, but a batch of 2'):
        fix_batch(read_onnx(model), 2, model)


def test_a_graph_whose_outputs_do_not_follow_keeps_its_number_of_images() -> None:
    shape = [1, 4, 6, 3]
    graph = helper.make_graph(
        [helper.make_node('ReduceMax', ['image'], ['ids'], axes=[0], keepdims=1)], 'reduced',
        [helper.make_tensor_value_info('image', UINT8, shape)],
        [helper.make_tensor_value_info('ids', UINT8, shape)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    with pytest.raises(ModelError, match='takes image 1x4x6x3, but a batch of 2'):
        fix_batch(proto, 2, Path('reduced.onnx'))
