"""Mutated messages to live nodes: none dies, each good frame is answered, the counts are exact."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
import re
import time
from typing import Any

from identity_network import identity_spec, write_fake
from mutations import check_share, count, damage, generators, mutate, pick
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

import messages
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from running_nodes import Running, running, wait
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass

from mnv2_perception.nodes.calibrations import OF
from mnv2_perception.nodes.qos import LATCHED_QOS

pytestmark = pytest.mark.ros

FRAMES = 60  # good ones between which the messages are mutated, in `make test`
BAD_EACH = 4  # mutated messages to each good frame
NAMES = 'segmentation/label_info'
# Each line tells which call logged it, for each is throttled by itself.
FORMAT = {
    'RCUTILS_CONSOLE_OUTPUT_FORMAT':
        '[{severity}] [{time}] [{name}]: <{name} {file_name}:{line_number}> {message}'
}
SITE = re.compile(r'\]: (<\S+ \S+:\d+>) ')
PLACED = {
    'pose_source': 'parameters', 'camera_z_m': 1.0, 'camera_pitch_rad': 0.3,
    'max_footprint_m': 1.0, 'sync_wait_s': 1.0, 'grid_size_m': 8.0,
}


class Camera:
    """A camera that sends good frames, and between them frames of which a part is damaged.

    Topics have no order among themselves: the parts of each frame go in any, but for the clock,
    which goes first.

    Args:
        run: the process, and the peer that sends.
        namespace: of the nodes.
        parts: what a good frame consists of, by topic; the last is what is counted. Each makes a
            message of a header.
        nodes: those of the camera; the first counts the last part, each other one what the one
            before it has published.
        answers: topics that answer it.
    """

    def __init__(
        self, run: Running, namespace: str, parts: dict[str, Callable[[Any], Any]],
        nodes: tuple[str, ...], answers: dict[str, Any],
    ) -> None:
        self.run, self.parts = run, parts
        self.nodes = [f'{namespace}/{node}'.lstrip('/') for node in nodes]
        self.publishers = {
            topic: run.peer.publisher(
                type(make(messages.stamped())), f'{namespace}/{topic}',
                LATCHED_QOS if topic == NAMES else 10,
            )
            for topic, make in parts.items()
        }
        self.answers = {
            topic: run.peer.stamps(kind, f'{namespace}/{topic}') for topic, kind in answers.items()
        }
        self.names: set[str] = set()
        if NAMES in parts:
            run.peer.node.create_subscription(
                LabelInfo, f'{namespace}/semantic/label_info', self.on_names, LATCHED_QOS
            )
        self.named = NAMES not in parts
        self.timed = False  # whether the clock that was sent last is a good one
        self.frame_topic = list(parts)[-1]
        self.sent = 0
        self.mutated: list[tuple[str, tuple[int, int]]] = []  # topic and stamp
        self.unreadable: Counter[str] = Counter()
        self.number = 1000

    def ready(self, rng: np.random.Generator) -> None:
        for topic, publisher in self.publishers.items():
            wait(publisher.get_subscription_count, 30.0, f'{topic} is heard')
        deadline_s, frames = time.monotonic() + 30.0, 0
        while frames < OF:  # so many show that the camera sends a camera_info with each
            assert time.monotonic() < deadline_s, 'no good frame is answered at the beginning'
            frames += not self.good(rng, within_s=0.5)  # held back after a new subscriber
        # What was sent before the node knew its sender is in no count.
        counts = self.run.peer.settled(self.nodes[0])
        self.sent = counts['received'] + counts['lost']

    def good(self, rng: np.random.Generator, within_s: float = 5.0) -> set[str]:
        """Send a good frame; return the topics on which no answer came.

        Args:
            rng: of its parts' order.
            within_s: how long an answer may take.
        """
        self.number += 1
        self.send(rng, messages.stamped(self.number))
        with suppress(AssertionError):
            wait(lambda: not self.missing(7), within_s, 'all answers')
        return self.missing(7)

    def missing(self, nanosec: int) -> set[str]:
        key = self.number, nanosec
        return {name for name, seen in self.answers.items() if key not in seen}

    def send(
        self, rng: np.random.Generator, stamp: Header, topic: str = '', content: bytes = b''
    ) -> None:
        """Send a frame, with another content of one topic."""
        if topic != NAMES and not self.named:
            self.name_classes()
        self.sent += 1
        parts = [str(part) for part in rng.permutation(list(self.parts))]
        if 'clock' in parts:  # what is of later than the clock after a jump is of before it
            parts.remove('clock')
            parts.insert(0, 'clock')
        for part in parts:
            if part == topic:
                self.publishers[part].publish(content)
            elif part != NAMES:
                self.publishers[part].publish(self.parts[part](stamp))
            if part == 'clock' and not self.timed:
                time.sleep(0.02)
        self.timed = topic != 'clock'

    def on_names(self, msg: LabelInfo) -> None:
        self.names = {item.class_name for item in msg.class_map}

    def name_classes(self) -> None:
        """Send the names of the classes, which have no stamp, and wait until they are heard."""
        msg = self.parts[NAMES](messages.stamped(self.number))
        name = f'of {self.number}'
        msg.class_map.append(VisionClass(class_id=200, class_name=name))
        self.publishers[NAMES].publish(msg)
        wait(lambda: name in self.names, 10.0, 'the names are passed on')
        self.named = True

    def bad(self, rng: np.random.Generator, index: int) -> None:
        """Send a frame, of which one message has a few fields, or bytes, changed."""
        topic = pick(rng, list(self.parts))
        stamp = messages.stamped(self.number, 500_000_000 + 50_000_000 * index)
        msg = deepcopy(self.parts[topic](stamp))
        mutate(rng, msg)
        content = serialize_message(msg)
        if rng.random() < 0.3:
            content = damage(rng, content)
            content += bytes(-len(content) % 4)  # as RTPS does
            if len(content) == 4:  # no padding: Kilted's Fast CDR would read beyond the message
                content = content[:3] + b'\x00'
            try:
                deserialize_message(content, type(msg))
            except Exception:  # nothing that the node's callback would ever see
                self.unreadable[topic] += 1
        if topic == 'clock':
            content = content[:12]  # the middleware sends no more of a type of fixed size
        self.mutated.append((topic, (self.number, stamp.stamp.nanosec)))
        self.named = self.named and topic != NAMES
        self.send(rng, stamp, topic, content)
        with suppress(AssertionError):  # or the next would overtake it
            wait(lambda: not self.missing(stamp.stamp.nanosec), 0.02, 'all answers')


def attack(run: Running, cameras: list[Camera], frames: int) -> None:
    """Send good frames and damaged ones in turn; hold what a robot relies on."""
    for camera in cameras:
        camera.ready(np.random.default_rng(0))
    unanswered = []
    begun_s, settled_mb = time.monotonic(), 0.0
    lines, sites = sum(run.lines().values()), set(SITE.findall(run.log()))
    for seed, rng in generators(frames):
        if seed % frames == frames // 5:  # caches and heaps have grown to what they need
            settled_mb = run.holds()['rss_mb']
        camera = cameras[seed % len(cameras)]
        for index in range(BAD_EACH):
            camera.bad(rng, index)
        run.alive()
        if missing := camera.good(rng):
            unanswered.append((f'FUZZ_SEED={seed}', missing))
            assert len(unanswered) < 5, f'{unanswered}: {run.log()[-2000:]}'
    took_s = time.monotonic() - begun_s
    told = sum(run.lines().values()) - lines
    first = len(set(SITE.findall(run.log())) - sites)
    holds = run.holds()
    print(
        f'\n{frames} good frames, {len(unanswered)} unanswered, and {frames * BAD_EACH} with a '
        f'mutated message, in {took_s:.0f} s; {told} lines of the log, {first} of them the first '
        f'of their kind; {holds}, {settled_mb:.1f} MB before'
    )
    for camera in cameras:
        for topic in camera.parts:
            stamps = [stamp for name, stamp in camera.mutated if name == topic]
            refused = sum(stamp not in camera.answers['grid'] for stamp in stamps)
            print(
                f'{camera.nodes[0]} {topic}: {len(stamps)} mutated, {camera.unreadable[topic]} '
                f'of them cannot be read, {refused} of their frames gave no grid'
            )
            assert stamps
            if topic not in ('clock', 'segmentation/confidence'):  # of which no grid needs any
                check_share(refused, len(stamps))
        came = camera.sent
        for node in camera.nodes:
            counts = run.peer.settled(node)
            print(node, counts)
            ended = counts['published'] + counts['passed_over'] + counts['rejected']
            assert counts['received'] == ended, counts
            assert counts['received'] + counts['lost'] == came, (counts, came)
            assert counts['rejected'] > 0, counts
            came = counts['published']
    assert unanswered == [], run.log()[-2000:]
    assert holds['rss_mb'] < settled_mb * 1.05, holds
    # A line a second of the whole process, beside the first of each kind.
    assert told - first <= took_s, run.lines()


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
    nodes = 'segmentation_node', 'costmap_node'
    answers = {'segmentation/mask': Image, 'grid': OccupancyGrid}
    with running(tmp_path / 'run', 'perception', parameters, FORMAT) as run:
        run.active(4)
        info = lambda stamp: messages.camera_info(header=stamp)  # noqa: E731
        cameras = [
            Camera(run, '/raw', {
                'camera_info': info, 'depth/camera_info': info,
                'depth/image': lambda stamp: messages.depth(header=stamp),
                'image': lambda stamp: messages.image(header=stamp),
            }, nodes, answers),
            Camera(run, '/packed', {
                'camera_info': info, 'points': messages.cloud,
                'image/compressed': lambda stamp: messages.compressed(header=stamp),
            }, nodes, answers),
        ]
        attack(run, cameras, count(FRAMES * BAD_EACH) // BAD_EACH)


def test_costmap_node_survives_mutated_masks_label_info_and_clocks(tmp_path: Path) -> None:
    parameters = {**PLACED, 'use_sim_time': True}
    with running(tmp_path / 'run', 'costmap_node', {'costmap_node': parameters}, FORMAT) as run:
        run.active(1)
        cameras = [
            Camera(run, '', {
                'clock': lambda stamp: Clock(clock=stamp.stamp),
                NAMES: messages.label_info,
                'camera_info': lambda stamp: messages.camera_info(header=stamp),
                'segmentation/confidence': messages.mask,
                'segmentation/mask': messages.mask,
            }, ('costmap_node',), {'grid': OccupancyGrid}),
        ]
        # Held back for half a second after each change of the names.
        semantic = run.peer.stamps(Image, 'semantic/mask')
        attack(run, cameras, count(FRAMES * BAD_EACH) // BAD_EACH)
        assert semantic
