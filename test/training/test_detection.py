"""Training a detector for real, on a few drawn scenes: it learns, is measured, and exports."""

from collections.abc import Iterator
import copy
from dataclasses import replace
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')
for package in ('tqdm', 'matplotlib', 'pycocotools', 'onnxruntime'):
    pytest.importorskip(package, reason=f'no {package}: run make setup-train')

from mnv2_perception.data.coco import write_coco
from mnv2_perception.data.from_masks import boxes_from_labels
from mnv2_perception.engines import open_engine
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.evaluate import evaluate_detection
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.checkpoint import load_checkpoint, make_network
from mnv2_perception.nets.export import export_model, export_network, Normalised
from mnv2_perception.nets.mobilenet_v2 import MobileNetV2
from mnv2_perception.nets.ssdlite import TopBoxes
from mnv2_perception.nets.unet import UNet
from mnv2_perception.scenes.street import CLASSES, draw_scene
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.training import loop
from mnv2_perception.training.batch_norm import gathering_layers, reestimate
from mnv2_perception.training.boxes import BACKGROUND, IGNORED
from mnv2_perception.training.detection import DetectionTask, train
from mnv2_perception.training.recipe import DetectionRecipe

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning'),
]

RECIPE = DetectionRecipe(
    epochs=2, batch=4, crop_height=96, crop_width=128, learning_rate=1e-2, width_mult=0.35,
    ema=0.5, encoder='mobilenet_v3_small', evaluate_every=2,
)
NAMES = ('car', 'pedestrian', 'tree')
SPEC = ModelSpec.from_dict(
    {'name': 'drawn', 'task': 'detection', 'output': 'boxes', 'height': 96, 'width': 128,
     'classes': NAMES, 'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]},
    'the test',
)


def write_set(folder: Path, seeds: range) -> Path:
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True)
    for seed in seeds:
        image, label = draw_scene(seed, 1.0, 96, 128)
        cv2.imwrite(str(folder / f'images/{seed}.png'), image[..., ::-1])
        cv2.imwrite(str(folder / f'labels/{seed}.png'), label)
    samples = boxes_from_labels(folder, [CLASSES.index(name) for name in NAMES])
    write_coco(folder / 'coco.json', NAMES, samples)
    return folder / 'coco.json'


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp('data') / 'train', range(16))


@pytest.fixture(scope='module')
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp('data') / 'val', range(100, 103))


