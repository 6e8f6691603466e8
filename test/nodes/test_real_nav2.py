"""Nav2's own costmap, with the files of config/ as they are, on what the live nodes publish.

Runs wherever Nav2 is installed: `apt install ros-$ROS_DISTRO-nav2-costmap-2d`; for the semantic
file also the package semantic_segmentation_layer, from its sources.
"""

from collections.abc import Iterator
from contextlib import contextmanager
import math
import os
from pathlib import Path
import signal
import subprocess
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
ament_index = pytest.importorskip(
    'ament_index_python.packages', reason='needs a ROS distro, or make setup'
)

from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav2_consumer import settings_of
from nav_msgs.msg import OccupancyGrid
from ros_graph import eventually
from std_msgs.msg import Header
from test_costmap_node import BOX_AT, POSE
from test_nav2 import CAMERA_FRAME, draw, LATCHED_QOS, Robot

from mnv2_perception.vision.pose import Pose

pytestmark = [pytest.mark.ros, pytest.mark.nav2]

COSTMAP = '/costmap/costmap'  # of the executable nav2_costmap_2d: its node, and its topic
LETHAL, FREE = 100, 0  # as an OccupancyGrid has them
FILES = {
    'nav2_obstacle_costmap.yaml': 'nav2_costmap_2d',
    'nav2_semantic_costmap.yaml': 'semantic_segmentation_layer',
}
# Not to wait for a second between two costmaps, nor for pieces of them.
PUBLISHED = {
    'update_frequency': 5.0, 'publish_frequency': 5.0, 'always_send_full_costmap': True,
}
HERE = Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
ROW_M = 0.65  # y of the box's middle


def prefix_of(package: str) -> Path:
    try:
        return Path(ament_index.get_package_prefix(package))
    except ament_index.PackageNotFoundError:
        pytest.skip(f'{package} is not installed: see the head of this file')


def static_transforms() -> list[TransformStamped]:
    """Return odom, the robot's base and its camera, standing still."""
    found = []
    for parent, child, pose in (('odom', 'base_link', HERE), ('base_link', CAMERA_FRAME, POSE)):
        turn, _ = cv2.Rodrigues(pose.rotation)
        angle = float(np.linalg.norm(turn))
        axis = turn.ravel() / angle * math.sin(angle / 2) if angle else np.zeros(3)
        transform = TransformStamped(header=Header(frame_id=parent), child_frame_id=child)
        place, quaternion = transform.transform.translation, transform.transform.rotation
        place.x, place.y, place.z = pose.translation.tolist()
        quaternion.x, quaternion.y, quaternion.z = axis.tolist()
        quaternion.w = math.cos(angle / 2)
        found.append(transform)
    return found


class RealCostmap:
    """Nav2's costmap in a process of its own, and the latest of what it publishes."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.latest: OccupancyGrid | None = None
        robot.peer.create_subscription(OccupancyGrid, COSTMAP, self._hear, LATCHED_QOS)

    def _hear(self, msg: OccupancyGrid) -> None:
        self.latest = msg

    def change(self, transition: int, then: str) -> None:
        """Ask for a transition until the node is in the state that follows it."""
        change = self.robot.peer.create_client(ChangeState, f'{COSTMAP}/change_state')
        ask = self.robot.peer.create_client(GetState, f'{COSTMAP}/get_state')
        assert change.wait_for_service(30.0), 'the costmap does not start'
        change.call_async(ChangeState.Request(transition=Transition(id=transition)))

        def reached() -> bool:
            answer = ask.call_async(GetState.Request())
            eventually(answer.done, 10.0)
            return str(answer.result().current_state.label) == then

        eventually(reached, 30.0)

    def costs(self, y_m: float) -> dict[float, int]:
        """Return the cost of each cell of a row ahead of the robot, by its middle's x."""
        msg = self.latest
        if msg is None:
            return {}
        info = msg.info
        cells = np.array(msg.data, np.int8).reshape(info.height, info.width)
        row = int((y_m - info.origin.position.y) / info.resolution)
        x_m = info.origin.position.x + (np.arange(info.width) + 0.5) * info.resolution
        return {round(float(x), 3): int(cost) for x, cost in zip(x_m, cells[row], strict=True)
                if 1.5 < x < 4.9}

    def face(self) -> float:
        """Return the least x that is lethal on the row through the box, infinite if none is."""
        return min((x for x, cost in self.costs(ROW_M).items() if cost == LETHAL),
                   default=float('inf'))


@contextmanager
def real_costmap(robot: Robot, file: str, prefix: Path, folder: Path) -> Iterator[RealCostmap]:
    """Run Nav2's costmap with the file's local costmap, active, and a tf tree."""
    from tf2_msgs.msg import TFMessage

    settings = {**settings_of(file, 'local_costmap', 'local_costmap'), **PUBLISHED}
    parameters = folder / 'costmap.yaml'
    parameters.write_text(yaml.safe_dump({'/**': {'ros__parameters': settings}}))
    tf = robot.peer.create_publisher(TFMessage, '/tf_static', LATCHED_QOS)
    tf.publish(TFMessage(transforms=static_transforms()))
    costmap = RealCostmap(robot)
    process = subprocess.Popen(
        [str(prefix / 'lib/nav2_costmap_2d/nav2_costmap_2d'), '--ros-args', '--params-file',
         str(parameters)],
        env={**os.environ, 'ROS_DOMAIN_ID': str(robot.domain_id)},
    )
    try:
        costmap.change(Transition.TRANSITION_CONFIGURE, 'inactive')
        costmap.change(Transition.TRANSITION_ACTIVATE, 'active')
        yield costmap
        assert process.poll() is None, 'the costmap has died'
        process.send_signal(signal.SIGINT)
        process.wait(20.0)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize('file', FILES)
def test_a_box_is_lethal_where_it_stands_and_clears_when_it_is_gone(
    file: str, tmp_path: Path
) -> None:
    prefix = prefix_of('nav2_costmap_2d')
    prefix_of(FILES[file])
    resolution_m: Any = settings_of(file, 'local_costmap', 'local_costmap')['resolution']
    robot = Robot()
    try:
        with (
            robot.perceiving(tmp_path), robot.filming(),
            real_costmap(robot, file, prefix, tmp_path) as costmap,
        ):
            eventually(lambda: costmap.latest, 30.0)
            eventually(lambda: costmap.costs(ROW_M) and costmap.face() == float('inf'), 30.0)
            robot.scene = draw(*BOX_AT)
            eventually(lambda: costmap.face() < float('inf'), 30.0)
            assert costmap.face() == pytest.approx(3.0, abs=resolution_m + 0.01)
            assert costmap.costs(-ROW_M)[min(costmap.costs(-ROW_M))] == FREE
            robot.scene = draw()
            eventually(lambda: costmap.face() == float('inf'), 30.0)
    finally:
        robot.close()
