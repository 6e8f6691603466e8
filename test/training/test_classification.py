"""Training a classifier for real, on red and green pictures."""

import copy
from dataclasses import replace
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')
pytest.importorskip('tqdm', reason='no tqdm: run make setup-train')
pytest.importorskip('matplotlib', reason='no matplotlib: run make setup-train')

from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.evaluate import evaluate_classification
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.checkpoint import load_checkpoint, make_network
from mnv2_perception.nets.export import export_model
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.training import loop
from mnv2_perception.training.batch_norm import gathering_layers, reestimate
from mnv2_perception.training.classification import ClassificationTask, train
from mnv2_perception.training.recipe import ClassificationRecipe

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning'),
]

SPEC = ModelSpec.from_dict(
    {'name': 'lamps', 'task': 'classification', 'height': 32, 'width': 32, 'output': 'logits',
     'classes': ['red', 'green'], 'mean': [127.5] * 3, 'std': [127.5] * 3, 'fit': 'crop'},
    'the test',
)
RECIPE = ClassificationRecipe(
    epochs=6, batch=4, learning_rate=2e-2, width_mult=0.35, encoder_depth=3, ema=0.0,
    evaluate_every=2,
)


def write_folders(folder: Path, count: int, seed: int) -> Path:
    """Write pictures of noise, brighter in the class's channel."""
    rng = np.random.default_rng(seed)
    for channel, name in ((2, 'red'), (1, 'green')):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            picture = rng.integers(0, 128, (40, 60, 3), np.uint8)
            picture[..., channel] += 100
            cv2.imwrite(str(folder / name / f'{index}.png'), picture)
    return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp('data') / 'train', 8, seed=0)


def test_it_learns_and_the_export_measures_as_at_training(folder: Path, tmp_path: Path) -> None:
    val = write_folders(tmp_path / 'val', 3, seed=1)
    best = train(folder, tmp_path / 'run', SPEC, RECIPE, val=val)
    losses = [
        json.loads(line)['loss'] for line in (tmp_path / 'run/log.jsonl').read_text().splitlines()
    ]
    assert losses[-1] < 0.7 * losses[0]
    assert best >= 5 / 6
    export_model(tmp_path / 'run/best.pt', tmp_path / 'lamps.onnx')
    classifier = Classifier.open(tmp_path / 'lamps.onnx')
    assert evaluate_classification(classifier, val)['top1'] == pytest.approx(best)


def test_the_average_has_the_statistics_of_its_own_weights(folder: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, ema=0.9)
    train(folder, tmp_path, SPEC, recipe)
    checkpoint = load_checkpoint(tmp_path / 'last.pt')
    net = make_network(checkpoint.spec, checkpoint.architecture)
    net.load_state_dict(checkpoint.state_dict)
    task = ClassificationTask(folder, SPEC, recipe, None)
    again = copy.deepcopy(net).eval()
    reestimate(
        again, gathering_layers(net.train()),
        loop.calibration(task, recipe, torch.device('cpu')),
    )
    for key, value in again.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, checkpoint.state_dict[key], atol=1e-5), key


def test_a_class_without_an_image_is_named(folder: Path, tmp_path: Path) -> None:
    spec = replace(
        SPEC, classes=('red', 'green', 'amber'), colours=((9, 9, 9),) * 3
    )
    with pytest.raises(DataError, match='no images of amber'):
        train(folder, tmp_path, spec, RECIPE)


def test_a_damaged_image_to_measure_on_is_told_before_the_first_epoch(
    folder: Path, tmp_path: Path
) -> None:
    val = write_folders(tmp_path / 'val', 1, seed=7)
    image = next(val.glob('*/*'))
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(DataError, match=image.name):
        ClassificationTask(folder, SPEC, RECIPE, val)


def test_an_image_that_is_also_trained_on_is_not_measured_on(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='is also in the training set'):
        train(folder, tmp_path, SPEC, RECIPE, val=folder)
