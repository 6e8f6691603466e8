"""The exported file computes what the network computes, says so, and is fit for TensorRT."""

from contextlib import closing
from pathlib import Path
from typing import Any

from identity_network import identity_spec
import numpy as np
from numpy.typing import NDArray
import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')
onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from mnv2_perception.engines import open_engine
from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.checkpoint import Checkpoint, save_checkpoint
from mnv2_perception.nets.export import export_model, export_network
from mnv2_perception.nets.unet import UNet
from mnv2_perception.tasks.segmenter import Segmenter
from mnv2_perception.vision.preprocess import normalise

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning'),
]

HEIGHT, WIDTH = 64, 96
CASE = ('separable', 0.35)


def make_spec(output: str = 'ids_confidence', **changes: Any) -> ModelSpec:
    return identity_spec(
        HEIGHT, WIDTH, output=output, classes=[f'class_{index}' for index in range(7)],
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], **changes,
    )


def make_net(decoder: Any, width_mult: float) -> UNet:
    """Make a network whose batch statistics are not those of its making."""
    torch.manual_seed(1)
    net = UNet(7, width_mult, decoder)
    with torch.no_grad():
        net.train()(torch.randn(2, 3, HEIGHT, WIDTH))
    net.segmentation_head[0].weight.data *= 3.0  # so that some pixels are sure
    return net.eval()


def make_image(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def run_torch(net: UNet, spec: ModelSpec, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the logits (C, H, W) of an image, scaled as at training."""
    with torch.inference_mode():
        tensor = torch.from_numpy(normalise(image, spec.mean, spec.std))[None]
        return np.asarray(net(tensor)[0].numpy())


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export of a `separable` network, which decodes at stride 2."""
    path = tmp_path_factory.mktemp('export') / 'model.onnx'
    export_network(make_net(*CASE), make_spec(), path)
    return path


@pytest.mark.parametrize(('decoder', 'width_mult'), [CASE, ('full', 0.5)])
def test_ids_and_confidence_equal_those_of_torch(
    decoder: str, width_mult: float, tmp_path: Path
) -> None:
    net, spec = make_net(decoder, width_mult), make_spec()
    export_network(net, spec, tmp_path / 'model.onnx')
    outputs = open_engine(tmp_path / 'model.onnx').infer({'image': make_image()[None]})
    logits = torch.from_numpy(run_torch(net, spec, make_image()))
    confidence, ids = logits.softmax(0).max(0)
    assert len(ids.unique()) > 1
    assert (outputs['class_ids'][0] == ids.numpy()).mean() >= 0.999
    difference = np.abs(outputs['confidence'][0] - confidence.numpy() * 255.0)
    assert difference.max() < 1.0


@pytest.mark.parametrize(('decoder', 'width_mult'), [('separable', 0.5), ('full', 0.35)])
def test_logits_equal_those_of_torch(decoder: str, width_mult: float, tmp_path: Path) -> None:
    net, spec = make_net(decoder, width_mult), make_spec('logits')
    export_network(net, spec, tmp_path / 'model.onnx')
    outputs = open_engine(tmp_path / 'model.onnx').infer({'image': make_image()[None]})
    expected = run_torch(net, spec, make_image())
    assert np.abs(outputs['logits'][0] - expected).max() <= 1e-4 * np.abs(expected).max()


def test_it_takes_one_uint8_image_and_gives_two_uint8_planes(exported: Path) -> None:
    engine = open_engine(exported)
    assert [str(spec) for spec in engine.inputs] == ["'image' (1, 64, 96, 3) uint8"]
    assert [str(spec) for spec in engine.outputs] == [
        "'class_ids' (1, 32, 48) uint8", "'confidence' (1, 32, 48) uint8",
    ]


def test_it_carries_its_spec(exported: Path) -> None:
    metadata = open_engine(exported).metadata
    assert ModelSpec.from_metadata(metadata, exported) == make_spec()


def test_uint8_is_cast_at_inputs_and_outputs_only_and_from_and_to_float(exported: Path) -> None:
    """TensorRT's rule for uint8."""
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported), strict_mode=True).graph
    inputs, outputs = ({info.name for info in infos} for infos in (graph.input, graph.output))
    types = {
        info.name: info.type.tensor_type.elem_type
        for info in (*graph.input, *graph.output, *graph.value_info)
    }
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == 'Constant':
            types[node.output[0]] = node.attribute[0].t.data_type
    touched = 0
    for node in graph.node:
        consumed = [name for name in node.input if name and types[name] == uint8]
        made = [name for name in node.output if types[name] == uint8]
        if not consumed and not made:
            continue
        touched += 1
        assert node.op_type == 'Cast', f'{node.op_type} on uint8'
        assert set(consumed) <= inputs and set(made) <= outputs
        assert types[node.output[0] if consumed else node.input[0]] == float32
    assert touched == 3  # image in, ids and confidence out


