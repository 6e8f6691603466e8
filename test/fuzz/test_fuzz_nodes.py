"""Mutated messages to live nodes: none dies, each good frame is answered, the counts are exact."""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
import time
from typing import Any

from identity_network import identity_spec, write_fake
from mutations import count, damage, generators, mutate, pick
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

import messages
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from running_nodes import Running, running, wait
from sensor_msgs.msg import Image

from mnv2_perception.nodes.qos import LATCHED_QOS

pytestmark = pytest.mark.ros

FRAMES = 60  # good ones between which the messages are mutated, in `make test`
BAD_EACH = 4  # mutated messages to each good frame
PLACED = {
    'pose_source': 'parameters', 'camera_z_m': 1.0, 'camera_pitch_rad': 0.3,
    'max_footprint_m': 1.0, 'sync_wait_s': 1.0, 'grid_size_m': 8.0,
}


class Camera:
    """A camera that sends good frames, and between them what is none.

    Args:
        run: the process, and the peer that sends.
        namespace: of the nodes.
        parts: what a good frame consists of, by topic, in the order of sending; the last is what
            is counted. Each makes a message of a header.
        latched: those of them that are latched.
        counted: the node that counts the last one, and the topics that answer it.
    """

    def __init__(
        self, run: Running, namespace: str, parts: dict[str, Callable[[Any], Any]],
        latched: tuple[str, ...], node: str, answers: dict[str, Any],
    ) -> None:
        self.run, self.parts, self.node = run, parts, f'{namespace}/{node}'.lstrip('/')
        self.publishers = {
            topic: run.peer.publisher(
                type(make(messages.stamped())), f'{namespace}/{topic}',
                LATCHED_QOS if topic in latched else 10,
            )
            for topic, make in parts.items()
        }
        self.answers = {
            topic: run.peer.stamps(kind, f'{namespace}/{topic}') for topic, kind in answers.items()
        }
        self.frame_topic = list(parts)[-1]
        self.sent = self.unreadable = 0
        self.number = 1000

    def ready(self) -> None:
        for topic, publisher in self.publishers.items():
            wait(publisher.get_subscription_count, 30.0, f'{topic} is heard')
        deadline_s = time.monotonic() + 20.0
        while self.good(within_s=0.5):  # held back after a new subscriber
            assert time.monotonic() < deadline_s, 'no good frame is answered at the beginning'
        # What was sent before the node knew its sender is in no count.
        counts = self.run.peer.settled(self.node)
        self.sent = counts['received'] + counts['lost']

    def good(self, within_s: float = 5.0, pause_s: float = 0.003) -> set[str]:
        """Send a good frame; return the topics on which no answer came.

        Args:
            within_s: how long an answer may take.
            pause_s: before the last part: topics have no order among themselves.
        """
        self.number += 1
        stamp = messages.stamped(self.number)
        for topic, make in self.parts.items():
            if topic == self.frame_topic:
                self.sent += 1
                time.sleep(pause_s)
            self.publishers[topic].publish(make(stamp))
        with suppress(AssertionError):
            wait(lambda: not self.missing(), within_s, 'all answers')
        return self.missing()

    def missing(self) -> set[str]:
        return {name for name, seen in self.answers.items() if (self.number, 7) not in seen}

    def bad(self, rng: np.random.Generator) -> None:
        """Send one message with a few fields, or bytes, changed."""
        topic = pick(rng, list(self.parts))
        msg = deepcopy(self.parts[topic](messages.stamped(self.number, 500_000_000)))
        mutate(rng, msg)
        content = serialize_message(msg)
        if rng.random() < 0.3:
            content = damage(rng, content)
            content += bytes(-len(content) % 4)  # as RTPS does
            try:
                deserialize_message(content, type(msg))
            except Exception:  # nothing that the node's callback would ever see
                self.unreadable += 1
        if topic == 'clock':
            content = content[:12]  # the middleware sends no more of a type of fixed size
        self.sent += topic == self.frame_topic
        self.publishers[topic].publish(content)
        time.sleep(0.001)  # frames overwritten in the reader's queue would be in no count


