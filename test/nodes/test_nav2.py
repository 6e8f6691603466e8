"""Nodes in processes of their own, and Nav2's layers, restated, on their topics over real DDS."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
import math
from pathlib import Path
import re
import threading
import time
from typing import Any

from camera_scene import draw_box
from identity_network import identity_spec, write_fake
import numpy as np
from numpy.typing import NDArray
import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from nav2_consumer import (
    CollisionMonitor,
    Costmap,
    Frames,
    FREE,
    Hazard,
    LETHAL,
    ObstacleLayer,
    Outdated,
    SemanticLayer,
    settings_of,
    StaticLayer,
)
from nav_msgs.msg import OccupancyGrid
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time as RclpyTime
from ros_graph import eventually, Graph
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from std_msgs.msg import Header
from test_costmap_node import (
    BOX_AT,
    CAMERA,
    camera_info,
    depth_msg,
    PLACED,
    POSE,
    Scene,
    Tf2,
    xyz,
)
from vision_msgs.msg import LabelInfo

from mnv2_perception.engines import open_engine
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nodes import poses
from mnv2_perception.nodes.costmap_node import CostmapNode
from mnv2_perception.nodes.messages import cloud_to_msg, mask_to_msg, rgb_to_msg, stamp_to_ns
from mnv2_perception.nodes.parameters import CostmapParameters, SegmentationParameters
from mnv2_perception.tasks.models import find_model
from mnv2_perception.vision.pose import Pose
from mnv2_perception.vision.projection import depth_points

pytestmark = pytest.mark.ros

FILES = ('nav2_semantic_costmap.yaml', 'nav2_obstacle_costmap.yaml')
LOCAL, GLOBAL = ('local_costmap',) * 2, ('global_costmap',) * 2
SEMANTIC, OBSTACLES = (settings_of(file, *LOCAL) for file in FILES)
MONITOR = settings_of('nav2_obstacle_costmap.yaml', 'collision_monitor')
CAMERA_FRAME = OBSTACLES['obstacle_layer']['ground']['sensor_frame']
FRAMES = Frames({CAMERA_FRAME: POSE})
# Nav2's: sensor data, with the layers' depths, and latched.
SENSOR_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_QOS = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
# Clouds are small enough for the middleware's default buffers (config/fastdds.xml makes room).
DEPTH_CAMERA = CAMERA.resized(120, 160)
IN_PROCESS = {
    name: value for name, value in PLACED.items() if not name.endswith('_classes')
} | {'semantic_height': 120}


def default_model() -> ModelSpec:
    model = find_model(SegmentationParameters().model)
    with open_engine(model, 'onnx_runtime') as engine:
        return ModelSpec.from_metadata(engine.metadata, model)


CLASSES = default_model().classes
IDS = np.array([CLASSES.index(name) for name in ('background', 'floor', 'obstacle')], np.uint8)


def draw(*box: tuple[float, float, float]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the ids of the scene's mask, and depth of half its size."""
    return IDS[draw_box(CAMERA, POSE, *box)[0]], draw_box(DEPTH_CAMERA, POSE, *box)[1]


# The files


def named(settings: Mapping[str, Any], *keys: str) -> Iterator[tuple[Mapping[str, Any], str, Any]]:
    """Walk a file; give each entry of these keys and what it lies in."""
    for key, value in settings.items():
        if key in keys:
            yield settings, key, value
        if isinstance(value, dict):
            yield from named(value, *keys)


def read(file: str) -> dict[str, Any]:
    nodes = {'local': LOCAL, 'global': GLOBAL, 'monitor': ('collision_monitor',)}
    if 'semantic' in file:
        nodes.pop('monitor')
    return {name: settings_of(file, *path) for name, path in nodes.items()}


