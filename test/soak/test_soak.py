"""`perception` for many frames with faults among them: what it holds must not grow.

`SOAK_FRAMES` is how many, `SOAK_OUT` the folder of soak.json and soak.png: `make soak`.
"""

import json
import os
from pathlib import Path
import shutil
import time
from typing import Any

import cv2
from identity_network import identity_spec, write_fake
import numpy as np
from numpy.typing import NDArray
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from running_nodes import Peer, Running, running, wait
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from mnv2_perception.nodes.messages import pinhole_to_msg, rgb_to_msg
from mnv2_perception.tasks.models import find_model, SEGMENTATION_MODEL
from mnv2_perception.vision.camera import Camera

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = 48, 64
FRAMES = int(os.environ.get('SOAK_FRAMES', '300'))
FAULT_EACH = 10  # frames
SAMPLES = 400
STEP_S = 0.05  # of simulated time, from frame to frame
COSTMAP, SEGMENTATION = '/costmap_node', '/segmentation_node'
STAND_IN = Path(__file__).parents[1] / 'tf2_stand_in.py'


class Robot:
    """A camera, its clock and its transforms; and what goes wrong with them.

    Attributes:
        answered: frames whose mask and grid came.
        sent: frames.
        made: faults.
    """

    def __init__(
        self, run: Running, models: tuple[str, str], height: int, width: int, classes: int
    ) -> None:
        self.run, self.peer, self.models = run, run.peer, models
        create = self.peer.publisher
        self.clock, self.tf = create(Clock, '/clock', 10), create(TFMessage, '/tf', 10)
        self.camera, self.info = create(Image, 'image', 5), create(CameraInfo, 'camera_info', 5)
        self.masks = self.peer.stamps(Image, 'segmentation/mask')
        self.grids = self.peer.stamps(OccupancyGrid, 'grid')
        self.picture = np.random.default_rng(0).integers(0, classes, (height, width, 3), np.uint8)
        self.calibration = pinhole_to_msg(Camera.from_fov(height, width, 1.1))
        self.now_s = 1000.0
        self.sent = self.answered = self.made = 0
        self.faults = [
            self.damaged_images, self.camera_stops, self.listener, self.change_parameters,
            self.tf_stops, self.deactivate, self.clock_jumps, self.participant, self.configure,
            self.switch_off, self.another_model,
        ]

    def header(self) -> Header:
        # The nanoseconds tell one frame from each other when the clock has jumped.
        stamp = Time(sec=int(self.now_s), nanosec=self.sent)
        return Header(stamp=stamp, frame_id='camera_optical')

    def tick(self, with_tf: bool = True) -> Header:
        self.now_s += STEP_S
        self.clock.publish(Clock(clock=Time(
            sec=int(self.now_s), nanosec=int(self.now_s % 1 * 1e9)
        )))
        header = self.header()
        if with_tf:
            transforms = []
            for parent, child in (('odom', 'base_link'), ('base_link', 'camera_optical')):
                each = TransformStamped(child_frame_id=child)
                each.header.stamp, each.header.frame_id = header.stamp, parent
                if child == 'camera_optical':
                    each.transform.translation.z = 1.0
                    each.transform.rotation.x = each.transform.rotation.z = -0.5
                    each.transform.rotation.y, each.transform.rotation.w = 0.5, 0.5
                transforms.append(each)
            self.tf.publish(TFMessage(transforms=transforms))
        return header

    def frame(self, with_tf: bool = True, within_s: float = 0.2) -> bool:
        """Send a frame; return whether its mask and its grid came."""
        self.sent += 1
        header = self.tick(with_tf)
        if self.sent % 10 == 1:
            self.calibration.header = header
            self.info.publish(self.calibration)
        self.camera.publish(rgb_to_msg(self.picture, header))
        stamp = header.stamp.sec, header.stamp.nanosec
        try:
            wait(lambda: stamp in self.grids and stamp in self.masks, within_s, 'mask and grid')
        except AssertionError:
            return False
        self.answered += 1
        return True

    def recover(self, within_s: float = 20.0) -> None:
        """Send frames until one is answered: no fault may have a lasting effect."""
        deadline_s = time.monotonic() + within_s
        while not self.frame(within_s=1.0):
            self.run.alive()
            assert time.monotonic() < deadline_s, self.run.log()[-3000:]

    # What goes wrong

    def damaged_images(self) -> None:
        for change in ({'step': 3}, {'encoding': 'rgb9'}, {'height': 0}, {'data': b'\0' * 7}):
            msg = rgb_to_msg(self.picture, self.tick())
            for name, value in change.items():
                setattr(msg, name, value)
            self.camera.publish(msg)
            self.sent += 1
            time.sleep(0.01)

    def camera_stops(self) -> None:
        for _ in range(10):
            self.tick()
            time.sleep(0.01)

    def tf_stops(self) -> None:
        for _ in range(3):
            self.frame(with_tf=False, within_s=0.05)

    def clock_jumps(self) -> None:
        self.now_s = 1000.0  # as a bag that is played again

    def listener(self) -> None:
        listener = self.peer.node.create_subscription(
            Image, 'segmentation/overlay', lambda _: None, 1
        )
        for _ in range(3):
            self.frame()
        self.peer.node.destroy_subscription(listener)

    def participant(self) -> None:
        other = Peer(self.peer.domain_id)
        heard = other.stamps(Image, 'segmentation/mask')
        deadline_s = time.monotonic() + 10.0
        while not heard and time.monotonic() < deadline_s:
            self.frame()
        other.close()
        assert heard

    def change_parameters(self) -> None:
        for node, name, values in (
            (SEGMENTATION, 'min_confidence', (0.3, 2.0, 0.0)),
            (COSTMAP, 'obstacle_height_m', (0.5, -1.0, 0.25)),
        ):
            for value in values:
                request = SetParameters.Request(
                    parameters=[Parameter(name, value=value).to_parameter_msg()]
                )
                answer = self.peer.call(SetParameters, f'{node}/set_parameters', request)
                assert answer.results[0].successful == (0.0 <= value <= 1.0)
                self.frame()

    def switch_off(self) -> None:
        for node in (SEGMENTATION, COSTMAP):
            for on in (False, True):
                request = SetBool.Request(data=on)
                assert self.peer.call(SetBool, f'{node}/enable', request).success
                self.frame(within_s=0.05)

    def another_model(self) -> None:
        for model in self.models:
            request = SetParameters.Request(
                parameters=[Parameter('model', value=model).to_parameter_msg()]
            )
            answer = self.peer.call(SetParameters, f'{SEGMENTATION}/set_parameters', request)
            assert answer.results[0].successful, answer

            def in_use(name: str = Path(model).name) -> bool:
                self.frame()
                values = {each.key: each.value for each in
                          self.peer.statuses[SEGMENTATION[1:]].values}
                # Its int8 file, where the CPU computes in it.
                return values.get('model_file') in (name, name.replace('.onnx', '_int8.onnx'))

            wait(in_use, 20.0, f'{model} is in use')

    def deactivate(self) -> None:
        self.go(COSTMAP, 'DEACTIVATE', 'ACTIVATE')

    def configure(self) -> None:
        self.go(SEGMENTATION, 'DEACTIVATE', 'CLEANUP', 'CONFIGURE', 'ACTIVATE')

    def go(self, node: str, *transitions: str) -> None:
        for name in transitions:
            transition = Transition(id=getattr(Transition, f'TRANSITION_{name}'))
            answer = self.peer.call(
                ChangeState, f'{node}/change_state', ChangeState.Request(transition=transition)
            )
            assert answer.success, name
            self.frame(within_s=0.05)


