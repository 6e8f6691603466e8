"""What choosing pictures to label buys: `python benchmark/frame_choice.py GROUND --place campus`.

`mnv2 bag frames` chooses among the training pictures of one place, by a model that has not seen
it (that for streets). Those get their true labels, a network is trained on them that starts from
the same model, without looking at the validation pictures, and its last weights are measured on
the place's. Beside the three ways stand pictures drawn by chance, others with each seed. One
thread; some two minutes a run.
"""

import argparse
from pathlib import Path
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import torch
import yaml

from mnv2_perception.evaluation.evaluate import evaluate_model
from mnv2_perception.nets.export import export_model
from mnv2_perception.tasks.models import opening

ROOT = Path(__file__).resolve().parents[1]
MODEL = 'unet_mobilenetv2_camvid_fast'
WAYS = ('chance', 'time', 'uncertainty', 'diversity')


def mnv2(*line: object) -> None:
    subprocess.run(
        [sys.executable, '-m', 'mnv2_perception.cli', *map(str, line)], check=True, cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )


def copy_pairs(data: Path, stems: list[str], out: Path) -> None:
    """Copy pictures together with their true labels."""
    for kind in ('images', 'labels'):
        (out / kind).mkdir(parents=True)
    for stem in stems:
        shutil.copy(next((data / 'images').glob(f'{stem}.*')), out / 'images')
        shutil.copy(data / f'labels/{stem}.png', out / 'labels')


def choose(data: Path, place: str, way: str, count: int, seed: int, work: Path) -> list[str]:
    """Return the names of the chosen pictures."""
    stems = sorted(path.stem for path in (data / 'images').glob(f'{place}_*'))
    if way == 'chance':
        return sorted(np.random.default_rng(seed).choice(stems, count, replace=False).tolist())
    pictures, chosen = work / 'pictures', work / way
    if not pictures.is_dir():
        copy_pairs(data, stems, pictures)
    if not chosen.is_dir():
        mnv2('bag', 'frames', pictures, '--count', count, '--by', way, '--model', MODEL,
             '--engine', 'onnx_runtime', '--out', chosen)
    return sorted(path.stem for path in (chosen / 'images').iterdir())


def main() -> None:
    """Print the mean IoU of each way: mean and range over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('ground', type=Path, help='folder with train/ and val/')
    parser.add_argument('--place', default='campus', help='prefix of file names (%(default)s)')
    parser.add_argument('--count', type=int, default=40, help='pictures (%(default)s)')
    parser.add_argument(
        '--epochs', type=int, default=20, help='epochs of each training (%(default)s)'
    )
    parser.add_argument('--seeds', type=int, default=3, help='seeds for each choice (%(default)s)')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = yaml.safe_load((ROOT / 'mnv2_perception/training/ground_fast.yaml').read_text('utf-8'))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        small = {**spec, 'name': 'chosen', 'height': 192, 'width': 256}
        (work / 'spec.yaml').write_text(yaml.safe_dump(small))
        val = arguments.ground / 'val'
        found = sorted(path.stem for path in (val / 'images').glob(f'{arguments.place}_*'))
        copy_pairs(val, found, work / 'val')
        figures: dict[str, list[float]] = {way: [] for way in WAYS}
        for seed in range(1, arguments.seeds + 1):
            for way in WAYS:
                stems = choose(
                    arguments.ground / 'train', arguments.place, way, arguments.count, seed, work
                )
                copy_pairs(arguments.ground / 'train', stems, work / f'{way}{seed}')
                run = work / f'run_{way}{seed}'
                mnv2('train', 'segmentation', work / f'{way}{seed}', '--spec', work / 'spec.yaml',
                     '--drawn', 0, '--jaccard', 1, '--epochs', arguments.epochs, '--seed', seed,
                     '--crop-height', 192, '--crop-width', 256, '--weights', MODEL, '--out', run,
                     '--encoder-depth', 4, '--decoder-channels', '64,32,16')
                export_model(run / 'last.pt', work / 'model.onnx')
                with opening(work / 'model.onnx', 'onnx_runtime') as (engine, known):
                    miou = evaluate_model(engine, known, work / 'val')['miou']
                engine.close()
                figures[way].append(miou)
                print(f'{way} {seed}: {len(stems)} pictures, mIoU {miou:.3f}', flush=True)
    for way, values in figures.items():
        spread = f'{min(values):.3f} to {max(values):.3f}'
        print(f'{way:<12} mean {statistics.mean(values):.3f}, {spread}')


if __name__ == '__main__':
    main()