@pytest.mark.parametrize('file', FILES)
def test_every_topic_of_the_nav2_files_is_one_of_the_node_and_of_its_type(file: str) -> None:
    types = {
        'segmentation_topic': 'sensor_msgs/msg/Image', 'confidence_topic': 'sensor_msgs/msg/Image',
        'labels_topic': 'vision_msgs/msg/LabelInfo', 'map_topic': 'nav_msgs/msg/OccupancyGrid',
        'pointcloud_topic': 'sensor_msgs/msg/PointCloud2',
        'PointCloud2': 'sensor_msgs/msg/PointCloud2', 'pointcloud': 'sensor_msgs/msg/PointCloud2',
        'LaserScan': 'sensor_msgs/msg/LaserScan',
    }
    graph = Graph(CostmapNode)
    try:
        graph.start()
        eventually(lambda: graph.peer.count_publishers('/grid'))
        published = dict(graph.peer.get_publisher_names_and_types_by_node('costmap_node', '/'))
    finally:
        graph.close()
    keys = ('topic', 'map_topic', *(key for key in types if key.endswith('_topic')))
    found = list(named(read(file), *keys))
    assert len(found) >= 8
    for source, key, topic in found:
        kind = source.get('data_type') or source.get('type') if key == 'topic' else key
        assert published[topic] == [types[kind]], topic


@pytest.mark.parametrize('file', FILES)
def test_every_frame_of_the_nav2_files_is_the_node_s_by_default(file: str) -> None:
    defaults, settings = CostmapParameters(), read(file)
    frames = {
        'robot_base_frame': defaults.base_frame, 'base_frame_id': defaults.base_frame,
        'odom_frame_id': defaults.grid_frame, 'sensor_frame': CAMERA_FRAME,
    }
    assert settings['local']['global_frame'] == defaults.grid_frame
    assert settings['global']['global_frame'] == 'map'  # of Nav2's localisation
    for _, key, frame in named(settings, *frames):
        assert frame == frames[key], key


@pytest.mark.parametrize('costmap', ['local', 'global'])
def test_every_class_of_the_semantic_file_is_one_of_the_default_model(costmap: str) -> None:
    defaults = CostmapParameters()
    source = read(FILES[0])[costmap]['semantic_segmentation_layer']['camera']
    by_type = {kind: source[kind]['classes'] for kind in source['class_types']}
    given = [name for names in by_type.values() for name in names]
    assert len(given) == len(set(given)) and set(given) <= set(CLASSES)
    assert by_type['free'] == list(defaults.traversable_classes)
    assert by_type['avoided'] + by_type['falls'] == list(defaults.forbidden_classes)
    left_out = {'local': set(), 'global': {'obstacle'}}[costmap]  # the local costmap's alone
    assert set(given) == set(CLASSES) - left_out - set(defaults.ignored_classes)


@pytest.mark.parametrize('file', FILES)
def test_ros_reads_the_nav2_files(file: str) -> None:
    graph = Graph()
    try:
        path = Path(__file__).parents[2] / 'config' / file
        node = Node(
            'local_costmap', namespace='local_costmap', context=graph.context,
            cli_args=['--ros-args', '--params-file', str(path)],
            automatically_declare_parameters_from_overrides=True,
        )
        found = node.get_parameters_by_prefix('')
        node.destroy_node()
    finally:
        graph.close()
    expected: dict[str, Any] = {}

    def flatten(values: Mapping[str, Any], prefix: str = '') -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                flatten(value, f'{prefix}{key}.')
            else:
                expected[prefix + key] = value

    flatten(settings_of(file, *LOCAL))
    for name, value in expected.items():
        got = parameter_value_to_python(found[name].get_parameter_value())
        assert (type(got), got) == (type(value), value), name


# Between processes


