"""The restated consumers: what they make of good messages, and that each hazard is told."""

from collections.abc import Callable
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from builtin_interfaces.msg import Time
from nav2_consumer import (
    CollisionMonitor,
    Costmap,
    Frames,
    FREE,
    FreeBeamsIgnored,
    Hazard,
    Hidden,
    LETHAL,
    Misread,
    MissingField,
    MixedImages,
    MovingGrid,
    NeverCleared,
    NeverPaired,
    NO_INFORMATION,
    NotFinite,
    NoTransform,
    NullDereference,
    ObstacleLayer,
    OriginOffCells,
    OriginTurned,
    Outdated,
    OutOfBounds,
    PhantomWall,
    ResizesCostmap,
    SemanticLayer,
    SensorOutsideMap,
    settings_of,
    Silence,
    SizesDiffer,
    StaticLayer,
    UnknownClass,
    WrongCells,
    WrongClassId,
    WrongHeight,
)
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import Image, LaserScan, PointCloud2, PointField
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes.messages import (
    cloud_to_msg,
    grid_to_msg,
    label_info_to_msg,
    mask_to_msg,
    scan_to_msg,
)
from mnv2_perception.vision.costmap import Grid, Scan
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose

pytestmark = pytest.mark.ros

LOCAL = ('local_costmap', 'local_costmap')
SEMANTIC = settings_of('nav2_semantic_costmap.yaml', *LOCAL)
OBSTACLES = settings_of('nav2_obstacle_costmap.yaml', *LOCAL)
MONITOR = settings_of('nav2_obstacle_costmap.yaml', 'collision_monitor')
CLASSES = ('floor', 'sidewalk', 'speed_bump', 'stairs', 'obstacle', 'background', 'sky')
FLOOR, OBSTACLE, STAIRS = (CLASSES.index(name) for name in ('floor', 'obstacle', 'stairs'))
CAMERA = Pose.from_rpy(0.3, 0.0, 1.0, 0.0, 0.0, 0.0) @ BODY_FROM_OPTICAL
FRAMES = Frames({'camera_optical_frame': CAMERA})
START_S = 1000
WALL = np.array([[2.0, 0.02, 0.25], [2.0, 0.07, 0.25]], np.float32)
BEYOND = np.array([[4.0, 0.05, 0.0], [4.0, 0.15, 0.0]], np.float32)