def test_nothing_is_left_of_an_export_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / 'model.onnx'
    model.write_bytes(b'the former model')

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError('checked and found wrong')

    monkeypatch.setattr(onnx.checker, 'check_model', fail)
    with pytest.raises(RuntimeError, match='found wrong'):
        export_network(make_net(*CASE), make_spec(), model)
    assert [path.name for path in tmp_path.iterdir()] == ['model.onnx']
    assert model.read_bytes() == b'the former model'


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'input': 'float_nchw'}, 'take uint8_nhwc.*got float_nchw'),
        ({'output': 'probabilities'}, 'probabilities'),
    ],
)
def test_an_interface_that_is_not_written_is_refused(
    tmp_path: Path, changes: dict[str, str], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        export_network(make_net(*CASE), make_spec(**changes), tmp_path / 'model.onnx')


def test_a_spec_whose_size_does_not_divide_names_the_next(tmp_path: Path) -> None:
    spec = identity_spec(360, 480, classes=['road'])
    with pytest.raises(ModelError, match='height 384, width 480'):
        export_network(UNet(1, 0.35), spec, tmp_path / 'model.onnx')


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'absent/model\.onnx: its folder does not exist'):
        export_network(make_net(*CASE), make_spec(), tmp_path / 'absent/model.onnx')


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_a_checkpoint_becomes_a_model_of_its_spec(tmp_path: Path, order: str) -> None:
    from mnv2_perception.tasks.segmenter import Segmenter

    net, spec = make_net('full', 0.35), make_spec(channel_order=order, licence='CC0-1.0')
    architecture = {'width_mult': 0.35, 'decoder': 'full'}
    checkpoint = Checkpoint(spec, architecture, net.state_dict(), {}, 1)
    save_checkpoint(checkpoint, tmp_path / 'last.pt')
    export_model(tmp_path / 'last.pt', tmp_path / 'model.onnx')
    segmenter = Segmenter.open(tmp_path / 'model.onnx')
    assert segmenter.spec == spec
    image = make_image()
    channels = image if order == 'rgb' else np.ascontiguousarray(image[..., ::-1])
    expected = run_torch(net, spec, channels).argmax(0)  # at stride 1
    assert (segmenter(image).class_ids == expected).mean() >= 0.999


@pytest.fixture(scope='module')
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Program of the same network for the torch engine."""
    path = tmp_path_factory.mktemp('program') / 'model.pt2'
    export_network(make_net(*CASE), make_spec(), path)
    return path


def test_a_program_gives_what_the_onnx_file_gives(exported: Path, program: Path) -> None:
    expected, found = open_engine(exported, 'onnx_runtime'), open_engine(program)
    assert found.name == 'torch'
    assert (found.inputs, found.outputs) == (expected.inputs, expected.outputs)
    assert found.metadata == expected.metadata
    wanted, got = (engine.infer({'image': make_image()[None]}) for engine in (expected, found))
    assert (got['class_ids'] == wanted['class_ids']).mean() >= 0.999
    assert np.abs(got['confidence'].astype(int) - wanted['confidence']).max() <= 1


def test_a_program_in_fp16_decodes_in_fp32(program: Path) -> None:
    """What the torch engine does on a GPU, on the CPU."""
    from mnv2_perception.engines.torch import halve_weights

    image = torch.from_numpy(make_image()[None])
    network = torch.export.load(program).module()
    with torch.no_grad():
        expected = network(image)
        halve_weights(network)
        with torch.autocast('cpu', torch.float16):
            found = network(image)
    weights = {parameter.dtype for parameter in network.parameters()}
    assert weights == {torch.float16}
    assert [each.dtype for each in found] == [torch.uint8] * 2
    assert (found[0] == expected[0]).float().mean() >= 0.98
    assert (found[1].int() - expected[1].int()).abs().float().mean() < 2


def test_weights_that_fp16_cannot_hold_become_its_largest() -> None:
    """A channel that never answers had a weight of 90,443: infinite times zero is no number."""
    from mnv2_perception.engines.torch import halve_weights

    layer = torch.nn.Conv2d(3, 2, 1, bias=False)
    layer.weight.data[:] = 1.0
    layer.weight.data[:, 0] = 90_443.0
    image = torch.rand(1, 3, 4, 4)
    image[:, 0] = 0.0
    network = torch.export.export(layer, (image,)).module()
    with torch.no_grad():
        expected = network(image)
        halve_weights(network)
        with torch.autocast('cpu', torch.float16):
            found = network(image)
    assert torch.isfinite(found).all()
    assert torch.allclose(found.float(), expected, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs an NVIDIA GPU')
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_program_on_a_gpu_gives_what_the_onnx_file_gives(
    precision: str, exported: Path, program: Path
) -> None:
    expected = open_engine(exported, 'onnx_runtime')
    with open_engine(program, 'torch', precision=precision) as found:
        assert found.on_gpu and found.precision == precision
        wanted, got = (each.infer({'image': make_image()[None]}) for each in (expected, found))
    assert (got['class_ids'] == wanted['class_ids']).mean() >= 0.98


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('engine', ['onnx_runtime', 'openvino', 'torch'])
def test_a_network_that_overflows_gives_no_mask_in_any_engine(
    engine: str, bad: float, tmp_path: Path
) -> None:
    pytest.importorskip(engine.replace('onnx_runtime', 'onnxruntime'))
    net = make_net(*CASE)
    net.segmentation_head[-1].bias.data[3] = bad
    path = tmp_path / ('model.pt2' if engine == 'torch' else 'model.onnx')
    export_network(net, make_spec(), path)
    with (
        closing(Segmenter.open(str(path), engine)) as segmenter,
        pytest.raises(ModelError, match=r'100.0% of its output .* is NaN or infinite'),
    ):
        segmenter(make_image())


def test_what_is_not_plain_is_not_folded(tmp_path: Path) -> None:
    """TensorFlow's padding has a convolution that leaves out the bias that folding adds."""
    from mnv2_perception.nets.backbones import make_backbone

    torch.manual_seed(0)
    net = make_backbone('mobilenet_v1', 5, 0.25, padding='same_tf')
    with torch.no_grad():
        net.train()(torch.randn(2, 3, 32, 32))
    spec = identity_spec(32, 32, task='classification', output='logits', classes=list('abcde'))
    for suffix in ('onnx', 'pt2'):
        export_network(net.eval(), spec, tmp_path / f'net.{suffix}')
    image = {'image': np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)}
    expected, found = (
        open_engine(tmp_path / name).infer(image)['logits'] for name in ('net.onnx', 'net.pt2')
    )
    assert np.allclose(found, expected, atol=1e-3)