def attack(run: Running, cameras: list[Camera], frames: int) -> None:
    """Send good frames and mutated messages in turn; hold what a robot relies on."""
    for camera in cameras:
        camera.ready()
    unanswered, late = [], 0
    begun_s, lines = time.monotonic(), run.lines()
    settled_mb = 0.0
    for seed, rng in generators(frames):
        if seed % frames == frames // 5:  # caches and heaps have grown to what they need
            settled_mb = run.holds()['rss_mb']
        camera = cameras[seed % len(cameras)]
        for _ in range(BAD_EACH):
            camera.bad(rng)
        run.alive()
        missing = camera.good(within_s=2.0)
        if missing == {'grid'}:  # a good camera_info may have come after the frame
            late += 1
            missing = camera.good(pause_s=0.2)
        if missing:
            unanswered.append((f'FUZZ_SEED={seed}', missing))
            assert len(unanswered) < 5, f'{unanswered}: {run.log()[-2000:]}'
    assert unanswered == [], run.log()[-2000:]
    assert late <= 2 + 0.1 * frames  # on a busy machine
    took_s = time.monotonic() - begun_s
    for camera in cameras:
        counts = run.peer.settled(camera.node)
        ended = counts['published'] + counts['passed_over'] + counts['rejected']
        assert counts['received'] == ended, counts
        assert counts['received'] + counts['lost'] == camera.sent, (counts, camera.sent)
        assert counts['rejected'] > 0, counts
    holds = run.holds()
    print(
        f'{frames} good frames, {frames * BAD_EACH} mutated messages, '
        f'{sum(camera.unreadable for camera in cameras)} of them not readable, in {took_s:.0f} s; '
        f'{late} frames came before their calibration; '
        f'{holds}, {settled_mb:.1f} MB before'
    )
    assert holds['rss_mb'] < settled_mb * 1.05, holds
    told = run.lines() - lines
    # A line a second of the whole process, beside what each node says at first.
    assert sum(told.values()) <= took_s + 10 * len(told), told


def test_perception_survives_mutated_messages_of_its_cameras(tmp_path: Path) -> None:
    model = write_fake(
        tmp_path / 'm.yaml',
        identity_spec(messages.HEIGHT, messages.WIDTH, classes=list(messages.CLASSES)),
    )
    segmentation = {'engine': 'fake', 'model': str(model)}
    parameters = {
        'perception': {'cameras': ['raw', 'packed']},
        '/raw/segmentation_node': segmentation,
        '/packed/segmentation_node': {**segmentation, 'image_transport': 'compressed'},
        '/raw/costmap_node': {**PLACED, 'source': 'depth'},
        '/packed/costmap_node': {**PLACED, 'source': 'points'},
    }
    answers = {'segmentation/mask': Image, 'grid': OccupancyGrid}
    with running(tmp_path / 'run', 'perception', parameters) as run:
        run.active(4)
        info = lambda stamp: messages.camera_info(header=stamp)  # noqa: E731
        cameras = [
            Camera(run, '/raw', {
                'camera_info': info, 'depth/camera_info': info,
                'depth/image': lambda stamp: messages.depth(header=stamp),
                'image': lambda stamp: messages.image(header=stamp),
            }, (), 'segmentation_node', answers),
            Camera(run, '/packed', {
                'camera_info': info, 'points': messages.cloud,
                'image/compressed': lambda stamp: messages.compressed(header=stamp),
            }, (), 'segmentation_node', answers),
        ]
        attack(run, cameras, count(FRAMES * BAD_EACH) // BAD_EACH)


def test_costmap_node_survives_mutated_masks_label_info_and_clocks(tmp_path: Path) -> None:
    parameters = {**PLACED, 'use_sim_time': True}
    with running(tmp_path / 'run', 'costmap_node', {'costmap_node': parameters}) as run:
        run.active(1)
        cameras = [
            Camera(run, '', {
                'clock': lambda stamp: Clock(clock=stamp.stamp),
                'segmentation/label_info': messages.label_info,
                'camera_info': lambda stamp: messages.camera_info(header=stamp),
                'segmentation/confidence': messages.mask,
                'segmentation/mask': messages.mask,
            }, ('segmentation/label_info',), 'costmap_node', {'grid': OccupancyGrid}),
        ]
        # Held back for half a second after each change of the names.
        semantic = run.peer.stamps(Image, 'semantic/mask')
        attack(run, cameras, count(FRAMES * BAD_EACH) // BAD_EACH)
        assert semantic
