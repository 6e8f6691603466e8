"""replay.launch.py: a bag through the nodes on the bag's time, with an end."""

from collections.abc import Callable
import json
import os
from pathlib import Path
import signal
from typing import Any

from launched import Launched, rviz_prefix
import pytest

from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.write import BagWriter
from mnv2_perception.scenes.bag import draw_bag, IMAGE_TOPIC

# Not `launch` itself: without the real one, this folder would pass for it.
pytest.importorskip('launch_ros', reason='needs launch and launch_ros: source a ROS distro')
pytestmark = pytest.mark.launch

OWN_ARGUMENTS = {'bag', 'rate', 'loop', 'image', 'cameras'}
SEGMENTATION = ['one_process:=false', 'nodes:=segmentation']
RATE_HZ, DURATION_S = 5.0, 8.0  # discovery may take seconds


@pytest.fixture(scope='module')
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bag') / 'drive'
    draw_bag(path, duration_s=DURATION_S, rate_hz=RATE_HZ, height=120, width=160)
    return path


def collect(launched: Launched, message_type: Any, topic: str) -> list[Any]:
    """Receive the messages of a topic from now on."""
    received: list[Any] = []
    launched.observer.create_subscription(message_type, topic, received.append, 10)
    return received


def played(printed: str) -> dict[str, int]:
    """Return what the player says that it published."""
    line = next(line for line in printed.splitlines() if '"published": ' in line)
    counts: dict[str, int] = json.loads(line[line.index('{'):])['published']
    return counts


def spin_until_ended(launched: Launched) -> str:
    while launched.process.poll() is None:
        launched.executor.spin_once(timeout_sec=0.05)
    return launched.wait_until_ended()


def test_every_argument_is_described_and_perception_s_are_among_them(share: Path) -> None:
    from launch.launch_description_sources import (
        get_launch_description_from_python_launch_file,
    )

    def arguments(name: str) -> dict[str, Any]:
        path = str(share / f'launch/{name}.launch.py')
        found = get_launch_description_from_python_launch_file(path).get_launch_arguments()
        return {argument.name: argument for argument in found}

    found = arguments('replay')
    assert found.keys() == OWN_ARGUMENTS | arguments('perception').keys()
    for argument in found.values():
        assert argument.description != 'no description given'
        assert (argument.default_value is None) == (argument.name == 'bag')


def test_a_bag_goes_through_the_nodes_and_its_end_ends_them(
    launch: Callable[..., Launched], drive: Path
) -> None:
    from sensor_msgs.msg import Image

    launched = launch('replay', f'bag:={drive}', *SEGMENTATION)
    masks = collect(launched, Image, '/segmentation/mask')
    launched.wait_until_active('/segmentation_node')
    assert launched.parameters('/segmentation_node', 'use_sim_time') == [True]
    printed = spin_until_ended(launched)
    assert played(printed)[IMAGE_TOPIC] == RATE_HZ * DURATION_S
    assert 'no subscriber to' not in printed
    assert masks
    with BagReader(drive) as bag:
        assert all(
            bag.start_ns <= mask.header.stamp.sec * 10**9 + mask.header.stamp.nanosec <= bag.end_ns
            for mask in masks
        )


def test_rviz_looks_at_a_replay_on_its_time_and_ends_with_it(
    launch: Callable[..., Launched], drive: Path, share: Path, tmp_path: Path
) -> None:
    launched = launch(
        'replay', f'bag:={drive}', 'nodes:=segmentation', 'rviz:=true', 'rate:=8.0',
        prefix=rviz_prefix(tmp_path, stays=True),
    )
    printed = spin_until_ended(launched)
    assert f'file {share}/config/rviz/perception.rviz' in printed
    assert f'image is {IMAGE_TOPIC}\n' in printed and 'simulated time: True' in printed


