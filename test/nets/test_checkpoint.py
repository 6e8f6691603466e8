"""Checkpoints: read without running code, refused with a reason."""

from collections.abc import Callable
from pathlib import Path
import pickle
from typing import Any

from identity_network import identity_spec
import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')
from torch import nn

from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    read_weights,
    save_checkpoint,
)
from mnv2_perception.nets.export import export_network
from mnv2_perception.nets.mobilenet_v2 import MobileNetV2
from mnv2_perception.nets.mobilenet_v3 import MobileNetV3
from mnv2_perception.nets.ssdlite import SSDLite
from mnv2_perception.nets.unet import UNet

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning'),
]


class RunsCode:
    """Makes a folder when it is unpickled, as an attacker's file would do worse."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.path,)


@pytest.fixture
def checkpoint() -> Checkpoint:
    net = MobileNetV2(num_classes=0, width_mult=0.35)
    spec = identity_spec(32, 32, classes=['road', 'sky'])
    return Checkpoint(
        spec, {'decoder': 'full'}, net.state_dict(), {'images': 3}, 2, {'schedule': {'step': 4}}
    )


def test_a_checkpoint_comes_back_as_it_was(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(checkpoint, tmp_path / 'last.pt')
    loaded = load_checkpoint(tmp_path / 'last.pt')
    assert loaded.spec == checkpoint.spec
    assert loaded.state_dict.keys() == checkpoint.state_dict.keys()
    for key, value in loaded.state_dict.items():
        assert torch.equal(value, checkpoint.state_dict[key])
    for name in ('architecture', 'facts', 'epoch', 'training'):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    assert [path.name for path in tmp_path.iterdir()] == ['last.pt']


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    path, made = tmp_path / 'evil.pt', tmp_path / 'made'
    torch.save({'weights': RunsCode(made)}, path, _use_new_zipfile_serialization=zipped)
    told = r'evil\.pt: is not a checkpoint of plain tensors \(it is another kind of file'
    with pytest.raises(ModelError, match=told):
        read_weights(path)
    assert not made.exists()


@pytest.mark.parametrize(('name', 'told'), [
    ('run', r'run: is a folder, expected a checkpoint such as .*run/best\.pt'),
    ('m.onnx', r'm\.onnx: is a model already, expected a checkpoint'),
])
def test_what_is_given_for_a_checkpoint_is_named(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / 'run').mkdir()
    (tmp_path / 'm.onnx').write_bytes(b'\x08\x08')
    with pytest.raises(ModelError, match=told):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize('name', ['w.pth', 'w.onnx'])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 4\n')
    net = MobileNetV2(num_classes=0)
    with pytest.raises(ModelError, match='a Git LFS pointer'):
        load_weights(net, net, path)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize(
    'content',
    [b'', b'text\n', b'PK\x03\x04 cut short', pickle.dumps([1, 2]), b'\x80\x02.', b'\x80\x04\x95'],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'damaged.pt'
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r'damaged\.pt'):
        read_weights(path)


def test_a_checkpoint_cut_short_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / 'last.pt'
    save_checkpoint(checkpoint, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r'last\.pt'):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'absent\.pt: no such checkpoint'):
        read_weights(tmp_path / 'absent.pt')


def test_weights_that_are_no_training_checkpoint_are_refused(tmp_path: Path) -> None:
    torch.save({'features.0.0.weight': torch.zeros(3)}, tmp_path / 'w.pt')
    with pytest.raises(ModelError, match=r'w\.pt: is not a checkpoint of `mnv2 train`'):
        load_checkpoint(tmp_path / 'w.pt')


def test_an_encoder_of_another_width_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    torch.save(checkpoint.state_dict, tmp_path / 'features.pth')
    told = 'not this encoder at this width.*tensors are .* of another shape, the first is features'
    net = MobileNetV2(num_classes=0, width_mult=0.5)
    with pytest.raises(ModelError, match=told):
        load_weights(net, net, tmp_path / 'features.pth')


def test_an_encoder_starts_from_a_classifier_and_leaves_its_head_out(tmp_path: Path) -> None:
    whole = MobileNetV2(num_classes=5, width_mult=0.35)
    torch.save(whole.state_dict(), tmp_path / 'whole.pth')
    net = UNet(3, width_mult=0.35)
    loaded = load_weights(net, net.encoder, tmp_path / 'whole.pth')
    assert loaded.unused == ['classifier.1.weight', 'classifier.1.bias']
    assert torch.equal(net.encoder.features[0][0].weight, whole.features[0][0].weight)


@pytest.mark.parametrize('suffix', ['pt', 'onnx'])
def test_a_unet_of_other_classes_starts_from_a_trained_one_but_for_its_head(
    tmp_path: Path, suffix: str
) -> None:
    torch.manual_seed(1)
    trained, spec = UNet(5, width_mult=0.35).eval(), identity_spec(
        32, 64, output='logits', classes=list('abcde')
    )
    path = tmp_path / f'trained.{suffix}'
    if suffix == 'pt':
        save_checkpoint(Checkpoint(spec, {}, trained.state_dict(), {}, 1), path)
    else:
        export_network(trained, spec, path)
    net = UNet(3, width_mult=0.35).eval()
    loaded = load_weights(net, net.encoder, path)
    assert len(loaded.unused) == (2 if suffix == 'pt' else 1)
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        features = [n.decoder(n.encoder.forward_features(x)) for n in (net, trained)]
    assert torch.allclose(*features, rtol=1e-4, atol=1e-5)


def test_a_shallow_encoder_starts_from_a_deep_one(tmp_path: Path) -> None:
    whole = MobileNetV2(num_classes=5, width_mult=0.35)
    torch.save(whole.state_dict(), tmp_path / 'whole.pth')
    net = UNet(3, width_mult=0.35, encoder_depth=4)
    loaded = load_weights(net, net.encoder, tmp_path / 'whole.pth')
    assert 'features.18.0.weight' in loaded.unused
    assert torch.equal(net.encoder.features[13].conv[3].weight, whole.features[13].conv[3].weight)


def test_an_exported_model_of_another_encoder_is_refused(tmp_path: Path) -> None:
    export_network(
        UNet(2, width_mult=0.5), identity_spec(32, 32, output='logits', classes=['a', 'b']),
        tmp_path / 'other.onnx',
    )
    net = UNet(2, width_mult=0.35)
    with pytest.raises(
        ModelError, match=r'other\.onnx: only the first 5 of its 52 convolutions match'
    ):
        load_weights(net, net.encoder, tmp_path / 'other.onnx')

@pytest.mark.parametrize(
    ('make', 'last'),
    [
        (lambda classes: MobileNetV2(classes, 0.35), 'classifier.1'),
        (lambda classes: MobileNetV3('small', classes, 0.35), 'classifier.3'),
        (lambda classes: UNet(classes, 0.35, 'full'), 'segmentation_head.0'),
    ],
)
def test_another_number_of_classes_keeps_all_but_the_last_layer(
    make: Callable[[int], nn.Module], last: str, tmp_path: Path
) -> None:
    path = tmp_path / 'five.pth'
    torch.save(make(5).state_dict(), path)
    net = make(3)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    names = [f'{last}.weight', f'{last}.bias']
    assert load_weights(net, getattr(net, 'encoder', net), path) == (names, names, [])
    stored = torch.load(path, weights_only=True)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key] if key in names else stored[key]), key
    net = make(5)
    assert load_weights(net, getattr(net, 'encoder', net), path) == ([], [], [])


@pytest.mark.parametrize(
    ('change', 'name'),
    [
        (lambda state: state.pop('features.3.conv.2.weight'), 'features.3.conv.2.weight'),
        (lambda state: state.update({'features.0.1.bias': 'text'}), 'features.0.1.bias'),
    ],
)
def test_the_encoder_must_be_whole(
    change: Callable[[dict[str, Any]], Any], name: str, tmp_path: Path
) -> None:
    net = MobileNetV2(4, 0.35)
    state = net.state_dict()
    change(state)
    torch.save(state, tmp_path / 'w.pth')
    with pytest.raises(ModelError, match=f'1 of its tensors are .* the first is {name}'):
        load_weights(net, net, tmp_path / 'w.pth')


def exported_spec(task: str, output: str, classes: str) -> ModelSpec:
    return identity_spec(64, 64, task=task, output=output, classes=list(classes))


def test_a_classifier_starts_from_an_exported_one_with_its_head(tmp_path: Path) -> None:
    trained = MobileNetV2(num_classes=3, width_mult=0.35).eval()
    trained.classifier[1].bias.data.uniform_()
    export_network(trained, exported_spec('classification', 'logits', 'abc'), tmp_path / 'm.onnx')
    net = MobileNetV2(num_classes=3, width_mult=0.35).eval()
    assert load_weights(net, net, tmp_path / 'm.onnx')[:2] == ([], [])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(net(x), trained(x), rtol=1e-4, atol=1e-5)
    other = MobileNetV2(num_classes=2, width_mult=0.35)
    unused, random, _ = load_weights(other, other, tmp_path / 'm.onnx')
    assert len(unused) == 1 and random == ['classifier.1.weight']


def test_a_detector_of_other_classes_starts_from_an_exported_one_but_for_its_class_heads(
    tmp_path: Path,
) -> None:
    trained = SSDLite(2, 0.35, 'mobilenet_v3_small').eval()
    export_network(trained, exported_spec('detection', 'boxes', 'ab'), tmp_path / 'm.onnx')
    net = SSDLite(3, 0.35, 'mobilenet_v3_small').eval()
    _, random, _ = load_weights(net, net.encoder, tmp_path / 'm.onnx')
    assert random == [f'class_heads.{level}.4.weight' for level in range(4)]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(net(x)[1], trained(x)[1], rtol=1e-3, atol=1e-4)


def test_a_model_that_was_not_exported_here_is_refused(mnv2_data: Path) -> None:
    net = MobileNetV2(num_classes=1001)
    path = mnv2_data / 'weights/mobilenetv2_1.0_224_imagenet.onnx'
    with pytest.raises(ModelError, match='was not written by `mnv2 export`'):
        load_weights(net, net, path)