def soak(run: Running, robot: Robot, frames: int) -> list[dict[str, float]]:
    """Send frames and make faults in turn; return what the process held over time."""
    run.active(2)
    robot.recover()
    samples: list[dict[str, float]] = []
    begun_s = time.monotonic()
    while robot.sent < frames or robot.made < len(robot.faults):
        for _ in range(FAULT_EACH):
            robot.frame()
        if robot.sent * SAMPLES >= frames * len(samples):
            robot.recover()
            samples.append({
                'frame': robot.sent, 'seconds': round(time.monotonic() - begun_s, 1),
                **run.holds(),
            })
        robot.faults[robot.made % len(robot.faults)]()
        robot.made += 1
        robot.recover()
        run.alive()
    return samples


def summary(samples: list[dict[str, float]], robot: Robot) -> dict[str, Any]:
    """Return what grew after the first tenth of the frames."""
    settled = [each for each in samples if each['frame'] >= samples[-1]['frame'] / 10]
    part = max(3, len(settled) // 10)

    def growth(name: str) -> float:
        first, last = (
            float(np.median([each[name] for each in some]))
            for some in (settled[:part], settled[-part:])
        )
        return round(last / first - 1.0, 4)

    return {
        'frames': robot.sent, 'answered': robot.answered, 'faults': robot.made,
        'seconds': samples[-1]['seconds'],
        'rss_growth': growth('rss_mb'),
        **{
            name: sorted({int(each[name]) for each in settled})
            for name in ('threads', 'handles', 'dev_shm')
        },
    }


def draw(samples: list[dict[str, float]]) -> NDArray[np.uint8]:
    """Draw a curve for each figure over the frames, its range at its left."""
    names = ('rss_mb', 'threads', 'handles', 'dev_shm')
    height, width, left = 150, 900, 190
    canvas = np.full((height * len(names), width, 3), 255, np.uint8)
    frames = np.array([each['frame'] for each in samples])
    for row, name in enumerate(names):
        values = np.array([each[name] for each in samples])
        x = left + (width - left - 10) * frames / frames[-1]
        span = max(float(values.max()) - float(values.min()), 0.02 * float(values.max()), 1.0)
        y = height * (row + 0.9 - 0.8 * (values - values.min()) / span)
        points = np.stack([x, y], axis=-1).round().astype(np.int32)
        cv2.polylines(canvas, [points], False, (160, 60, 0), 1, cv2.LINE_AA)
        for line, text in enumerate((name, f'{values.min():.1f} to {values.max():.1f}')):
            place = 10, height * row + 60 + 25 * line
            cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1)
    return canvas