class Nav2:
    """The layers of both files on their topics, in a node; a hazard is told by `update`."""

    def __init__(self, graph: Graph) -> None:
        self.node = Node('nav2', context=graph.context)
        self.semantic = SemanticLayer(SEMANTIC, FRAMES)
        self.clouds = ObstacleLayer(OBSTACLES, FRAMES)
        self.scans = ObstacleLayer(OBSTACLES, FRAMES, 'scan_layer')
        self.static = StaticLayer(OBSTACLES, FRAMES)
        self.master = Costmap(OBSTACLES)
        self.monitor = CollisionMonitor(MONITOR, FRAMES)
        self.monitored: NDArray[np.float32]
        self.latest: dict[str, Any] = {}
        self._hazards: list[Hazard] = []
        self._lock = threading.Lock()
        for kind in SemanticLayer.KINDS:
            msg_type = PointCloud2 if kind == 'points' else Image
            self._listen(msg_type, self.semantic.topics[kind], self.semantic.hear, kind)
        self._listen(
            LabelInfo, self.semantic.topics['label_info'], self.semantic.hear_labels,
            qos=LATCHED_QOS,
        )
        for layer, msg_type in ((self.clouds, PointCloud2), (self.scans, LaserScan)):
            for name, source in layer.sources.items():
                self._listen(msg_type, source['topic'], layer.hear, name)
        for name, source in self.monitor.sources.items():
            self._listen(PointCloud2, source['topic'], self.monitor.hear, name)
        self._listen(OccupancyGrid, self.static.topic, self.static.hear, qos=LATCHED_QOS)
        graph.spin(self.node)

    def _listen(
        self, msg_type: Any, topic: str, hear: Any, *names: str, qos: QoSProfile = SENSOR_QOS
    ) -> None:
        def on_message(msg: Any) -> None:
            with self._lock:
                self.latest[topic] = msg
                try:
                    hear(*names, msg)
                except Hazard as hazard:
                    self._hazards.append(hazard)

        self.node.create_subscription(msg_type, topic, on_message, qos)

    def heard_all(self) -> bool:
        """Tell whether each topic was heard."""
        return len(self.latest) == len({item.topic_name for item in self.node.subscriptions})

    def update(self) -> None:
        """Bring all costmaps up to date; the robot stands at the origin of odom."""
        with self._lock:
            if self._hazards:
                raise self._hazards[0]
            for layer in (self.semantic, self.clouds, self.scans):
                layer.update(0.0, 0.0)
            self.master.cells[:] = self.master.default
            self.master.roll(0.0, 0.0)
            self.static.update(self.master)

    def monitor_hears(self) -> bool:
        """Tell whether collision_monitor has something recent; keep it as `monitored`."""
        with self._lock, suppress(Outdated):  # a busy machine makes it wait
            self.monitored = self.monitor.points('obstacles')
            return True
        return False

    def faces(self) -> dict[str, float]:
        """Return for each costmap the least x that is lethal on the row through the box."""
        self.update()
        costmaps = {
            'semantic': self.semantic.costmap, 'clouds': self.clouds.costmap,
            'scans': self.scans.costmap, 'grid': self.master,
        }
        found = {}
        for name, costmap in costmaps.items():
            xs = np.arange(0.4, 4.9, costmap.resolution)
            lethal = [x for x in xs if costmap.cost(float(x), 0.65) == LETHAL]
            found[name] = float(min(lethal, default=math.inf))
        return found


class Robot(Graph):
    """The peer is the camera; the nodes run in processes of their own."""

    def __init__(self) -> None:
        super().__init__()
        create = self.peer.create_publisher
        self.calibration = create(CameraInfo, 'camera_info', 1)
        self.depth_calibration = create(CameraInfo, 'depth/camera_info', 1)
        self.depth = create(Image, 'depth/image', 1)
        self.points = create(PointCloud2, 'points', 1)
        self.scene = draw()

    def publish(
        self, ids: NDArray[np.uint8], depth_m: NDArray[np.float32], confidence: int, stamp: Time
    ) -> None:
        """Show the segmentation network, which is the identity, an image, and its depth."""
        image = np.zeros((*ids.shape, 3), np.uint8)
        image[..., 0], image[..., 1] = ids, confidence
        header = Header(stamp=stamp, frame_id=CAMERA_FRAME)
        self.calibration.publish(camera_info(CAMERA, CAMERA_FRAME))
        self.depth_calibration.publish(camera_info(DEPTH_CAMERA, CAMERA_FRAME))
        if self.depth.get_subscription_count():
            self.depth.publish(depth_msg(depth_m, header, '32FC1'))
        if self.points.get_subscription_count():
            self.points.publish(cloud_to_msg(depth_points(depth_m, DEPTH_CAMERA), header))
        self.camera.publish(rgb_to_msg(image, header))

    @contextmanager
    def filming(self) -> Iterator[None]:
        """Show `scene` ten times a second, stamped now."""
        stop = threading.Event()

        def film() -> None:
            while not stop.wait(0.1):
                self.publish(*self.scene, 200, self.peer.get_clock().now().to_msg())

        thread = threading.Thread(target=film)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def perceiving(
        self, folder: Path, latency_ms: float = 0.0, source: str = 'ground', **costmap: Any
    ) -> Iterator[None]:
        """Run segmentation_node and costmap_node."""
        spec = identity_spec(CAMERA.height, CAMERA.width, classes=list(CLASSES))
        model = write_fake(folder / 'identity.yaml', spec, latency_ms)
        with (
            self.process('segmentation_node', model=model, engine='fake'),
            self.process('costmap_node', source=source, **IN_PROCESS, **costmap),
        ):
            eventually(lambda: self.calibration.get_subscription_count(), 30.0)
            eventually(lambda: self.camera.get_subscription_count(), 30.0)
            yield


