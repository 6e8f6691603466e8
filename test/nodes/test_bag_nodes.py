"""bag_player_node and bag_recorder_node, as processes of their own, over real DDS."""

from collections.abc import Iterator
import csv
import json
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from mnv2_perception.bags.definitions import jazzy_types
from mnv2_perception.bags.read import BagMessage, BagReader, TopicQos
from mnv2_perception.bags.results import read_classifications, read_detections, read_grids
from mnv2_perception.bags.write import BagWriter, camera_info_cdr, image_cdr

pytest.importorskip('rclpy', reason='needs rclpy: make setup, or source a ROS distro')

from results_bag import BOXES, RESULT_GRID, STAMPS_NS, write_results_bag

pytestmark = pytest.mark.ros

START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
UINT32 = 'std_msgs/msg/UInt32'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
PLAYER = 'mnv2_perception.nodes.bag_player_node'
RECORDER = 'mnv2_perception.nodes.bag_recorder_node'


class Processes:
    """Starts nodes that see each other and nobody else, and ends those that are left."""

    def __init__(self, domain_id: int) -> None:
        self.environment = {
            **os.environ,
            'ROS_DOMAIN_ID': str(domain_id),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'PYTHONPATH': os.pathsep.join(
                [str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')]
            ),
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, module: str, *args: str | Path, file_bytes: int = resource.RLIM_INFINITY
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, '-m', module, *map(str, args)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes,) * 2),
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def processes() -> Iterator[Processes]:
    running = Processes(domain_id=40 + os.getpid() % 60)
    yield running
    running.end()


def result(process: subprocess.Popen[str], timeout_s: float = 90) -> dict[str, Any]:
    """Wait until a process ends well; return its summary."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    *events, summary = map(json.loads, out.splitlines())
    assert summary['event'] == 'done'
    return {**summary, 'events': events, 'stderr': err}


def interrupt(process: subprocess.Popen[str]) -> dict[str, Any]:
    process.send_signal(signal.SIGINT)
    return result(process)


def wait_for_log(
    path: Path, topic: str, process: subprocess.Popen[str], lines: int = 1
) -> None:
    """Wait until a recorder's log shows so many messages of a topic, at most 60 s."""
    deadline_s = time.monotonic() + 60
    while not path.exists() or path.read_text(encoding='utf-8').count(f'{topic},') < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s, f'no {topic} came'
        time.sleep(0.05)


def read_log(path: Path) -> list[dict[str, str]]:
    with path.open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


def messages_of(path: Path, topic: str) -> list[BagMessage]:
    with BagReader(path) as bag:
        return list(bag.messages([topic]))


def clock_ns(path: Path) -> list[int]:
    with BagReader(path) as bag:
        clocks = [bag.deserialize(message).clock for message in bag.messages(['/clock'])]
    return [clock.sec * SECOND_NS + clock.nanosec for clock in clocks]


def padded(cdr: bytes) -> bytes:
    """Fill a message up to whole 32-bit words, as DDS does on its way."""
    return cdr + b'\0' * (-len(cdr) % 4)


def uint32_cdr(value: int) -> bytes:
    return b'\x00\x01\x00\x00' + value.to_bytes(4, 'little')


def write_drive(path: Path) -> Path:
    """Write 1 s of /count (100 Hz), /camera_info (20 Hz), best-effort /image (20 Hz)."""
    image = np.zeros((12, 16), np.uint8)
    with BagWriter(path) as bag:
        bag.add_topic('/count', UINT32)
        bag.add_topic('/camera_info', CAMERA_INFO, TopicQos())
        bag.add_topic('/image', 'sensor_msgs/msg/Image', TopicQos(reliable=False))
        for k in range(101):
            stamp_ns = START_NS + k * 10_000_000
            bag.write('/count', stamp_ns, uint32_cdr(k))
            if k % 5 == 0:
                info = camera_info_cdr(12, 16, np.eye(3), stamp_ns - 1000, 'camera')
                bag.write('/camera_info', stamp_ns + 1, info)
                cdr = image_cdr(image + k, stamp_ns - 1000, 'camera', 'mono8')
                bag.write('/image', stamp_ns + 2, cdr)
    return path


