"""costmap_node: masks and a camera's geometry in, what Nav2's costmaps take out."""

from collections import deque
from dataclasses import dataclass
import sys
import threading
import time
from typing import Any

from nav_msgs.msg import OccupancyGrid
import numpy as np
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.errors import CalibrationError, ImageError
from mnv2_perception.model_spec import UNLABELLED
from mnv2_perception.nodes.greeting import GREET_PERIOD_S, Greeting
from mnv2_perception.nodes.lifecycle import (
    Frame,
    LATCHED_QOS,
    LOG_PERIOD_S,
    PerceptionNode,
    spin,
)
from mnv2_perception.nodes.messages import (
    camera_info_to_msg,
    cloud_to_msg,
    depth_from_msg,
    grid_to_msg,
    labels_from_msg,
    mask_to_msg,
    pinhole_to_msg,
    points_from_msg,
    scan_to_msg,
    stamp_to_ns,
)
from mnv2_perception.nodes.parameters import CostmapParameters, ParameterError
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.costmap import (
    FORBIDDEN,
    FREE_CELL,
    Grid,
    GroundView,
    OBSTACLE,
    OCCUPIED_CELL,
    Scan,
    scan_of_points,
    TRAVERSABLE,
    UNKNOWN,
)
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose
from mnv2_perception.vision.projection import (
    depth_points,
    points_of,
    register_depth,
    resize_points,
)

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

IN_PLACE = Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Marks:
    """What one mask marks and clears, in the base frame; `points` (H, W, 3) is organised."""

    points: NDArray[np.float32]
    obstacles: NDArray[np.float32]
    ground: NDArray[np.float32]
    scan: Scan
    grid: Grid


class StampedQueue:
    """The latest messages of a topic, to be found by stamp; any thread may use it."""

    def __init__(self, length: int) -> None:
        self._messages: deque[tuple[int, Any]] = deque(maxlen=length)
        self._arrived = threading.Condition()

    def put(self, msg: Any) -> None:
        """Keep a message."""
        with self._arrived:
            self._messages.append((stamp_to_ns(msg.header.stamp), msg))
            self._arrived.notify_all()

    def find(self, stamp_ns: int, tolerance_s: float, wait_s: float) -> Any:
        """Return the message nearest to a stamp, or None if none comes in time."""
        found = None

        def look() -> bool:
            nonlocal found
            off = [(abs(ns - stamp_ns), msg) for ns, msg in self._messages]
            off_ns, found = min(off, key=lambda pair: pair[0], default=(0, None))
            if off_ns > tolerance_s * 1e9:
                found = None
            return found is not None

        with self._arrived:
            self._arrived.wait_for(look, wait_s)
        return found


