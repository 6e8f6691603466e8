"""SSDLite: anchors, boxes to offsets and back, and the exported graph beside torch."""

from pathlib import Path
from typing import Any

from identity_network import identity_spec
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')
onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from mnv2_perception.engines import open_engine
from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.backbone import count_parameters
from mnv2_perception.nets.backbones import BACKBONES, make_backbone
from mnv2_perception.nets.checkpoint import load_weights
from mnv2_perception.nets.export import export_network, Normalised
from mnv2_perception.nets.ssdlite import (
    ANCHOR_SIZES,
    ANCHORS_PER_CELL,
    CANDIDATES,
    decode_boxes,
    encode_boxes,
    make_anchors,
    SSDLite,
    TopBoxes,
)
from mnv2_perception.tasks.detector import Detector

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning'),
]

HEIGHT, WIDTH = 96, 160  # neither divides by 64
# What TensorRT 8.6 has without plugins, of what a detector may need.
TENSORRT = {
    'Add', 'Cast', 'Clip', 'Concat', 'Constant', 'Conv', 'Div', 'Exp', 'Gather', 'HardSigmoid',
    'HardSwish', 'Identity', 'Mul', 'ReduceMean', 'Relu', 'Reshape', 'Resize', 'Sigmoid', 'Slice',
    'Sub', 'TopK', 'Transpose', 'Unsqueeze',
}


def make_spec(**changes: Any) -> ModelSpec:
    return identity_spec(
        HEIGHT, WIDTH, task='detection', output='boxes', classes=['car', 'bicyclist', 'sign'],
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], **changes,
    )


def make_net(encoder: str, width_mult: float, **options: Any) -> SSDLite:
    """Make a network whose batch statistics are not those of its making."""
    torch.manual_seed(1)
    net = SSDLite(3, width_mult, encoder, **options)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(2, 3, HEIGHT, WIDTH))
        for head in (*net.class_heads, *net.box_heads):
            head[-1].weight.mul_(10.0)  # so that scores and boxes differ
    return net.eval()


def random_boxes(count: int) -> Any:
    torch.manual_seed(0)
    corner, size = torch.rand(count, 2) * 100, torch.rand(count, 2) * 60 + 1
    return torch.cat([corner, corner + size], 1)