def assert_spacing(log: list[dict[str, str]], column: str, stamps_ns: list[int]) -> None:
    """Compare a log's times with the stamps at which they were due (median, last)."""
    times_ns = np.array([int(row[column]) for row in log])
    due_ns = np.array(stamps_ns) - stamps_ns[0]
    late_ms = (times_ns - times_ns[0] - due_ns) / 1e6
    assert abs(np.median(late_ms)) < 10, late_ms
    assert abs(late_ms[-1]) < 100, late_ms


def test_an_mcap_bag_played_and_recorded_again_is_the_same_bag(
    tmp_path: Path, processes: Processes
) -> None:
    drive = write_drive(tmp_path / 'drive')
    topics = ['/count', '/camera_info', '/image']
    recorder = processes.start(
        RECORDER, '--out', tmp_path / 'out', '--log', tmp_path / 'received.csv',
        *topics, '/clock', '/never',
    )
    player = processes.start(
        PLAYER, drive, '--wait-for-subscribers', '60', '--log', tmp_path / 'published.csv'
    )
    played = result(player)
    recorded = interrupt(recorder)
    assert played['events'] == []
    assert {event['topic']: event['type'] for event in recorded['events']} == {
        '/count': UINT32, '/camera_info': CAMERA_INFO, '/image': 'sensor_msgs/msg/Image',
        '/clock': 'rosgraph_msgs/msg/Clock',
    }
    assert {event['event'] for event in recorded['events']} == {'recording'}
    assert played['published'] == {'/camera_info': 21, '/count': 101, '/image': 21}
    clock_count = recorded['received'].pop('/clock')
    assert recorded['received'] == {**played['published'], '/never': 0}

    for topic in topics:
        sent = [padded(message.cdr) for message in messages_of(drive, topic)]
        assert [message.cdr for message in messages_of(tmp_path / 'out', topic)] == sent

    published = read_log(tmp_path / 'published.csv')
    received = read_log(tmp_path / 'received.csv')
    count_stamps_ns = [message.stamp_ns for message in messages_of(drive, '/count')]
    for log, column in ((published, 'published_ns'), (received, 'received_ns')):
        counts = [row for row in log if row['topic'] == '/count']
        assert {row['stamp_ns'] for row in counts} == {''}  # UInt32 has no header
        assert_spacing(counts, column, count_stamps_ns)
        images = [row for row in log if row['topic'] == '/image']
        assert [int(row['stamp_ns']) for row in images] == [
            START_NS + k * 50_000_000 - 1000 for k in range(21)
        ]

    clocks_ns = clock_ns(tmp_path / 'out')
    assert clocks_ns == sorted(clocks_ns)
    assert clocks_ns[0] == START_NS  # held there until the first message
    assert clocks_ns[-1] == messages_of(drive, '/image')[-1].stamp_ns
    assert set(count_stamps_ns) <= set(clocks_ns)
    assert received[0]['topic'] == '/clock'
    assert clock_count == len(clocks_ns) > 143

    with BagReader(tmp_path / 'out') as bag:
        qos = {topic.name: topic.qos for topic in bag.topics}
    assert qos['/count'] and qos['/count'].reliable and not qos['/count'].transient_local
    assert qos['/image'] and not qos['/image'].reliable


