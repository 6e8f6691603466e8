"""mnv2_perception.bags.ros1: ROS 1 bags read as if ROS 2 had recorded them."""

from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import get_types_from_msg, get_typestore, Stores

from mnv2_perception.bags.camera import find_camera, read_images
from mnv2_perception.bags.read import BagReader, TopicQos
from mnv2_perception.bags.transforms import add_transforms
from mnv2_perception.cli.main import main
from mnv2_perception.errors import BagError
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.transforms import TransformTree

NOETIC = get_typestore(Stores.ROS1_NOETIC)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
START_NS = 1_500_000_000_000_000_000


def header(number: int) -> object:
    types = NOETIC.types
    stamp = types['builtin_interfaces/msg/Time'](sec=1_500_000_000, nanosec=number)
    return types['std_msgs/msg/Header'](seq=number, stamp=stamp, frame_id='camera')


def write_ros1(path: Path, frames: int = 3) -> Path:
    """Write images, a calibration, a latched string, old-style tf and a type of the bag's own."""
    types = NOETIC.types
    for name, text in (
        ('car_msgs/msg/Gear', 'Header header\ntime due\nuint8 gear'),
        ('tf/msg/tfMessage', 'geometry_msgs/TransformStamped[] transforms'),
    ):
        NOETIC.register(get_types_from_msg(text, name))
    with Writer(path) as bag:
        def add(topic: str, type_name: str, **options: object) -> object:
            return bag.add_connection(topic, type_name, typestore=NOETIC, **options)

        image = add('/camera/image_raw', 'sensor_msgs/msg/Image')
        info = add('/camera/camera_info', 'sensor_msgs/msg/CameraInfo')
        note = add('/note', 'std_msgs/msg/String', latching=1)
        tf = add('/tf', 'tf/msg/tfMessage')
        gear = add('/gear', 'car_msgs/msg/Gear')
        bag.write(note, START_NS, NOETIC.serialize_ros1(
            types['std_msgs/msg/String'](data='hello'), 'std_msgs/msg/String'))
        roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        k = np.array([50.0, 0, 32, 0, 50, 24, 0, 0, 1])
        calibration = types['sensor_msgs/msg/CameraInfo'](
            header(0), 48, 64, 'plumb_bob', np.zeros(5), k, np.eye(3).ravel(), np.zeros(12), 0, 0,
            roi,
        )
        bag.write(info, START_NS, NOETIC.serialize_ros1(
            calibration, 'sensor_msgs/msg/CameraInfo'))
        vector, turn = types['geometry_msgs/msg/Vector3'], types['geometry_msgs/msg/Quaternion']
        step = types['geometry_msgs/msg/TransformStamped'](
            header(0), 'lens', types['geometry_msgs/msg/Transform'](
                vector(1.0, 2.0, 3.0), turn(0.0, 0.0, 0.0, 1.0)),
        )
        bag.write(tf, START_NS, NOETIC.serialize_ros1(
            types['tf/msg/tfMessage']([step]), 'tf/msg/tfMessage'))
        bag.write(gear, START_NS, NOETIC.serialize_ros1(types['car_msgs/msg/Gear'](
            header(7), types['builtin_interfaces/msg/Time'](9, 8), 4), 'car_msgs/msg/Gear'))
        for number in range(frames):
            msg = types['sensor_msgs/msg/Image'](
                header(number), 48, 64, 'rgb8', 0, 192, np.roll(IMAGE, number, 1).reshape(-1))
            bag.write(image, START_NS + number, NOETIC.serialize_ros1(
                msg, 'sensor_msgs/msg/Image'))
    return path


def test_images_calibration_and_transforms_come_as_ros2_has_them(tmp_path: Path) -> None:
    path = write_ros1(tmp_path / 'drive.bag')
    camera = find_camera(path)
    assert (camera.image, camera.info) == ('/camera/image_raw', '/camera/camera_info')
    frames = list(read_images(path, camera.image))
    assert [stamp_ns - START_NS for stamp_ns, _ in frames] == [0, 1, 2]
    assert np.array_equal(frames[2][1], np.roll(IMAGE, 2, 1))
    with BagReader(path) as bag:
        (info,) = bag.messages([camera.info])
        assert Camera.from_info(bag.deserialize(info)).fx == 50.0
        assert bag.message_count == 7
    tree = TransformTree()
    add_transforms(path, tree)
    assert tree.look_up('camera', 'lens', START_NS).translation.tolist() == [1.0, 2.0, 3.0]


def test_types_of_the_bag_s_own_and_latched_topics_are_kept(tmp_path: Path) -> None:
    path = write_ros1(tmp_path / 'drive.bag')
    with BagReader(path) as bag:
        topics = {topic.name: topic for topic in bag.topics}
        (message,) = bag.messages(['/gear'])
        gear = bag.deserialize(message)
    assert topics['/note'].qos == TopicQos(transient_local=True)
    assert topics['/gear'].qos is None and 'uint8 gear' in topics['/gear'].definition
    assert (gear.gear, gear.due.sec, gear.header.stamp.nanosec) == (4, 9, 7)
    assert not hasattr(gear.header, 'seq')


def test_a_folder_of_ros1_bags_is_merged(tmp_path: Path) -> None:
    write_ros1(tmp_path / 'a.bag')
    write_ros1(tmp_path / 'b.bag')
    with BagReader(tmp_path) as bag:
        assert bag.message_count == len(list(bag.messages())) == 14


@pytest.mark.parametrize('kept', [0, 13, 200, 0.5, 0.999])
def test_one_that_was_cut_is_refused_with_the_cure(tmp_path: Path, kept: float) -> None:
    path = write_ros1(tmp_path / 'drive.bag')
    data = path.read_bytes()
    path.write_bytes(data[:int(kept if kept > 1 else kept * len(data))])
    with pytest.raises(BagError, match=r"'rosbag reindex IN\.bag' where ROS 1 is installed"):
        BagReader(path)


def test_one_that_was_not_closed_is_refused_with_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / 'drive'
    folder.mkdir()
    path = write_ros1(folder / 'drive.bag').rename(folder / 'drive.bag.active')
    told = "'rosbag reindex drive.bag.active' where ROS 1 is installed, and rename it to drive.bag"
    out = tmp_path / 'out.mcap'
    for each in (path, folder):
        for arguments in (['info', str(each)], ['run', str(each), '--out', str(out)]):
            assert main(['bag', *arguments]) == 1
            assert capsys.readouterr().err.endswith(f'{told}\n')
    write_ros1(folder / 'before.bag')
    with BagReader(folder) as bag:
        assert bag.message_count == 7
    assert f'{told}: left out' in caplog.text


def test_a_damaged_chunk_ends_it_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    path = tmp_path / 'drive.bag'
    types = NOETIC.types
    writer = Writer(path)
    writer.set_compression(writer.CompressionFormat.BZ2)
    with writer as bag:
        connection = bag.add_connection('/note', 'std_msgs/msg/String', typestore=NOETIC)
        for number in range(4):
            text = np.random.default_rng(number).bytes(600_000).hex()
            bag.write(connection, START_NS + number, NOETIC.serialize_ros1(
                types['std_msgs/msg/String'](data=text), 'std_msgs/msg/String'))
    data = bytearray(path.read_bytes())
    place = data.rindex(b'BZh')
    data[place + 100:place + 200] = bytes(100)
    path.write_bytes(data)
    with BagReader(path) as bag:
        came = list(bag.readable())
        assert len(came) == 3 and bag.losses.messages == {'/note': 1}
        assert bag.losses.reasons
