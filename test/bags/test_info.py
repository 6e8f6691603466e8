"""`mnv2 bag info`: what a bag holds, what the nodes could use, and what is missing for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.bags.info import describe_bag, info_text
from mnv2_perception.bags.messages import header, make, serialised
from mnv2_perception.bags.write import BagWriter, camera_info_cdr, image_cdr
from mnv2_perception.cli.main import main

MATRIX = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1.0]])
IMAGE, INFO = '/camera/image_raw', '/camera/camera_info'


def transform(parent: str, child: str) -> bytes:
    return serialised(make('tf2_msgs/msg/TFMessage', transforms=[make(
        'geometry_msgs/msg/TransformStamped', header=header(1, parent), child_frame_id=child,
    )]))


def write_bag(
    path: Path, stamps: list[int], frame_id: str = 'camera', calibrated: bool = True,
    frames: tuple[tuple[str, str], ...] = (('odom', 'base_link'), ('base_link', 'camera')),
    matrix: NDArray[np.float64] = MATRIX,
) -> Path:
    """Write noise at 10 Hz with a gap of a second behind the fourth image."""
    rng = np.random.default_rng(0)
    with BagWriter(path) as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        bag.add_topic(INFO, 'sensor_msgs/msg/CameraInfo')
        bag.add_topic('/tf', 'tf2_msgs/msg/TFMessage')
        for number, stamp_ns in enumerate(stamps):
            recorded_ns = 10**9 + number * 10**8 + (number > 3) * 9 * 10**8
            image = rng.integers(0, 256, (48, 64, 3), np.uint8)
            bag.write(IMAGE, recorded_ns, image_cdr(image, stamp_ns, frame_id))
            if calibrated:
                info = camera_info_cdr(48, 64, matrix, stamp_ns, frame_id)
                bag.write(INFO, recorded_ns, info)
        for parent, child in frames:
            bag.write('/tf', 10**9, transform(parent, child))
    return path


def topic(facts: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in facts['topics'] if each['name'] == name)


def test_rates_gaps_images_and_frames_are_told(tmp_path: Path) -> None:
    facts = describe_bag(write_bag(tmp_path / 'bag', list(range(1, 9))))
    image = topic(facts, IMAGE)
    assert (image['count'], image['gaps'], image['longest_gap_s']) == (8, 1, 1.0)
    assert image['rate_hz'] == pytest.approx(7 / 1.6, abs=1e-3)
    assert (image['images'], image['frame_ids']) == (['48 × 64 rgb8'], ['camera'])
    assert facts['frames'] == {'base_link': 'odom', 'camera': 'base_link'}
    cameras, costmap = facts['nodes']
    assert cameras == {
        'node': 'segmentation_node, detection_node, classification_node',
        'use': [f'image:={IMAGE}'], 'missing': [],
    }
    assert costmap['missing'] == []
    assert costmap['use'] == [f'camera_info:={INFO}', "/tf, from 'camera' to 'base_link'"]


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'calibrated': False}, 'camera_info beside the images; calibrate'),
        ({'frames': ()}, '/tf and /tf_static; give'),
        ({'frames': (('odom', 'base_footprint'), ('base_footprint', 'camera'))},
         "the frame 'base_link'; name another as base_frame (odom)"),
        ({'frames': (('odom', 'base_link'),)}, "a transform of 'camera', the frame of the images"),
        ({'frames': (('base_link', 'camera'),)}, "the frame 'odom', without which the grid"),
    ],
)
def test_what_costmap_node_lacks_is_told_with_the_cure(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    facts = describe_bag(write_bag(tmp_path / 'bag', [1, 2, 3], **changes))
    assert any(what.startswith(told) for what in facts['nodes'][1]['missing'])


def test_a_calibration_of_another_image_size_is_told_with_its_topic(tmp_path: Path) -> None:
    of_twice_the_size = MATRIX * 2.0 - np.diag((0.0, 0.0, 1.0))
    facts = describe_bag(write_bag(tmp_path / 'bag', [1, 2, 3], matrix=of_twice_the_size))
    assert topic(facts, INFO)['odd'].startswith('the principal point is (63, 47) in an image')
    assert info_text(facts).count('principal point') == 1
    assert 'odd' not in topic(describe_bag(write_bag(tmp_path / 'good', [1, 2, 3])), INFO)


def test_stamps_that_pair_nothing_are_told(tmp_path: Path) -> None:
    facts = describe_bag(write_bag(tmp_path / 'zero', [0, 0, 0], frame_id=''))
    assert topic(facts, IMAGE)['zero_stamps'] == 3
    assert [what.split(':')[0] for what in facts['nodes'][0]['missing']] == [
        'stamps', 'a frame_id']
    back = describe_bag(write_bag(tmp_path / 'back', [5, 3, 4, 1]))
    assert topic(back, IMAGE)['stamps_back'] == 2


def test_the_page_and_the_json_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / 'bag', [1, 2, 3], calibrated=False)
    assert main(['bag', 'info', str(bag), '--json']) == 0
    assert json.loads(capsys.readouterr().out) == describe_bag(bag)
    assert main(['bag', 'info', str(bag)]) == 0
    page = capsys.readouterr().out
    assert page.strip() == info_text(describe_bag(bag))
    assert '3 × sensor_msgs/msg/Image' in page and '  missing: camera_info' in page


def test_a_bag_without_images_and_messages_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/camera_info', 'sensor_msgs/msg/CameraInfo')
        bag.write('/camera_info', 1, b'\0\1\0\0')
    facts = describe_bag(tmp_path / 'bag')
    assert topic(facts, '/camera_info')['unreadable'] == 1
    assert 'has no camera images' in facts['nodes'][0]['missing'][0]
