"""replay.launch.py with `loop:=true` and a robot's tf: each turn of the bag has its grids."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from launched import Launched
import numpy as np
import pytest

from mnv2_perception.bags.read import TopicQos
from mnv2_perception.bags.write import BagWriter, camera_info_cdr, image_cdr
from mnv2_perception.scenes.street import camera_height_m, camera_matrix, draw_scene
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose

# Not `launch` itself: without the real one, this folder would pass for it.
pytest.importorskip('launch_ros', reason='needs launch and launch_ros: source a ROS distro')
pytestmark = pytest.mark.launch

RATE = 4  # bag seconds per second
FIRST_NS = 1_700_000_000 * 10**9
# Longer than the 10 s that tf2 keeps. Images lie between transforms, so that both of these count.
STAMPS_NS = [FIRST_NS + 1_050_000_000 + 4 * 10**9 * number for number in range(4)]
TF_NS = [FIRST_NS + 200_000_000 * number for number in range(81)]
SPEED_M_S = 0.5
SEED, HEIGHT, WIDTH, FRAME = 7, 120, 160, 'camera_color_optical_frame'


def x_m(stamp_ns: int) -> float:
    """Return where the robot is."""
    return (stamp_ns - FIRST_NS) * 1e-9 * SPEED_M_S


def write_bag(path: Path, late_ns: int) -> None:
    """Write images, camera_info and tf of a robot that drives; of a stamp, tf comes so late."""
    from rclpy.serialization import serialize_message
    from tf2_msgs.msg import TFMessage
    from tf2_stand_in import transform

    def told(parent: str, child: str, pose: Pose, stamp_ns: int) -> bytes:
        message = TFMessage(transforms=[transform(parent, child, pose, stamp_ns)])
        return bytes(serialize_message(message))

    camera = Pose.from_rpy(0.0, 0.0, camera_height_m(SEED), 0.0, 0.0, 0.0) @ BODY_FROM_OPTICAL
    messages = [(FIRST_NS, '/tf_static', told('base_link', FRAME, camera, FIRST_NS))]
    for stamp_ns in TF_NS:
        robot = Pose.from_rpy(x_m(stamp_ns), 0.0, 0.0, 0.0, 0.0, 0.0)
        cdr = told('odom', 'base_link', robot, stamp_ns)
        messages.append((stamp_ns + late_ns, '/tf', cdr))
    matrix = np.asarray(camera_matrix(SEED, HEIGHT, WIDTH))
    for stamp_ns in STAMPS_NS:
        image, _ = draw_scene(SEED, (stamp_ns - FIRST_NS) * 1e-9, HEIGHT, WIDTH)
        info = camera_info_cdr(HEIGHT, WIDTH, matrix, stamp_ns, FRAME)
        messages.append((stamp_ns, '/camera/camera_info', info))
        messages.append((stamp_ns, '/camera/image_raw', image_cdr(image, stamp_ns, FRAME)))
    with BagWriter(path) as bag:
        bag.add_topic('/camera/image_raw', 'sensor_msgs/msg/Image', TopicQos(reliable=False))
        bag.add_topic('/camera/camera_info', 'sensor_msgs/msg/CameraInfo')
        bag.add_topic('/tf', 'tf2_msgs/msg/TFMessage')
        bag.add_topic('/tf_static', 'tf2_msgs/msg/TFMessage', TopicQos(transient_local=True))
        for stamp_ns, topic, cdr in sorted(messages, key=lambda message: message[0]):
            bag.write(topic, stamp_ns, cdr)


def stamp_ns_of(grid: Any) -> int:
    return int(grid.header.stamp.sec * 10**9 + grid.header.stamp.nanosec)


def turns_of(stamps_ns: list[int]) -> list[list[int]]:
    """Return the stamps of each turn of the bag."""
    turns: list[list[int]] = [[]]
    for stamp_ns in stamps_ns:
        if turns[-1] and stamp_ns <= turns[-1][-1]:
            turns.append([])
        turns[-1].append(stamp_ns)
    return turns


@pytest.mark.parametrize('late_ms', [0, 50, 200])
def test_each_turn_of_a_bag_with_tf_has_all_its_grids(
    launch: Callable[..., Launched], tmp_path: Path, tf2: str, late_ms: int
) -> None:
    from nav_msgs.msg import OccupancyGrid

    write_bag(tmp_path / 'drive', late_ms * 1_000_000 * RATE)
    (tmp_path / 'robot.yaml').write_text(
        '/**/costmap_node: {ros__parameters: {pose_source: tf, grid_size_m: 20.0}}'
    )
    grids: list[OccupancyGrid] = []
    launched = launch(
        'replay', f'bag:={tmp_path}/drive', 'loop:=true', f'rate:={RATE}',
        f'params_file:={tmp_path}/robot.yaml', code=tf2,
    )
    launched.observer.create_subscription(OccupancyGrid, '/grid', grids.append, 50)
    launched.wait_for(
        'fourth turn', lambda: len(turns_of([stamp_ns_of(grid) for grid in grids])) == 4
    )
    printed = launched.interrupt()
    first, second, third, _ = turns_of([stamp_ns_of(grid) for grid in grids])
    assert first and first == STAMPS_NS[-len(first):]  # once this test has heard of the nodes
    assert second == third == STAMPS_NS
    for grid in grids:
        middle_m = grid.info.origin.position.x + grid.info.width * grid.info.resolution / 2
        assert middle_m == pytest.approx(x_m(stamp_ns_of(grid)), abs=grid.info.resolution)
    after_first = printed.split('sees ground up to')[1].splitlines()
    assert [line for line in after_first if '[WARN]' in line or '[ERROR]' in line] == []
