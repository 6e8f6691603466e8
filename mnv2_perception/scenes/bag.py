"""Draw a bag: a drive through a procedural street, with exact labels and camera_info."""

from pathlib import Path

import cv2
import numpy as np

from mnv2_perception.bags.messages import header, label_info_cdr
from mnv2_perception.bags.read import TopicQos
from mnv2_perception.bags.results import LABEL_INFO
from mnv2_perception.bags.write import BagWriter, camera_info_cdr, compressed_image_cdr, image_cdr
from mnv2_perception.errors import BagError
from mnv2_perception.scenes.street import camera_matrix, CLASSES, draw_scene

IMAGE_TOPIC = '/camera/image_raw'
INFO_TOPIC = '/camera/camera_info'
LABEL_TOPIC = '/camera/label/compressed'
LABEL_INFO_TOPIC = '/camera/label_info'
FRAME_ID = 'camera_color_optical_frame'
SEED = 7  # default drive
FIRST_STAMP_NS = 1_700_000_000_000_000_000  # fixed, so that a seed always gives the same bag


def draw_bag(
    path: Path,
    seed: int = SEED,
    duration_s: float = 6.0,
    rate_hz: float = 15.0,
    height: int = 360,
    width: int = 480,
) -> None:
    """Write a bag with rgb8 images, camera_info, labels (PNG of class ids) and class names.

    The ground is flat, and the camera is level at `scenes.street.camera_height_m(seed)`: with its
    camera_info, pixels project onto their true places on the road.

    Args:
        path: folder of the bag; must not exist.
        seed: number of the drive; the same seed gives the same drive.
        duration_s: length of the drive, seconds.
        rate_hz: frames per second.
        height: height of the images, pixels.
        width: width of the images, pixels.

    Raises:
        BagError: the folder exists or cannot be written, or there would be no frame.
        ImageError: the size is too small to draw.
    """
    count = round(duration_s * rate_hz)
    if count < 1:
        raise BagError(f'{path}: {duration_s} s at {rate_hz} Hz contains no frame; use a longer '
                       f'duration')
    draw_scene(seed, 0.0, height, width)  # raises an ImageError before there is a bag
    matrix = camera_matrix(seed, height, width)
    best_effort = TopicQos(reliable=False, depth=5)  # like camera drivers
    with BagWriter(path) as bag:
        bag.add_topic(IMAGE_TOPIC, 'sensor_msgs/msg/Image', best_effort)
        bag.add_topic(INFO_TOPIC, 'sensor_msgs/msg/CameraInfo', best_effort)
        bag.add_topic(LABEL_TOPIC, 'sensor_msgs/msg/CompressedImage', TopicQos())
        bag.add_topic(LABEL_INFO_TOPIC, LABEL_INFO, TopicQos(transient_local=True, depth=1))
        bag.write(
            LABEL_INFO_TOPIC, FIRST_STAMP_NS,
            label_info_cdr(CLASSES, header(FIRST_STAMP_NS, FRAME_ID), 0.0),
        )
        for index in range(count):
            time_s = index / rate_hz
            stamp_ns = FIRST_STAMP_NS + round(time_s * 1e9)
            image, class_ids = draw_scene(seed, time_s, height, width)
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
