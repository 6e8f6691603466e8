"""Late subscribers of masks over real DDS: names first, and nobody starves for them."""

from pathlib import Path
import threading
import time

from camera_scene import draw_box
from identity_network import identity_spec, write_fake
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from nav_msgs.msg import OccupancyGrid
from rclpy.node import Node
from ros_graph import eventually, header, Robot
from sensor_msgs.msg import CameraInfo, Image
from test_costmap_node import BOX_AT, CAMERA, camera_info, PLACED, POSE
from test_perception import model, picture
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes.greeting import HOLD_S
from mnv2_perception.nodes.messages import rgb_to_msg
from mnv2_perception.nodes.qos import CAMERA_QOS, LATCHED_QOS

pytestmark = pytest.mark.ros


def test_subscribers_that_come_and_go_starve_nobody_and_hear_the_names_first(
    robot: Robot, tmp_path: Path
) -> None:
    (node,) = robot.start_all(['segmentation'], model=model(tmp_path), engine='fake')
    masks = robot.subscribe(Image, 'segmentation/mask')
    robot.wait_for_topics()
    filmed, ended = 0, threading.Event()

    def film() -> None:
        nonlocal filmed
        while not ended.wait(0.05):
            filmed += 1
            robot.camera.publish(rgb_to_msg(picture(1), header(filmed)))

    camera = threading.Thread(target=film)
    camera.start()
    heard: list[list[str]] = []
    try:
        eventually(lambda: masks)
        masks.clear()
        filmed = 0
        for number in range(20):
            late = Node(f'late_{number}', context=robot.context)
            robot.spin(late)
            order: list[str] = []
            heard.append(order)
            # Nav2's layer subscribes in this order.
            mask = late.create_subscription(
                Image, 'segmentation/mask', lambda _, to=order: to.append('mask'), CAMERA_QOS
            )
            names = late.create_subscription(
                LabelInfo, 'segmentation/label_info', lambda _, to=order: to.append('names'),
                LATCHED_QOS,
            )
            time.sleep(0.4)  # as often as in the report: every hold was extended by the next
            late.destroy_subscription(mask)
            late.destroy_subscription(names)
        # 0.5 s of each 3 s are held back; before, everything was.
        assert len(masks) > 0.6 * filmed
    finally:
        ended.set()
        camera.join()
    assert [order[0] for order in heard if order] == ['names'] * sum(map(bool, heard))
    assert sum('mask' in order for order in heard) > 10
    assert node.counts['published'] > 0.6 * filmed


def test_a_hold_keeps_masks_from_other_processes_only(robot: Robot, tmp_path: Path) -> None:
    spec = identity_spec(CAMERA.height, CAMERA.width, classes=['sky', 'road', 'box'])
    segmentation, costmap = robot.start_all(
        ['segmentation', 'costmap'], model=str(write_fake(tmp_path / 'm.yaml', spec)),
        engine='fake', **PLACED,
    )
    masks = robot.subscribe(Image, 'segmentation/mask')
    semantic = robot.subscribe(Image, 'semantic/mask')
    grids = robot.subscribe(OccupancyGrid, 'grid')
    calibration = robot.peer.create_publisher(CameraInfo, 'camera_info', 1)
    robot.wait_for_topics()
    calibration.publish(camera_info())
    eventually(lambda: costmap.inputs.label_info and costmap.inputs.camera_info)
    ids, _ = draw_box(CAMERA, POSE, *BOX_AT)
    image = np.stack([ids, np.full_like(ids, 200), ids], axis=-1)
    for node in (segmentation, costmap):
        node.greeting.hold_until_s = time.monotonic() + 60 * HOLD_S
    robot.camera.publish(rgb_to_msg(image, header(1)))
    eventually(lambda: grids)
    assert segmentation.counts['published'] == 1 and not masks and not semantic
    for node in (segmentation, costmap):
        node.greeting.hold_until_s = 0.0
    robot.camera.publish(rgb_to_msg(image, header(2)))
    eventually(lambda: masks and semantic)
    for heard in (masks, semantic):
        assert [msg.header.stamp for msg in heard] == [header(2).stamp]