def soaked(
    folder: Path, name: str, frames: int, segmentation: dict[str, Any],
    size: tuple[int, int], classes: int,
) -> dict[str, Any]:
    """Run `perception` with a model; write what it held; return what grew."""
    costmap = {'max_footprint_m': 1.0, 'use_sim_time': True, 'pose_source': 'tf'}
    shutil.copy(STAND_IN, folder / 'tf2_ros.py')
    places = [str(folder), os.environ.get('PYTHONPATH', '')]
    environment = {'PYTHONPATH': os.pathsep.join(places)}
    parameters = {
        'segmentation_node': {**segmentation, 'use_sim_time': True}, 'costmap_node': costmap,
    }
    with running(folder / 'run', 'perception', parameters, environment) as run:
        own = find_model(segmentation['model'])
        other = folder / f'other{own.suffix}'
        other.write_bytes(own.read_bytes())
        robot = Robot(run, (str(other), str(own)), *size, classes)
        samples = soak(run, robot, frames)
        for node in (SEGMENTATION, COSTMAP):
            counts = run.peer.settled(node[1:])
            ended = counts['published'] + counts['passed_over'] + counts['rejected']
            assert counts['received'] == ended, (node, counts)
    found = summary(samples, robot)
    print(json.dumps(found))
    if 'SOAK_OUT' in os.environ:
        out = Path(os.environ['SOAK_OUT'])
        out.mkdir(parents=True, exist_ok=True)
        (out / f'{name}.json').write_text(
            json.dumps({'summary': found, 'samples': samples}, indent=1)
        )
        cv2.imwrite(str(out / f'{name}.png'), draw(samples))
    assert draw(samples).min() == 0
    return found


def check(found: dict[str, Any]) -> None:
    assert found['answered'] > 0.5 * found['frames']
    if found['frames'] >= 10_000:  # the heap of fewer has not settled
        assert found['rss_growth'] < 0.02, found
    for name in ('threads', 'handles'):
        assert len(found[name]) == 1, (name, found)
    # The middleware keeps what a participant that has gone has shared, until others come.
    assert max(found['dev_shm']) - min(found['dev_shm']) <= 3, found


def test_nothing_grows_over_frames_faults_and_transitions(tmp_path: Path) -> None:
    spec = identity_spec(HEIGHT, WIDTH, classes=['floor', 'stairs', 'obstacle', 'background'])
    model = write_fake(tmp_path / 'm.yaml', spec)
    check(soaked(
        tmp_path, 'soak', FRAMES, {'engine': 'fake', 'model': str(model)}, (HEIGHT, WIDTH), 4
    ))


def test_nothing_grows_with_the_model_that_is_shipped(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    check(soaked(
        tmp_path, 'soak_shipped', FRAMES // 10, {'model': SEGMENTATION_MODEL, 'threads': 1},
        (120, 160), 255,
    ))