@pytest.fixture(scope='module', autouse=True)
def one_thread() -> Iterator[None]:
    """One number of threads gives one order of additions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def run(data: Path, val: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    out = tmp_path_factory.mktemp('run')
    assert 0.0 <= train(data, out, SPEC, RECIPE, val=val) < 1.0
    return out


def test_training_lowers_the_loss(run: Path) -> None:
    lines = (run / 'log.jsonl').read_text().splitlines()
    losses = [json.loads(line)['loss'] for line in lines]
    assert len(losses) == 2
    assert losses[1] < 0.95 * losses[0]
    assert json.loads(lines[-1])['val_ap'] >= 0.0


def test_the_average_has_the_statistics_of_its_own_weights(run: Path, data: Path) -> None:
    checkpoint = load_checkpoint(run / 'last.pt')
    net = make_network(checkpoint.spec, checkpoint.architecture)
    net.load_state_dict(checkpoint.state_dict)
    task = DetectionTask(data, SPEC, RECIPE, None)
    again = copy.deepcopy(net).eval()
    reestimate(
        again, gathering_layers(net.train()),
        loop.calibration(task, RECIPE, torch.device('cpu')),
    )
    for key, value in again.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, checkpoint.state_dict[key], atol=1e-5), key


def test_a_checkpoint_becomes_a_detector(run: Path, val: Path, tmp_path: Path) -> None:
    assert 'parameters' in export_model(run / 'last.pt', tmp_path / 'model.onnx')
    detector = Detector.open(tmp_path / 'model.onnx', min_score=0.0)
    assert detector.spec == SPEC
    result = evaluate_detection(detector, val)
    assert result['images'] == 3
    # Training measures the same network on the same images.
    logged = json.loads((run / 'log.jsonl').read_text().splitlines()[-1])['val_ap']
    assert result['ap'] == pytest.approx(logged, abs=0.02)


def test_a_sample_says_what_each_anchor_is_to_say(data: Path) -> None:
    task = DetectionTask(data, SPEC, RECIPE, None)
    seen = set()
    for index in range(len(task)):
        image, class_ids, boxes = task.sample(index, np.random.default_rng(index))
        assert image.shape == (3, 96, 128) and image.dtype == np.float32
        assert class_ids.shape == (len(task.anchors),) and boxes.shape == (len(task.anchors), 4)
        sides = boxes[class_ids >= 0]
        assert (sides[:, 2:] > sides[:, :2]).all()
        seen |= set(class_ids.tolist())
    assert {BACKGROUND, IGNORED, 0, 2} <= seen <= {BACKGROUND, IGNORED, 0, 1, 2}


@pytest.mark.parametrize(('finest', 'strides'), [(4, (4, 8, 16, 32, 64)), (16, (16, 32, 64))])
def test_the_finest_stride_is_the_recipes(
    data: Path, finest: int, strides: tuple[int, ...]
) -> None:
    task = DetectionTask(data, SPEC, replace(RECIPE, finest_stride=finest), None)
    assert task.architecture['strides'] == strides
    logits, _ = task.net(torch.zeros(1, 3, 96, 128))
    assert logits.shape[1] == len(task.anchors)


def test_a_shallow_encoder_starts_from_a_segmenters_and_becomes_a_detector(
    data: Path, val: Path, tmp_path: Path
) -> None:
    """From the model of another task, through the checkpoint, to the boxes of the file."""
    start = UNet(3, 0.35, encoder_depth=4)
    masks = replace(SPEC, name='masks', task='segmentation', output='logits')
    export_network(start, masks, tmp_path / 'masks.onnx')
    recipe = replace(
        RECIPE, encoder='mobilenet_v2', encoder_depth=4, frozen_stages=4, epochs=1, ema=0.0,
    )
    train(data, tmp_path / 'run', SPEC, recipe, weights=tmp_path / 'masks.onnx', val=val)
    checkpoint = load_checkpoint(tmp_path / 'run/last.pt')
    assert checkpoint.architecture['encoder_depth'] == 4
    net = make_network(SPEC, checkpoint.architecture)
    net.load_state_dict(checkpoint.state_dict)
    net.eval()
    x = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        expected, got = (n.encoder.forward_features(x) for n in (start.eval(), net))
    assert len(got) == 4
    for pair in zip(expected, got, strict=True):
        assert torch.allclose(*pair, rtol=1e-4, atol=1e-5)

    export_model(tmp_path / 'run/last.pt', tmp_path / 'model.onnx')
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)
    outputs = open_engine(tmp_path / 'model.onnx').infer({'image': image})
    with torch.inference_mode():
        graph = torch.nn.Sequential(Normalised(net, SPEC), TopBoxes(96, 128))
        boxes, scores, _ = graph(torch.from_numpy(image))
    assert np.abs(outputs['scores'] - scores.numpy()).max() <= 1e-4
    assert np.abs(outputs['boxes'] - boxes.numpy())[0, 0].max() <= 1e-4


def test_a_depth_that_detection_has_not_is_refused() -> None:
    with pytest.raises(DataError, match='--encoder-depth is 3, expected 4 to 5'):
        replace(RECIPE, encoder_depth=3)


def test_it_starts_from_imagenet_weights(data: Path, tmp_path: Path) -> None:
    torch.save(MobileNetV2(10, 0.35).state_dict(), tmp_path / 'imagenet.pth')
    recipe = replace(RECIPE, encoder='mobilenet_v2', epochs=1)
    result = train(data, tmp_path / 'run', SPEC, recipe, weights=tmp_path / 'imagenet.pth')
    assert np.isnan(result)  # nothing to measure on
    assert (tmp_path / 'run/last.pt').is_file()


def test_categories_that_are_not_the_specs_classes_are_refused(data: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, classes=('pedestrian', 'car', 'tree'))
    with pytest.raises(DataError, match='categories car, pedestrian, tree, the spec the classes'):
        train(data, tmp_path, spec, RECIPE)


def test_a_class_without_a_box_is_told_and_no_box_at_all_is_refused(
    data: Path, val: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = json.loads(data.read_text())
    fewer = [each for each in values['annotations'] if each['category_id'] != 1]
    path = data.with_name('fewer.json')
    path.write_text(json.dumps({**values, 'annotations': fewer}))
    DetectionTask(path, SPEC, RECIPE, None)
    assert 'fewer.json: no box of car' in caplog.text
    values = json.loads(val.read_text())
    empty = val.with_name('empty.json')
    empty.write_text(json.dumps({**values, 'annotations': []}))
    with pytest.raises(DataError, match=r'empty\.json: has no box of car, pedestrian, tree'):
        DetectionTask(data, SPEC, RECIPE, empty)


def test_measuring_on_training_images_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='is also in the training set'):
        train(data, tmp_path, SPEC, RECIPE, val=data)
