"""The camera of a bag: its topics and its images."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mnv2_perception.bags.camera import CameraTopics, find_camera, read_ids, read_images
from mnv2_perception.bags.write import (
    BagWriter,
    camera_info_cdr,
    compressed_image_cdr,
    image_cdr,
)
from mnv2_perception.errors import BagError

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
INFO = 'sensor_msgs/msg/CameraInfo'
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def write_bag(path: Path, **topics: str) -> Path:
    """Write a bag with one message on each topic; `a__b` is the topic /a/b."""
    png = cv2.imencode('.png', PIXELS[..., 0])[1].tobytes()
    with BagWriter(path) as bag:
        for name, type_name in topics.items():
            topic = '/' + name.replace('__', '/')
            bag.add_topic(topic, type_name)
            if type_name == COMPRESSED:
                bag.write(topic, 1, compressed_image_cdr(png, 1, 'camera', 'mono8; png'))
            elif type_name == INFO:
                bag.write(topic, 1, camera_info_cdr(4, 6, np.eye(3), 1, 'camera'))
            else:
                bag.write(topic, 1, image_cdr(PIXELS, 1, 'camera'))
    return path


def test_the_camera_is_the_first_that_is_neither_depth_nor_labels(tmp_path: Path) -> None:
    bag = write_bag(
        tmp_path / 'bag', camera__aligned_depth__image=IMAGE, camera__label__compressed=COMPRESSED,
        camera__rgb__image=IMAGE, camera__rgb__image__compressed=COMPRESSED,
    )
    assert find_camera(bag) == CameraTopics(
        '/camera/rgb/image', False, '/camera/label/compressed', None
    )


def test_a_chosen_topic_is_taken_whatever_its_name(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', depthai__rgb=COMPRESSED)
    assert find_camera(bag, '/depthai/rgb') == CameraTopics(
        '/depthai/rgb', True, None, None
    )


def test_the_camera_info_is_that_of_the_images_namespace(tmp_path: Path) -> None:
    bag = write_bag(
        tmp_path / 'bag', left__image=IMAGE, left__camera_info=INFO, rear__image=IMAGE,
        right__image__compressed=COMPRESSED, right__camera_info=INFO, camera_info=INFO,
    )
    found = [
        find_camera(bag, topic).info
        for topic in ('/left/image', '/right/image/compressed', '/rear/image')
    ]
    assert found == ['/left/camera_info', '/right/camera_info', None]


def test_a_topic_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', camera__image=IMAGE)
    with pytest.raises(BagError, match=r'no images on /image; it has /camera/image'):
        find_camera(bag, '/image')


def test_a_bag_without_images_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', camera__depth=IMAGE)
    with pytest.raises(BagError, match='has no images'):
        find_camera(bag)


def test_images_and_ids_are_read_raw_and_compressed(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', raw=IMAGE, packed=COMPRESSED)
    (stamp_ns, image), = read_images(bag, '/raw')
    assert stamp_ns == 1 and np.array_equal(image, PIXELS)
    (_, gray), = read_images(bag, '/packed')
    assert np.array_equal(gray[..., 2], PIXELS[..., 0])
    (_, ids), = read_ids(bag, '/packed')
    assert np.array_equal(ids, PIXELS[..., 0])
