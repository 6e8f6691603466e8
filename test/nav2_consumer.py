"""A model in numpy of what Nav2's costmap layers and collision monitor do with our messages.

Written after reading Nav2 (main, August 2026) and semantic_segmentation_layer (Humble to main, May
2026). Where those would crash, read out of bounds, misplace data, or silently drop it, this raises
a Hazard. Settings are the `ros__parameters` of config/nav2_*.yaml; defaults are Nav2's.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import math
from pathlib import Path
import time
from typing import Any

from nav_msgs.msg import OccupancyGrid
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image, LaserScan, PointCloud2, PointField
from vision_msgs.msg import LabelInfo
import yaml

from mnv2_perception.nodes.messages import stamp_to_ns
from mnv2_perception.vision.pose import Pose

FREE, LETHAL, NO_INFORMATION = 0, 254, 255
INSCRIBED_VALUE, LETHAL_VALUE = 99, 100  # cells of an OccupancyGrid, by default
IN_PLACE = Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
CONFIG = Path(__file__).resolve().parents[1] / 'config'

Settings = Mapping[str, Any]
Points = NDArray[np.float32]


class Hazard(AssertionError):
    """A message or setting with which a consumer fails or silently does nothing."""


class NullDereference(Hazard):
    """The semantic layer dereferences null if a mask comes before the first LabelInfo."""


class OutOfBounds(Hazard):
    """The semantic layer reads the confidence with the mask's size."""


class Misread(Hazard):
    """Bytes are read assuming the usual encoding, step, field types and byte order."""


class MissingField(Hazard):
    """Point iterators throw if x, y or z is missing, even for empty clouds."""


class SizesDiffer(Hazard):
    """Mask and cloud differ in size: they are not buffered, or pixel i is not point i."""


class NeverPaired(Hazard):
    """A message left its queue before partners with its stamp came."""


class MixedImages(Hazard):
    """Approximate pairing joined messages of different images."""


class NoTransform(Hazard):
    """tf2 does not know the frame: the message is dropped."""


class NotFinite(Hazard):
    """Only z is checked: NaN in x or y ends up in an arbitrary cell."""


class Outdated(Hazard):
    """The stamp is too old for the consumer's clock, or in its future: no effect."""


class WrongClassId(Hazard):
    """An id that does not fit one byte, or 255, which means 'no class'."""


class UnknownClass(Hazard):
    """A class with a cost is missing in LabelInfo: its cost is never used."""


class WrongHeight(Hazard):
    """All points of a cloud are filtered out by height."""


class NeverCleared(Hazard):
    """Marked cells stay: nothing clears them, or not as far as they are marked."""


class FreeBeamsIgnored(Hazard):
    """A scan's +inf clears nothing without inf_is_valid."""


class PhantomWall(Hazard):
    """With inf_is_valid, a marking source takes the end of a free beam for an obstacle."""


class SensorOutsideMap(Hazard):
    """Rays begin outside of the costmap: nothing is cleared or marked."""


class Silence(Hazard):
    """A source was silent for too long: the costmap keeps its content and is not current."""


class WrongCells(Hazard):
    """Nav2 rejects a grid whose cells do not match its size, or are not −1 or 0 to 100."""


class OriginTurned(Hazard):
    """StaticLayer ignores the orientation of the grid's origin."""


class OriginOffCells(Hazard):
    """The origin is no multiple of the resolution: cells are shifted against the costmap's."""


class MovingGrid(Hazard):
    """StaticLayer places a grid by the latest transform, not by that of its stamp."""


class ResizesCostmap(Hazard):
    """A costmap that does not roll adopts the grid's size and position."""


class Hidden(Hazard):
    """StaticLayer overwrites the layers before it; with use_maximum, unknown exceeds lethal."""


def settings_of(file: str, *nodes: str) -> dict[str, Any]:
    """Return the parameters of a node in a file of config/."""
    values = yaml.safe_load((CONFIG / file).read_text(encoding='utf-8'))
    for name in (*nodes, 'ros__parameters'):
        values = values[name]
    return dict(values)