@pytest.fixture
def robot() -> Iterator[Robot]:
    robot = Robot()
    yield robot
    robot.close()


@pytest.mark.parametrize('source', ['ground', 'depth', 'points'])
def test_a_box_gives_the_right_cell_point_and_beam_and_its_absence_clears_every_layer(
    robot: Robot, tmp_path: Path, source: str
) -> None:
    with robot.perceiving(tmp_path, source=source), robot.filming():
        nav2 = Nav2(robot)
        eventually(nav2.heard_all, 30.0)
        assert nav2.faces() == dict.fromkeys(nav2.faces(), math.inf)
        robot.scene = draw(*BOX_AT)
        faces: dict[str, float] = {}

        def all_mark_it() -> bool:  # at once: on a busy machine what was marked ages
            faces.update(nav2.faces())
            return max(faces.values()) < math.inf

        eventually(all_mark_it, 30.0)
        for name, x in faces.items():
            cell_m = 0.1 if name in ('semantic', 'grid') else 0.05
            assert x == pytest.approx(3.0, abs=cell_m + 0.01), name
        eventually(nav2.monitor_hears)
        points = nav2.monitored
        x, _, z = points[(points[:, 1] > 0.45) & (points[:, 1] < 0.85) & (points[:, 2] < 0.28)].T
        np.testing.assert_allclose(x, 3.0, atol=0.05)
        assert len(z) > 20 and (source != 'ground' or set(z) == {0.25})
        scan = nav2.latest['/scan']
        beam = round((math.atan2(0.65, 3.0) - scan.angle_min) / scan.angle_increment)
        assert scan.ranges[beam] == pytest.approx(math.hypot(3.0, 0.65), abs=0.05)
        robot.scene = draw()
        eventually(lambda: set(nav2.faces().values()) == {math.inf}, 30.0)
        for costmap in (nav2.semantic.costmap, nav2.clouds.costmap, nav2.scans.costmap):
            eventually(lambda costmap=costmap: costmap.cost(3.02, 0.65) == FREE, 30.0)
        eventually(lambda: nav2.monitor_hears() and not len(nav2.monitored), 30.0)


def people_layer() -> dict[str, Any]:
    """Return the settings that docs/costmaps.md gives for a class's cloud, here of obstacles."""
    page = (Path(__file__).parents[2] / 'docs/costmaps.md').read_text(encoding='utf-8')
    block = re.findall('```\n(plugins: .*?)```', page, re.S)[0]
    settings: dict[str, Any] = yaml.safe_load(block.replace('person', 'obstacle'))
    return {**OBSTACLES, **settings}


