"""Accuracy and latency of what is shipped: `python benchmark/shipped.py GROUND/val CAMVID/val`.

Each model is measured on the same images, and so is the simple alternative to it:

* ground, street: the two sizes of segmentation, by mIoU.
* detection: the detector, and boxes around the objects in a segmenter's masks, by AP50.
* ahead, surface: what fills the middle of a window, by accuracy. The classifier sees the window;
  `in the window` is the vote of a segmenter's pixels there when it sees the window alone, and `in
  the image` when it sees the whole image (whose time then serves all windows of it).

Latency is the median of one CamVid image (ahead, surface: one window of them) through the
pipeline, preprocessing and decoding included, the models taking turns on each, the first tenth
not counted. Writes results/shipped.json and the picture.
"""

import argparse
from collections import Counter
from collections.abc import Callable
import json
import os
from pathlib import Path
import platform
import statistics
import tempfile
import time
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray
import onnxruntime

from mnv2_perception.data.coco import write_coco
from mnv2_perception.data.folders import list_classified, list_pairs
from mnv2_perception.data.from_masks import boxes_from_labels, middle, vote, write_patches
from mnv2_perception.data.images import read_image
from mnv2_perception.evaluation.evaluate import (
    evaluate_components,
    evaluate_detection,
    evaluate_segmentation,
)
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[1]
STREET = 'unet_mobilenetv2_camvid', 'unet_mobilenetv2_camvid_fast'
GROUND = 'unet_mobilenetv2_ground', 'unet_mobilenetv2_ground_fast'
DETECTOR, AHEAD, SURFACE = (
    'ssdlite_mobilenetv2_camvid', 'mobilenetv2_ground_ahead', 'mobilenetv2_camvid_surface'
)
SURFACES = {
    'road': ['road'],
    'pavement': ['pavement'],
    'vegetation': ['tree'],
    'structure': ['building', 'pole', 'sign_symbol', 'fence'],
    'traffic': ['car', 'pedestrian', 'bicyclist'],
}
ENGINE = 'onnx_runtime'
METRICS = {
    'ground': 'mIoU', 'ahead': 'accuracy', 'street': 'mIoU', 'detection': 'AP50',
    'surface': 'accuracy',
}


def median_ms(
    ways: dict[str, Callable[[NDArray[np.uint8]], Any]], images: list[NDArray[np.uint8]]
) -> dict[str, float]:
    """Return the median milliseconds of each way, which take turns on each image."""
    times_ms: dict[str, list[float]] = {name: [] for name in ways}
    for image in images:
        for name, way in ways.items():
            start_s = time.perf_counter()
            way(image)
            times_ms[name].append((time.perf_counter() - start_s) * 1000.0)
    first = len(images) // 10
    return {name: statistics.median(values[first:]) for name, values in times_ms.items()}


def measure_windows(
    folder: Path, windows: Path, classifier: Classifier, segmenters: dict[str, Segmenter],
    groups: dict[str, list[str]],
) -> dict[str, float]:
    """Return the accuracy of each way to tell what fills the windows' middle."""
    classes = next(iter(segmenters.values())).spec.classes
    assert classifier.spec.classes == tuple(groups)
    ids = {name: [classes.index(part) for part in parts] for name, parts in groups.items()}
    height, width = classifier.spec.height, classifier.spec.width
    write_patches(folder, windows, ids, (height, width), top=48, step=56)
    labelled = sorted(list_classified(windows / 'labels.tsv', list(ids)))
    images = {image.stem: image for image, _ in list_pairs(folder)}
    right: Counter[str] = Counter()
    masks: dict[str, dict[str, NDArray[np.uint8]]] = {}
    for path, label in labelled:
        name, y, x = path.stem.rsplit('_', 2)
        if name not in masks:
            image = read_image(images[name])
            masks = {name: {key: segment(image).class_ids for key, segment in segmenters.items()}}
        window = read_image(path)
        right[classifier.spec.name] += int(classifier(window).class_ids[0]) == label
        for key, segment in segmenters.items():
            whole = masks[name][key][int(y) : int(y) + height, int(x) : int(x) + width]
            voters = list(ids.values())
            right[f'{key} in the window'] += (
                vote(middle(segment(window).class_ids), voters)[0] == label
            )
            right[f'{key} in the image'] += vote(middle(whole), voters)[0] == label
    commonest = max(Counter(label for _, label in labelled).values())
    result = {way: count / len(labelled) for way, count in right.items()}
    return {**result, 'always the commonest': commonest / len(labelled)}


def measure_masks(segmenters: dict[str, Segmenter], folder: Path) -> dict[str, float]:
    """Return the mIoU of each."""
    return {
        name: evaluate_segmentation(segmenter, folder)['miou']
        for name, segmenter in segmenters.items()
    }