def require(condition: Any, hazard: type[Hazard], message: str) -> None:
    """Raise a hazard unless the condition holds."""
    if not condition:
        raise hazard(message)


@dataclass
class Frames:
    """What tf2 knows: frames fixed to a base, which may move in a world.

    Attributes:
        base_from: pose of each frame in the base.
        base: name of the base frame.
        world: name of the frame in which the base moves.
        world_from_base: pose at a time in seconds; the latest for None.
    """

    base_from: dict[str, Pose]
    base: str = 'base_link'
    world: str = 'odom'
    world_from_base: Callable[[float | None], Pose] = lambda _: IN_PLACE

    def find(self, target: str, source: str, stamp_s: float | None) -> Pose:
        """Return target_from_source."""
        return self._world_from(target, stamp_s).inverse() @ self._world_from(source, stamp_s)

    def _world_from(self, frame: str, stamp_s: float | None) -> Pose:
        if frame == self.world:
            return IN_PLACE
        pose = self.world_from_base(stamp_s)
        if frame == self.base:
            return pose
        require(frame in self.base_from, NoTransform, f'{frame!r} is no frame')
        return pose @ self.base_from[frame]


def stamp_s_of(msg: Any) -> float:
    return stamp_to_ns(msg.header.stamp) * 1e-9


def walk_points(msg: PointCloud2) -> Points:
    """Read a cloud, (N, 3), as sensor_msgs' iterators do: using only point_step."""
    fields = {item.name: item for item in msg.fields}
    require(fields.keys() >= set('xyz'), MissingField, f'fields {sorted(fields)}')
    for name in 'xyz':
        require(
            fields[name].datatype == PointField.FLOAT32, Misread,
            f'{name} is of type {fields[name].datatype}, read as float32',
        )
    require(not msg.is_bigendian, Misread, 'the cloud is big-endian')
    require(
        msg.row_step == msg.width * msg.point_step, Misread,
        f'rows of {msg.row_step} bytes, {msg.width} points of {msg.point_step}',
    )
    require(len(msg.data) == msg.height * msg.row_step, Misread, f'{len(msg.data)} bytes')
    data = np.frombuffer(msg.data, np.uint8).reshape(-1, max(msg.point_step, 1))
    return np.hstack([
        data[:, fields[name].offset:][:, :4].copy().view('<f4') for name in 'xyz'
    ])


def require_finite(points: Points) -> None:
    require(
        np.isfinite(points[np.isfinite(points[:, 2])]).all(), NotFinite,
        'x or y is not finite where z is',
    )