@pytest.mark.parametrize('source', ['ground', 'depth', 'points'])
def test_a_layer_of_one_class_marks_it_and_forgets_it_and_knows_no_other(
    robot: Robot, tmp_path: Path, source: str
) -> None:
    settings = people_layer()
    others = re.sub('obstacles/obstacle', 'obstacles/stairs', yaml.safe_dump(settings))
    layers = {
        'obstacle': ObstacleLayer(settings, FRAMES, 'people_layer'),
        'stairs': ObstacleLayer(yaml.safe_load(others), FRAMES, 'people_layer'),
    }
    assert {'obstacle', 'stairs'} < set(CLASSES)
    with (
        robot.perceiving(tmp_path, source=source, cloud_classes=['obstacle', 'stairs']),
        robot.filming(),
    ):
        node = Node('nav2', context=robot.context)
        heard: set[tuple[str, str]] = set()
        lock = threading.Lock()

        def listen(name: str, layer: ObstacleLayer, kind: str) -> None:
            def on_message(msg: PointCloud2) -> None:
                with lock:
                    layer.hear(kind, msg)
                    heard.add((name, kind))

            node.create_subscription(
                PointCloud2, layer.sources[kind]['topic'], on_message, SENSOR_QOS
            )

        for name, layer in layers.items():
            for kind in layer.sources:
                listen(name, layer, kind)
        robot.spin(node)

        def face(name: str) -> float:
            with lock:
                layers[name].update(0.0, 0.0)
                cells = layers[name].costmap
            lethal = [x for x in np.arange(0.4, 4.9, 0.05) if cells.cost(float(x), 0.65) == LETHAL]
            return float(min(lethal, default=math.inf))

        eventually(lambda: len(heard) == 4, 30.0)
        robot.scene = draw(*BOX_AT)
        eventually(lambda: face('obstacle') < math.inf)
        assert face('obstacle') == pytest.approx(3.0, abs=0.06)
        assert face('stairs') == math.inf
        robot.scene = draw()
        eventually(lambda: face('obstacle') == math.inf)


def test_a_late_consumer_in_another_process_hears_label_info_before_any_mask(
    robot: Robot, tmp_path: Path
) -> None:
    first = robot.subscribe(Image, '/semantic/mask')
    with robot.perceiving(tmp_path), robot.filming():
        eventually(lambda: len(first) > 3, 30.0)
        heard: list[str] = []
        late = Node('late', context=robot.context)
        for topic in ('/semantic', '/segmentation'):
            late.create_subscription(
                LabelInfo, f'{topic}/label_info', lambda _, at=topic: heard.append(f'{at} names'),
                LATCHED_QOS,
            )
            late.create_subscription(
                Image, f'{topic}/mask', lambda _, at=topic: heard.append(f'{at} mask'), SENSOR_QOS
            )
        robot.spin(late)
        nav2 = Nav2(robot)  # NullDereference is one of its hazards
        eventually(lambda: nav2.semantic.sets > 3)
        nav2.update()
        for topic in ('/semantic', '/segmentation'):
            eventually(lambda at=topic: f'{at} mask' in heard)
            assert heard.index(f'{topic} names') < heard.index(f'{topic} mask')


@pytest.mark.parametrize('latency_ms', [0.0, 150.0], ids=['in time', 'overloaded'])
def test_no_frame_reappears_under_the_stamp_of_another(
    robot: Robot, tmp_path: Path, latency_ms: float
) -> None:
    corners = [2.0 + 0.1 * k for k in range(10)]
    scenes = [draw((x, 0.4, 0.0), (x + 0.3, 0.9, 0.3)) for x in corners]
    images = {
        name: robot.subscribe(Image, name)
        for name in (
            'segmentation/mask', 'segmentation/confidence', 'semantic/mask', 'semantic/confidence'
        )
    }
    obstacles = robot.subscribe(PointCloud2, 'obstacles')
    scans = robot.subscribe(LaserScan, 'scan')
    shown: dict[int, int] = {}

    def show(seconds: float) -> None:
        for _ in range(round(30 * seconds)):
            number, stamp = len(shown), robot.peer.get_clock().now().to_msg()
            shown[stamp_to_ns(stamp)] = number
            robot.publish(*scenes[number % 10], 1 + number % 255, stamp)
            time.sleep(1 / 30)

    with robot.perceiving(tmp_path, latency_ms):
        robot.wait_for_topics()
        deadline_s = time.monotonic() + 15.0
        while not all([*images.values(), obstacles, scans]) and time.monotonic() < deadline_s:
            show(0.5)
        show(3.0)
        time.sleep(1.0)
    for name, messages in images.items():
        assert len(messages) > 5, name
        for msg in messages:
            number = shown[stamp_to_ns(msg.header.stamp)]
            ids, _ = scenes[number % 10]
            pixels = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width)
            if name.endswith('confidence'):
                assert set(pixels.ravel()) == {1 + number % 255}, name
            elif name == 'segmentation/mask':
                assert np.array_equal(pixels, ids)
            else:
                assert np.array_equal(pixels, ids[1::2, 1::2])  # half the size
    for msg in obstacles:
        x, y, _ = xyz(msg).T
        expected = corners[shown[stamp_to_ns(msg.header.stamp)] % 10]
        np.testing.assert_allclose(np.median(x[(y > 0.5) & (y < 0.8)]), expected, atol=0.04)
    for msg in scans:
        x = corners[shown[stamp_to_ns(msg.header.stamp)] % 10]
        beam = round((math.atan2(0.65, x) - msg.angle_min) / msg.angle_increment)
        assert msg.ranges[beam] == pytest.approx(math.hypot(x, 0.65), abs=0.05)
    for messages in (*images.values(), obstacles, scans):
        stamps = [stamp_to_ns(msg.header.stamp) for msg in messages]
        assert stamps == sorted(set(stamps))