def test_results_of_all_nodes_are_recorded_with_their_definitions(
    tmp_path: Path, processes: Processes
) -> None:
    results = write_results_bag(tmp_path / 'results')
    topics = ('/detections', '/classification', '/grid')
    recorder = processes.start(RECORDER, '--out', tmp_path / 'out', *topics)
    player = processes.start(PLAYER, results, '--wait-for-subscribers', '60')
    result(player)
    assert interrupt(recorder)['received'] == dict.fromkeys(topics, 2)
    (mcap,) = (tmp_path / 'out').glob('*.mcap')  # reads without its folder's metadata
    (stamp_ns, boxes), _ = read_detections(mcap, '/detections')
    assert stamp_ns == STAMPS_NS[0] and boxes.names == ('dog', 'car')
    np.testing.assert_allclose(boxes.boxes, BOXES)
    (_, classes), _ = read_classifications(mcap, '/classification')
    assert classes == [('grass', 0.75), ('road', 0.5)]
    (_, grid), _ = read_grids(mcap, '/grid')
    np.testing.assert_array_equal(grid.cells, RESULT_GRID.cells)


def test_a_sqlite3_bag_obeys_rate_topics_and_remap_and_skips_unknown_types(
    tmp_path: Path, processes: Processes
) -> None:
    with BagWriter(tmp_path / 'drive', 'sqlite3') as bag:
        bag.add_topic('/camera_info', CAMERA_INFO)
        bag.add_topic('/count', UINT32)
        bag.add_topic('/thing', 'absent_msgs/msg/Thing', definition='uint8 a')
        for k in range(11):
            stamp_ns = START_NS + k * SECOND_NS // 5
            bag.write('/camera_info', stamp_ns, camera_info_cdr(1, 1, np.eye(3), stamp_ns, ''))
            bag.write('/count', stamp_ns, uint32_cdr(k))
            bag.write('/thing', stamp_ns, b'\x00\x01\x00\x00\x01')
    recorder = processes.start(
        RECORDER, '--out', tmp_path / 'out', '--log', tmp_path / 'received.csv',
        '--storage', 'sqlite3', '/x/front/info', '/count', '/clock',
    )
    player = processes.start(
        PLAYER, tmp_path / 'drive', '--rate', '2', '--wait-for-subscribers', '60',
        '--topics', 'camera_info', '/thing', '--remap', '/camera_info:=front/info',
        '--ros-args', '-r', '__ns:=/x',
    )
    played = result(player)
    recorded = interrupt(recorder)
    assert played['published'] == {'/x/front/info': 11}
    assert played['skipped'] == {'/thing': 'absent_msgs/msg/Thing'}
    assert played['stderr'].count('absent_msgs') == 3  # one warning: type, reason, cure
    assert [message.cdr for message in messages_of(tmp_path / 'out', '/x/front/info')] == [
        padded(message.cdr) for message in messages_of(tmp_path / 'drive', '/camera_info')
    ]
    assert recorded['received']['/x/front/info'] == 11
    assert recorded['received']['/count'] == 0
    infos = [row for row in read_log(tmp_path / 'received.csv') if 'info' in row['topic']]
    assert_spacing(infos, 'received_ns', [START_NS + k * SECOND_NS // 10 for k in range(11)])
    clocks_ns = clock_ns(tmp_path / 'out')
    assert clocks_ns == sorted(clocks_ns)
    assert clocks_ns[-1] - clocks_ns[0] == 2 * SECOND_NS
    assert np.diff(clocks_ns).max() <= 20_000_000  # 100 Hz at twice the speed


def test_latched_stays_latched_through_player_and_recorder_and_sigint_ends_both(
    tmp_path: Path, processes: Processes
) -> None:
    with BagWriter(tmp_path / 'drive') as bag:
        bag.add_topic('/latched', UINT32, TopicQos(transient_local=True, depth=1))
        bag.add_topic('/count', UINT32)
        bag.write('/latched', START_NS, uint32_cdr(41))
        bag.write('/latched', START_NS + 1, uint32_cdr(42))
        for k in range(600):
            bag.write('/count', START_NS + 2 + k * SECOND_NS // 10, uint32_cdr(k))
    log = tmp_path / 'early.csv'
    early = processes.start(
        RECORDER, '--out', tmp_path / 'early', '--log', log, '/count', '/clock'
    )
    player = processes.start(
        PLAYER, tmp_path / 'drive', '--wait-for-subscribers', '0.1', '--clock-hz', '0'
    )
    wait_for_log(log, '/count', early)  # By now the latched messages are out, unheard.
    log = tmp_path / 'late.csv'
    late = processes.start(RECORDER, '--out', tmp_path / 'late', '--log', log, '/latched')
    wait_for_log(log, '/latched', late)
    recorded = interrupt(late)
    played = interrupt(player)
    assert recorded['received'] == {'/latched': 1}
    assert [m.cdr for m in messages_of(tmp_path / 'late', '/latched')] == [uint32_cdr(42)]
    with BagReader(tmp_path / 'late') as bag:
        assert bag.topics[0].qos and bag.topics[0].qos.transient_local
    assert played['published']['/latched'] == 2
    assert 0 < played['published']['/count'] < 600
    assert '/latched; playing anyway' in played['stderr']
    received = interrupt(early)['received']
    assert received['/count'] > 0
    assert received['/clock'] == 0


def test_parameters_alone_are_enough_and_loop_starts_again(
    tmp_path: Path, processes: Processes
) -> None:
    drive = write_drive(tmp_path / 'drive')
    recorder = processes.start(
        RECORDER, '--ros-args', '-p', f'out:={tmp_path / "out"}', '-p', 'topics:=["/clock"]',
        '-p', f'log:={tmp_path / "received.csv"}',
    )
    player = processes.start(
        PLAYER, '--ros-args', '-p', f'bag:={drive}', '-p', 'loop:=true', '-p', 'rate:=5.0',
        '-p', 'topics:=["/count"]', '-p', 'start_delay_s:=0.0',
    )
    wait_for_log(tmp_path / 'received.csv', '/clock', recorder)
    time.sleep(1)
    played = interrupt(player)
    interrupt(recorder)
    assert set(played['published']) == {'/count'}
    assert played['published']['/count'] > 2 * 101
    clocks_ns = clock_ns(tmp_path / 'out')
    # As with `ros2 bag play --loop`, time jumps back to the start of the bag.
    assert (np.diff(clocks_ns) < -SECOND_NS // 2).sum() >= 2
    assert START_NS in clocks_ns


def test_what_cannot_be_done_ends_with_code_1_and_a_sentence(
    tmp_path: Path, processes: Processes
) -> None:
    no_bag = processes.start(PLAYER, tmp_path / 'nowhere')
    no_topic = processes.start(PLAYER, write_drive(tmp_path / 'drive'), '--topics', '/nothing')
    not_new = processes.start(RECORDER, '--out', tmp_path, '/count')
    for process, sentence in (
        (no_bag, 'no such bag'),
        (no_topic, 'no topic /nothing in the bag; choose from /camera_info, /count, /image'),
        (not_new, 'already exists'),
    ):
        out, err = process.communicate(timeout=90)
        assert (process.returncode, out) == (1, '')
        assert sentence in err
        assert 'Traceback' not in err


def test_waits_for_subscribers_of_the_named_topics_only(
    tmp_path: Path, processes: Processes
) -> None:
    others_log = tmp_path / 'others.csv'
    others = processes.start(
        RECORDER, '--out', tmp_path / 'others', '--log', others_log, '/camera_info', '/clock'
    )
    player = processes.start(
        PLAYER, write_drive(tmp_path / 'drive'), '--wait-for-subscribers', '60',
        '--wait-for-topics', 'count', '--log', tmp_path / 'published.csv',
    )
    # It holds the clock while it waits: with each message it has looked for subscribers once more.
    wait_for_log(others_log, '/clock', others, lines=100)
    assert read_log(tmp_path / 'published.csv') == []
    recorder = processes.start(RECORDER, '--out', tmp_path / 'out', '/count')
    played = result(player)
    assert 'no subscriber to' not in played['stderr']
    assert interrupt(recorder)['received'] == {'/count': played['published']['/count']}


def test_after_kill_9_a_recording_holds_what_came_a_second_before(
    tmp_path: Path, processes: Processes
) -> None:
    log = tmp_path / 'received.csv'
    recorder = processes.start(RECORDER, '--out', tmp_path / 'out', '--log', log, '/count')
    player = processes.start(PLAYER, write_drive(tmp_path / 'drive'), '--topics', '/count',
                             '--wait-for-subscribers', '60')
    result(player)
    wait_for_log(log, '/count', recorder, lines=101)
    time.sleep(1.0)  # nothing comes any more that would carry the last ones along
    recorder.kill()
    for reader in (Reader(tmp_path / 'out'), BagReader(tmp_path / 'out')):
        with reader as bag:
            assert [message[-1][4] for message in bag.messages()] == list(range(101))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_on_a_full_disk_the_recorder_ends_with_one_error_and_a_bag_of_what_it_kept(
    tmp_path: Path, processes: Processes, storage: str
) -> None:
    with BagWriter(tmp_path / 'drive') as bag:
        bag.add_topic('/image', 'sensor_msgs/msg/Image')
        for k in range(100):
            cdr = image_cdr(np.zeros((100, 100), np.uint8), START_NS, 'camera', 'mono8')
            bag.write('/image', START_NS + k * 30_000_000, cdr)
    recorder = processes.start(
        RECORDER, '--out', tmp_path / 'out', '--storage', storage, '/image', file_bytes=600_000
    )
    processes.start(
        PLAYER, tmp_path / 'drive', '--loop', '--wait-for-subscribers', '60'
    )
    _, err = recorder.communicate(timeout=90)
    assert recorder.returncode == 1
    (sentence,) = [line for line in err.splitlines() if line.startswith('error: ')]
    assert 'cannot be written' in sentence and 'free some space' in sentence
    assert 'Traceback' not in err
    for reader in (Reader(tmp_path / 'out'), BagReader(tmp_path / 'out')):
        with reader as kept:
            count = len(list(kept.messages()))
            assert count == kept.message_count > 10
            assert f' {count} messages are kept (/image {count})' in sentence


def test_a_log_on_a_full_disk_and_a_message_without_a_header_end_nothing(
    tmp_path: Path, processes: Processes
) -> None:
    with BagWriter(tmp_path / 'drive') as bag:
        bag.add_topic('/camera_info', CAMERA_INFO)
        for k in range(5):
            bag.write('/camera_info', START_NS + k, b'\x00\x01\x00\x00' + bytes(4))
    full = Path('/dev/full')
    for received, published in (
        (full, full), (tmp_path / 'received.csv', tmp_path / 'published.csv')
    ):
        recorder = processes.start(
            RECORDER, '--out', tmp_path / f'out_{received.name}', '--log', received, '/camera_info'
        )
        player = processes.start(
            PLAYER, tmp_path / 'drive', '--wait-for-subscribers', '60', '--log', published
        )
        played = result(player)
        recorded = interrupt(recorder)
        assert played['published'] == recorded['received'] == {'/camera_info': 5}
        for said in (played, recorded):
            assert said['stderr'].count('--log: /dev/full cannot') == (received == full)
    for name in ('received.csv', 'published.csv'):
        assert [row['stamp_ns'] for row in read_log(tmp_path / name)] == [''] * 5


def test_a_gap_of_years_is_told_and_left_out_and_excluded_topics_are_silent(
    tmp_path: Path, processes: Processes
) -> None:
    with BagWriter(tmp_path / 'drive') as bag:
        for topic in ('/count', '/segmentation/mask'):
            bag.add_topic(topic, UINT32)
            for stamp_ns in (0, START_NS, START_NS + 10_000_000):
                bag.write(topic, stamp_ns, uint32_cdr(1))
    begun_s = time.monotonic()
    played = result(processes.start(
        PLAYER, tmp_path / 'drive', '--exclude', '/segmentation/mask', '--max-gap', '5'
    ))
    assert time.monotonic() - begun_s < 60
    assert played['published'] == {'/count': 3}
    assert 'skipping 1699999999 s without messages' in played['stderr']
    assert 'max_gap_s (5)' in played['stderr']


def test_who_comes_late_hears_the_static_transforms_of_every_broadcaster(
    tmp_path: Path, processes: Processes
) -> None:
    pytest.importorskip('tf2_msgs')
    types = jazzy_types().types
    with BagWriter(tmp_path / 'drive') as bag:
        bag.add_topic('/tf_static', 'tf2_msgs/msg/TFMessage')  # and no QoS
        for child, x in (('lidar', 1.0), ('camera', 2.0), ('lidar', 3.0)):
            transform = types['geometry_msgs/msg/TransformStamped'](
                types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](0, 0), 'base'),
                child,
                types['geometry_msgs/msg/Transform'](
                    types['geometry_msgs/msg/Vector3'](x, 0.0, 0.0),
                    types['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0),
                ),
            )
            message = types['tf2_msgs/msg/TFMessage']([transform])
            cdr = bytes(jazzy_types().serialize_cdr(message, 'tf2_msgs/msg/TFMessage'))
            bag.write('/tf_static', START_NS + int(x), cdr)
        bag.add_topic('/count', UINT32)
        for k in range(600):
            bag.write('/count', START_NS + 4 + k * SECOND_NS // 10, uint32_cdr(k))
    log = tmp_path / 'early.csv'
    early = processes.start(RECORDER, '--out', tmp_path / 'early', '--log', log, '/count')
    player = processes.start(PLAYER, tmp_path / 'drive')
    wait_for_log(log, '/count', early)
    log = tmp_path / 'late.csv'
    late = processes.start(RECORDER, '--out', tmp_path / 'late', '--log', log, '/tf_static')
    wait_for_log(log, '/tf_static', late)
    interrupt(late)
    assert interrupt(player)['published']['/tf_static'] == 3
    with BagReader(tmp_path / 'late') as bag:
        (message,) = map(bag.deserialize, bag.messages())
    found = {each.child_frame_id: each.transform.translation.x for each in message.transforms}
    assert found == {'lidar': 3.0, 'camera': 2.0}


def test_a_damaged_static_transform_is_told_and_played_as_it_is(
    tmp_path: Path, processes: Processes
) -> None:
    pytest.importorskip('tf2_msgs')
    with BagWriter(tmp_path / 'drive') as bag:
        bag.add_topic('/tf_static', 'tf2_msgs/msg/TFMessage')
        # More padding than it has bytes: Kilted's Fast CDR reads beyond them.
        bag.write('/tf_static', START_NS, b'\x00\x01\x00\x03')
    played = result(processes.start(PLAYER, tmp_path / 'drive'))
    assert played['published']['/tf_static'] == 1
    assert '/tf_static: a message is damaged (' in played['stderr']


def test_a_bag_of_fewer_messages_than_it_promises_is_played_told_and_ends_with_code_1(
    tmp_path: Path, processes: Processes
) -> None:
    drive = write_drive(tmp_path / 'drive')
    metadata = drive / 'metadata.yaml'
    metadata.write_text(metadata.read_text().replace('message_count: 101', 'message_count: 143'))
    player = processes.start(PLAYER, drive)
    out, err = player.communicate(timeout=90)
    assert player.returncode == 1
    said = json.loads(out.splitlines()[-1])
    assert (said['published']['/count'], said['missing']) == (101, {'/count': 42})
    assert 'missing: 42 of /count' in err
    assert 'Traceback' not in err
