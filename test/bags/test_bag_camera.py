"""The camera of a bag: its topics and its images."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.bags.camera import CameraTopics, find_camera, read_ids, read_images
from mnv2_perception.bags.write import (
    BagWriter,
    camera_info_cdr,
    compressed_image_cdr,
    image_cdr,
)
from mnv2_perception.errors import BagError, PerceptionError

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


def shown(kind: str) -> tuple[NDArray[np.uint8], str]:
    """Return an image of 30 × 40 and its encoding."""
    rng = np.random.default_rng(1)
    many = rng.integers(0, 256, (30, 40), np.uint8)
    few = np.repeat(np.uint8([[0], [1], [4]]), 400, 1).reshape(30, 40)
    return {
        'colour': (rng.integers(0, 256, (30, 40, 3), np.uint8), 'rgb8'),
        'gray in colours': (np.dstack([many] * 3), 'bgr8'),
        'gray': (many, 'mono8'),
        'dark': (np.zeros((30, 40, 3), np.uint8), 'rgb8'),
        'palette': (np.dstack([few * 30, few * 20, 7 * few + 9]), 'rgb8'),
        'ids': (few, 'mono8'),
        'numbers': (np.ones((30, 40, 4), np.uint8), '32FC1'),
    }[kind]


def write_images(path: Path, **topics: str) -> Path:
    """Write a bag with one image of a kind on each topic; `a__b` is the topic /a/b."""
    with BagWriter(path) as bag:
        for name, kind in topics.items():
            topic = '/' + name.replace('__', '/')
            bag.add_topic(topic, IMAGE)
            pixels, encoding = shown(kind)
            cdr = image_cdr(pixels, 1, 'camera', 'rgba8' if kind == 'numbers' else encoding)
            bag.write(topic, 1, cdr.replace(b'rgba8', b'32FC1'))
    return path


@pytest.mark.parametrize(
    ('topics', 'camera'),
    [
        ({'camera__infra1__image_rect_raw': 'gray', 'camera__rgb__image_raw': 'colour'},
         '/camera/rgb/image_raw'),
        ({'a__mono': 'gray in colours', 'b__colour': 'colour'}, '/b/colour'),
        ({'a__sim__ids': 'ids', 'b__mono': 'gray'}, '/b/mono'),
        ({'a__sim__classes': 'palette', 'b__mono': 'gray'}, '/b/mono'),
        ({'a__semantic_segmentation': 'ids', 'carla__rgb': 'dark'}, '/carla/rgb'),
        ({'a__semantic': 'palette', 'b__rgb': 'dark'}, '/b/rgb'),
        ({'a__depth__colorized': 'colour', 'b__image': 'colour'}, '/b/image'),
        ({'a__confidence__confidence_map': 'numbers', 'zed__left': 'colour'}, '/zed/left'),
        ({'front__segmentation__overlay': 'colour', 'segmentation__mask': 'ids',
          'segmentation__confidence': 'gray', 'semantic__mask': 'ids',
          'detections__overlay': 'colour', 'usb_cam__image_raw': 'gray'}, '/usb_cam/image_raw'),
    ],
)
def test_what_the_first_images_show_decides_and_is_told(
    tmp_path: Path, topics: dict[str, str], camera: str, caplog: pytest.LogCaptureFixture
) -> None:
    bag = write_images(tmp_path / 'bag', **topics)
    found = find_camera(bag)
    assert found.image == camera
    others = {f'/{name.replace("__", "/")}' for name in topics} - {camera}
    assert found.passed_over.keys() == others
    for topic in others:
        assert f'{topic} ({found.passed_over[topic]})' in caplog.text
    assert (f'using {camera} as the camera' in caplog.text) == bool(others)


def test_a_topic_that_is_named_is_taken_in_spite_of_better_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bag = write_images(tmp_path / 'bag', a__rgb='colour', b__infra='gray')
    found = find_camera(bag, '/b/infra')
    assert (found.image, found.passed_over) == ('/b/infra', {'/a/rgb': 'colour, 30 × 40'})
    assert not caplog.text


@pytest.mark.parametrize(
    ('topic', 'kind', 'words'),
    [('/a/rgb', 'dark', 'gray, 30 × 40, values: 1'),
     ('/depth_camera/image_raw', 'colour', 'colour, 30 × 40, called depth')],
)
def test_a_lone_image_that_may_be_none_is_taken_with_a_word(
    tmp_path: Path, topic: str, kind: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    bag = write_images(tmp_path / 'bag', **{topic[1:].replace('/', '__'): kind})
    assert find_camera(bag).image == topic
    assert f'using {topic} as the camera ({words})' in caplog.text


def test_images_of_which_none_is_a_camera_s_are_refused_with_what_they_are(
    tmp_path: Path
) -> None:
    bag = write_images(
        tmp_path / 'bag', camera__label='ids', depth='numbers', segmentation__confidence='gray'
    )
    with pytest.raises(BagError, match='has no camera images') as caught:
        find_camera(bag)
    for words in (
        '/camera/label (gray, 30 × 40, values: 3, called label)', 'a result of this package',
        "/depth ('32FC1': depth or other numbers)", 'name it with --topic',
    ):
        assert words in str(caught.value)


def test_a_damaged_first_image_does_not_hide_a_camera(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        for topic in ('/a', '/b'):
            bag.add_topic(topic, IMAGE)
        whole = image_cdr(PIXELS, 2, 'camera')
        bag.write('/a', 1, whole[:-8])
        bag.write('/a', 2, whole)
        bag.write('/b', 1, whole[:5])
    found = find_camera(tmp_path / 'bag')
    assert found.image == '/a'
    assert found.passed_over['/b'].startswith('no image: ')


def test_labels_that_are_no_ids_are_none(tmp_path: Path) -> None:
    bag = write_images(tmp_path / 'bag', a__label='palette', b__label='ids', rgb='colour')
    assert find_camera(bag).label == '/b/label'


def test_images_and_ids_are_read_raw_and_compressed(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', raw=IMAGE, packed=COMPRESSED)
    (stamp_ns, image), = read_images(bag, '/raw')
    assert stamp_ns == 1 and np.array_equal(image, PIXELS)
    (_, gray), = read_images(bag, '/packed')
    assert np.array_equal(gray[..., 2], PIXELS[..., 0])
    (_, ids), = read_ids(bag, '/packed')
    assert np.array_equal(ids, PIXELS[..., 0])


def test_what_is_no_image_is_refused_or_left_out(tmp_path: Path) -> None:
    image = np.full((4, 6, 3), 9, np.uint8)
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/image', IMAGE)
        for stamp_ns in (1, 2, 3):
            whole = image_cdr(image, stamp_ns, 'camera')
            bag.write('/image', stamp_ns, whole[:-9] if stamp_ns == 2 else whole)
    kept = read_images(tmp_path / 'bag', '/image', skip_broken=True)
    assert [stamp_ns for stamp_ns, _ in kept] == [1, 3]
    with pytest.raises(PerceptionError):
        list(read_images(tmp_path / 'bag', '/image'))