def measure_accuracy(
    ground_folder: Path, camvid: Path, ground: dict[str, Segmenter], street: dict[str, Segmenter],
    detector: Detector, ahead: Classifier, surface: Classifier,
) -> dict[str, dict[str, float]]:
    """Return the accuracy of each way, by task."""
    with tempfile.TemporaryDirectory() as scratch:
        boxes = Path(scratch, 'boxes.json')
        names, classes = detector.spec.classes, street[STREET[0]].spec.classes
        write_coco(
            boxes, names, boxes_from_labels(camvid, [classes.index(name) for name in names])
        )
        return {
            'ground': measure_masks(ground, ground_folder),
            'ahead': measure_windows(
                ground_folder, Path(scratch, 'ahead'), ahead, ground,
                {name: [name] for name in ahead.spec.classes},
            ),
            'street': measure_masks(street, camvid),
            'detection': {
                DETECTOR: evaluate_detection(detector, boxes)['ap50'],
                **{
                    f'objects of {name}': evaluate_components(segmenter, boxes)['ap50']
                    for name, segmenter in street.items()
                },
            },
            'surface': measure_windows(
                camvid, Path(scratch, 'surface'), surface, street, SURFACES
            ),
        }


def main() -> None:
    """Measure, print, write the results and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('ground', type=Path, help='images/ and labels/ of the ground models')
    parser.add_argument('camvid', type=Path, help='images/ and labels/ of CamVid')
    parser.add_argument('--threads', type=int, default=0, help='0: one for each core')
    parser.add_argument(
        '--latency-only', action='store_true',
        help='keep the accuracy that --out has: it does not hang on how busy the machine is',
    )
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/shipped.json')
    parser.add_argument('--picture', type=Path, default=ROOT / 'docs/shipped.png')
    arguments = parser.parse_args()
    threads, camvid = arguments.threads, arguments.camvid
    ground, street = (
        {name: Segmenter.open(name, ENGINE, threads) for name in names}
        for names in (GROUND, STREET)
    )
    segmenters = ground | street
    detector = Detector.open(DETECTOR, ENGINE, threads, min_score=0.0)
    ahead, surface = (Classifier.open(name, ENGINE, threads) for name in (AHEAD, SURFACE))

    images = [read_image(path) for path, _ in list_pairs(camvid)]
    pixels_ms = median_ms({**segmenters, DETECTOR: detector}, images)
    height, width = surface.spec.height, surface.spec.width
    windows = [np.ascontiguousarray(image[-height:, :width]) for image in images]
    window_ms = median_ms({AHEAD: ahead, SURFACE: surface, **segmenters}, windows)
    latency_ms = {
        **pixels_ms,
        AHEAD: window_ms[AHEAD],
        SURFACE: window_ms[SURFACE],
        **{f'objects of {name}': pixels_ms[name] for name in street},
        **{f'{name} in the window': window_ms[name] for name in segmenters},
        **{f'{name} in the image': pixels_ms[name] for name in segmenters},
    }
    if arguments.latency_only:
        accuracy = json.loads(arguments.out.read_text())['accuracy']
    else:
        accuracy = measure_accuracy(
            arguments.ground, camvid, ground, street, detector, ahead, surface
        )
    draw(accuracy, latency_ms, arguments.picture)
    for task, values in accuracy.items():
        print(f'| {task} | {METRICS[task]} | ms |\n| --- | --- | --- |')
        for name, value in values.items():
            print(f'| {name} | {value:.3f} | {latency_ms.get(name, 0.0):.1f} |')
    machine = {
        'cpu': platform.processor() or platform.machine(),
        'onnxruntime': onnxruntime.__version__,
        'threads': threads or os.cpu_count(),
        'python': platform.python_version(),
    }
    result = {'machine': machine, 'accuracy': accuracy, 'latency_ms': latency_ms}
    arguments.out.write_text(json.dumps(result, indent=2) + '\n')


def draw(
    accuracy: dict[str, dict[str, float]], latency_ms: dict[str, float], picture: Path
) -> None:
    """Draw a panel for each task: latency to the right, accuracy up."""
    figure = Figure(figsize=(16, 8.4), layout='constrained')
    FigureCanvasAgg(figure)
    shipped = {*GROUND, *STREET, DETECTOR, AHEAD, SURFACE}
    panels = figure.subplots(2, 3).ravel()
    panels[-1].axis('off')
    for axes, (task, values) in zip(panels[:-1], accuracy.items(), strict=True):
        axes.set_title(task)
        axes.set_xlabel('ms an image, median')
        axes.set_ylabel(METRICS[task])
        for name, value in values.items():
            if name not in latency_ms:
                axes.axhline(value, color='gray', linestyle=':', label=name)
                continue
            marker = 'o' if name in shipped else 'x'
            axes.plot(latency_ms[name], value, marker, markersize=9, label=name)
        axes.set_xlim(left=0.0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(picture, dpi=110)


if __name__ == '__main__':
    main()
