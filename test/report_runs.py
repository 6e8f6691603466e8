"""Write small results of a run: a car drives through twelve frames; all kinds of results."""

from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.messages import (
    classification_cdr,
    detections_cdr,
    grid_cdr,
    header,
    label_info_cdr,
    make,
    mask_cdr,
    scan_cdr,
    serialised,
    text_cdr,
)
from mnv2_perception.bags.results import (
    CLASSIFICATION,
    DETECTIONS,
    GRID,
    IMAGE,
    LABEL_INFO,
    RUN,
)
from mnv2_perception.bags.write import BagWriter, compressed_image_cdr
from mnv2_perception.vision.costmap import Grid, Scan

FRAMES, HEIGHT, WIDTH = 12, 48, 64
CLASSES = ('road', 'car', 'sky')
PHOTO, LABEL = '/camera/image/compressed', '/camera/label/compressed'
COMPRESSED, STRING = 'sensor_msgs/msg/CompressedImage', 'std_msgs/msg/String'
DIAGNOSTICS = 'diagnostic_msgs/msg/DiagnosticArray'
MODEL = {
    'name': 'own', 'task': 'segmentation', 'file': 'own.onnx', 'sha256': '0' * 64,
    'engine': 'onnx_runtime', 'precision': 'fp32', 'licence': 'CC-BY-NC-4.0',
    'attribution': 'Ada & Co', 'colours': {'road': [128, 64, 128], 'sky': [70, 130, 180]},
}


def truth(number: int) -> NDArray[np.uint8]:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[: HEIGHT // 3] = 2
    ids[20:32, 4 * number : 4 * number + 12] = 1
    return ids


def stamp_of(number: int) -> int:
    return 10**9 + number * 10**8


def photo(number: int) -> NDArray[np.uint8]:
    """Return a picture of many colours, like a camera's."""
    noise = np.random.default_rng(number).integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
    return np.asarray(noise + 60 * truth(number)[..., None], np.uint8)


def packed(image: NDArray[np.uint8], suffix: str) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def status(name: str, number: int, **values: str) -> Any:
    pairs = {
        'received': '12', 'published': '10', 'passed_over': '2', 'rejected': '0', 'lost': '0',
        'latency_p50_ms': f'{20 + number}', 'latency_p95_ms': f'{40 + number}',
        'model': 'unet_mobilenetv2_ground_fast', 'engine': 'openvino', **values,
    }
    return make(
        'diagnostic_msgs/msg/DiagnosticStatus', name=f'{name}: frames', message='working',
        values=[make('diagnostic_msgs/msg/KeyValue', key=key, value=value)
                for key, value in pairs.items()],
    )


def write_results(
    path: Path, wrong: dict[int, int] | None = None, frames: int = FRAMES,
    classes: tuple[str, ...] = CLASSES, photos: bool = False, labels: bool = False,
    live: bool = False, left_out: tuple[int, ...] = (), grid_frame: str = 'base_link',
    source: str = 'drive', box: str = 'car', space: str = '', zero: bool = False,
    only: Sequence[str] = (),
) -> Path:
    """Write correct masks, except for some rows of some frames; and boxes, classes and grids.

    Args:
        path: folder of the bag; the path of its file is returned.
        wrong: number of wrong rows by frame.
        frames: number of frames.
        classes: class names.
        photos: whether to write the camera's images.
        labels: whether to write labels.
        live: write what live nodes publish, with diagnostics; otherwise what `mnv2 bag run` does.
        left_out: frames without results.
        grid_frame: frame of the grids; scans have base_link.
        source: name of the recording.
        box: class of the boxes.
        space: namespace of the results.
        zero: whether all stamps are zero.
        only: names of the results to write; empty for all.
    """
    topics = {
        'segmentation/label_info': LABEL_INFO, 'segmentation/mask': IMAGE,
        'segmentation/confidence': IMAGE, 'detections': DETECTIONS,
        'classification': CLASSIFICATION, 'grid': GRID, 'scan': 'sensor_msgs/msg/LaserScan',
    }
    others = {
        **({PHOTO: COMPRESSED} if photos else {}),
        **({LABEL: COMPRESSED, '/camera/label_info': LABEL_INFO} if labels else {}),
        **({'/diagnostics': DIAGNOSTICS} if live else {RUN: STRING}),
    }
    with BagWriter(path) as bag:
        for name, type_name in topics.items():
            bag.add_topic(f'{space}/{name}', type_name)
        for name, type_name in others.items():
            bag.add_topic(name, type_name)
        if not live:
            bag.write(RUN, 1, text_cdr(json.dumps({
                'source': {'bags': [source], 'topic': PHOTO}, 'models': [MODEL],
                'options': {'grid': 'camera 1.5 m above flat ground', 'copy': []},
            })))
        names = label_info_cdr(classes, header(1, ''), 0.0)
        bag.write(f'{space}/segmentation/label_info', 1, names)
        if labels:
            bag.write('/camera/label_info', 1, names)
        for number in range(frames):
            stamp_ns = stamp_of(number)
            of = header(0 if zero else stamp_ns, 'camera')
            if photos:
                bag.write(PHOTO, stamp_ns, compressed_image_cdr(
                    packed(photo(number), '.jpg'), 0 if zero else stamp_ns, 'camera', 'jpeg'))
            if labels:
                bag.write(LABEL, stamp_ns, compressed_image_cdr(
                    packed(truth(number), '.png'), 0 if zero else stamp_ns, 'camera', 'png'))
            if live:
                bag.write('/diagnostics', stamp_ns, serialised(make(
                    DIAGNOSTICS, header=of, status=[status('segmentation_node', number)])))
            if number in left_out:
                continue
            ids = truth(number)
            ids[HEIGHT - (wrong or {}).get(number, 0) :] = 1
            grid = np.full((40, 40), -1, np.int8)
            grid[15:25, 22:] = 0
            grid[18:22, 30 + number % 5 :] = 100
            for name, cdr in {
                'segmentation/mask': mask_cdr(ids, of),
                'segmentation/confidence': mask_cdr(
                    np.full((HEIGHT, WIDTH), 250 - 5 * number, np.uint8), of),
                'detections': detections_cdr(
                    np.array([[4 * number, 20, 4 * number + 12, 32]], np.float32),
                    np.array([0.9], np.float32), np.zeros(1, int), [box], of),
                'classification': classification_cdr(
                    np.array([0]), np.array([0.8], np.float32), ['grass'], of),
                'grid': grid_cdr(
                    Grid(grid, -10.0, -10.0, 0.5), header(stamp_ns, grid_frame)
                    if not zero else header(0, grid_frame)),
                'scan': scan_cdr(
                    Scan(np.ones(3, np.float32), -0.1, 0.1, 10.0), header(stamp_ns, 'base_link')),
            }.items():
                if only and name not in only:
                    continue
                bag.write(f'{space}/{name}', stamp_ns, cdr)
    return next(path.glob('*.mcap'))
