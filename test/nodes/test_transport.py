"""Processes with config/fastdds.xml on both sides, on one side, on none: images, discovery."""

import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

from colcon_workspace import free_domain_id, localhost_domain, own_domain_id
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from mnv2_perception.bags.read import TopicQos
from mnv2_perception.bags.write import BagWriter, image_cdr
from mnv2_perception.nodes.losses import Losses

pytestmark = pytest.mark.ros

PROFILE = str(Path(__file__).resolve().parents[2] / 'config/fastdds.xml')
TOPIC = '/camera/image_raw'
COUNT = 30


def write_camera(path: Path, height: int, width: int) -> Path:
    """Write 2 s of best-effort images at 15 Hz."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    with BagWriter(path) as bag:
        bag.add_topic(TOPIC, 'sensor_msgs/msg/Image', TopicQos(reliable=False))
        for index in range(COUNT):
            stamp_ns = 1_000_000_000 + index * 1_000_000_000 // 15
            bag.write(TOPIC, stamp_ns, image_cdr(image, stamp_ns, 'camera'))
    return path


def environment(profile: bool) -> dict[str, str]:
    ours = localhost_domain(own_domain_id())
    if profile:
        ours |= {
            'FASTDDS_DEFAULT_PROFILES_FILE': PROFILE, 'FASTRTPS_DEFAULT_PROFILES_FILE': PROFILE
        }
    return {**os.environ, **ours}


def arrived(folder: Path, bag: Path, player: bool, recorder: bool) -> int:
    """Play a bag from one process into another; return how many images arrived."""
    module = [sys.executable, '-m']
    recording = subprocess.Popen(
        [*module, 'mnv2_perception.nodes.bag_recorder_node', '--out', str(folder / 'out'), TOPIC],
        env=environment(recorder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    subprocess.run(
        [
            *module, 'mnv2_perception.nodes.bag_player_node', str(bag),
            '--wait-for-subscribers', '20', '--start-delay', '1',
            '--rate', '0.3',  # what a busy machine is too slow for is not the transport's
        ],
        env=environment(player), stdout=subprocess.DEVNULL, check=True, timeout=60,
    )
    time.sleep(0.5)
    recording.send_signal(signal.SIGINT)
    out, _ = recording.communicate(timeout=20)
    return int(json.loads(out.splitlines()[-1])['received'][TOPIC])


def test_with_the_profile_on_both_sides_1080p_images_arrive(tmp_path: Path) -> None:
    bag = write_camera(tmp_path / 'bag', 1080, 1920)
    # On a busy machine some are overwritten in the reader's queue; on neither side 7 of 30 arrive.
    assert arrived(tmp_path, bag, player=True, recorder=True) >= 0.8 * COUNT


@pytest.mark.parametrize(('player', 'recorder'), [(True, False), (False, True)])
def test_the_profile_on_one_side_only_does_not_cut_the_other_off(
    tmp_path: Path, player: bool, recorder: bool
) -> None:
    bag = write_camera(tmp_path / 'bag', 60, 80)
    assert arrived(tmp_path, bag, player, recorder) >= COUNT - 1


@pytest.mark.skipif(
    os.environ.get('ROS_DISTRO') == 'humble', reason='announces itself otherwise on one machine'
)
def test_a_process_with_the_profile_announces_itself_each_second() -> None:
    """Fast DDS answers a newcomer once, often before it listens; this is its next chance."""
    # It ends with its input: a signal need not wake a thread that sleeps.
    code = "import rclpy, sys; rclpy.init(); node = rclpy.create_node('stays'); sys.stdin.read()"
    domain_id = free_domain_id()
    heard_s: list[float] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        # Where participant 3 would listen: announcements go to all that may be there.
        peer.bind(('127.0.0.1', 7400 + 250 * domain_id + 10 + 2 * 3))
        peer.settimeout(20.0)
        process = subprocess.Popen(
            [sys.executable, '-c', code], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**environment(profile=True), **localhost_domain(domain_id)},
        )
        try:
            while not heard_s or heard_s[-1] < heard_s[0] + 4.0:
                peer.recv(2**16)
                heard_s.append(time.monotonic())
        finally:
            process.communicate(timeout=20.0)
    assert max(np.diff(heard_s)) < 2.0


def test_a_killed_publisher_that_is_still_listed_does_not_pass_for_a_second_one() -> None:
    listed = {1}
    mixed: list[int] = []
    losses = Losses(lambda count: None, mixed.append, lambda: set(listed))

    def hear(*numbers: int) -> None:
        for number in numbers:
            losses.on_message({'publication_sequence_number': number})

    hear(7, 8, 9)
    listed.add(2)
    hear(1, 2, 3, 4, 5)  # the one that was started in its place
    assert mixed == []
    hear(10, 6, 11, 7)
    assert mixed == [2]
