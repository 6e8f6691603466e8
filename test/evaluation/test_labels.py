"""Masks and labels are compared by the names of their classes, or it is said why not."""

from collections.abc import Mapping
from dataclasses import asdict
import json
from pathlib import Path

import cv2
from identity_network import identity_spec, write_fake
import numpy as np
import pytest
import yaml

from mnv2_perception.bags.write import BagWriter, compressed_image_cdr, image_cdr
from mnv2_perception.cli.main import main
from mnv2_perception.evaluation.labels import compare, read_names

LABEL, MASK = '/camera/label/compressed', '/segmentation/mask'
ROAD, SKY, CAR = 0, 1, 2  # of the model
CLASSES = ('road', 'sky', 'car')


@pytest.fixture
def bags(tmp_path: Path) -> tuple[Path, Path]:
    """Write labels whose ids are 0 car, 1 tree, 3 road, and masks that are right everywhere."""
    labels = np.array([[3, 3, 3, 0], [1, 1, 255, 0]], np.uint8)
    masks = np.array([[ROAD, ROAD, ROAD, CAR], [SKY, SKY, SKY, CAR]], np.uint8)
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic(LABEL, 'sensor_msgs/msg/CompressedImage')
        png = cv2.imencode('.png', labels)[1].tobytes()
        bag.write(LABEL, 5, compressed_image_cdr(png, 5, 'camera', 'mono8; png compressed '))
    with BagWriter(tmp_path / 'masks') as bag:
        bag.add_topic(MASK, 'sensor_msgs/msg/Image')
        bag.write(MASK, 6, image_cdr(masks, 5, 'camera', 'mono8'))
    return tmp_path / 'bag', tmp_path / 'masks'


@pytest.mark.parametrize(
    ('names', 'miou', 'told'),
    [
        ({0: 'car', 1: 'tree', 3: 'road'}, 1.0, "by name, without 'tree'"),
        ({0: 'car', 1: 'sky', 3: 'road'}, 1.0, 'by name'),
        ({0: 'dog', 1: 'tree'}, None, "none: /camera/label/compressed has 'dog, tree', of which"),
        (None, None, 'none: /camera/label/compressed has ids up to 3, the model has 3 classes'),
    ],
)
def test_classes_are_compared_by_name(
    bags: tuple[Path, Path], names: Mapping[int, str] | None, miou: float | None, told: str
) -> None:
    matrix, compared = compare(bags[0], LABEL, bags[1], MASK, CLASSES, names)
    assert compared.startswith(told)
    assert (None if matrix is None else matrix.miou()) == miou


def test_classes_of_a_street_are_compared_with_what_the_ground_models_call_them(
    bags: tuple[Path, Path]
) -> None:
    names = {0: 'car', 1: 'tree', 3: 'road'}
    classes = ('floor', 'background', 'obstacle')
    matrix, compared = compare(bags[0], LABEL, bags[1], MASK, classes, names)
    assert compared == "by name, 'car' as obstacle, 'tree' as background, 'road' as floor"
    assert matrix is not None and matrix.miou() == 1.0
    matrix, compared = compare(bags[0], LABEL, bags[1], MASK, ('road', 'floor', 'car'), names)
    assert compared == "by name, without 'tree'"  # its own name goes first
    assert matrix is not None and matrix.miou() == 1.0


def test_by_number_only_where_nobody_names_them_and_said_so(bags: tuple[Path, Path]) -> None:
    matrix, compared = compare(bags[0], LABEL, bags[1], MASK, (*CLASSES, 'tree'), None)
    assert compared.startswith('by number: nothing in the bag names the classes')
    assert matrix is not None and matrix.miou() < 1.0
    assert read_names(bags[0], LABEL) is None


