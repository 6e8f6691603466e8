"""Compute the figures of a replay."""

from collections.abc import Mapping
from pathlib import Path
import statistics
import time
from typing import Any

from mnv2_perception.bags.camera import CameraTopics, read_images, read_stamps
from mnv2_perception.bags.results import read_last_diagnostics
from mnv2_perception.demo.topics import DIAGNOSTICS, MASK, NODE
from mnv2_perception.errors import BagError, DemoError
from mnv2_perception.evaluation.labels import compare, known_as, read_names
from mnv2_perception.evaluation.recording import account, latencies_ms, percentile
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.segmenter import Segmenter


def measure_bare_inference(
    segmenter: Segmenter, bag: Path, topic: str, runs: int = 15
) -> float:
    """Return the median time of one image through the segmenter alone, in ms.

    Nothing else of the demo may run meanwhile.

    Raises:
        BagError: the topic has no images.
    """
    first = next(read_images(bag, topic, skip_broken=True), None)
    if first is None:
        raise BagError(f'{bag}: has no images on {topic}')
    times_ms = []
    for _ in range(runs + 3):
        start_s = time.perf_counter()
        segmenter(first[1])
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
    return statistics.median(times_ms[3:])


def rate_hz(count: int, duration_s: float) -> float | None:
    """Return the rate of `count` messages from the first to the last; None if it is undefined."""
    return (count - 1) / duration_s if count > 1 and duration_s > 0 else None


def summarise(
    out: Path,
    bag: Path,
    camera: CameraTopics,
    spec: ModelSpec,
    counts: Mapping[str, int],
    drawn: bool,
) -> dict[str, Any]:
    """Return the summary of a recorded run.

    Raises:
        BagError: a recording cannot be read.
        DemoError: there were no masks.
    """
    masks_bag = out / 'recording'
    node = read_last_diagnostics(masks_bag, DIAGNOSTICS, NODE)
    accounted = account(counts['frames_in'], counts['masks_out'], node)
    summary: dict[str, Any] = {**accounted, **counts}
    if not counts['masks_out']:
        raise DemoError(
            f'no mask came out of {counts["frames_in"]} frames; see {out}/perception.log'
        )
    latencies = latencies_ms(out / 'sent.csv', out / 'received.csv', camera.image, MASK)
    arrived = [time_ns for time_ns, _ in read_stamps(masks_bag, MASK)]
    summary |= {
        'latency_ms': {
            'p50': percentile(latencies, 0.5), 'p95': percentile(latencies, 0.95)
        },
        'fps': rate_hz(len(arrived), (arrived[-1] - arrived[0]) / 1e9),
        'engine': node['engine'],
        'model': node['model'],
    }
    if camera.label:
        names = read_names(bag, camera.label)
        matrix, compared = compare(bag, camera.label, masks_bag, MASK, spec.classes, names)
        summary['compared'] = compared
        if matrix is not None:
            summary['miou'] = matrix.miou()
            if drawn and (road := known_as('road', spec.classes)):
                summary['road_iou'] = float(matrix.iou()[spec.classes.index(road)])
    return summary