def test_what_the_nodes_publish_themselves_is_not_played_into_them(
    launch: Callable[..., Launched], drive: Path, tmp_path: Path
) -> None:
    with BagReader(drive) as bag, BagWriter(tmp_path / 'recorded') as recorded:
        for topic in bag.topics:
            recorded.add_topic(topic.name, topic.type_name, definition=topic.definition)
        recorded.add_topic('/segmentation/mask', 'sensor_msgs/msg/Image')
        for message in bag.messages():
            recorded.write(message.topic, message.stamp_ns, message.cdr)
            if message.topic == IMAGE_TOPIC:
                recorded.write('/segmentation/mask', message.stamp_ns, message.cdr)
    printed = spin_until_ended(
        launch('replay', f'bag:={tmp_path / "recorded"}', *SEGMENTATION)
    )
    assert 'not played, because the nodes publish them: /segmentation/mask' in printed
    assert IMAGE_TOPIC in played(printed) and '/segmentation/mask' not in played(printed)


def test_the_chosen_nodes_share_one_process(
    launch: Callable[..., Launched], drive: Path, tmp_path: Path
) -> None:
    from sensor_msgs.msg import LaserScan

    params_file = tmp_path / 'robot.yaml'
    # The drawn bag has no tf.
    params_file.write_text('/**: {ros__parameters: {pose_source: parameters}}')
    launched = launch('replay', f'bag:={drive}', f'params_file:={params_file}')
    scans = collect(launched, LaserScan, '/scan')
    launched.wait_until_subscribed('/camera/camera_info', '/costmap_node')
    assert 'choose another with image:=…' in spin_until_ended(launched)  # beside its labels
    assert scans


def test_a_misspelt_argument_of_the_replay_is_told_with_the_nearest(
    launch: Callable[..., Launched], drive: Path
) -> None:
    printed = spin_until_ended(launch('replay', f'bag:={drive}', 'rat:=8.0', *SEGMENTATION))
    said = 'rat is not an argument of this launch file and has no effect; did you mean rate?'
    assert said in printed
    assert printed.count('not an argument of') == 1


@pytest.mark.parametrize('topic', ['/front/image/compressed', '/front/picture'])
def test_compressed_images_arrive_for_a_named_camera(
    launch: Callable[..., Launched], drive: Path, tmp_path: Path, topic: str
) -> None:
    from sensor_msgs.msg import Image

    with BagReader(drive) as old, BagWriter(tmp_path / 'compressed') as new:
        new.add_topic(topic, 'sensor_msgs/msg/CompressedImage')
        for message in old.messages(['/camera/label/compressed']):
            new.write(topic, message.stamp_ns, message.cdr)
    launched = launch(
        'replay', f'bag:={tmp_path}/compressed', f'image:={topic.replace("front", "{camera}")}',
        'cameras:=front,', *SEGMENTATION,
    )
    masks = collect(launched, Image, '/front/segmentation/mask')
    spin_until_ended(launched)
    assert masks


def test_a_loop_goes_on_until_it_is_interrupted(
    launch: Callable[..., Launched], drive: Path
) -> None:
    from rosgraph_msgs.msg import Clock

    launched = launch('replay', f'bag:={drive}', 'rate:=8', 'loop:=true', *SEGMENTATION)
    clocks = collect(launched, Clock, '/clock')

    def jumped_back() -> bool:
        times = [clock.clock.sec + clock.clock.nanosec * 1e-9 for clock in clocks]
        return times != sorted(times)

    launched.wait_for('second turn', jumped_back)
    launched.interrupt()


def test_a_node_s_death_ends_the_replay(launch: Callable[..., Launched], drive: Path) -> None:
    launched = launch('replay', f'bag:={drive}', 'loop:=true', *SEGMENTATION)
    launched.wait_until_active('/segmentation_node')
    os.kill(launched.pids('segmentation_node')[0], signal.SIGKILL)
    assert launched.process.wait(60) == 0
    printed = launched.log.read_text()
    assert 'process has died' in printed
    assert '[bag_player_node-1]: process has finished cleanly' in printed


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['bag:=/missing'], '/missing'),
        (['image:=/depth'], 'has no images on /depth; it has /camera/image_raw'),
        (['image:=/{camera}/image'], 'image is /{camera}/image, but the cameras have no names'),
    ],
)
def test_wrong_arguments_end_the_replay_with_a_cure(
    launch: Callable[..., Launched], drive: Path, arguments: list[str], message: str
) -> None:
    printed = launch('replay', f'bag:={drive}', *arguments).error()
    assert message in printed
    assert 'process started' not in printed
