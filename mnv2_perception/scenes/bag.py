"""Draw a bag: a drive through a procedural hall or street, with exact labels and a camera_info."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.label_info import (
    LABEL_INFO,
    label_info_cdr,
    LABEL_INFO_DEFINITION,
)
from mnv2_perception.bags.read import TopicQos
from mnv2_perception.bags.write import BagWriter, camera_info_cdr, compressed_image_cdr, image_cdr
from mnv2_perception.errors import BagError
from mnv2_perception.scenes import hall_drive, street
from mnv2_perception.scenes.hall import HALL_CLASSES

IMAGE_TOPIC = '/camera/image_raw'
INFO_TOPIC = '/camera/camera_info'
LABEL_TOPIC = '/camera/label/compressed'
LABEL_INFO_TOPIC = '/camera/label_info'
FRAME_ID = 'camera_color_optical_frame'
SEED = 7  # of the drive
FIRST_STAMP_NS = 1_700_000_000_000_000_000  # a fixed date, so that a seed is one bag


@dataclass(frozen=True)
class Scene:
    """What a drive can go through.

    Attributes:
        classes: of the labels; the index is the id.
        ground: the class that one drives on.
        draw: image and labels of a seed, a time in seconds, a height and a width.
        camera_matrix: (3, 3), of a seed, a height and a width.
        camera_height_m: of a seed, above flat ground.
        camera_pitch_rad: of a seed, positive looks down.
    """

    classes: tuple[str, ...]
    ground: str
    draw: Callable[[int, float, int, int], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
    camera_matrix: Callable[[int, int, int], NDArray[np.float64]]
    camera_height_m: Callable[[int], float]
    camera_pitch_rad: Callable[[int], float]


SCENES = {
    'street': Scene(
        street.CLASSES, 'road', street.draw_scene, street.camera_matrix, street.camera_height_m,
        lambda _: 0.0,
    ),
    'hall': Scene(
        HALL_CLASSES, 'floor', hall_drive.draw_scene, hall_drive.camera_matrix,
        hall_drive.camera_height_m, hall_drive.camera_pitch_rad,
    ),
}


def draw_bag(
    path: Path,
    seed: int = SEED,
    duration_s: float = 6.0,
    rate_hz: float = 15.0,
    height: int = 360,
    width: int = 480,
    scene: str = 'street',
) -> None:
    """Write a bag of rgb8 images, camera_info, labels (PNG of class ids) and their names.

    With camera_info, and the camera at its scene's height over flat ground and pitch, pixels fall
    on their places on the ground.

    Args:
        path: the bag's folder; must not exist.
        seed: one seed is one drive.
        duration_s: length of the drive, seconds.
        rate_hz: frames a second.
        height: of the images, pixels.
        width: of the images, pixels.
        scene: name in `SCENES`.

    Raises:
        BagError: the folder exists or cannot be written, or there would be no frame.
        ImageError: the size is too small to draw.
    """
    count = round(duration_s * rate_hz)
    if count < 1:
        raise BagError(f'{path}: {duration_s} s at {rate_hz} Hz holds no frame; draw for longer')
    drawn = SCENES[scene]
    drawn.draw(seed, 0.0, height, width)  # refuses what cannot be drawn before there is a bag
    matrix = drawn.camera_matrix(seed, height, width)
    best_effort = TopicQos(reliable=False, depth=5)  # as camera drivers publish
    with BagWriter(path) as bag:
        bag.add_topic(IMAGE_TOPIC, 'sensor_msgs/msg/Image', best_effort)
        bag.add_topic(INFO_TOPIC, 'sensor_msgs/msg/CameraInfo', best_effort)
        bag.add_topic(LABEL_TOPIC, 'sensor_msgs/msg/CompressedImage', TopicQos())
        latched = TopicQos(transient_local=True, depth=1)
        bag.add_topic(LABEL_INFO_TOPIC, LABEL_INFO, latched, LABEL_INFO_DEFINITION)
        bag.write(
            LABEL_INFO_TOPIC, FIRST_STAMP_NS,
            label_info_cdr(drawn.classes, FIRST_STAMP_NS, FRAME_ID),
        )
        for index in range(count):
            time_s = index / rate_hz
            stamp_ns = FIRST_STAMP_NS + round(time_s * 1e9)
            image, class_ids = drawn.draw(seed, time_s, height, width)
            bag.write(IMAGE_TOPIC, stamp_ns, image_cdr(image, stamp_ns, FRAME_ID))
            bag.write(
                INFO_TOPIC, stamp_ns,
                camera_info_cdr(height, width, np.asarray(matrix), stamp_ns, FRAME_ID),
            )
            _, png = cv2.imencode('.png', class_ids)
            bag.write(
                LABEL_TOPIC, stamp_ns,
                compressed_image_cdr(png.tobytes(), stamp_ns, FRAME_ID, 'mono8; png compressed '),
            )
