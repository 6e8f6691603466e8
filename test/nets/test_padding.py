"""SAME padding is TensorFlow's: its rule, its weights' logits, the same after an export."""

from itertools import product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')
onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from mnv2_perception.engines import open_engine
from mnv2_perception.errors import ModelError
from mnv2_perception.nets.backbone import Backbone, SameConv2d
from mnv2_perception.nets.backbones import BACKBONES, make_backbone

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning'),
]


def tensorflows_same(
    image: NDArray[np.float64], weight: NDArray[np.float64], stride: int
) -> NDArray[np.float64]:
    """Convolve (H, W) with (k, k), one output at a time, by the rule of tf.nn's documentation."""
    kernel = len(weight)
    before = []
    for size in image.shape:
        rest = size % stride or stride
        before.append(max(kernel - rest, 0) // 2)
    output = np.zeros([-(-size // stride) for size in image.shape])
    for row, column, i, j in product(*map(range, (*output.shape, kernel, kernel))):
        y, x = row * stride + i - before[0], column * stride + j - before[1]
        if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
            output[row, column] += image[y, x] * weight[i, j]
    return output


@pytest.mark.parametrize('kernel', [1, 3, 5])
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('size', [(1, 2), (6, 9), (7, 8)])
def test_a_convolution_pads_by_tensorflows_rule(
    kernel: int, stride: int, size: tuple[int, int]
) -> None:
    random = np.random.default_rng(0)
    image, weight = random.normal(size=size), random.normal(size=(kernel, kernel))
    conv = SameConv2d(1, 1, kernel, stride).double()
    conv.weight.data[0, 0] = torch.tensor(weight)
    with torch.no_grad():
        output = conv(torch.tensor(image)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(output, tensorflows_same(image, weight, stride), atol=1e-12)


@pytest.mark.parametrize('name', BACKBONES)
def test_each_network_takes_it_where_a_convolution_has_a_stride(name: str) -> None:
    net = make_backbone(name, num_classes=4, width_mult=0.35, padding='same_tf').eval()
    strided = [layer for layer in net.modules() if getattr(layer, 'stride', 0) == (2, 2)]
    assert len(strided) == 5
    assert all(isinstance(layer, SameConv2d) for layer in strided)
    assert net.state_dict().keys() == make_backbone(name, num_classes=4).state_dict().keys()
    for size in ((64, 96), (65, 33), (1, 2)):
        assert net(torch.zeros(1, 3, *size)).shape == (1, 4)
    features = net.forward_features(torch.zeros(1, 3, 65, 33))
    assert [tuple(feature.shape[2:]) for feature in features] == [
        (33, 17), (17, 9), (9, 5), (5, 3), (3, 2)
    ]


def test_an_unknown_padding_is_refused() -> None:
    with pytest.raises(ModelError, match="'valid', expected symmetric or same_tf"):
        make_backbone('mobilenet_v2', padding='valid')


@pytest.mark.parametrize('size', [(64, 96), (47, 65)])
def test_an_exported_network_pads_the_same(size: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = make_backbone('mobilenet_v3_small', 5, 0.35, padding='same_tf').eval()
    image = torch.randn(1, 3, *size)
    path = tmp_path / 'net.onnx'
    names = {'input_names': ['image'], 'output_names': ['logits']}
    torch.onnx.export(net, (image,), str(path), opset_version=17, dynamo=False, **names)
    with torch.no_grad(), open_engine(path) as engine:
        logits = engine.infer({'image': image.numpy()})['logits']
        np.testing.assert_allclose(logits, net(image).numpy(), atol=1e-6)
    operations = {node.op_type for node in onnx.load(path).graph.node}
    assert 'Conv' in operations and not {'Pad', 'BatchNormalization'} & operations


def load_folded(net: Backbone, path: Path) -> None:
    """Load convolutions in order; their biases come from batch normalisation folded into them."""
    graph = onnx.load(str(path)).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convs = [node.input[1:] for node in graph.node if node.op_type == 'Conv']
    norms = [layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    weights = [p for name, p in net.named_parameters() if p.dim() > 1]
    biases = [*(norm.bias for norm in norms), net.classifier[1].bias]
    with torch.no_grad():
        for (weight_name, bias_name), weight, bias in zip(convs, weights, biases, strict=True):
            weight.copy_(torch.tensor(values[weight_name]).view_as(weight))
            bias.copy_(torch.tensor(values[bias_name]))
        for norm in norms:
            norm.weight.fill_((norm.running_var[0] + norm.eps) ** 0.5)


def test_weights_trained_by_tensorflow_give_their_logits(mnv2_data: Path) -> None:
    path = mnv2_data / 'weights/mobilenetv2_1.0_224_imagenet.onnx'
    pictures = sorted((mnv2_data / 'imagenet_samples/images').iterdir())[:3]
    images = [cv2.imread(str(picture))[:224, :224, ::-1] for picture in pictures]
    tensor = (np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) - 127.0) * 0.00784314
    with open_engine(path) as engine:
        expected = np.concatenate([engine.infer({'input': x[None]})['logits'] for x in tensor])
    for padding, tolerance in (('same_tf', 1e-4), ('symmetric', None)):
        net = make_backbone('mobilenet_v2', num_classes=1001, padding=padding).eval()
        load_folded(net, path)
        with torch.no_grad():
            difference = np.abs(net(torch.from_numpy(tensor)).numpy() - expected).max()
        if tolerance:
            assert difference < tolerance * np.abs(expected).max()
        else:
            assert difference > 0.1 * np.abs(expected).max()
