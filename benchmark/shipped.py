"""Accuracy and latency of what is shipped: `python benchmark/shipped.py GROUND/val CAMVID/val`.

Each model is measured on the same images as the simple alternative to it:

* ground, street: the two sizes of segmentation, by mIoU.
* obstacles, detection: the detector, and boxes around the objects in a segmenter's masks, by AP50.
* ahead, surface: what is in the middle of a window, by accuracy. The classifier gets the window;
  `in the window` is the vote of a segmenter's pixels there if it gets only the window, and `in the
  image` if it gets the whole image (whose time then serves all its windows).

Latency is the median over CamVid's images (ahead, surface: one window of each) of one run of the
pipeline, including preprocessing and decoding. The models take turns on each image; the first
tenth does not count. Writes results/shipped.json and the picture.
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
from mnv2_perception.evaluation.boxes import evaluate_components, evaluate_detection
from mnv2_perception.evaluation.evaluate import evaluate_segmentation
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[1]
STREET = 'unet_mobilenetv2_camvid', 'unet_mobilenetv2_camvid_fast'
GROUND = 'unet_mobilenetv2_ground', 'unet_mobilenetv2_ground_fast'
OBSTACLES, DETECTOR = 'ssdlite_mobilenetv2_ground', 'ssdlite_mobilenetv2_camvid'
AHEAD, SURFACE = 'mobilenetv2_ground_ahead', 'mobilenetv2_camvid_surface'
SURFACES = {
    'road': ['road'],
    'pavement': ['pavement'],
    'vegetation': ['tree'],
    'structure': ['building', 'pole', 'sign_symbol', 'fence'],
    'traffic': ['car', 'pedestrian', 'bicyclist'],
}
ENGINE = 'onnx_runtime'
METRICS = {
    'ground': 'mIoU', 'ahead': 'accuracy', 'obstacles': 'AP50', 'street': 'mIoU',
    'detection': 'AP50', 'surface': 'accuracy',
}


def median_ms(
    ways: dict[str, Callable[[NDArray[np.uint8]], Any]], images: list[NDArray[np.uint8]]
) -> dict[str, float]:
    """Return the median time of each way in milliseconds; they take turns on each image."""
    times_ms: dict[str, list[float]] = {name: [] for name in ways}
    for image in images:
        for name, way in ways.items():
            start_s = time.perf_counter()
            way(image)
            times_ms[name].append((time.perf_counter() - start_s) * 1000.0)
    first = len(images) // 10
    return {name: statistics.median(values[first:]) for name, values in times_ms.items()}


def measure_windows(
    folder: Path, classifier: Classifier, segmenters: dict[str, Segmenter],
    groups: dict[str, list[str]], alone: bool,
) -> dict[str, float]:
    """Return the accuracy with which each way tells what is in the middle of windows.

    The segmenters get whole images, and, if `alone` is set, also only the windows.
    """
    classes = next(iter(segmenters.values())).spec.classes
    assert classifier.spec.classes == tuple(groups)
    ids = {name: [classes.index(part) for part in parts] for name, parts in groups.items()}
    height, width = classifier.spec.height, classifier.spec.width
    images = {image.stem: image for image, _ in list_pairs(folder)}
    right: Counter[str] = Counter()
    masks: dict[str, dict[str, NDArray[np.uint8]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        windows = Path(scratch, 'windows')
        write_patches(folder, windows, ids, (height, width), top=48, step=56)
        labelled = sorted(list_classified(windows / 'labels.tsv', list(ids)))
        for path, label in labelled:
            name, y, x = path.stem.rsplit('_', 2)
            if name not in masks:
                image = read_image(images[name])
                seen = {key: segment(image).class_ids for key, segment in segmenters.items()}
                masks = {name: seen}
            window = read_image(path)
            right[classifier.spec.name] += int(classifier(window).class_ids[0]) == label
            for key, segment in segmenters.items():
                if alone:
                    voted = vote(middle(segment(window).class_ids), list(ids.values()))[0]
                    right[f'{key} in the window'] += voted == label
                whole = masks[name][key][int(y) : int(y) + height, int(x) : int(x) + width]
                right[f'{key} in the image'] += vote(middle(whole), list(ids.values()))[0] == label
    commonest = max(Counter(label for _, label in labelled).values())
    result = {way: count / len(labelled) for way, count in right.items()}
    return {**result, 'always the commonest': commonest / len(labelled)}


def measure_masks(folder: Path, segmenters: dict[str, Segmenter]) -> dict[str, float]:
    """Return the mIoU of each segmenter."""
    return {
        name: evaluate_segmentation(segmenter, folder)['miou']
        for name, segmenter in segmenters.items()
    }


def measure_boxes(
    folder: Path, detector: Detector, segmenters: dict[str, Segmenter]
) -> dict[str, float]:
    """Return the AP50 of the detector, and of boxes around objects in each segmenter's masks."""
    names, classes = detector.spec.classes, next(iter(segmenters.values())).spec.classes
    with tempfile.TemporaryDirectory() as scratch:
        boxes = Path(scratch, 'boxes.json')
        ids = [classes.index(name) for name in names]
        write_coco(boxes, names, boxes_from_labels(folder, ids))
        return {
            detector.spec.name: evaluate_detection(detector, boxes)['ap50'],
            **{
                f'objects of {name}': evaluate_components(segmenter, boxes)['ap50']
                for name, segmenter in segmenters.items()
            },
        }