# A robot that moves


def odom_from_base(stamp_s: float | None) -> Pose:
    """Turn at 0.2 rad/s; the latest transform is later than every image."""
    turned_s = 4.0 if stamp_s is None else stamp_s - 1000.0
    return Pose.from_rpy(10.0, 20.0, 0.0, 0.0, 0.0, 0.2 * turned_s - 0.4)


class TurningTf2(Tf2):
    """tf2_ros of that robot."""

    class Buffer(Tf2.Buffer):
        def lookup_transform(
            self, target_frame: str, source_frame: str, time: RclpyTime
        ) -> TransformStamped:
            found = super().lookup_transform(target_frame, source_frame, time)
            if target_frame == 'odom':
                half = odom_from_base(time.nanoseconds * 1e-9).yaw / 2
                found.transform.rotation.z = math.sin(half)
                found.transform.rotation.w = math.cos(half)
            return found


def test_of_a_turning_robot_every_layer_marks_the_box_where_it_stands_in_odom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', TurningTf2)
    frames = Frames({CAMERA_FRAME: POSE}, world_from_base=odom_from_base)
    low, high = (13.0, 20.2, 0.0), (13.4, 20.7, 0.3)
    clouds = ObstacleLayer(OBSTACLES, frames, clock=lambda: 1004.0)
    scans = ObstacleLayer(OBSTACLES, frames, 'scan_layer', clock=lambda: 1004.0)
    static, master = StaticLayer(OBSTACLES, frames), Costmap(OBSTACLES)
    scene = Scene()
    try:
        node = scene.start(pose_source='tf')
        scene.calibrate(node)
        for number in (1, 2, 3):
            stamp = Header(stamp=Time(sec=1000 + number, nanosec=7), frame_id='camera_optical')
            pose = odom_from_base(1000.0 + number) @ POSE
            scene.camera.publish(mask_to_msg(draw_box(CAMERA, pose, low, high)[0], stamp))
            found = scene.wait_for_results(number)
            for name in clouds.sources:
                clouds.hear(name, found[name])
            for name in scans.sources:
                scans.hear(name, found['scan'])
            static.hear(found['grid'])
            master.roll(10.0, 20.0)
            master.cells[:] = FREE
            static.update(master)
            clouds.update(10.0, 20.0)
            scans.update(10.0, 20.0)
            for costmap in (clouds.costmap, scans.costmap, master):
                rows, columns = np.nonzero(costmap.cells == LETHAL)
                x = costmap.origin[0] + (columns + 0.5) * costmap.resolution
                y = costmap.origin[1] + (rows + 0.5) * costmap.resolution
                front = (y > 20.3) & (y < 20.6)
                np.testing.assert_allclose(x[front].min(), 13.0, atol=0.08)
                assert x.min() > 12.85 and x.max() < 13.6
                assert y.min() > 20.05 and y.max() < 20.85
    finally:
        scene.close()