@pytest.mark.parametrize(('height', 'width'), [(96, 160), (352, 480), (64, 64)])
@pytest.mark.parametrize('strides', [(8, 16, 32, 64), (4, 8), (16, 32, 64, 128)])
@pytest.mark.parametrize('depth', [4, 5])
def test_there_is_an_anchor_for_each_output(
    height: int, width: int, strides: tuple[int, ...], depth: int
) -> None:
    net = SSDLite(2, 0.35, 'mobilenet_v3_small', strides, depth).eval()
    with torch.inference_mode():
        logits, offsets = net(torch.zeros(1, 3, height, width))
    count = sum(-(-height // s) * -(-width // s) for s in strides) * ANCHORS_PER_CELL
    assert make_anchors(height, width, strides).shape == (count, 4)
    assert logits.shape == (1, count, 2) and offsets.shape == (1, count, 4)


def test_anchors_lie_at_the_centres_of_their_cells_in_the_order_of_the_outputs() -> None:
    anchors = make_anchors(64, 96, (8, 16))
    cells = anchors[: 8 * 12 * ANCHORS_PER_CELL].view(8, 12, ANCHORS_PER_CELL, 4)
    assert cells[2, 5, :, 0].unique().tolist() == [44.0]
    assert cells[2, 5, :, 1].unique().tolist() == [20.0]
    assert torch.equal(cells[0, 0, :, 2:], cells[7, 11, :, 2:])
    assert anchors[-1, 2:].prod().sqrt().item() == pytest.approx(16 * ANCHOR_SIZES[-1])


def test_a_heads_outputs_are_those_of_the_anchors_cell() -> None:
    """A network that answers with its column finds that of the anchor."""
    from mnv2_perception.nets.ssdlite import by_anchor

    columns = torch.arange(12.0).expand(1, ANCHORS_PER_CELL * 2, 8, 12)
    x = by_anchor(columns, 2)[0, :, 1] * 8 + 4
    assert torch.equal(x, make_anchors(64, 96, (8,))[:, 0])


def test_decoding_undoes_encoding() -> None:
    boxes, anchors = random_boxes(500), make_anchors(HEIGHT, WIDTH)[:500]
    assert torch.allclose(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-3)


def test_no_offset_is_the_anchor_and_a_wild_one_stays_finite() -> None:
    anchors = torch.tensor([[50.0, 40.0, 20.0, 10.0]])
    assert decode_boxes(torch.zeros(1, 4), anchors).tolist() == [[40.0, 35.0, 60.0, 45.0]]
    assert decode_boxes(torch.full((1, 4), 1e6), anchors).isfinite().all()


def test_with_four_classes_it_has_at_most_2_6_million_parameters() -> None:
    assert count_parameters(SSDLite(4)) <= 2.6e6


@pytest.mark.parametrize('encoder', BACKBONES)
def test_a_shallow_encoder_leaves_out_the_layers_at_stride_32_alone(encoder: str) -> None:
    shallow, deep = (SSDLite(1, 1.0, encoder, encoder_depth=depth) for depth in (4, 5))
    kept = shallow.encoder.state_dict()
    whole = make_backbone(encoder, 0)
    fourth = whole.stage_ends[3]
    assert len(shallow.encoder.features) == fourth < len(deep.encoder.features)
    assert {key: value.shape for key, value in kept.items()} == {
        key: value.shape for key, value in whole.state_dict().items()
        if int(key.split('.')[1]) < fourth
    }
    assert [head[-1].out_channels for head in shallow.box_heads] == [4 * ANCHORS_PER_CELL] * 4


def test_with_a_shallow_encoder_it_has_at_most_0_9_million_parameters() -> None:
    assert count_parameters(SSDLite(4, encoder_depth=4)) <= 0.9e6


def test_a_shallow_encoder_takes_sizes_that_divide_by_16() -> None:
    net = SSDLite(1, 0.35, encoder_depth=4).eval()
    with torch.inference_mode():
        logits, _ = net(torch.zeros(1, 3, 80, 112))
        assert logits.shape == (1, len(make_anchors(80, 112)), 1)
        with pytest.raises(ModelError, match=r'is not divisible by 16; the next size'):
            net(torch.zeros(1, 3, 80, 120))


def test_a_depth_or_strides_that_the_encoder_does_not_reach_are_refused() -> None:
    with pytest.raises(ModelError, match='encoder_depth is 3, expected 4 or 5'):
        SSDLite(1, 0.35, encoder_depth=3)
    with pytest.raises(ModelError, match=r'strides are \(32, 64\)'):
        SSDLite(1, 0.35, strides=(32, 64), encoder_depth=4)
    SSDLite(1, 0.35, strides=(32, 64), encoder_depth=5)


@pytest.mark.parametrize('strides', [(), (2, 4), (8, 32), (16, 8), (8, 16, 16), (64, 128), (12,)])
def test_strides_that_are_none_are_refused(strides: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r'strides are .*expected 4, 8, 16 or 32'):
        SSDLite(1, 0.35, strides=strides)


@pytest.mark.parametrize('name', BACKBONES)
def test_the_encoders_weights_load_without_what_widens_for_the_classifier(
    name: str, tmp_path: Path
) -> None:
    whole = make_backbone(name, 10, 0.35)
    torch.save(whole.state_dict(), tmp_path / 'imagenet.pth')
    net = SSDLite(2, 0.35, name)
    load_weights(net, net.encoder, tmp_path / 'imagenet.pth')
    key = f'features.{len(net.encoder.features) - 1}.'
    kept = {k: v for k, v in net.encoder.state_dict().items() if k.startswith(key)}
    assert kept and all(torch.equal(v, whole.state_dict()[k]) for k, v in kept.items())
    assert len(whole.features) - len(net.encoder.features) == (name != 'mobilenet_v1')


@pytest.mark.parametrize('encoder', BACKBONES)
@pytest.mark.parametrize(('width_mult', 'depth'), [(0.35, 5), (1.0, 5), (1.0, 4)])
def test_the_exported_boxes_equal_those_of_torch(
    encoder: str, width_mult: float, depth: int, tmp_path: Path
) -> None:
    net, spec = make_net(encoder, width_mult, encoder_depth=depth), make_spec()
    export_network(net, spec, tmp_path / 'model.onnx')
    image = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    outputs = open_engine(tmp_path / 'model.onnx').infer({'image': image})
    with torch.inference_mode():
        expected = TopBoxes(HEIGHT, WIDTH)(Normalised(net, spec)(torch.from_numpy(image)))
    boxes, scores, class_ids = (tensor.numpy() for tensor in expected)
    assert len(np.unique(class_ids)) > 1 and scores[0, 0] > scores[0, -1] + 0.01
    assert np.abs(outputs['scores'] - scores).max() <= 1e-4
    # Where two scores are as good as equal, their order is anyone's.
    sure = np.ones(CANDIDATES, bool)
    close = np.diff(scores[0]) > -1e-4
    sure[1:] &= ~close
    sure[:-1] &= ~close
    sure[-1] = False  # the next best is not among them
    assert sure.mean() > 0.2
    assert np.abs(outputs['boxes'] - boxes)[0, sure].max() <= 1e-4 * np.abs(boxes).max()
    assert (outputs['class_ids'] == class_ids)[0, sure].all()


def test_the_best_boxes_are_those_of_all_anchors_and_classes() -> None:
    torch.manual_seed(2)
    anchors = make_anchors(HEIGHT, WIDTH)
    logits, offsets = torch.randn(1, len(anchors), 3), torch.randn(1, len(anchors), 4)
    boxes, scores, class_ids = TopBoxes(HEIGHT, WIDTH)((logits, offsets))
    decoded = decode_boxes(offsets[0], anchors) / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    order = logits[0].flatten().sigmoid().argsort(descending=True)[:CANDIDATES]
    assert torch.allclose(boxes[0], decoded[order // 3], atol=1e-6)
    assert torch.equal(class_ids[0], (order % 3).int())
    assert torch.allclose(scores[0], logits[0].flatten().sigmoid()[order])


def test_the_exported_file_holds_no_anchor_for_each_output(exported: Path) -> None:
    sizes = [np.prod(tensor.dims) for tensor in onnx.load(exported).graph.initializer]
    nodes = onnx.load(exported).graph.node
    sizes += [
        np.prod(attribute.t.dims) for node in nodes if node.op_type == 'Constant'
        for attribute in node.attribute
    ]
    assert 4 * len(make_anchors(HEIGHT, WIDTH)) not in sizes
    assert 4 * len(make_anchors(HEIGHT, WIDTH)) // ANCHORS_PER_CELL in sizes  # the cells


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('export') / 'model.onnx'
    export_network(make_net('mobilenet_v2', 0.35), make_spec(), path)
    return path


def test_it_gives_boxes_scores_and_class_ids(exported: Path) -> None:
    assert [str(spec) for spec in open_engine(exported).outputs] == [
        "'boxes' (1, 200, 4) float32", "'scores' (1, 200) float32", "'class_ids' (1, 200) int32",
    ]


def test_the_graph_has_operators_of_tensorrt_only(exported: Path) -> None:
    operators = {node.op_type for node in onnx.load(exported).graph.node}
    assert operators - TENSORRT == set()
    assert 'TopK' in operators


def test_a_detector_opens_it(exported: Path) -> None:
    with_all = Detector.open(exported, min_score=0.0, nms_iou=1.0)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    found = with_all(image)
    assert 100 < len(found.boxes) <= CANDIDATES
    assert (found.boxes >= 0).all() and (found.boxes <= [70, 50, 70, 50]).all()
    assert (np.diff(found.scores) <= 0).all()
