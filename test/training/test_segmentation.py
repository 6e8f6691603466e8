"""Training for real, on six drawn scenes: it learns, goes on where it stopped, and exports."""

from collections.abc import Iterator
from contextlib import suppress
import copy
from dataclasses import fields, replace
import errno
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')
pytest.importorskip('tqdm', reason='no tqdm: run make setup-train')
pytest.importorskip('matplotlib', reason='no matplotlib: run make setup-train')

from mnv2_perception.cli.main import main
from mnv2_perception.data.files import alone_in
from mnv2_perception.errors import DataError, ModelError
from mnv2_perception.model_spec import METADATA_KEY, ModelSpec
from mnv2_perception.nets.checkpoint import load_checkpoint, make_network, save_checkpoint
from mnv2_perception.nets.mobilenet_v2 import MobileNetV2
from mnv2_perception.scenes.street import CLASSES, draw_scene
from mnv2_perception.training import loop
from mnv2_perception.training.batch_norm import gathering_layers, reestimate
from mnv2_perception.training.recipe import RECIPES, SegmentationRecipe
from mnv2_perception.training.segmentation import (
    read_classes,
    SegmentationTask,
    soft_jaccard_loss,
    train,
)

pytestmark = pytest.mark.train

RECIPE = SegmentationRecipe(
    epochs=2, batch=3, crop_height=64, crop_width=96, learning_rate=1e-2, drawn=2,
    width_mult=0.35, ema=0.5,
)
SPEC = ModelSpec.from_dict(
    {'name': 'drawn', 'task': 'segmentation', 'height': 96, 'width': 128, 'classes': CLASSES,
     'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'licence': 'CC0-1.0'},
    'the test',
)


def write_folder(folder: Path, seeds: range) -> Path:
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True)
    for seed in seeds:
        image, label = draw_scene(seed, 1.0, 96, 128)
        cv2.imwrite(str(folder / f'images/{seed}.png'), image[..., ::-1])
        cv2.imwrite(str(folder / f'labels/{seed}.png'), label)
    return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('data') / 'train', range(6))


@pytest.fixture(scope='module', autouse=True)
def one_thread() -> Iterator[None]:
    """One number of threads gives one order of additions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of two epochs, measured on other scenes."""
    out = tmp_path_factory.mktemp('run')
    val = write_folder(out / 'val', range(100, 102))
    miou = train(folder, out, SPEC, RECIPE, val=val)
    assert 0.0 < miou < 1.0
    return out


