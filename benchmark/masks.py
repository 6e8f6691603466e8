"""What masks as PNG cost on this CPU: `python benchmark/masks.py`, one thread, no ROS.

Masks of 480 × 640 that the default model makes of drawn streets; raw they have 307 kB.
"""

import argparse
import json
from pathlib import Path
import platform
import statistics
import time

import cv2
import numpy as np

from mnv2_perception.scenes.street import draw_scene
from mnv2_perception.tasks.models import SEGMENTATION_MODEL
from mnv2_perception.tasks.segmenter import Segmenter
from mnv2_perception.vision.image_files import ids_from_png, mask_to_png

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default=SEGMENTATION_MODEL)
    parser.add_argument('--runs', type=int, default=20)
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/masks.json')
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    segmenter = Segmenter.open(arguments.model)
    times_ms: dict[str, list[float]] = {'encode': [], 'decode': []}
    sizes = []
    for seed in range(5):
        ids = segmenter(draw_scene(seed, 1.0, 480, 640)[0]).class_ids
        for _ in range(arguments.runs):
            start_s = time.perf_counter()
            png = mask_to_png(ids)
            middle_s = time.perf_counter()
            assert np.array_equal(ids_from_png(png), ids)
            end_s = time.perf_counter()
            times_ms['encode'].append(1000.0 * (middle_s - start_s))
            times_ms['decode'].append(1000.0 * (end_s - middle_s))
        sizes.append(len(png))
    results = {
        'machine': {
            'cpu': platform.processor() or platform.machine(),
            'python': platform.python_version(), 'opencv': cv2.__version__,
        },
        'model': segmenter.spec.name,
        'ms': {name: round(statistics.median(times), 2) for name, times in times_ms.items()},
        'kb': round(statistics.mean(sizes) / 1000.0, 1),
    }
    print(json.dumps(results, indent=2))
    arguments.out.write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