class Costmap:
    """A costmap of one layer, or the one of all layers.

    Attributes:
        cells: (rows along y, columns along x) uint8.
        origin: corner of cell (0, 0) in the global frame, metres.
    """

    def __init__(self, settings: Settings) -> None:
        self.resolution = float(settings['resolution'])
        self.rolling = bool(settings.get('rolling_window', False))
        unknown = settings.get('track_unknown_space', False)
        self.default = NO_INFORMATION if unknown else FREE
        size = [round(settings.get(name, 5) / self.resolution) for name in ('height', 'width')]
        self.cells = np.full(size, self.default, np.uint8)
        self.origin = np.zeros(2)

    def roll(self, x: float, y: float) -> None:
        """Centre the costmap on the robot; cells keep their positions in the world."""
        size = np.array(self.cells.shape[::-1])
        corner = np.array([x, y]) - size * self.resolution / 2
        moved = np.trunc((corner - self.origin) / self.resolution).astype(int)
        self.origin = self.origin + moved * self.resolution
        old, self.cells = self.cells, np.full_like(self.cells, self.default)
        low, high = np.clip(moved, 0, size), np.clip(moved + size, 0, size)
        (x0, y0), (x1, y1), (dx, dy) = low, high, low - moved
        self.cells[dy:dy + y1 - y0, dx:dx + x1 - x0] = old[y0:y1, x0:x1]

    def indices(self, xy: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return column and row (N, 2) of points, and which points are inside."""
        found = np.floor((xy[:, :2] - self.origin) / self.resolution + 1e-9).astype(np.intp)
        return found, ((found >= 0) & (found < self.cells.shape[::-1])).all(axis=1)

    def cost(self, x: float, y: float) -> int:
        """Return the cost at a position in the global frame."""
        (index,), (inside,) = self.indices(np.array([[x, y]]))
        assert inside, f'({x}, {y}) is outside of the costmap'
        return int(self.cells[index[1], index[0]])

    def trace(self, start: NDArray[np.intp], ends: NDArray[np.intp], length: int) -> None:
        """Clear lines of cells, each at most `length` cells long (Bresenham)."""
        offset = np.unique(ends, axis=0) - start
        steps = np.abs(offset).max(axis=1, initial=0)
        part = np.minimum(1.0, length / np.maximum(np.hypot(*offset.T), 1e-9))
        step = np.arange(steps.max(initial=0) + 1)
        ray, at = np.nonzero(step <= np.floor(steps * part)[:, None])
        along = (at / np.maximum(steps[ray], 1))[:, None]
        x, y = (start + np.floor(offset[ray] * along + 0.5).astype(np.intp)).T
        self.cells[y, x] = FREE


# The semantic segmentation layer


@dataclass(frozen=True)
class Heuristic:
    """Cost parameters of a class."""

    base_cost: int
    max_cost: int
    mark_confidence: int
    samples_to_max_cost: int
    dominant_priority: bool


@dataclass
class Tile:
    """Observations of one tile, (stamp, confidence) by class, and the dominant class."""

    seen: dict[int, deque[tuple[float, int]]] = field(default_factory=dict)
    dominant: int | None = None

    def push(self, class_id: int, stamp_s: float, confidence: int, priority: bool) -> None:
        queue = self.seen.setdefault(class_id, deque())
        queue.append((stamp_s, confidence))
        leader = 0 if self.dominant is None else len(self.seen[self.dominant])
        if priority or len(queue) > leader or self.dominant == class_id:
            if self.dominant is not None and self.dominant != class_id:
                self.seen = {class_id: queue}
            self.dominant = class_id

    def purge(self, now_s: float, decay_s: float) -> None:
        for queue in self.seen.values():
            while queue and now_s - queue[0][0] > decay_s:
                queue.popleft()
        self.seen = {key: queue for key, queue in self.seen.items() if queue}
        if self.dominant not in self.seen:
            self.dominant = max(self.seen, key=lambda key: len(self.seen[key]), default=None)


class SemanticLayer:
    """SemanticSegmentationLayer with one source.

    Args:
        settings: settings of the costmap.
        frames: what tf2 knows.
        approximate: whether Jazzy and later pair approximately; None for the setting
            use_approximate_time_sync.
        clock: the costmap's clock, seconds.
    """

    KINDS = ('mask', 'confidence', 'points')

    def __init__(
        self, settings: Settings, frames: Frames, approximate: bool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        layer = settings['semantic_segmentation_layer']
        source = layer[layer['observation_sources']]
        self.topics = {
            'mask': source['segmentation_topic'], 'confidence': source['confidence_topic'],
            'points': source['pointcloud_topic'], 'label_info': source['labels_topic'],
        }
        self.costs = {
            name: Heuristic(
                kind.get('base_cost', 0), kind.get('max_cost', 0), kind.get('mark_confidence', 0),
                kind.get('samples_to_max_cost', 0), kind.get('dominant_priority', False),
            )
            for kind in (source[name] for name in source['class_types'])
            for name in kind['classes']
        }
        self.costmap = Costmap(settings)
        self.sets = 0
        self._approximate = layer.get('use_approximate_time_sync', True) if (
            approximate is None
        ) else approximate
        self._depth = layer.get('sensor_data_depth', 10)
        self._range_m = source['min_obstacle_distance'], source['max_obstacle_distance']
        self._decay_s = source['tile_map_decay_time']
        self._by_cost = source.get('use_cost_selection', True)
        self._global_frame, self._frames, self._clock = settings['global_frame'], frames, clock
        self._cost_of_id: dict[int, Heuristic] | None = None
        self._waiting: dict[str, deque[Any]] = {kind: deque() for kind in self.KINDS}
        self._tiles: dict[tuple[int, int], Tile] = {}

    def hear_labels(self, msg: LabelInfo) -> None:
        ids = {item.class_name: item.class_id for item in msg.class_map}
        for name, class_id in ids.items():
            require(class_id < 255, WrongClassId, f'{name} has id {class_id}')
        absent = sorted(set(self.costs) - set(ids))
        require(not absent, UnknownClass, f'{absent} have a cost, but are not in {sorted(ids)}')
        self._cost_of_id = {ids[name]: cost for name, cost in self.costs.items()}

    def hear(self, kind: str, msg: Any) -> None:
        """Receive a mask, a confidence or a cloud; buffer a set once it is complete."""
        queue = self._waiting[kind]
        queue.append(msg)
        stamp = stamp_to_ns(msg.header.stamp)
        tolerance = 100_000_000 if self._approximate else 0
        found = [
            min(
                waiting, key=lambda other: abs(stamp_to_ns(other.header.stamp) - stamp),
                default=None,
            )
            for waiting in self._waiting.values()
        ]
        stamps = [stamp_to_ns(other.header.stamp) for other in found if other]
        if None not in found and max(stamps) - min(stamps) <= tolerance:
            for waiting in self._waiting.values():
                while waiting and stamp_to_ns(waiting[0].header.stamp) <= stamp:
                    waiting.popleft()
            require(len(set(stamps)) == 1, MixedImages, f'stamps {stamps} are of one set')
            self._buffer(*found)
        require(
            len(queue) <= self._depth, NeverPaired,
            f'{len(queue)} messages on {self.topics[kind]} wait for others of their stamps',
        )

    def _buffer(self, mask: Image, confidence: Image, cloud: PointCloud2) -> None:
        require(self._cost_of_id is not None, NullDereference, 'a mask before any label_info')
        assert self._cost_of_id is not None
        for msg in (mask, confidence):
            require(msg.encoding == 'mono8', Misread, f'{msg.encoding} is read as mono8')
            require(msg.step == msg.width, Misread, f'step {msg.step}, width {msg.width}')
        size = mask.height, mask.width
        require(
            len(mask.data) == mask.height * mask.width, SizesDiffer,
            f'mask of {size} has {len(mask.data)} bytes',
        )
        require(
            (cloud.height, cloud.width) == size, SizesDiffer,
            f'mask of {size}, cloud of {cloud.height} × {cloud.width}',
        )
        require(
            (confidence.height, confidence.width) == size
            and len(confidence.data) == len(mask.data),
            OutOfBounds, f'mask of {size}, confidence of {confidence.height}×{confidence.width}',
        )
        stamp_s, now_s = stamp_s_of(cloud), self._clock()
        require(now_s - self._decay_s <= stamp_s <= now_s + 0.1, Outdated, f'{stamp_s} s')
        pose = self._frames.find(self._global_frame, cloud.header.frame_id, stamp_s)
        points = walk_points(cloud)
        require_finite(points)
        placed = pose.apply(points).astype(np.float64)
        distance_m = np.linalg.norm(placed - pose.translation, axis=1)
        low, high = self._range_m
        pixels = np.flatnonzero((distance_m > low) & (distance_m < high))  # NaN is neither
        tiles = np.floor(placed[pixels, :2] / self.costmap.resolution).astype(int)
        ids = np.frombuffer(mask.data, np.uint8)[pixels]
        sure = np.frombuffer(confidence.data, np.uint8)[pixels]
        no_cost = Heuristic(0, 0, 0, 0, False)
        max_cost = np.array([self._cost_of_id.get(i, no_cost).max_cost for i in range(256)])
        worth = max_cost[ids] if self._by_cost else sure.astype(int)
        # For each tile the pixel with the highest value, the first of equal ones.
        order = np.lexsort((np.arange(len(ids)), -worth, tiles[:, 1], tiles[:, 0]))
        _, first = np.unique(tiles[order], axis=0, return_index=True)
        for tile in self._tiles.values():
            tile.purge(stamp_s, self._decay_s)
        for best in order[first]:
            cost = self._cost_of_id.get(int(ids[best]))
            if cost:
                x, y = tiles[best]
                self._tiles.setdefault((int(x), int(y)), Tile()).push(
                    int(ids[best]), stamp_s, int(sure[best]), cost.dominant_priority
                )
        self.sets += 1

    def update(self, x: float, y: float) -> None:
        """Remove old observations and set costs; a tile without observations keeps its cost."""
        if self.costmap.rolling:
            self.costmap.roll(x, y)
        now_s = self._clock()
        for tile in self._tiles.values():
            tile.purge(now_s, self._decay_s)
        self._tiles = {key: tile for key, tile in self._tiles.items() if tile.seen}
        for key, tile in self._tiles.items():
            middle = (np.array(key) + 0.5) * self.costmap.resolution
            (index,), (inside,) = self.costmap.indices(middle[None, :])
            if inside:
                assert self._cost_of_id and tile.dominant is not None
                cost, queue = self._cost_of_id[tile.dominant], tile.seen[tile.dominant]
                mean = sum(confidence for _, confidence in queue) / len(queue)
                often = len(queue) >= cost.samples_to_max_cost and mean > cost.mark_confidence
                value = cost.max_cost if often else cost.base_cost
                self.costmap.cells[index[1], index[0]] = value


# Nav2's own layers


@dataclass
class Observation:
    """The latest cloud of a source in the global frame, and the origin of its rays."""

    points: Points
    origin: NDArray[np.float64]


class ObstacleLayer:
    """ObstacleLayer, without the robot's footprint.

    Args:
        settings: settings of the costmap.
        frames: what tf2 knows.
        name: name of the layer in the settings.
        clock: the costmap's clock, seconds.
    """

    def __init__(
        self, settings: Settings, frames: Frames, name: str = 'obstacle_layer',
        clock: Callable[[], float] = time.time,
    ) -> None:
        layer = settings[name]
        self.sources: dict[str, Settings] = {
            source: layer[source] for source in layer['observation_sources'].split()
        }
        self.costmap = Costmap(settings)
        self._heights = layer.get('min_obstacle_height', 0.0), layer['max_obstacle_height']
        self._global_frame, self._frames, self._clock = settings['global_frame'], frames, clock
        self._latest: dict[str, Observation] = {}
        self._heard_s = dict.fromkeys(self.sources, clock())
        marking = [source for source in self.sources.values() if source.get('marking', True)]
        clearing = [source for source in self.sources.values() if source.get('clearing', False)]
        marks_m = max((source.get('obstacle_max_range', 2.5) for source in marking), default=0.0)
        clears_m = max((source.get('raytrace_max_range', 3.0) for source in clearing), default=0.0)
        require(clears_m >= marks_m, NeverCleared, f'marks to {marks_m} m, clears to {clears_m} m')

    def hear(self, name: str, msg: LaserScan | PointCloud2) -> None:
        """Receive a message of a source."""
        source = self.sources[name]
        points = (
            self._project(source, msg) if isinstance(msg, LaserScan) else walk_points(msg)
        )
        require_finite(points)
        stamp_s = stamp_s_of(msg)
        pose = self._frames.find(self._global_frame, msg.header.frame_id, stamp_s)
        origin = self._frames.find(
            self._global_frame, source.get('sensor_frame') or msg.header.frame_id, stamp_s
        ).translation
        placed = pose.apply(points)
        low, high = source.get('min_obstacle_height', 0.0), source.get('max_obstacle_height', 0.0)
        kept = placed[(placed[:, 2] >= low) & (placed[:, 2] <= high)]
        require(
            len(kept) or not np.isfinite(points).any(), WrongHeight,
            f'no point of {source["topic"]} lies between {low} and {high} m',
        )
        self._latest[name] = Observation(kept, origin)
        self._heard_s[name] = self._clock()

    def _project(self, source: Settings, msg: LaserScan) -> Points:
        """Convert a scan to points as laser_geometry does."""
        ranges = np.array(msg.ranges, np.float32)
        free = np.isposinf(ranges)
        if source.get('inf_is_valid', False):
            require(
                not source.get('marking', True)
                or source.get('obstacle_max_range', 2.5) < msg.range_max, PhantomWall,
                f'free beams end at {msg.range_max} m, where {source["topic"]} marks',
            )
            ranges[free] = msg.range_max - 1e-4
        else:
            others = (
                other for other in self.sources.values()
                if other['topic'] == source['topic'] and other.get('inf_is_valid', False)
            )
            require(
                not free.any() or any(others), FreeBeamsIgnored,
                f'{free.sum()} free beams of {source["topic"]}',
            )
        hit = np.flatnonzero((ranges >= msg.range_min) & (ranges < msg.range_max))
        angle = msg.angle_min + hit * msg.angle_increment
        x, y = ranges[hit] * np.cos(angle), ranges[hit] * np.sin(angle)
        return np.stack([x, y, np.zeros_like(x)], axis=1).astype(np.float32)

    def update(self, x: float, y: float) -> None:
        """Clear along the rays, then mark; what nothing clears stays."""
        if self.costmap.rolling:
            self.costmap.roll(x, y)
        for name, source in self.sources.items():
            limit_s = source.get('expected_update_rate', 0.0)
            silent_s = self._clock() - self._heard_s[name]
            require(not limit_s or silent_s <= limit_s, Silence, f'{name} for {silent_s} s')
        for name, seen in self._latest.items():
            if self.sources[name].get('clearing', False):
                self._clear(seen, self.sources[name].get('raytrace_max_range', 3.0))
        for name, seen in self._latest.items():
            if self.sources[name].get('marking', True):
                self._mark(seen, self.sources[name])

    def _start(self, seen: Observation) -> NDArray[np.intp]:
        (start,), (inside,) = self.costmap.indices(seen.origin[None, :])
        require(inside, SensorOutsideMap, f'the sensor is at {seen.origin[:2]}')
        found: NDArray[np.intp] = start
        return found

    def _clear(self, seen: Observation, range_m: float) -> None:
        costmap, start = self.costmap, self._start(seen)
        # Rays that leave the costmap end at its border.
        offset = seen.points[:, :2].astype(np.float64) - seen.origin[:2]
        low = costmap.origin
        high = low + np.array(costmap.cells.shape[::-1]) * costmap.resolution - 1e-3
        with np.errstate(divide='ignore', invalid='ignore'):
            limits = np.where(offset > 0, high - seen.origin[:2], low - seen.origin[:2]) / offset
        part = np.minimum(1.0, np.nanmin(np.where(offset == 0, np.inf, limits), axis=1))
        ends, inside = costmap.indices(seen.origin[:2] + offset * part[:, None])
        costmap.trace(start, ends[inside], math.ceil(range_m / costmap.resolution))

    def _mark(self, seen: Observation, source: Settings) -> None:
        self._start(seen)
        low, high = self._heights
        z = seen.points[:, 2]
        distance_m = np.linalg.norm(seen.points[:, :2] - seen.origin[:2], axis=1)
        near = (distance_m <= source.get('obstacle_max_range', 2.5)) & (
            distance_m >= source.get('obstacle_min_range', 0.0)
        )
        found, inside = self.costmap.indices(seen.points[near & (z >= low) & (z <= high)])
        self.costmap.cells[found[inside, 1], found[inside, 0]] = LETHAL


class StaticLayer:
    """StaticLayer in a rolling costmap.

    Args:
        settings: settings of the costmap.
        frames: what tf2 knows.
        name: name of the layer in the settings.
        lowest: whether it comes first in `plugins`.
    """

    def __init__(
        self, settings: Settings, frames: Frames, name: str = 'grid_layer', lowest: bool = True
    ) -> None:
        self.topic = settings[name]['map_topic']
        self.latched = settings[name].get('map_subscribe_transient_local', True)
        self._rolling = settings.get('rolling_window', False)
        self._unknown = settings.get('track_unknown_space', False)
        self._use_maximum = settings.get('use_maximum', False)
        self._lowest, self._frames = lowest, frames
        self._global_frame = settings['global_frame']
        self._grid: OccupancyGrid | None = None

    def hear(self, msg: OccupancyGrid) -> None:
        """Receive a grid."""
        info, stamp_s, frame = msg.info, stamp_s_of(msg), msg.header.frame_id
        values = np.array(msg.data, np.int8)
        allowed = (values >= -1) & (values <= LETHAL_VALUE) & (values != INSCRIBED_VALUE)
        require(
            len(values) == info.height * info.width and allowed.all(), WrongCells,
            f'{len(values)} cells of {np.unique(values)} in {info.height} × {info.width}',
        )
        turn = info.origin.orientation
        require(abs(turn.w) == 1.0, OriginTurned, f'orientation {turn}')
        corner = np.array([info.origin.position.x, info.origin.position.y]) / info.resolution
        require(np.allclose(corner, np.rint(corner), atol=1e-4), OriginOffCells, f'{corner} cells')
        require(self._rolling, ResizesCostmap, 'rolling_window is off')
        then, now = (self._frames.find(self._global_frame, frame, at) for at in (stamp_s, None))
        require(
            np.allclose(then.apply(np.eye(3)), now.apply(np.eye(3)), atol=info.resolution / 2),
            MovingGrid, f'{frame!r} has moved since {stamp_s} s',
        )
        require(
            not self._unknown if self._use_maximum else self._lowest, Hidden,
            f'use_maximum is {self._use_maximum}, track_unknown_space {self._unknown}',
        )
        self._grid = msg

    def update(self, master: Costmap) -> None:
        """Write the grid into the costmap of all layers, by the latest transform."""
        if self._grid is None:
            return
        info = self._grid.info
        values = np.array(self._grid.data, np.int8).reshape(info.height, info.width)
        costs = np.full(values.shape, FREE, np.uint8)
        costs[values >= LETHAL_VALUE] = LETHAL
        costs[values == -1] = NO_INFORMATION if self._unknown else FREE
        rows, columns = np.indices(master.cells.shape)
        middles = np.zeros((master.cells.size, 3))
        middles[:, 0] = master.origin[0] + (columns.ravel() + 0.5) * master.resolution
        middles[:, 1] = master.origin[1] + (rows.ravel() + 0.5) * master.resolution
        pose = self._frames.find(self._grid.header.frame_id, self._global_frame, None)
        corner = np.array([info.origin.position.x, info.origin.position.y])
        place = (pose.apply(middles)[:, :2] - corner) / info.resolution
        column, row = np.floor(place).astype(np.intp).T
        inside = (row >= 0) & (row < info.height) & (column >= 0) & (column < info.width)
        new, cells = costs[row[inside], column[inside]], master.cells.reshape(-1)
        cells[inside] = np.maximum(new, cells[inside]) if self._use_maximum else new


class CollisionMonitor:
    """The point sources of collision_monitor, in the base frame."""

    def __init__(
        self, settings: Settings, frames: Frames, clock: Callable[[], float] = time.time
    ) -> None:
        self.sources: dict[str, Settings] = {
            source: settings[source] for source in settings['observation_sources']
        }
        self._base_frame, self._frames, self._clock = settings['base_frame_id'], frames, clock
        self._timeout_s = settings.get('source_timeout', 2.0)
        self._latest: dict[str, PointCloud2] = {}

    def hear(self, name: str, msg: PointCloud2) -> None:
        """Receive a cloud."""
        self._latest[name] = msg

    def points(self, name: str) -> Points:
        """Return the points (N, 3) that may stop the robot."""
        msg, source = self._latest[name], self.sources[name]
        age_s = self._clock() - stamp_s_of(msg)
        require(age_s <= self._timeout_s, Outdated, f'{name} is {age_s} s old')
        pose = self._frames.find(self._base_frame, msg.header.frame_id, stamp_s_of(msg))
        points = walk_points(msg)
        require_finite(points)
        placed = pose.apply(points)
        low, high = source.get('min_height', 0.05), source.get('max_height', 0.5)
        kept: Points = placed[(placed[:, 2] >= low) & (placed[:, 2] <= high)]
        require(len(kept) or not len(placed), WrongHeight, f'none between {low} and {high} m')
        return kept