class Clock:
    def __init__(self) -> None:
        self.now_s = START_S + 1.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def header(number: int = 0, frame_id: str = 'base_link') -> Header:
    """Return a header so many tenths of a second after the start."""
    stamp = Time(sec=START_S + number // 10, nanosec=number % 10 * 100_000_000)
    return Header(stamp=stamp, frame_id=frame_id)


def changed(msg: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(msg, name, value)
    return msg


# The semantic layer


def labels() -> LabelInfo:
    return label_info_to_msg(CLASSES, Header(), 0.0)


def one_set(
    class_id: int = OBSTACLE, number: int = 0, confidence: int = 200
) -> tuple[Image, Image, PointCloud2]:
    """Make a set of 2 × 3 pixels, all on one tile 2 m ahead, or nowhere."""
    ids = np.full((2, 3), class_id, np.uint8)
    points = np.full((2, 3, 3), np.nan, np.float32)
    points[1] = (2.05, 0.05, 0.0)
    return (
        mask_to_msg(ids, header(number, 'camera_optical_frame')),
        mask_to_msg(np.full_like(ids, confidence), header(number, 'camera_optical_frame')),
        cloud_to_msg(points, header(number)),
    )


def semantic(clock: Clock, told: bool = True, **arguments: Any) -> SemanticLayer:
    layer = SemanticLayer(SEMANTIC, FRAMES, clock=clock, **arguments)
    if told:
        layer.hear_labels(labels())
    return layer


def show(layer: SemanticLayer, mask: Image, confidence: Image, cloud: PointCloud2) -> int:
    """Let the layer hear a set; return the cost of its tile."""
    for kind, msg in (('points', cloud), ('confidence', confidence), ('mask', mask)):
        layer.hear(kind, msg)
    layer.update(0.0, 0.0)
    return layer.costmap.cost(2.05, 0.05)


@pytest.mark.parametrize('approximate', [False, True], ids=['Humble', 'Jazzy'])
def test_a_class_costs_its_maximum_once_it_was_seen_often_and_surely_enough(
    clock: Clock, approximate: bool
) -> None:
    layer = semantic(clock, approximate=approximate)
    assert layer.costmap.cost(2.05, 0.05) == FREE
    assert show(layer, *one_set(number=0)) == 127  # once
    assert show(layer, *one_set(number=1)) == LETHAL
    doubtful = semantic(clock, approximate=approximate)
    assert show(doubtful, *one_set(number=0, confidence=127)) == 127
    assert show(doubtful, *one_set(number=1, confidence=127)) == 127  # the mean must be greater


def test_a_class_of_priority_counts_at_once_and_others_must_outnumber_it(clock: Clock) -> None:
    layer = semantic(clock)
    for number in range(3):
        assert show(layer, *one_set(FLOOR, number)) == FREE
    assert show(layer, *one_set(STAIRS, 3)) == LETHAL
    assert show(layer, *one_set(FLOOR, 4)) == LETHAL
    assert show(layer, *one_set(FLOOR, 5)) == FREE


def test_observations_age_by_the_costmap_s_clock_and_what_is_seen_then_counts(
    clock: Clock,
) -> None:
    layer = semantic(clock)
    for number in range(8):
        show(layer, *one_set(OBSTACLE, number))
    clock.now_s += 1.6
    assert show(layer, *one_set(FLOOR, 25)) == LETHAL  # the obstacle's last ones are no 2 s old
    clock.now_s += 0.2
    layer.update(0.0, 0.0)
    assert layer.costmap.cost(2.05, 0.05) == FREE


def test_a_tile_that_is_not_seen_again_keeps_its_cost(clock: Clock) -> None:
    layer = semantic(clock)
    show(layer, *one_set(STAIRS))
    clock.now_s += 60.0
    layer.update(0.0, 0.0)
    assert layer.costmap.cost(2.05, 0.05) == LETHAL


@pytest.mark.parametrize('class_id', [255, CLASSES.index('sky'), 77])
def test_ids_without_a_class_or_a_cost_are_neither_marked_nor_free(
    clock: Clock, class_id: int
) -> None:
    layer = semantic(clock)
    show(layer, *one_set(STAIRS))
    assert show(layer, *one_set(class_id, 1)) == LETHAL


def test_null_dereference_by_a_mask_before_label_info(clock: Clock) -> None:
    with pytest.raises(NullDereference):
        show(semantic(clock, told=False), *one_set())


@pytest.mark.parametrize(
    'spoil',
    [
        lambda mask: changed(mask, encoding='mono16'),
        lambda mask: changed(mask, step=4, data=bytes(8)),
    ],
    ids=['encoding', 'padded rows'],
)
def test_misread_masks(clock: Clock, spoil: Callable[[Image], Image]) -> None:
    mask, confidence, cloud = one_set()
    with pytest.raises(Misread):
        show(semantic(clock), spoil(mask), confidence, cloud)
    with pytest.raises(Misread):
        show(semantic(clock), one_set()[0], spoil(confidence), cloud)


def test_out_of_bounds_by_a_confidence_of_another_size(clock: Clock) -> None:
    mask, _, cloud = one_set()
    small = mask_to_msg(np.zeros((1, 3), np.uint8), mask.header)
    with pytest.raises(OutOfBounds):
        show(semantic(clock), mask, small, cloud)


@pytest.mark.parametrize('shape', [(1, 6), (3, 2), (4, 6)])
def test_sizes_differ_where_the_cloud_is_not_organised_as_the_mask(
    clock: Clock, shape: tuple[int, int]
) -> None:
    mask, confidence, _ = one_set()
    cloud = cloud_to_msg(np.zeros((*shape, 3), np.float32), header())
    with pytest.raises(SizesDiffer):
        show(semantic(clock), mask, confidence, cloud)


def test_sizes_differ_where_a_mask_is_cut_short(clock: Clock) -> None:
    mask, confidence, cloud = one_set()
    with pytest.raises(SizesDiffer):
        show(semantic(clock), changed(mask, data=bytes(5)), confidence, cloud)


@pytest.mark.parametrize('approximate', [False, True], ids=['Humble', 'Jazzy'])
def test_never_paired_when_stamps_are_made_anew(clock: Clock, approximate: bool) -> None:
    layer = semantic(clock, approximate=approximate)
    with pytest.raises(NeverPaired):
        for number in range(0, 40, 3):
            mask, confidence, cloud = one_set(number=number)
            show(layer, changed(mask, header=header(1000 + number)), confidence, cloud)


def test_mixed_images_when_stamps_are_only_close(clock: Clock) -> None:
    mask, confidence, _ = one_set()
    mask.header.stamp.nanosec += 50_000_000
    layer = semantic(clock, approximate=True)
    with pytest.raises(MixedImages):
        show(layer, mask, confidence, one_set()[2])


@pytest.mark.parametrize(
    'stamp', [Time(), Time(sec=START_S - 10), Time(sec=START_S + 10)],
    ids=['zero', 'another clock', 'ahead'],
)
def test_outdated_sets_are_without_effect(clock: Clock, stamp: Time) -> None:
    msgs = one_set()
    for msg in msgs:
        msg.header.stamp = stamp
    with pytest.raises(Outdated):
        show(semantic(clock), *msgs)


def test_no_transform_of_an_empty_frame_id(clock: Clock) -> None:
    mask, confidence, cloud = one_set()
    cloud.header.frame_id = ''
    with pytest.raises(NoTransform):
        show(semantic(clock), mask, confidence, cloud)


@pytest.mark.parametrize('class_id', [255, 256])
def test_wrong_class_ids_in_label_info(clock: Clock, class_id: int) -> None:
    msg = labels()
    msg.class_map[0].class_id = class_id
    with pytest.raises(WrongClassId):
        semantic(clock).hear_labels(msg)


def test_unknown_class_in_the_settings(clock: Clock) -> None:
    with pytest.raises(UnknownClass, match='background'):
        semantic(clock).hear_labels(label_info_to_msg(CLASSES[:-2], Header(), 0.0))


# Clouds, of whichever consumer


def spoilt_clouds() -> dict[str, tuple[type[Hazard], PointCloud2]]:
    def cloud(points: NDArray[np.float32] = WALL) -> PointCloud2:
        return cloud_to_msg(points, header())

    doubles = cloud()
    doubles.fields[0].datatype = PointField.FLOAT64
    two = np.stack([WALL, WALL])
    return {
        'no fields': (MissingField, changed(cloud(), fields=[])),
        'empty without fields': (MissingField, PointCloud2(header=header())),
        'doubles': (Misread, doubles),
        'big-endian': (Misread, changed(cloud(), is_bigendian=True)),
        'padded rows': (Misread, changed(cloud(two), row_step=30, data=bytes(60))),
        'cut short': (Misread, changed(cloud(), data=bytes(12))),
        'x only NaN': (NotFinite, cloud(np.array([[math.nan, 0.0, 0.25]], np.float32))),
        'another frame': (NoTransform, changed(cloud(), header=header(frame_id='elsewhere'))),
    }


@pytest.mark.parametrize('name', spoilt_clouds())
def test_missing_field_misread_not_finite_or_no_transform_in_clouds(
    clock: Clock, name: str
) -> None:
    hazard, cloud = spoilt_clouds()[name]
    with pytest.raises(hazard):
        obstacles(clock).hear('obstacles', cloud)
    monitor = CollisionMonitor(MONITOR, FRAMES, clock)
    monitor.hear('obstacles', cloud)
    with pytest.raises(hazard):
        monitor.points('obstacles')


# ObstacleLayer


def obstacles(clock: Clock, layer: str = 'obstacle_layer', **sources: Any) -> ObstacleLayer:
    """Make the layer of the file, with changes to its sources."""
    changes = {
        name: {**OBSTACLES[layer][name], **values} for name, values in sources.items()
    }
    settings = {**OBSTACLES, layer: {**OBSTACLES[layer], **changes}}
    made = ObstacleLayer(settings, FRAMES, layer, clock)
    made.costmap.roll(0.0, 0.0)
    return made


def scan(*ranges_m: float, range_max_m: float = 8.0) -> LaserScan:
    """Make a scan whose middle beam points ahead."""
    first = -0.01 * (len(ranges_m) // 2)
    return scan_to_msg(Scan(np.array(ranges_m, np.float32), first, 0.01, range_max_m), header())


def test_obstacles_mark_and_ground_behind_them_clears(clock: Clock) -> None:
    layer = obstacles(clock)
    layer.hear('obstacles', cloud_to_msg(WALL, header()))
    layer.hear('ground', cloud_to_msg(BEYOND - np.float32([2.2, 0.0, 0.0]), header()))
    layer.update(0.0, 0.0)
    assert layer.costmap.cost(2.02, 0.03) == layer.costmap.cost(2.02, 0.08) == LETHAL
    layer.hear('obstacles', cloud_to_msg(WALL[:0], header(1)))
    layer.update(0.0, 0.0)
    assert layer.costmap.cost(2.02, 0.03) == LETHAL  # an empty cloud marks nothing, nor clears
    layer.hear('ground', cloud_to_msg(BEYOND, header(1)))
    layer.update(0.0, 0.0)
    assert not (layer.costmap.cells == LETHAL).any()


def test_without_an_empty_cloud_the_last_obstacles_are_marked_again(clock: Clock) -> None:
    layer = obstacles(clock)
    layer.hear('obstacles', cloud_to_msg(WALL, header()))
    layer.hear('ground', cloud_to_msg(BEYOND, header(1)))
    for _ in range(2):
        layer.update(0.0, 0.0)
    assert layer.costmap.cost(2.02, 0.03) == LETHAL


def test_a_costmap_that_rolls_keeps_obstacles_where_they_are(clock: Clock) -> None:
    layer = obstacles(clock)
    layer.hear('obstacles', cloud_to_msg(WALL, header()))
    layer.update(0.0, 0.0)
    for x, y in ((0.73, -0.4), (-2.0, 1.0)):
        layer.costmap.roll(x, y)
        assert layer.costmap.cost(2.02, 0.03) == LETHAL
        assert (layer.costmap.cells == LETHAL).sum() == 2
    layer.costmap.roll(30.0, 0.0)
    assert not layer.costmap.cells.any()


def test_beams_mark_where_they_end_and_free_ones_clear(clock: Clock) -> None:
    layer = obstacles(clock, 'scan_layer')
    for ranges_m, expected in (((2.0,), LETHAL), ((math.nan,), LETHAL), ((math.inf,), FREE)):
        for source in layer.sources:
            layer.hear(source, scan(*ranges_m))
        layer.update(0.0, 0.0)
        assert layer.costmap.cost(2.02, 0.02) == expected


def test_wrong_height_drops_every_point(clock: Clock) -> None:
    flat = cloud_to_msg(WALL * np.float32([1, 1, 0]), header())
    with pytest.raises(WrongHeight):
        obstacles(clock).hear('obstacles', flat)
    with pytest.raises(WrongHeight):  # Nav2's default
        obstacles(clock, obstacles={'max_obstacle_height': 0.0}).hear(
            'obstacles', cloud_to_msg(WALL, header())
        )


def test_never_cleared_without_a_source_that_clears_as_far_as_another_marks(clock: Clock) -> None:
    with pytest.raises(NeverCleared):
        obstacles(clock, ground={'clearing': False})
    with pytest.raises(NeverCleared):
        obstacles(clock, ground={'raytrace_max_range': 3.0})


def test_free_beams_ignored_without_inf_is_valid(clock: Clock) -> None:
    with pytest.raises(FreeBeamsIgnored):
        obstacles(clock, 'scan_layer', scan_free={'inf_is_valid': False}).hear(
            'scan', scan(math.inf)
        )


def test_phantom_wall_where_a_source_that_marks_takes_free_beams(clock: Clock) -> None:
    layer = obstacles(clock, 'scan_layer', scan={'inf_is_valid': True})
    with pytest.raises(PhantomWall):
        layer.hear('scan', scan(math.inf, range_max_m=4.0))


def test_sensor_outside_map(clock: Clock) -> None:
    layer = obstacles(clock)
    layer.hear('ground', cloud_to_msg(BEYOND, header()))
    with pytest.raises(SensorOutsideMap):
        layer.update(30.0, 0.0)


def test_silence_of_a_source(clock: Clock) -> None:
    layer = obstacles(clock)
    clock.now_s += 3.0
    with pytest.raises(Silence):
        layer.update(0.0, 0.0)


# StaticLayer


def grid(frame_id: str = 'odom') -> OccupancyGrid:
    """Make a grid that is unseen but for a free and an occupied cell 2 m ahead."""
    made = Grid.around(Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 8.0, 0.1)
    made.mark(np.array([[2.05, 0.05]]), 100)
    made.mark(np.array([[2.05, -0.05]]), 0)
    return grid_to_msg(made, header(frame_id=frame_id))


def static(
    frames: Frames = FRAMES, lowest: bool = True, **changes: Any
) -> tuple[StaticLayer, Costmap]:
    settings = {**OBSTACLES, **changes}
    master = Costmap(settings)
    master.roll(0.0, 0.0)
    return StaticLayer(settings, frames, lowest=lowest), master


@pytest.mark.parametrize('unknown', [False, True])
def test_a_grid_lies_in_the_costmap_with_its_unseen_cells_free_or_unknown(unknown: bool) -> None:
    layer, master = static(track_unknown_space=unknown, use_maximum=not unknown)
    layer.hear(grid())
    layer.update(master)
    assert master.cost(2.03, 0.03) == LETHAL and master.cost(2.03, -0.03) == FREE
    assert master.cost(1.0, 0.0) == (NO_INFORMATION if unknown else FREE)


def test_the_larger_cost_counts_above_lower_layers() -> None:
    layer, master = static(lowest=False)
    master.cells[:] = 100
    layer.hear(grid())
    layer.update(master)
    assert master.cost(2.03, 0.03) == LETHAL and master.cost(1.0, 0.0) == 100


@pytest.mark.parametrize('value', [101, 99, -2])
def test_wrong_cells(value: int) -> None:
    msg = grid()
    msg.data[7] = value
    with pytest.raises(WrongCells):
        static()[0].hear(msg)
    with pytest.raises(WrongCells):
        static()[0].hear(changed(grid(), data=[0] * 9))


def test_origin_turned() -> None:
    msg = grid()
    msg.info.origin.orientation.z, msg.info.origin.orientation.w = 0.6, 0.8
    with pytest.raises(OriginTurned):
        static()[0].hear(msg)


def test_origin_off_cells() -> None:
    msg = grid()
    msg.info.origin.position.x += 0.03
    with pytest.raises(OriginOffCells):
        static()[0].hear(msg)


def test_moving_grid_of_a_turning_robot() -> None:
    def turning(stamp_s: float | None) -> Pose:
        return Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0 if stamp_s else 0.3)

    with pytest.raises(MovingGrid):
        static(Frames({}, world_from_base=turning))[0].hear(grid('base_link'))
    static(Frames({}, world_from_base=turning))[0].hear(grid('odom'))


def test_resizes_a_costmap_that_does_not_roll() -> None:
    with pytest.raises(ResizesCostmap):
        static(rolling_window=False)[0].hear(grid())


def test_hidden_without_use_maximum_or_where_unknown_is_tracked_with_it() -> None:
    with pytest.raises(Hidden):
        static(lowest=False, use_maximum=False)[0].hear(grid())
    with pytest.raises(Hidden):
        static(track_unknown_space=True)[0].hear(grid())


# collision_monitor


def test_the_monitor_keeps_points_above_its_lowest_height(clock: Clock) -> None:
    monitor = CollisionMonitor(MONITOR, FRAMES, clock)
    low = np.concatenate([WALL, WALL * np.float32([1, 1, 0.1])])
    monitor.hear('obstacles', cloud_to_msg(low, header()))
    np.testing.assert_allclose(monitor.points('obstacles'), WALL, atol=1e-6)
    monitor.hear('obstacles', cloud_to_msg(low[:0], header()))
    assert not len(monitor.points('obstacles'))


def test_wrong_height_of_obstacles_on_the_ground_plane(clock: Clock) -> None:
    monitor = CollisionMonitor(MONITOR, FRAMES, clock)
    monitor.hear('obstacles', cloud_to_msg(WALL * np.float32([1, 1, 0]), header()))
    with pytest.raises(WrongHeight):
        monitor.points('obstacles')


def test_outdated_obstacles(clock: Clock) -> None:
    monitor = CollisionMonitor(MONITOR, FRAMES, clock)
    monitor.hear('obstacles', cloud_to_msg(WALL, header()))
    clock.now_s += 1.5
    with pytest.raises(Outdated):
        monitor.points('obstacles')