@pytest.mark.parametrize('beyond', [[3, 3, 3], [3, 4, 3]])
def test_a_few_pixels_of_one_id_that_the_model_has_not_are_unlabelled_and_of_two_are_not(
    tmp_path: Path, beyond: list[int]
) -> None:
    labels = np.full((4, 8), SKY, np.uint8)
    labels[0, :3] = beyond  # 3 as CamVid numbers what is no class
    with BagWriter(tmp_path / 'bag') as bag:
        for topic in (LABEL.removesuffix('/compressed'), MASK):
            bag.add_topic(topic, 'sensor_msgs/msg/Image')
            ids = labels if topic != MASK else np.full((4, 8), SKY, np.uint8)
            bag.write(topic, 5, image_cdr(ids, 5, 'camera', 'mono8'))
    where = tmp_path / 'bag'
    matrix, compared = compare(
        where, LABEL.removesuffix('/compressed'), where, MASK, CLASSES, None
    )
    if 4 in beyond:
        assert matrix is None and 'has ids up to 4, the model has 3 classes' in compared
        return
    assert compared.startswith('by number')
    assert matrix is not None and matrix.accuracy() == 1.0


def test_names_stand_in_the_label_info_beside_the_labels(tmp_path: Path) -> None:
    rclpy = pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
    assert rclpy
    from rclpy.serialization import serialize_message
    from vision_msgs.msg import LabelInfo, VisionClass

    msg = LabelInfo(class_map=[VisionClass(class_id=3, class_name='road')])
    with BagWriter(tmp_path / 'bag') as bag:
        for topic in ('/other/label_info', '/camera/label_info'):
            bag.add_topic(topic, 'vision_msgs/msg/LabelInfo')
        bag.write('/other/label_info', 4, serialize_message(LabelInfo()))
        bag.write('/camera/label_info', 5, serialize_message(msg))
    assert read_names(tmp_path / 'bag', LABEL) == {3: 'road'}


def write_labelled(path: Path) -> Path:
    """Write images whose red channel is the label, but for one column of each of three."""
    with BagWriter(path) as bag:
        bag.add_topic('/camera/image_raw', 'sensor_msgs/msg/Image')
        bag.add_topic(LABEL, 'sensor_msgs/msg/CompressedImage')
        for stamp_ns in (1, 2, 3):
            ids = np.random.default_rng(stamp_ns).integers(0, 2, (8, 12)).astype(np.uint8)
            image = np.random.default_rng(9).integers(0, 256, (8, 12, 3), np.uint8)
            image[..., 0] = ids
            image[:, 0, 0] = 1 - ids[:, 0]
            bag.write('/camera/image_raw', stamp_ns, image_cdr(image, stamp_ns, 'camera'))
            png = cv2.imencode('.png', ids)[1].tobytes()
            bag.write(LABEL, stamp_ns, compressed_image_cdr(png, stamp_ns, 'camera', 'png'))
        extra = image_cdr(image, 4, 'camera')
        bag.write('/camera/image_raw', 4, extra)  # without a label
    return path


def test_what_is_told_of_a_bag_s_labels_names_no_folder_that_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = str(write_fake(tmp_path / 'model.yaml', identity_spec(8, 12, classes=['road', 'sky'])))
    bag = write_labelled(tmp_path / 'bag')
    labels = tmp_path / 'labels.yaml'
    labels.write_text(yaml.safe_dump(asdict(identity_spec(8, 12, classes=['road']))))
    line = ['evaluate', model, str(bag), '--engine', 'fake', '--spec', str(labels)]
    assert main([*line, '--labels', LABEL, '--topic', '/camera/image_raw']) == 0
    assert f'{bag}: labels: the ids 1 are not among the 1 classes' in caplog.text
    assert f'{bag}/labels' not in caplog.text


def test_a_model_is_measured_on_a_bag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = identity_spec(8, 12, classes=['road', 'sky'])
    model = str(write_fake(tmp_path / 'model.yaml', spec))
    bag = str(write_labelled(tmp_path / 'bag'))
    line = ['evaluate', model, bag, '--engine', 'fake', '--json']
    assert main([*line, '--labels', LABEL, '--topic', '/camera/image_raw']) == 0
    result = json.loads(capsys.readouterr().out)
    assert result['images'] == 3
    assert result['pixel_accuracy'] == pytest.approx(11 / 12)
    assert main([*line, '--topic', '/camera/image_raw']) == 0  # the labels are found
    for wrong in (['--labels', '/absent'], ['--topic', '/absent']):
        assert main([*line, *wrong]) == 1
    (tmp_path / 'images').mkdir()
    assert main(['evaluate', model, str(tmp_path / 'images'), '--labels', LABEL,
                 '--engine', 'fake']) == 1
    assert 'is not a bag' in capsys.readouterr().err