class CostmapNode(PerceptionNode):
    """Places masks on the ground or in space, and publishes what costmap layers take."""

    Parameters = CostmapParameters

    def __init__(self, **kwargs: Any) -> None:
        self._label_info: LabelInfo | None = None
        self._camera_info: CameraInfo | None = None
        self._depth_info: CameraInfo | None = None
        self._view: tuple[Camera, Pose, GroundView] | None = None
        self._tf: Any = None
        super().__init__('costmap_node', **kwargs)
        self.create_steady_timer(GREET_PERIOD_S, self.greet)

    # Lifecycle

    def acquire(self) -> None:
        values: CostmapParameters = self.parameters
        if values.pose_source == 'tf' and tf2_ros is None:
            raise ParameterError(
                "pose_source is 'tf', but tf2_ros is not installed; install it, or give the "
                "camera's pose as parameters (pose_source: parameters)"
            )
        if values.source == 'depth' and values.horizontal_fov_rad:
            raise ParameterError(
                "horizontal_fov_rad is no calibration for source 'depth', whose points would be "
                "off by the guess; remap camera_info to the camera's own, or, where depth is "
                'registered to the image, to depth/camera_info'
            )
        if values.pose_source != 'parameters' and tf2_ros is not None:
            self._tf = tf2_ros.Buffer()
            self._tf_listener = tf2_ros.TransformListener(self._tf, self)
        publisher = self.create_result_publisher
        self._semantic_label_info = publisher(LabelInfo, 'semantic/label_info', LATCHED_QOS)
        self._semantic_mask = publisher(Image, 'semantic/mask')
        self._semantic_confidence = publisher(Image, 'semantic/confidence')
        self._semantic_points = publisher(PointCloud2, 'semantic/points')
        self._semantic_camera_info = publisher(CameraInfo, 'semantic/camera_info')
        self._obstacles = publisher(PointCloud2, 'obstacles')
        self._ground = publisher(PointCloud2, 'ground')
        self._scan = publisher(LaserScan, 'scan')
        self._grid = publisher(OccupancyGrid, 'grid', LATCHED_QOS)
        self.greeting = Greeting(
            self._semantic_mask.get_subscription_count, self._publish_label_info
        )
        self._confidences = StampedQueue(values.sync_queue)
        self._measured = StampedQueue(values.sync_queue)

    def release(self) -> None:
        if self._tf is not None:
            self._tf_listener.unregister()
        self._tf = self._view = self._label_info = self._camera_info = self._depth_info = None

    def announce(self) -> None:
        self.greeting.announce()

    def subscribe(self) -> None:
        values: CostmapParameters = self.parameters
        listen = self.create_camera_subscription
        listen(LabelInfo, 'segmentation/label_info', self.on_label_info, LATCHED_QOS)
        listen(Image, 'segmentation/confidence', self._confidences.put)
        listen(CameraInfo, 'camera_info', self.on_camera_info)
        if values.source == 'depth':
            listen(CameraInfo, 'depth/camera_info', self.on_depth_info)
            listen(Image, 'depth/image', self._measured.put)
        elif values.source == 'points':
            listen(PointCloud2, 'points', self._measured.put)
        self._mask = listen(Image, 'segmentation/mask')

    def greet(self) -> None:
        """Send the names again when a subscriber of semantic/mask has appeared."""
        if self.active:
            self.greeting.greet()

    def on_label_info(self, msg: LabelInfo) -> None:
        """Take the names of the ids that a mask can hold: Nav2's layer casts others to a byte."""
        # A message of its own: in one process other nodes have the same one.
        held = [item for item in msg.class_map if item.class_id < UNLABELLED]
        known = self._label_info
        self._label_info = LabelInfo(header=msg.header, class_map=held, threshold=msg.threshold)
        if known is None or known.class_map != held:
            self.greeting.announce()

    def on_camera_info(self, msg: CameraInfo) -> None:
        """Take the calibration of the mask's camera."""
        if self._camera_info is None and self.parameters.horizontal_fov_rad:
            self.get_logger().info('camera_info came: horizontal_fov_rad counts no longer')
        self._camera_info = msg

    def on_depth_info(self, msg: CameraInfo) -> None:
        """Take the calibration of the depth camera."""
        self._depth_info = msg

    def _publish_label_info(self) -> None:
        if self._label_info:
            self._semantic_label_info.publish(self._label_info)

    # One mask

    def work(self, frame: Frame) -> None:
        with self.rejecting(frame):
            self.count(frame, 'published' if self._place(frame.msg) else 'passed_over')

    def _place(self, msg: Image) -> bool:
        values: CostmapParameters = self.parameters
        missing = self._missing()
        if missing:
            self.get_logger().warning(
                f'masks wait for {missing}', throttle_duration_sec=LOG_PERIOD_S
            )
            return False
        ids = labels_from_msg(msg)
        roles = self._roles()
        stamp_ns = stamp_to_ns(msg.header.stamp)
        measured = None
        if values.source != 'ground':
            measured = self._measured.find(stamp_ns, values.sync_tolerance_s, values.sync_wait_s)
            if measured is None:
                self._count_miss(f'{values.source} within {values.sync_tolerance_s} s')
                return False
        camera, info = None, self._camera_info
        if info is None and values.horizontal_fov_rad:
            fov_rad = values.horizontal_fov_rad
            info = pinhole_to_msg(Camera.from_fov(msg.height, msg.width, fov_rad))
        if info:
            camera = Camera.from_info(info, values.rectified)
            camera.require_size(*ids.shape)
        height = min(values.semantic_height, len(ids))
        width = max(1, round(height * ids.shape[1] / len(ids)))
        grid_from_base = self._grid_from_base(msg.header)
        if measured is None:
            assert camera
            marks = self._marks_on_ground(ids, roles, camera, msg.header, grid_from_base)
        else:
            points = self._measured_points(measured, camera, (height, width), msg)
            marks = self._marks_of(
                points, resize_ids(ids, *points.shape[:2]), roles, grid_from_base
            )
        self._publish(marks, msg.header, grid_from_base is IN_PLACE)
        self._publish_semantic(ids, marks.points, info, (height, width), msg)
        return True

    def _missing(self) -> str:
        """Name what has not arrived, and without which no mask can be placed."""
        values: CostmapParameters = self.parameters
        needed = {
            'segmentation/label_info': self._label_info,
            'camera_info': (
                self._camera_info or values.horizontal_fov_rad or values.source == 'points'
            ),
            'depth/camera_info': self._depth_info or values.source != 'depth',
        }
        return ', '.join(self.resolve_topic_name(name) for name in needed if not needed[name])

    def _count_miss(self, what: str) -> None:
        with self._lock:
            self.counts['unpaired'] += 1
        self.get_logger().warning(
            f"no {what} of a mask's stamp; raise sync_tolerance_s, sync_queue or sync_wait_s",
            throttle_duration_sec=LOG_PERIOD_S,
        )

    def _roles(self) -> NDArray[np.uint8]:
        """(256,) role of each class id."""
        assert self._label_info
        values: CostmapParameters = self.parameters
        id_of = {item.class_name: item.class_id for item in self._label_info.class_map}
        given = {
            TRAVERSABLE: values.traversable_classes, FORBIDDEN: values.forbidden_classes,
            OBSTACLE: values.obstacle_classes, UNKNOWN: values.ignored_classes,
        }
        names = [name for group in given.values() for name in group]
        if not set(values.traversable_classes) & set(id_of):
            raise ParameterError(
                f'traversable_classes is {list(values.traversable_classes)}, expected some of '
                f'{sorted(id_of)}: the classes of this mask'
            )
        if len(set(names)) < len(names):
            raise ParameterError(
                f'{sorted({name for name in names if names.count(name) > 1})} in two lists of '
                f'classes; leave each in one of them'
            )
        # What nobody named stands in the way unless obstacle_classes says what does.
        roles = np.full(256, UNKNOWN, np.uint8)
        if not values.obstacle_classes:
            roles[list(id_of.values())] = OBSTACLE
        for role, group in given.items():
            roles[[id_of[name] for name in group if name in id_of]] = role
        return roles

    # Poses

    def _transform(self, target: str, source: str, header: Header) -> Pose:
        """Look target_from_source up in tf2 at the image's stamp."""
        try:
            found = self._tf.lookup_transform(
                target, source, Time.from_msg(header.stamp),
                Duration(seconds=self.parameters.sync_wait_s),
            )
        except Exception as exc:  # tf2's exceptions have no common base
            raise CalibrationError(
                f"no transform from {source!r} to {target!r} at the image's stamp ({exc}); "
                f'publish it (robot_state_publisher, odometry), or set pose_source: parameters'
            ) from exc
        place, turn = found.transform.translation, found.transform.rotation
        return Pose.from_quaternion(
            (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w)
        )

    def _base_from_camera(self, frame_id: str, header: Header) -> Pose:
        """Return the pose of a camera's optical frame at the mask's stamp."""
        values: CostmapParameters = self.parameters
        if self._tf is not None:
            return self._transform(values.base_frame, frame_id, header)
        if frame_id != header.frame_id:
            raise CalibrationError(
                f'{frame_id!r} is not the frame of the mask ({header.frame_id!r}), and without '
                f'tf2 nobody knows where it is; install tf2_ros and set pose_source: tf, or '
                f"register depth in the camera's driver"
            )
        body = Pose.from_rpy(
            values.camera_x_m, values.camera_y_m, values.camera_z_m,
            values.camera_roll_rad, values.camera_pitch_rad, values.camera_yaw_rad,
        )
        return body @ BODY_FROM_OPTICAL

    def _grid_from_base(self, header: Header) -> Pose:
        values: CostmapParameters = self.parameters
        if self._tf is None or values.grid_frame == values.base_frame:
            return IN_PLACE
        return self._transform(values.grid_frame, values.base_frame, header)

    # Sources

    def _marks_on_ground(
        self, ids: NDArray[np.uint8], roles: NDArray[np.uint8], camera: Camera, header: Header,
        grid_from_base: Pose,
    ) -> Marks:
        values: CostmapParameters = self.parameters
        pose = self._base_from_camera(header.frame_id, header)
        if self._view is None or self._view[0] != camera or not self._view[1].is_close(pose):
            begin_s = time.monotonic()
            view = GroundView(camera, pose, values.max_range_m, values.max_footprint_m)
            self._view = camera, pose, view
            self.get_logger().info(
                f'camera at height {pose.translation[2]:.2f} m sees ground as far as '
                f'{view.range_max_m:.1f} m; worked out in {time.monotonic() - begin_s:.2f} s',
                throttle_duration_sec=LOG_PERIOD_S,
            )
        view = self._view[2]
        scene = view.look(ids, roles)
        obstacles = scene.edges.copy()
        obstacles[:, 2] = values.obstacle_height_m
        return Marks(
            points=view.points,
            obstacles=obstacles,
            ground=scene.clear,
            scan=view.scan(
                scene, values.scan_angle_min_rad, values.scan_angle_max_rad,
                values.scan_angle_increment_rad,
            ),
            grid=view.grid(
                scene, grid_from_base, values.grid_size_m, values.grid_resolution_m
            ),
        )

    def _measured_points(
        self, msg: Image | PointCloud2, camera: Camera | None, size: tuple[int, int],
        mask: Image,
    ) -> NDArray[np.float32]:
        """Return (H, W, 3) points in the base frame, whose pixels are the mask's, resized."""
        header = mask.header
        if isinstance(msg, PointCloud2):
            if abs(msg.width * mask.height / (msg.height * mask.width or 1) - 1) > 0.02:
                raise ImageError(
                    f'cloud of {msg.height} × {msg.width}, mask of {mask.height} × {mask.width}: '
                    f"not of one image; remap points to this camera's registered, organised cloud"
                )
            points: NDArray[np.float32] = self._base_from_camera(
                msg.header.frame_id, header
            ).apply(points_from_msg(msg))
            return points
        assert camera and self._depth_info
        depth_camera = Camera.from_info(self._depth_info, self.parameters.rectified)
        depth_m = depth_from_msg(msg)
        base_from_camera = self._base_from_camera(header.frame_id, header)
        if msg.header.frame_id == header.frame_id and depth_camera.same_view(camera):
            registered_m, seen_by = depth_m, depth_camera
        else:
            seen_by = camera.resized(*np.minimum(size, depth_m.shape).tolist())
            base_from_depth = self._base_from_camera(msg.header.frame_id, header)
            registered_m = register_depth(
                depth_m, depth_camera, seen_by, base_from_camera.inverse() @ base_from_depth
            )
        placed: NDArray[np.float32] = base_from_camera.apply(depth_points(registered_m, seen_by))
        return placed

    def _marks_of(
        self, points: NDArray[np.float32], ids: NDArray[np.uint8], roles: NDArray[np.uint8],
        grid_from_base: Pose,
    ) -> Marks:
        values: CostmapParameters = self.parameters
        near = np.hypot(points[..., 0], points[..., 1]) <= values.max_range_m
        points = np.where(near[..., None], points, np.float32(np.nan))
        forbidden = points_of(points, ids, roles == FORBIDDEN)
        ground = points_of(points, ids, roles == TRAVERSABLE)
        obstacles = points_of(points, ids, roles == OBSTACLE)
        tall = (obstacles[:, 2] >= values.min_height_m) & (obstacles[:, 2] <= values.max_height_m)
        forbidden[:, 2] = values.obstacle_height_m
        obstacles = np.concatenate([obstacles[tall], forbidden])
        grid = Grid.around(grid_from_base, values.grid_size_m, values.grid_resolution_m)
        grid.mark(grid_from_base.apply(ground), FREE_CELL)
        grid.mark(grid_from_base.apply(obstacles), OCCUPIED_CELL)
        far = np.hypot(ground[:, 0], ground[:, 1]) > 0.9 * values.max_range_m
        scan = scan_of_points(
            obstacles, ground[far], ground[:0], values.scan_angle_min_rad,
            values.scan_angle_max_rad, values.scan_angle_increment_rad, values.max_range_m,
        )
        return Marks(points, obstacles, ground, scan, grid)

    # Results

    def _publish(self, marks: Marks, header: Header, grid_in_base: bool) -> None:
        values: CostmapParameters = self.parameters
        in_base = Header(stamp=header.stamp, frame_id=values.base_frame)
        in_grid = in_base if grid_in_base else Header(
            stamp=header.stamp, frame_id=values.grid_frame
        )
        # Empty clouds too: a layer that hears nothing keeps what it last heard.
        self._ground.publish(cloud_to_msg(marks.ground, in_base))
        self._obstacles.publish(cloud_to_msg(marks.obstacles, in_base))
        self._scan.publish(scan_to_msg(marks.scan, in_base))
        self._grid.publish(grid_to_msg(marks.grid, in_grid))

    def _publish_semantic(
        self, ids: NDArray[np.uint8], points: NDArray[np.float32], info: CameraInfo | None,
        size: tuple[int, int], msg: Image,
    ) -> None:
        """Publish one set of one size and stamp, for Nav2's semantic layer."""
        values: CostmapParameters = self.parameters
        if self.greeting.holding() or not self._semantic_mask.get_subscription_count():
            return
        confidence_msg = self._confidences.find(
            stamp_to_ns(msg.header.stamp), 0.0, values.sync_wait_s
        )
        if confidence_msg is None:
            self._count_miss('segmentation/confidence')
            return
        confidence = labels_from_msg(confidence_msg)
        header = msg.header
        if info:
            self._semantic_camera_info.publish(camera_info_to_msg(info, *size, header))
        in_base = Header(stamp=header.stamp, frame_id=values.base_frame)
        self._semantic_points.publish(cloud_to_msg(resize_points(points, *size), in_base))
        self._semantic_confidence.publish(mask_to_msg(resize_ids(confidence, *size), header))
        self._semantic_mask.publish(mask_to_msg(resize_ids(ids, *size), header))

    def describe(self) -> dict[str, object]:
        values: CostmapParameters = self.parameters
        return {
            'source': values.source,
            'camera': (
                'camera_info' if self._camera_info
                else 'horizontal_fov_rad' if values.horizontal_fov_rad else ''
            ),
            'pose_source': 'parameters' if self._tf is None else 'tf',
            'waiting_for': self._missing(),
            'unpaired': self.counts['unpaired'],
        }

    def explain_silence(self) -> str:
        return f'{self._mask.topic_name} is silent; start segmentation_node, or remap it'


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return spin(CostmapNode, args)


if __name__ == '__main__':
    sys.exit(main())