def read_log(run: Path) -> list[dict[str, Any]]:
    lines = (run / 'log.jsonl').read_text().splitlines()
    return [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines]


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the run off, as a power cut would, once a number of epochs is saved."""
    saved = []
    save = loop.save_checkpoint

    def save_and_stop(checkpoint: Any, path: Path) -> None:
        save(checkpoint, path)
        saved.append(path)
        if len(saved) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, 'save_checkpoint', save_and_stop)


def test_training_lowers_the_loss(run: Path) -> None:
    losses = [entry['loss'] for entry in read_log(run)]
    assert len(losses) == 2
    assert losses[1] < 0.9 * losses[0]


def test_the_log_is_json_and_has_a_miou_only_where_it_was_measured(run: Path) -> None:
    first, second = read_log(run)
    assert 'val_miou' not in first and 0.0 < second['val_miou'] < 1.0


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(1, patch)
        train(folder, tmp_path, SPEC, RECIPE)
    assert load_checkpoint(tmp_path / 'last.pt').epoch == 1
    train(folder, tmp_path, SPEC, RECIPE, resume=True)
    resumed, unbroken = (load_checkpoint(path / 'last.pt') for path in (tmp_path, run))
    assert resumed.epoch == unbroken.epoch == 2
    assert resumed.state_dict.keys() == unbroken.state_dict.keys()
    for key, value in resumed.state_dict.items():
        assert torch.equal(value, unbroken.state_dict[key]), key


def test_a_finished_run_that_is_resumed_stays_as_it_is(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    for name in ('last.pt', 'best.pt'):
        shutil.copy(run / name, tmp_path)
    miou = train(folder, tmp_path, SPEC, RECIPE, val=run / 'val', resume=True)
    assert miou == read_log(run)[1]['val_miou']
    assert (tmp_path / 'last.pt').read_bytes() == (run / 'last.pt').read_bytes()


@pytest.mark.parametrize(
    ('recipe', 'spec', 'told'),
    [
        (replace(RECIPE, learning_rate=1e-3), SPEC, r'learning_rate \(0\.01, now 0\.001\)'),
        (RECIPE, replace(SPEC, mean=(0.0, 0.0, 0.0)), 'another .*spec'),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    run: Path, folder: Path, tmp_path: Path, recipe: SegmentationRecipe, spec: ModelSpec, told: str
) -> None:
    shutil.copy(run / 'last.pt', tmp_path)
    with pytest.raises(DataError, match=told):
        train(folder, tmp_path, spec, recipe, resume=True)


def test_a_run_is_not_resumed_on_other_images(run: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / 'data', range(1, 7))
    shutil.copy(run / 'last.pt', tmp_path)
    with pytest.raises(DataError, match='another training_list_sha256'):
        train(folder, tmp_path, SPEC, RECIPE, resume=True)


def test_a_finished_run_is_prolonged_at_the_rate_of_a_longer_one(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    for name in ('last.pt', 'best.pt', 'log.jsonl'):
        shutil.copy(run / name, tmp_path)
    train(folder, tmp_path, SPEC, replace(RECIPE, epochs=4), val=run / 'val', resume=True)
    train(folder, tmp_path / 'whole', SPEC, replace(RECIPE, epochs=4))
    prolonged, whole = read_log(tmp_path), read_log(tmp_path / 'whole')
    assert [entry['epoch'] for entry in prolonged] == [1, 2, 3, 4]
    for longer, entry in zip(prolonged[2:], whole[2:], strict=True):
        assert longer['learning_rate'] == pytest.approx(entry['learning_rate'])
    assert load_checkpoint(tmp_path / 'last.pt').facts['recipe']['epochs'] == 4


def test_a_run_is_not_resumed_with_fewer_epochs_than_it_has(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(run / 'last.pt', tmp_path)
    with pytest.raises(DataError, match=r'has 2 finished epochs, more than --epochs 1'):
        train(
            folder, tmp_path, SPEC, replace(RECIPE, epochs=1), val=run / 'val', resume=True
        )


def test_the_average_has_the_statistics_of_its_own_weights(folder: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, ema=0.9)
    train(folder, tmp_path, SPEC, recipe)
    checkpoint = load_checkpoint(tmp_path / 'last.pt')
    net = make_network(checkpoint.spec, checkpoint.architecture)
    net.load_state_dict(checkpoint.state_dict)
    task = SegmentationTask(folder, SPEC, recipe, None)
    again = copy.deepcopy(net).eval()
    reestimate(
        again, gathering_layers(net.train()),
        loop.calibration(task, recipe, torch.device('cpu')),
    )
    for key, value in again.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, checkpoint.state_dict[key], atol=1e-5), key


def test_a_measured_epoch_is_told_with_its_classes_and_the_time_left(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = write_folder(tmp_path / 'val', range(100, 101))
    train(folder, tmp_path / 'run', SPEC, replace(RECIPE, evaluate_every=1), val=val)
    told = [line for line in capsys.readouterr().err.splitlines() if 'val miou' in line]
    assert len(told) == 2 and 'epoch 1: val miou 0.' in told[0]
    assert 'road 0.' in told[0] and told[0].endswith('s left')
    entry = read_log(tmp_path / 'run')[-1]
    assert set(entry['per_class']) == set(CLASSES)


def test_false_alarms_are_told_as_such_with_their_share(
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = {
        'epoch': 2, 'val_miou': 0.5, 'per_class': {'road': 0.5}, 'false_alarms': {'car': 0.044},
    }
    loop.tell_epoch('miou', entry, False, 30.0)
    assert capsys.readouterr().err == (
        'epoch 2: val miou 0.500 (road 0.500); false alarms (classes that val does not have): car '
        '4.4 %; 30 s left\n'
    )


class Says(torch.nn.Module):
    """A network that finds each class where the picture has its colour, and some pixels else."""

    def __init__(self, wrong: int, of: int) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.wrong, self.of = wrong, of

    def forward(self, image: Any) -> Any:
        red = image[0, 0] > 0  # mean 0, std 1: road is black, sky is not
        logits = torch.stack([~red, red, *[torch.zeros_like(red)] * 9]).float()[None]
        if self.wrong:
            logits[0, self.of].view(-1)[: self.wrong] = 9.0
        return logits


def test_a_class_that_validation_never_shows_does_not_choose_the_best(tmp_path: Path) -> None:
    spec = replace(SPEC, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    train_folder = write_folder(tmp_path / 'train', range(2))
    val = write_folder(tmp_path / 'val', range(100, 101))
    label = np.zeros((96, 128), np.uint8)
    label[:, 64:] = 1  # two of eleven classes
    cv2.imwrite(str(val / 'labels/100.png'), label)
    cv2.imwrite(str(val / 'images/100.png'), np.repeat(label[..., None] * 90, 3, axis=2))
    task = SegmentationTask(train_folder, spec, replace(RECIPE, drawn=0), val)
    right = task.evaluate(Says(0, 0))
    assert (right.value, right.false_alarms) == (1.0, {})
    one = task.evaluate(Says(1, 5))  # one pixel of 12288 is taken for a class that is not there
    assert one.value == pytest.approx(1.0, abs=1e-3) and one.per_class[CLASSES[5]] is None
    assert one.false_alarms == {CLASSES[5]: pytest.approx(1 / 12288)}
    same = task.evaluate(Says(1, 1))  # for one that is: as bad
    assert same.value == pytest.approx(one.value, abs=1e-4) and same.false_alarms == {}


def test_training_and_run_time_see_one_letterbox(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    from mnv2_perception.evaluation.evaluate import evaluate_segmentation
    from mnv2_perception.nets.export import export_model
    from mnv2_perception.tasks.segmenter import Segmenter

    spec = replace(SPEC, height=128, width=128, fit='letterbox', pad=(9, 200, 9))
    val = write_folder(tmp_path / 'val', range(100, 102))
    miou = train(folder, tmp_path / 'run', spec, RECIPE, val=val)
    export_model(tmp_path / 'run/last.pt', tmp_path / 'm.onnx')
    segmenter = Segmenter.open(tmp_path / 'm.onnx')
    assert segmenter.spec == spec
    assert evaluate_segmentation(segmenter, val)['miou'] == pytest.approx(miou, abs=0.002)
    task = SegmentationTask(
        folder, spec, replace(RECIPE, crop_height=256, crop_width=256, max_scale=0.61), None
    )
    image, label = task.sample(0, np.random.default_rng(0))
    shown = label != 255  # the aspect ratio is kept: 0.6 of 96 × 128 in a crop of 256
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    assert columns.size / rows.size == pytest.approx(128 / 96, rel=0.35)
    assert not shown.all() and image.shape == (3, 256, 256)


def test_a_run_ends_with_what_is_wrong_in_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('onnx', 'onnxruntime'):
        pytest.importorskip(name, reason=f'no {name}: run make setup-train')
    val, out = write_folder(tmp_path / 'val', range(100, 102)), tmp_path / 'run'
    options = ('--width-mult', '0.35', '--val', str(val))
    assert main(command(folder, out, *options)) == 0
    assert f'{out}: results.json, confusion.png' in capsys.readouterr().out
    result = json.loads((out / 'results.json').read_text())
    assert result['miou'] == pytest.approx(read_log(out)[-1]['val_miou'], abs=0.002)
    assert cv2.imread(str(out / 'confusion.png')) is not None
    assert len(list((out / 'worst').glob('*.png'))) == 2
    assert main(command(folder, tmp_path / 'run', *options)) == 1  # and is not trained over
    assert 'last.pt exists' in capsys.readouterr().err


def test_a_run_is_none_the_worse_where_its_report_cannot_be_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    val, out = write_folder(tmp_path / 'val', range(100, 101)), tmp_path / 'run'
    monkeypatch.setitem(sys.modules, 'mnv2_perception.nets.export', None)  # as without onnx
    assert main(command(folder, out, '--width-mult', '0.35', '--val', str(val))) == 0
    told = capsys.readouterr()
    assert f'{out}: confusion matrix and worst pictures could not be made: ' in told.err
    assert 'export' in told.out and not (out / 'results.json').exists()


def test_a_run_writes_event_files_where_tensorboard_is_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'torch.utils.tensorboard', None)  # as without the package
        train(folder, tmp_path / 'without', SPEC, replace(RECIPE, epochs=1, drawn=0))
    assert not list((tmp_path / 'without').glob('events*'))
    pytest.importorskip('tensorboard', reason='no tensorboard: pip install tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = replace(RECIPE, evaluate_every=1)
    val = write_folder(tmp_path / 'val', range(100, 101))
    train(folder, tmp_path / 'with', SPEC, replace(recipe, epochs=1), val=val)
    train(folder, tmp_path / 'with', SPEC, recipe, val=val, resume=True)
    events = EventAccumulator(str(tmp_path / 'with')).Reload()
    log = read_log(tmp_path / 'with')
    for tag in ('loss', 'val_miou', 'learning_rate'):
        told = {event.step: event.value for event in events.Scalars(tag)}
        assert told == {entry['epoch']: pytest.approx(entry[tag]) for entry in log}
    assert 'per_class/road' in events.Tags()['scalars']


def test_one_image_left_over_joins_the_last_batch(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / 'data', range(4))
    recipe = replace(RECIPE, epochs=1, drawn=0, crop_height=32, crop_width=32)
    train(folder, tmp_path / 'run', SPEC, recipe)
    assert load_checkpoint(tmp_path / 'run/last.pt').epoch == 1
    with pytest.raises(DataError, match=r'a batch of one image of 32x32 .* larger --batch than 1'):
        train(folder, tmp_path / 'alone', SPEC, replace(recipe, batch=1))


def test_hard_light_is_part_of_the_recipe(folder: Path) -> None:
    def samples(light: float) -> list[Any]:
        task = SegmentationTask(folder, SPEC, replace(RECIPE, drawn=0, light=light), None)
        return [task.sample(index, np.random.default_rng(index)) for index in range(6)]

    for (mild, label), (hard, same) in zip(samples(0.0), samples(1.0), strict=True):
        assert np.array_equal(label, same) and not np.array_equal(mild, hard)


def command(folder: Path, out: Path, *more: str) -> list[str]:
    spec = folder.parent / 'spec.yaml'
    spec.write_text(yaml.safe_dump(json.loads(SPEC.to_metadata()[METADATA_KEY])))
    return [
        'train', 'segmentation', str(folder), '--out', str(out), '--spec', str(spec), '--drawn',
        '0', '--crop-height', '64', '--crop-width', '96', '--batch', '3', '--epochs', '1', *more,
    ]


def test_a_run_that_the_user_stops_says_how_to_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert main(command(folder, tmp_path, '--width-mult', '0.35')) == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        f'stopped; {tmp_path}/last.pt has the finished epochs: the same command with --resume '
        f'continues from there'
    )


def test_a_full_disk_keeps_the_epochs_before_and_says_how_to_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = command(folder, tmp_path / 'run', '--width-mult', '0.35', '--epochs', '2')
    write, written = Path.write_bytes, []

    def fill(path: Path, data: Any) -> int:
        written.append(path)
        count = write(path, data[:-1] if len(written) == 2 else data)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return count

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_bytes', fill)
        assert main(line) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f'error: {tmp_path}/run: cannot be written: No space left on device; free some space; '
        f'{tmp_path}/run/last.pt has the finished epochs: the same command with --resume '
        f'continues from there'
    )
    assert not (tmp_path / 'run/last.partial').exists()
    with (tmp_path / 'run/log.jsonl').open('a') as log:
        log.write('{"epoch": 3, "lo')  # what found no room
    assert main([*line, '--resume']) == 0
    assert [entry['epoch'] for entry in read_log(tmp_path / 'run')] == [1, 2]


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate "
                     'memory: you tried to allocate 402653184 bytes.'),
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB.'),
        MemoryError(),
    ],
)
def test_too_little_memory_names_what_to_lower(
    error: Exception, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(SegmentationTask, 'loss', fail)
    assert main(command(folder, tmp_path / 'run', '--width-mult', '0.35')) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith('error: not enough memory: ')
    assert told.endswith('; give a smaller --batch than 3 or smaller crops, or smaller pictures')


def test_a_folder_in_which_another_process_trains_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    with alone_in(tmp_path), pytest.raises(DataError, match='another process trains there; wait'):
        train(folder, tmp_path, SPEC, RECIPE)
    with alone_in(tmp_path), pytest.raises(DataError, match='another process trains there'):
        train(folder, tmp_path, SPEC, RECIPE, resume=True)


def test_an_interrupt_that_a_destructor_swallowed_ends_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    class Interrupted(loop.tqdm):  # type: ignore[misc]
        def __iter__(self) -> Iterator[Any]:
            for batch in super().__iter__():
                batches.append(batch)
                with suppress(KeyboardInterrupt):  # as Python does in a destructor
                    signal.raise_signal(signal.SIGINT)
                yield batch

    monkeypatch.setattr(loop, 'tqdm', Interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / 'run', SPEC, RECIPE)
    assert len(batches) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loss_that_is_none_names_a_checkpoint_only_where_there_is_one(
    folder: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, learning_rate=1e30, drawn=0)
    with pytest.raises(DataError, match=r'lower --learning-rate \(1e\+30\) and start again$'):
        train(folder, tmp_path / 'run', SPEC, recipe)


@pytest.mark.parametrize(
    ('label', 'told'),
    [
        (np.full((96, 128), 255, np.uint8), 'no pixel has an id below 11'),
        (np.full((96, 128, 3), 1, np.uint8) * np.uint8([1, 2, 3]), 'got a PNG of colours'),
        (np.zeros((48, 64), np.uint8), r'is \(48, 64\), but its image is \(96, 128\)'),
    ],
)
def test_labels_to_measure_on_are_looked_at_before_the_first_epoch(
    label: Any, told: str, folder: Path, tmp_path: Path
) -> None:
    val = write_folder(tmp_path / 'val', range(200, 201))
    cv2.imwrite(str(val / 'labels/200.png'), label)
    with pytest.raises(DataError, match=told):
        SegmentationTask(folder, SPEC, replace(RECIPE, drawn=0), val)


def test_weights_are_taken_from_a_shipped_model_by_its_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    name = 'unet_mobilenetv2_camvid_fast'
    options = ('--weights', name, '--encoder-depth', '4', '--decoder-channels', '64,32,16')
    assert main(command(folder, tmp_path / 'run', *options)) == 0
    assert f'{name}.onnx: not used: nothing' in capsys.readouterr().err
    assert main(command(folder, tmp_path / 'other', '--weights', 'absent')) == 1
    told = capsys.readouterr().err
    assert told.count('\n') == 1 and name in told and 'mobilenet_v2,' in told


def test_what_a_checkpoint_that_is_started_from_asks_for_is_told(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / 'spec.yaml'
    values = json.loads(SPEC.to_metadata()[METADATA_KEY])
    classes = values['classes']
    spec.write_text(yaml.safe_dump({
        **values, 'licence': 'MIT', 'classes': [classes[1], classes[0], *classes[2:]],
    }))
    line = command(folder, tmp_path / 'run', '--weights', str(run / 'best.pt'))
    line[line.index('--spec') + 1] = str(spec)
    assert main([*line, '--width-mult', '0.35']) == 0
    told = capsys.readouterr().err
    assert 'the run starts from drawn, whose licence is CC0-1.0' in told
    assert 'the head of drawn, which the run starts from, has sky, building' in told


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_an_export_beside_an_older_int8_file_tells_of_that(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    (tmp_path / 'm_int8.onnx').write_bytes(b'of the model before')
    assert main(['export', str(run / 'best.pt'), str(tmp_path / 'm.onnx')]) == 0
    assert 'm_int8.onnx: belongs to an earlier m.onnx; make it again' in capsys.readouterr().err


def test_weights_of_a_command_that_failed_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(folder, tmp_path / 'run', '--weights')) == 1  # --weights $(false)
    told = capsys.readouterr().err
    assert told.startswith('error: --weights is empty') and told.count('\n') == 1


@pytest.mark.parametrize('task', RECIPES)
def test_help_says_what_each_option_means(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(['train', task, '--help'])
    told = ' '.join(capsys.readouterr().out.split()).replace('- ', '-')
    for item in fields(RECIPES[task]):
        assert f'{item.metadata["meaning"]} (default: ' in told.replace('-  ', '-'), item.name


def test_an_existing_run_is_not_overwritten(run: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r'last\.pt exists; continue with --resume'):
        train(folder, run, SPEC, RECIPE)


def test_there_is_nothing_to_resume_in_an_empty_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'last\.pt: no such checkpoint'):
        train(folder, tmp_path, SPEC, RECIPE, resume=True)
    with pytest.raises(ModelError, match='no such run; resume with the --out that it had'):
        train(folder, tmp_path / 'absent', SPEC, RECIPE, resume=True)
    assert not (tmp_path / 'absent').exists()


def test_an_image_that_is_also_trained_on_is_not_measured_on(folder: Path, tmp_path: Path) -> None:
    val = write_folder(tmp_path / 'val', range(200, 202))
    shutil.copy(folder / 'images/3.png', val / 'images/other_name.png')
    shutil.copy(folder / 'labels/3.png', val / 'labels/other_name.png')
    with pytest.raises(DataError, match=r'other_name\.png is also in the training set'):
        train(folder, tmp_path / 'run', SPEC, RECIPE, val=val)


def test_a_crop_that_does_not_divide_names_the_next_size(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='height 96, width 96'):
        train(folder, tmp_path, SPEC, replace(RECIPE, crop_height=65))


def test_scenes_are_not_drawn_for_other_classes(folder: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, classes=('floor', 'wall'), colours=SPEC.colours[:2])
    with pytest.raises(DataError, match=r'; the spec has floor, wall: give --drawn 0'):
        train(folder, tmp_path, spec, RECIPE)


def test_the_encoder_starts_from_weights_and_its_first_stages_keep_them(
    folder: Path, tmp_path: Path
) -> None:
    backbone = MobileNetV2(num_classes=0, width_mult=0.35)
    torch.save(backbone.state_dict(), tmp_path / 'features.pth')
    recipe = replace(RECIPE, epochs=1, drawn=0, frozen_stages=2, ema=0.0)
    train(folder, tmp_path, SPEC, recipe, weights=tmp_path / 'features.pth')
    trained = load_checkpoint(tmp_path / 'last.pt').state_dict
    for key, value in backbone.state_dict().items():
        same = torch.equal(trained[f'encoder.{key}'], value)
        if int(key.split('.')[1]) < 4 or 'running' in key or 'num_batches' in key:
            assert same, f'{key} is frozen'
        elif key.endswith('0.weight'):
            assert not same, f'{key} learns'


def test_the_encoder_keeps_its_weights_while_it_warms_up(folder: Path, tmp_path: Path) -> None:
    backbone = MobileNetV2(num_classes=0, width_mult=0.35)
    torch.save(backbone.state_dict(), tmp_path / 'features.pth')
    recipe = replace(RECIPE, drawn=0, warm_up=1, ema=0.0)
    deep = 'encoder.features.10.conv.0.0.weight'
    start = backbone.state_dict()['features.10.conv.0.0.weight']
    for epochs, kept in ((1, True), (2, False)):
        out = tmp_path / str(epochs)
        train(folder, out, SPEC, replace(recipe, epochs=epochs), weights=tmp_path / 'features.pth')
        assert torch.equal(load_checkpoint(out / 'last.pt').state_dict[deep], start) == kept


def test_a_run_can_start_from_an_exported_model_and_computes_the_same_before_the_first_step(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    from mnv2_perception.nets.export import export_model

    export_model(run / 'last.pt', tmp_path / 'start.onnx')
    recipe = replace(RECIPE, epochs=1, learning_rate=0.0, ema=0.0)
    val = run / 'val'
    miou = train(folder, tmp_path, SPEC, recipe, weights=tmp_path / 'start.onnx', val=val)
    # A learning rate of 0 leaves the decoder's weights; its batch statistics were estimated.
    assert miou == pytest.approx(read_log(run)[1]['val_miou'], abs=0.03)


def test_workers_change_nothing(run: Path, folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path, SPEC, RECIPE, workers=2)
    alone, shared = (load_checkpoint(path / 'last.pt').state_dict for path in (run, tmp_path))
    assert all(torch.equal(alone[key], shared[key]) for key in alone)


@pytest.mark.parametrize(
    'precision',
    ['bf16', pytest.param('fp16', marks=[pytest.mark.gpu, pytest.mark.skipif(
        not torch.cuda.is_available(), reason='fp16 needs an NVIDIA GPU')])],
)
def test_mixed_precision_learns_too(
    run: Path, folder: Path, tmp_path: Path, precision: Any
) -> None:
    train(folder, tmp_path, SPEC, replace(RECIPE, precision=precision))
    for mixed, full in zip(read_log(tmp_path), read_log(run), strict=True):
        assert mixed['loss'] == pytest.approx(full['loss'], rel=0.1)


def test_a_cosine_schedule_falls_from_the_rate_to_nothing(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path, SPEC, replace(RECIPE, epochs=2, schedule='cosine', drawn=0))
    rates = [entry['learning_rate'] for entry in read_log(tmp_path)]
    assert rates == [pytest.approx(0.5e-2), pytest.approx(0.0, abs=1e-9)]


def test_a_run_stops_early_once_it_no_longer_improves(folder: Path, tmp_path: Path) -> None:
    val = write_folder(tmp_path / 'val', range(100, 101))
    recipe = replace(
        RECIPE, epochs=9, learning_rate=0.0, ema=0.0, evaluate_every=1, patience=2, drawn=0
    )
    weights = tmp_path / 'features.pth'
    torch.save(MobileNetV2(num_classes=0, width_mult=0.35).state_dict(), weights)
    train(folder, tmp_path, SPEC, recipe, weights=weights, val=val)
    log = read_log(tmp_path)
    best = max(range(len(log)), key=lambda epoch: log[epoch]['val_miou'])
    assert len(log) == best + 1 + 2 < 9


def test_the_best_weights_are_kept_beside_the_last(folder: Path, tmp_path: Path) -> None:
    val = write_folder(tmp_path / 'val', range(100, 102))
    best = train(folder, tmp_path, SPEC, replace(RECIPE, epochs=4, evaluate_every=1), val=val)
    mious = [entry['val_miou'] for entry in read_log(tmp_path)]
    assert best == max(mious)
    kept = load_checkpoint(tmp_path / 'best.pt')
    assert mious[kept.epoch - 1] == best
    assert kept.training == {}


def test_the_learning_curves_are_drawn(run: Path) -> None:
    curves = cv2.imread(str(run / 'curves.png'))
    assert curves is not None and curves.std() > 0


def test_a_killed_process_loses_at_most_the_epoch_it_was_in(folder: Path, tmp_path: Path) -> None:
    spec = tmp_path / 'spec.yaml'
    spec.write_text(yaml.safe_dump(json.loads(SPEC.to_metadata()[METADATA_KEY])))
    command = [
        sys.executable, '-m', 'mnv2_perception.cli', 'train', 'segmentation', str(folder),
        '--out', str(tmp_path / 'run'), '--spec', str(spec), '--width-mult', '0.35',
        '--drawn', '0', '--crop-height', '64', '--crop-width', '96', '--batch', '3',
        '--epochs', '500',
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120.0
        while not (tmp_path / 'run/last.pt').exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
    done = load_checkpoint(tmp_path / 'run/last.pt').epoch
    logged = len(read_log(tmp_path / 'run'))
    assert done >= 1 and logged - done in (0, 1)


def test_the_soft_jaccard_loss_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 3, 4, 5)))
    labels = torch.from_numpy(rng.integers(0, 2, (2, 4, 5)))  # class 2 never occurs
    labelled = torch.from_numpy(rng.random((2, 4, 5)) < 0.8)
    p = logits.softmax(1).permute(0, 2, 3, 1)[labelled].numpy()
    y = np.eye(3)[labels[labelled].numpy()]
    ious = (p * y).sum(0) / (p + y - p * y).sum(0)
    expected = 1.0 - ious[:2].mean()
    assert float(soft_jaccard_loss(logits, labels, labelled)) == pytest.approx(expected)


def test_a_crop_without_a_labelled_pixel_teaches_nothing(folder: Path) -> None:
    task = SegmentationTask(folder, SPEC, replace(RECIPE, jaccard=1.0, drawn=0), None)
    logits = torch.randn(2, len(CLASSES), 8, 12, requires_grad=True)
    loss = task.loss(logits, torch.full((2, 16, 24), 255))
    loss.backward()
    assert loss.item() == 0.0 and not logits.grad.any()


def test_labels_without_a_class_are_refused_and_an_absent_class_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = replace(RECIPE, drawn=0)
    labels = sorted((write_folder(tmp_path / 'data', range(2)) / 'labels').glob('*.png'))
    for label in labels:
        cv2.imwrite(str(label), np.full((96, 128), 0, np.uint8))
    SegmentationTask(tmp_path / 'data', SPEC, recipe, None)
    assert 'no pixel of building, pole, road' in caplog.text
    for label in labels:
        cv2.imwrite(str(label), np.full((96, 128), 255, np.uint8))
    with pytest.raises(DataError, match='no pixel has an id below 11, the number of classes'):
        SegmentationTask(tmp_path / 'data', SPEC, recipe, None)


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'height': 90}, 'height 96, width 128'),
        ({'input': 'float_nchw'}, 'trained models take uint8_nhwc'),
        ({'background': True}, 'have no background; got .* background true'),
        ({'output': 'probabilities'}, 'give ids_confidence or logits'),
    ],
)
def test_a_spec_that_cannot_be_exported_is_refused_before_the_first_step(
    folder: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        train(folder, tmp_path / 'run', replace(SPEC, **changes), RECIPE)
    assert not (tmp_path / 'run').exists()


def test_missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'absent\.pth: no such file'):
        train(folder, tmp_path, SPEC, RECIPE, weights=tmp_path / 'absent.pth')


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'batch': 0}, '--batch is 0, expected 1 to inf'),
        ({'frozen_stages': -1}, '--frozen-stages is -1, expected 0 to 5'),
        ({'evaluate_every': 0}, '--evaluate-every is 0'),
        ({'min_scale': 0.0}, '--min-scale is 0.0'),
        ({'encoder_depth': 7}, '--encoder-depth is 7, expected 3 to 5'),
    ],
)
def test_a_recipe_out_of_range_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        replace(RECIPE, **changes)


def test_channels_that_are_no_numbers_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='expected numbers such as 64,32,16'):
        train(folder, tmp_path, SPEC, replace(RECIPE, decoder_channels='64,x'))


def test_things_of_the_named_classes_are_pasted_into_some_crops(folder: Path) -> None:
    ids = [CLASSES.index('car'), CLASSES.index('pole')]
    plain, pasted = (
        SegmentationTask(folder, SPEC, replace(RECIPE, drawn=0, paste=classes), None)
        for classes in ('', 'car, pole')
    )
    shares = [
        np.mean([
            np.isin(task.sample(index % 6, np.random.default_rng(index))[1], ids).mean()
            for index in range(120)
        ])
        for task in (plain, pasted)
    ]
    assert shares[1] > 1.15 * shares[0]  # 40 % of the crops, each class by a chance of half


def test_a_class_to_paste_that_is_named_twice_counts_once() -> None:
    assert read_classes('car, sky,,car', ['sky', 'car park', 'car']) == [2, 0]


def test_a_class_to_paste_that_the_spec_has_not_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match='--paste names bus, expected classes of the spec: sky'):
        SegmentationTask(folder, SPEC, replace(RECIPE, paste='car,bus'), None)


def test_a_run_of_before_a_setting_was_there_is_resumed(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(run / 'last.pt')
    del checkpoint.facts['recipe']['paste']
    shutil.copy(run / 'best.pt', tmp_path)
    save_checkpoint(checkpoint, tmp_path / 'last.pt')
    train(folder, tmp_path, SPEC, RECIPE, val=run / 'val', resume=True)
    with pytest.raises(DataError, match=r"paste \('', now 'car'\)"):
        train(folder, tmp_path, SPEC, replace(RECIPE, paste='car'), val=run / 'val', resume=True)


def test_a_run_without_its_best_weights_is_not_resumed(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(run / 'last.pt', tmp_path)
    with pytest.raises(DataError, match=r'best\.pt is missing'):
        train(folder, tmp_path, SPEC, RECIPE, val=run / 'val', resume=True)


def test_a_run_from_weights_that_was_stopped_goes_on_to_the_same_weights_and_patience(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / 'features.pth'
    torch.save(MobileNetV2(num_classes=0, width_mult=0.35).state_dict(), weights)
    recipe = replace(RECIPE, epochs=3, drawn=0, warm_up=1, evaluate_every=1, patience=2)
    args = (SPEC, recipe, weights, run / 'val')
    train(folder, tmp_path / 'whole', *args)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # best.pt and last.pt of the first epoch.
        stop_after(2, patch)
        train(folder, tmp_path / 'stopped', *args)
    train(folder, tmp_path / 'stopped', *args, resume=True)
    whole, resumed = (
        load_checkpoint(tmp_path / name / 'last.pt') for name in ('whole', 'stopped')
    )
    assert resumed.training['worse'] == whole.training['worse']
    for key, value in whole.state_dict.items():
        assert torch.equal(value, resumed.state_dict[key]), key


def test_the_checkpoint_says_what_it_was_trained_on(run: Path) -> None:
    checkpoint = load_checkpoint(run / 'last.pt')
    assert checkpoint.facts['images'] == 6
    assert checkpoint.facts['recipe']['learning_rate'] == 1e-2
    assert len(checkpoint.facts['training_list_sha256']) == 64


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_the_checkpoint_exports_and_measures_as_at_training(run: Path, tmp_path: Path) -> None:
    pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    from mnv2_perception.evaluation.evaluate import evaluate_segmentation
    from mnv2_perception.nets.export import export_model
    from mnv2_perception.tasks.segmenter import Segmenter

    export_model(run / 'last.pt', tmp_path / 'drawn.onnx')
    segmenter = Segmenter.open(tmp_path / 'drawn.onnx')
    assert segmenter.spec == SPEC
    result = evaluate_segmentation(segmenter, run / 'val')
    assert result['miou'] == pytest.approx(read_log(run)[1]['val_miou'], abs=0.002)
    assert segmenter(np.zeros((50, 70, 3), np.uint8)).class_ids.shape == (50, 70)
