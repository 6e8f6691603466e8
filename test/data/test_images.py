"""Pictures in files, folders and bags."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mnv2_perception.data.images import read_image, spread_images, write_image
from mnv2_perception.errors import DataError


def write_reds(folder: Path, count: int) -> Path:
    """Write images of red 0, 1, 2, ... at two depths."""
    (folder / 'deep').mkdir(parents=True)
    for index in range(count):
        image = np.zeros((4, 6, 3), np.uint8)
        image[..., 2] = index  # OpenCV writes BGR
        below = 'deep/' if index % 2 else 'also_'
        cv2.imwrite(str(folder / f'{below}{index}.png'), image)
    return folder


@pytest.mark.parametrize(('count', 'reds'), [(2, [0, 9]), (99, [0, 2, 4, 6, 8, 1, 3, 5, 7, 9])])
def test_images_are_spread_over_a_folder(tmp_path: Path, count: int, reds: list[int]) -> None:
    images = list(spread_images(write_reds(tmp_path / 'reds', 10), count))
    assert [int(image[0, 0, 0]) for image in images] == reds


def test_labels_beside_the_images_are_no_images(tmp_path: Path) -> None:
    for name in ('images', 'labels'):
        write_reds(tmp_path / name, 2)
    assert len(list(spread_images(tmp_path, 99))) == 2


def test_images_are_spread_over_a_bag(tmp_path: Path) -> None:
    pytest.importorskip('rosbags', reason='no rosbags: run make setup')
    from mnv2_perception.scenes.bag import draw_bag
    from mnv2_perception.scenes.street import draw_scene

    draw_bag(tmp_path / 'bag', 7, 1.0, 4.0, 90, 120)
    images = list(spread_images(tmp_path / 'bag', 2))
    assert len(images) == 2
    assert np.array_equal(images[0], draw_scene(7, 0.0, 90, 120)[0])
    assert np.array_equal(images[1], draw_scene(7, 0.75, 90, 120)[0])


def test_images_of_a_bag_are_the_camera_s_or_those_of_a_named_topic(tmp_path: Path) -> None:
    pytest.importorskip('rosbags', reason='no rosbags: run make setup')
    from mnv2_perception.bags.write import BagWriter, image_cdr

    colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    with BagWriter(tmp_path / 'bag') as bag:
        for topic, pixels, encoding in (
            ('/a/confidence', np.full((20, 30), 3, np.uint8), 'mono8'),
            ('/b/image', colours, 'rgb8'),
        ):
            bag.add_topic(topic, 'sensor_msgs/msg/Image')
            bag.write(topic, 1, image_cdr(pixels, 1, 'camera', encoding))
    (image,) = spread_images(tmp_path / 'bag', 5)
    assert np.array_equal(image, colours)
    (image,) = spread_images(tmp_path / 'bag', 5, '/a/confidence')
    assert (image == 3).all()


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='no images; expected a folder'):
        list(spread_images(tmp_path, 3))


def test_images_are_written_as_their_suffix_says_whole_or_not_at_all(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    write_image(tmp_path / 'image.png', image)
    assert (read_image(tmp_path / 'image.png') == image).all()
    write_image(tmp_path / 'ids.PNG', image[..., 0])
    assert (cv2.imread(str(tmp_path / 'ids.PNG'), cv2.IMREAD_UNCHANGED) == image[..., 0]).all()
    with pytest.raises(DataError, match=r'image\.txt: OpenCV cannot write it .* ends in \.png'):
        write_image(tmp_path / 'image.txt', image)
    with pytest.raises(DataError, match=r'cannot hold colours .*; use a name that ends in \.png'):
        write_image(tmp_path / 'image.pgm', image)
    with pytest.raises(DataError, match=r'absent/image\.png: cannot be written: No such file'):
        write_image(tmp_path / 'absent/image.png', image)
    assert {each.name for each in tmp_path.iterdir()} == {'image.png', 'ids.PNG'}
