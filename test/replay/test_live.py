"""What a bag run writes is what the live nodes publish of the same frames, field by field."""

from pathlib import Path
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from nav_msgs.msg import OccupancyGrid
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from running_nodes import running, wait
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from vision_msgs.msg import Classification, Detection2DArray, LabelInfo

from mnv2_perception.bags.read import BagReader
from mnv2_perception.cli.main import main
from mnv2_perception.nodes.parameters import CostmapParameters
from mnv2_perception.replay.placing import Ground
from mnv2_perception.scenes.bag import draw_bag, IMAGE_TOPIC, INFO_TOPIC

pytestmark = pytest.mark.ros

MODELS = {
    'segmentation': 'unet_mobilenetv2_ground_fast',
    'classification': 'mobilenetv2_ground_ahead', 'detection': 'ssdlite_mobilenetv2_camvid',
}
LATCHED = {
    '/segmentation/label_info': LabelInfo, '/classification/label_info': LabelInfo,
    '/detections/label_info': LabelInfo,
}
TOPICS = {
    '/segmentation/mask': Image, '/segmentation/confidence': Image,
    '/classification': Classification, '/detections': Detection2DArray,
    '/ground': PointCloud2, '/obstacles': PointCloud2, '/scan': LaserScan,
    '/grid': OccupancyGrid,
}


def test_placing_has_the_defaults_of_costmap_node() -> None:
    for name, value in vars(Ground()).items():
        assert value == getattr(CostmapParameters(), name), name


def plain(value: Any) -> Any:
    """Return a message as nested lists, in which NaN equals NaN."""
    if hasattr(value, 'get_fields_and_field_types'):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, (str, bytes, int)):
        return value
    if isinstance(value, float):
        return value if value == value else 'nan'
    if hasattr(value, 'typecode') or isinstance(value, np.ndarray):
        return np.asarray(value).tobytes()
    return [plain(each) for each in value]


def test_a_run_writes_what_the_nodes_publish(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    bag, out, height_m = tmp_path / 'street', tmp_path / 'out.mcap', 1.4
    draw_bag(bag, duration_s=0.2)
    models = [part for name in MODELS.values() for part in ('--model', name)]
    assert main([
        'bag', 'run', str(bag), '--out', str(out), *models, '--engine', 'onnx_runtime',
        '--camera-height', str(height_m), '--min-score', '0.05',
    ]) == 0
    with BagReader(bag) as reader:
        images = [
            deserialize_message(each.cdr, Image) for each in reader.messages([IMAGE_TOPIC])
        ]
        info = deserialize_message(next(reader.messages([INFO_TOPIC])).cdr, CameraInfo)
    camera = {'engine': 'onnx_runtime'}
    parameters: dict[str, dict[str, Any]] = {
        'perception': {'nodes': [*MODELS, 'costmap']},
        **{f'{name}_node': {**camera, 'model': model} for name, model in MODELS.items()},
        'costmap_node': {'pose_source': 'parameters', 'camera_z_m': height_m},
    }
    parameters['detection_node']['min_score'] = 0.05
    heard: dict[str, list[Any]] = {name: [] for name in (*TOPICS, *LATCHED)}
    with running(tmp_path / 'live', 'perception', parameters) as live:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for name, kind in TOPICS.items():
            live.peer.node.create_subscription(kind, name, heard[name].append, 10)
        for name, kind in LATCHED.items():
            live.peer.node.create_subscription(kind, name, heard[name].append, latched)
        live.active(4)
        send = live.peer.publisher(Image, 'image')
        calibrate = live.peer.publisher(CameraInfo, 'camera_info')
        wait(lambda: send.get_subscription_count() >= 1, 20.0, 'the nodes listen')
        wait(lambda: calibrate.get_subscription_count() >= 1, 20.0, 'costmap_node listens')
        time.sleep(1.0)  # masks are held back while the names of the classes go out
        calibrate.publish(info)
        time.sleep(0.3)
        for image in images:
            def all_heard(stamp: Any = image.header.stamp) -> bool:
                return all(
                    any(msg.header.stamp == stamp for msg in heard[name]) for name in TOPICS
                )

            send.publish(image)
            wait(all_heard, 30.0, 'each node answers')
    with BagReader(out) as reader:
        for name, kind in TOPICS.items():
            ours = [deserialize_message(each.cdr, kind) for each in reader.messages([name])]
            assert len(ours) == len(images)
            for message in ours:
                twin = next(
                    each for each in heard[name] if each.header.stamp == message.header.stamp
                )
                assert plain(message) == plain(twin), name
        for name, kind in LATCHED.items():
            (ours,) = [deserialize_message(each.cdr, kind) for each in reader.messages([name])]
            ours.header.stamp = heard[name][-1].header.stamp  # the node's clock
            assert plain(ours) == plain(heard[name][-1])
    assert any(msg.detections for msg in heard['/detections'])