def measure_latency(
    folder: Path, segmenters: dict[str, Segmenter], detectors: dict[str, Detector],
    classifiers: dict[str, Classifier],
) -> dict[str, float]:
    """Return the median time of each way, in milliseconds."""
    images = [read_image(path) for path, _ in list_pairs(folder)]
    spec = next(iter(classifiers.values())).spec
    windows = [np.ascontiguousarray(image[-spec.height :, : spec.width]) for image in images]
    pixels_ms = median_ms({**segmenters, **detectors}, images)
    street = {name: segmenters[name] for name in STREET}
    window_ms = median_ms({**classifiers, **street}, windows)
    return {
        **pixels_ms,
        **{name: window_ms[name] for name in classifiers},
        **{f'{name} in the window': window_ms[name] for name in STREET},
        **{f'objects of {name}': pixels_ms[name] for name in segmenters},
        **{f'{name} in the image': pixels_ms[name] for name in segmenters},
    }


def main() -> None:
    """Measure, print, write the results and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'ground', type=Path, help='folder with images/ and labels/ for the ground models'
    )
    parser.add_argument('camvid', type=Path, help='folder with images/ and labels/ of CamVid')
    parser.add_argument(
        '--threads', type=int, default=0, help='CPU threads; 0: one per core (default: 0)'
    )
    parser.add_argument(
        '--only', nargs='+', choices=(*METRICS, 'latency'), default=(*METRICS, 'latency'),
        help='measure only these; the other results in --out are kept',
    )
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/shipped.json')
    parser.add_argument('--picture', type=Path, default=ROOT / 'docs/shipped.png')
    arguments = parser.parse_args()
    threads, camvid = arguments.threads, arguments.camvid
    ground, street = (
        {name: Segmenter.open(name, ENGINE, threads) for name in names}
        for names in (GROUND, STREET)
    )
    detectors = {
        name: Detector.open(name, ENGINE, threads, min_score=0.0) for name in (OBSTACLES, DETECTOR)
    }
    classifiers = {name: Classifier.open(name, ENGINE, threads) for name in (AHEAD, SURFACE)}
    ahead_groups = {name: [name] for name in classifiers[AHEAD].spec.classes}
    ways: dict[str, Callable[[], dict[str, float]]] = {
        'ground': lambda: measure_masks(arguments.ground, ground),
        'ahead': lambda: measure_windows(
            arguments.ground, classifiers[AHEAD], ground, ahead_groups, alone=False
        ),
        'obstacles': lambda: measure_boxes(arguments.ground, detectors[OBSTACLES], ground),
        'street': lambda: measure_masks(camvid, street),
        'detection': lambda: measure_boxes(camvid, detectors[DETECTOR], street),
        'surface': lambda: measure_windows(
            camvid, classifiers[SURFACE], street, SURFACES, alone=True
        ),
        'latency': lambda: measure_latency(camvid, ground | street, detectors, classifiers),
    }
    chosen = set(arguments.only)
    result = json.loads(arguments.out.read_text()) if chosen < set(ways) else {}
    accuracy = result.get('accuracy', {}) | {
        task: ways[task]() for task in METRICS if task in chosen
    }
    accuracy = {task: accuracy[task] for task in METRICS}
    latency_ms = ways['latency']() if 'latency' in chosen else result['latency_ms']
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
    """Draw a panel for each task: accuracy over latency."""
    figure = Figure(figsize=(16, 8.4), layout='constrained')
    FigureCanvasAgg(figure)
    shipped = {*GROUND, *STREET, OBSTACLES, DETECTOR, AHEAD, SURFACE}
    panels = figure.subplots(2, 3).ravel()
    for axes, (task, values) in zip(panels, accuracy.items(), strict=True):
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
