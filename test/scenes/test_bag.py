"""A drawn bag: images, camera_info and labels of one stamp, the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest

from mnv2_perception.bags.camera import read_ids, read_images
from mnv2_perception.bags.read import BagReader, header_stamp_ns
from mnv2_perception.errors import BagError, ImageError
from mnv2_perception.evaluation.labels import read_names
from mnv2_perception.scenes.bag import (
    draw_bag,
    FRAME_ID,
    IMAGE_TOPIC,
    INFO_TOPIC,
    LABEL_INFO_TOPIC,
    LABEL_TOPIC,
)
from mnv2_perception.scenes.drive import drive_of
from mnv2_perception.scenes.layout import block_of
from mnv2_perception.scenes.street import camera_height_m, CLASSES, draw_scene
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose
from mnv2_perception.vision.projection import ground_points

TOPICS = (IMAGE_TOPIC, INFO_TOPIC, LABEL_TOPIC)
SEED, RATE_HZ, HEIGHT, WIDTH = 5, 8.0, 64, 96


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('drawn') / 'street'
    draw_bag(path, SEED, 0.5, RATE_HZ, HEIGHT, WIDTH)
    return path


def test_every_frame_has_image_camera_info_and_labels_of_one_stamp(bag: Path) -> None:
    stamps = {}
    with BagReader(bag) as reader:
        for topic in TOPICS:
            messages = list(reader.messages([topic]))
            stamps[topic] = [header_stamp_ns(message.cdr) for message in messages]
            assert stamps[topic] == [message.stamp_ns for message in messages]
            frames = {reader.deserialize(message).header.frame_id for message in messages}
            assert frames == {FRAME_ID}
    assert stamps[IMAGE_TOPIC] == stamps[INFO_TOPIC] == stamps[LABEL_TOPIC]
    assert np.diff(stamps[IMAGE_TOPIC]).tolist() == [125_000_000] * 3


def test_images_and_labels_are_those_of_the_scene(bag: Path) -> None:
    frames = zip(read_images(bag, IMAGE_TOPIC), read_ids(bag, LABEL_TOPIC), strict=True)
    for index, ((_, image), (_, ids)) in enumerate(frames):
        drawn, labels = draw_scene(SEED, index / RATE_HZ, HEIGHT, WIDTH)
        assert np.array_equal(image, drawn)
        assert np.array_equal(ids, labels)


def test_a_bag_names_the_classes_of_its_labels_once_for_all(bag: Path) -> None:
    assert read_names(bag, LABEL_TOPIC) == dict(enumerate(CLASSES))
    with BagReader(bag) as reader:
        topic = next(topic for topic in reader.topics if topic.name == LABEL_INFO_TOPIC)
    assert topic.message_count == 1 and topic.qos is not None and topic.qos.transient_local


def test_camera_info_is_of_the_images_size_with_the_centre_on_the_horizon(bag: Path) -> None:
    with BagReader(bag) as reader:
        info = reader.deserialize(next(iter(reader.messages([INFO_TOPIC]))))
    k = info.k.reshape(3, 3)
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    assert k[0, 0] == k[1, 1] > 0.0 and k[0, 2] == WIDTH / 2
    assert 0.0 < k[1, 2] < HEIGHT


@pytest.mark.parametrize('seed', [7, 9, 13])  # whose first lamp and left kerb are in view
def test_by_camera_info_and_height_a_lamp_and_the_kerb_lie_where_the_street_has_them(
    tmp_path: Path, seed: int
) -> None:
    draw_bag(tmp_path / 'bag', seed, duration_s=0.1, rate_hz=10.0)
    with BagReader(tmp_path / 'bag') as reader:
        info = reader.deserialize(next(iter(reader.messages([INFO_TOPIC]))))
    (_, ids), = read_ids(tmp_path / 'bag', LABEL_TOPIC)
    camera = Camera.from_info(info)
    pose = Pose.from_rpy(0.0, 0.0, camera_height_m(seed), 0.0, 0.0, 0.0)
    ground = ground_points(camera, pose @ BODY_FROM_OPTICAL, 12.0, 1.0)

    drive, lamp = drive_of(seed), block_of(seed, -1, 0).posts[0]
    # World x is to the right of the road's middle; the drawn drive starts at z = 0.
    expected = np.array([lamp.distance_m, drive.lane_x_m - lamp.x_m])
    column = round(float(camera.project(np.array([-expected[1], 1.5, expected[0]]))[0]))
    foot = np.flatnonzero(ids[:, column] == CLASSES.index('pole')).max()
    np.testing.assert_allclose(ground[foot, column, :2], expected, rtol=0.025)

    ahead = np.abs(ground[..., 0] - 7.0) < 0.2
    left = ground[ahead & (ids == CLASSES.index('road')), 1].max()
    assert left == pytest.approx(drive.lane_x_m + drive.road_half_m, rel=0.025)


def test_one_seed_is_one_bag_and_another_seed_another(bag: Path, tmp_path: Path) -> None:
    draw_bag(tmp_path / 'again', SEED, 0.5, RATE_HZ, HEIGHT, WIDTH)
    draw_bag(tmp_path / 'other', SEED + 1, 0.5, RATE_HZ, HEIGHT, WIDTH)

    def contents(path: Path) -> list[tuple[str, int, bytes]]:
        with BagReader(path) as reader:
            return [(m.topic, m.stamp_ns, bytes(m.cdr)) for m in reader.messages()]

    assert contents(tmp_path / 'again') == contents(bag)
    assert contents(tmp_path / 'other') != contents(bag)


def test_images_are_offered_as_a_camera_driver_does(bag: Path) -> None:
    with BagReader(bag) as reader:
        qos = {topic.name: topic.qos for topic in reader.topics}
    assert qos[IMAGE_TOPIC] is not None and not qos[IMAGE_TOPIC].reliable


@pytest.mark.parametrize(
    ('duration_s', 'height', 'error'), [(0.0, 64, BagError), (-1.0, 64, BagError),
                                        (0.5, 10, ImageError)]
)
def test_what_cannot_be_drawn_leaves_no_folder(
    tmp_path: Path, duration_s: float, height: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        draw_bag(tmp_path / 'bag', SEED, duration_s, RATE_HZ, height, WIDTH)
    assert not (tmp_path / 'bag').exists()


def test_an_existing_folder_is_refused(bag: Path) -> None:
    with pytest.raises(BagError, match='already exists'):
        draw_bag(bag, SEED, 0.5, RATE_HZ, HEIGHT, WIDTH)
