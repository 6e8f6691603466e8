"""Is a classifier worth having beside a segmenter? `python benchmark/surface.py CAMVID/val`.

What fills the middle of a window is told three ways, on the same windows:

* classifier: the surface classifier, on the window.
* window: the segmenter on the window alone, then the class that most pixels of the middle have.
* whole: the segmenter on the whole image, then the same. It sees more than the classifier does.

Beside them the accuracy of always naming the commonest class.
"""

import argparse
from collections import Counter
from collections.abc import Callable
import json
from pathlib import Path
import platform
import statistics
import tempfile
import time

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.dataset import list_classified, read_image
from mnv2_perception.from_masks import middle, vote, write_patches
from mnv2_perception.pipeline import Classifier, Segmenter

# Classes of the surface classifier by those of the segmenter.
GROUPS = {
    'road': ['road'],
    'pavement': ['pavement'],
    'vegetation': ['tree'],
    'structure': ['building', 'pole', 'sign_symbol', 'fence'],
    'traffic': ['car', 'pedestrian', 'bicyclist'],
}


def main() -> None:
    """Measure and write results/surface.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path, help='images/ and labels/ of CamVid')
    parser.add_argument('--classifier', default='mobilenetv2_camvid_surface')
    parser.add_argument('--segmenter', default='unet_mobilenetv2_camvid')
    parser.add_argument('--threads', type=int, default=2)
    arguments = parser.parse_args()
    classifier = Classifier.open(arguments.classifier, threads=arguments.threads)
    segmenter = Segmenter.open(arguments.segmenter, threads=arguments.threads)
    groups = {
        name: [segmenter.spec.classes.index(part) for part in parts]
        for name, parts in GROUPS.items()
    }
    height, width = classifier.spec.height, classifier.spec.width
    masks: dict[str, NDArray[np.uint8]] = {}

    def segment_whole(path: Path, _window: NDArray[np.uint8]) -> int:
        name, y, x = path.stem.rsplit('_', 2)
        if name not in masks:
            masks.clear()
            found = sorted((arguments.folder / 'images').glob(f'{name}.*'))
            masks[name] = segmenter(read_image(found[0])).class_ids
        window = masks[name][int(y) : int(y) + height, int(x) : int(x) + width]
        return vote(middle(window), list(groups.values()))[0]

    def segment_window(_path: Path, window: NDArray[np.uint8]) -> int:
        return vote(middle(segmenter(window).class_ids), list(groups.values()))[0]

    def classify(_path: Path, window: NDArray[np.uint8]) -> int:
        return int(classifier(window).class_ids[0])

    ways: dict[str, Callable[[Path, NDArray[np.uint8]], int]] = {
        'classifier': classify, 'window': segment_window, 'whole': segment_whole,
    }
    right, times_ms = Counter[str](), {way: list[float]() for way in ways}
    with tempfile.TemporaryDirectory() as scratch:
        write_patches(arguments.folder, Path(scratch), groups, (height, width), top=48, step=56)
        windows = list_classified(Path(scratch, 'labels.tsv'), list(groups))
        for path, label in sorted(windows):
            window = read_image(path)
            for way, predict in ways.items():
                start_s = time.perf_counter()
                right[way] += predict(path, window) == label
                times_ms[way].append((time.perf_counter() - start_s) * 1000.0)
    commonest = max(Counter(label for _, label in windows).values())
    result = {
        'windows': len(windows),
        'commonest_class': commonest / len(windows),
        'accuracy': {way: right[way] / len(windows) for way in ways},
        'median_ms': {way: statistics.median(times_ms[way]) for way in ('classifier', 'window')},
        'classifier': classifier.spec.name,
        'segmenter': segmenter.spec.name,
        'threads': arguments.threads,
        'machine': platform.machine(),
        'opencv': cv2.__version__,
    }
    text = json.dumps(result, indent=2)
    print(text)
    Path(__file__).with_name('results').joinpath('surface.json').write_text(text + '\n')


if __name__ == '__main__':
    main()
