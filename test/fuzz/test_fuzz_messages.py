"""Mutated messages through the functions that read them: a PerceptionError, or a result."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from mutations import check_share, count, generators, mutate, pick, survivors
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from messages import camera_info, cloud, compressed, depth, image, label_info, mask
from rclpy.serialization import deserialize_message, serialize_message
from results_bag import write_results_bag

from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.results import (
    CLASSIFICATION,
    DETECTIONS,
    GRID,
    read_classifications,
    read_detections,
    read_grids,
)
from mnv2_perception.bags.write import BagWriter
from mnv2_perception.nodes.bag_topics import message_class
from mnv2_perception.nodes.calibrations import Calibrations
from mnv2_perception.nodes.costmap_inputs import CostmapInputs
from mnv2_perception.nodes.messages import (
    camera_info_to_msg,
    depth_from_msg,
    image_from_compressed_msg,
    image_from_msg,
    labels_from_compressed_msg,
    labels_from_msg,
    points_from_msg,
)
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.ground_view import GroundView
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose

pytestmark = pytest.mark.ros

POSE = Pose.from_rpy(0.0, 0.0, 1.0, 0.0, 0.2, 0.0) @ BODY_FROM_OPTICAL


def see_ground(info: Any) -> None:
    for rectified in (False, True):
        Calibrations('camera_info', rectified, str).put(info)
        camera = Camera.from_info(info, rectified)
        camera.require_size(24, 32)
        GroundView(camera, POSE, 10.0, 0.5)
        camera.project(np.array([[0.1, 0.1, 1.0], [0.0, 0.0, 5.0]]))
        camera_info_to_msg(info, 12, 16, info.header)


def name_classes(msg: Any) -> None:
    CostmapInputs(1).take_label_info(msg)


READERS: dict[str, tuple[list[Any], list[Callable[[Any], object]]]] = {
    'image': (
        [image(name) for name in ('rgb8', 'bgra8', 'mono16', 'bayer_rggb8', 'nv12', 'nv24',
                                  'yuv422')],
        [image_from_msg],
    ),
    'compressed': (
        [compressed(name) for name in ('jpeg', 'png')],
        [image_from_compressed_msg, labels_from_compressed_msg],
    ),
    'camera_info': ([camera_info(model) for model in ('plumb_bob', 'equidistant')], [see_ground]),
    'depth': ([depth(name) for name in ('16UC1', '32FC1')], [depth_from_msg]),
    'cloud': ([cloud()], [points_from_msg]),
    'label_info': ([label_info()], [name_classes]),
    'mask': ([mask()], [labels_from_msg, image_from_msg]),
}


@pytest.mark.parametrize('kind', READERS)
def test_a_mutated_message_gives_a_result_or_a_perception_error(
    kind: str,
) -> None:
    whole, readers = READERS[kind]
    refused = 0
    inputs = count(200)
    for seed, rng in generators(inputs):
        msg = deepcopy(pick(rng, whole))
        mutate(rng, msg)
        for reader in readers:
            refused += not survivors(lambda m=msg, r=reader: r(m), f'{kind}, FUZZ_SEED={seed}')
    if kind != 'label_info':
        check_share(refused, inputs * len(readers))


def test_mutated_results_in_a_bag_are_read_or_refused(tmp_path: Path) -> None:
    whole = write_results_bag(tmp_path / 'whole')
    with BagReader(whole) as reader:
        kinds = {topic.name: message_class(topic.type_name) for topic in reader.topics}
        stored = [(message, deserialize_message(message.cdr, kinds[message.topic]))
                  for message in reader.messages()]
    refused, inputs = 0, count(15, 0.1)
    for seed, rng in generators(inputs):
        path = tmp_path / f'bag{seed}'
        with BagWriter(path) as writer:
            for topic, kind in (
                ('/detections', DETECTIONS), ('/classification', CLASSIFICATION), ('/grid', GRID)
            ):
                writer.add_topic(topic, kind)
            for message, msg in stored:
                changed = deepcopy(msg)
                mutate(rng, changed)
                writer.write(message.topic, message.stamp_ns, serialize_message(changed))
        for read, topic in (
            (read_detections, '/detections'), (read_classifications, '/classification'),
            (read_grids, '/grid'),
        ):
            refused += not survivors(
                lambda p=path, r=read, t=topic: list(r(p, t)), f'{topic}, FUZZ_SEED={seed}'
            )
    check_share(refused, 3 * inputs)
