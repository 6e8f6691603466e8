"""Every ROS parameter of every node, declared once: type, default, meaning, range.

`python -m mnv2_perception.nodes.parameters` prints docs/parameters.md.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, Field, fields
from typing import Any, Protocol

from mnv2_perception.errors import ParameterError
from mnv2_perception.nodes.declare import describe_range, parameter, ros_default
from mnv2_perception.nodes.placing_parameters import (
    Detection3DParameters,
    PlacingParameters,
    require_frame,
    require_order,
    require_rates,
)
from mnv2_perception.tasks import models
from mnv2_perception.vision.roles import require_marked, topics_of_classes


class LifecycleParameters(Protocol):
    """What the parameters of every lifecycle node have."""

    @property
    def max_rate_hz(self) -> float:
        """Frames a second that are processed at most; 0 takes all."""

    @property
    def min_rate_hz(self) -> float:
        """Results a second below which `/diagnostics` warns; 0 never."""

    @property
    def autostart(self) -> bool:
        """Whether the node configures and activates itself."""


MAX_CELLS = 4_000_000  # 100 m in cells of 5 cm; more takes longer than a frame


def require_each_once(lists: dict[str, tuple[str, ...]]) -> None:
    """Raise ParameterError if a name is in two of the lists, or in one of them twice."""
    names = Counter(name for each in lists.values() for name in each)
    for name, count in names.items():
        if count > 1:
            where = ' and '.join(key for key, each in lists.items() if name in each)
            raise ParameterError(f'{name!r} is {count} times in {where}; leave it in one place')


MODEL = 'Name of a shipped model, or path of an ONNX file.'


@dataclass(frozen=True)
class CameraParameters:
    """What the nodes that run a model on a camera's images share."""

    model: str = parameter('', MODEL, live=True)
    engine: str = parameter(
        'auto', 'Runtime of the model; fake is for tests.',
        choices=('auto', *models.ENGINES),
    )
    precision: str = parameter(
        'auto', 'Of the arithmetic; auto is what a TensorRT plan has, in OpenVINO the faster one '
        'of int8 and bf16 that the CPU has and the model was verified in, else fp32.',
        choices=('auto', *models.PRECISIONS),
    )
    build_engine: bool = parameter(
        False, 'Build a missing TensorRT plan while configuring, which takes minutes, once.'
    )
    threads: int = parameter(
        0, 'CPU threads for one inference; 0 uses one for each core.', 0, 256
    )
    image_transport: str = parameter(
        'raw', 'What the camera sends: image, or image/compressed.', choices=('raw', 'compressed')
    )
    max_image_megapixels: float = parameter(
        16.0, 'Larger images are rejected before they are decoded; a pixel takes up to 24 bytes.',
        0.01, 100.0, live=True,
    )
    max_rate_hz: float = parameter(
        0.0, 'Process at most so many images a second; 0 takes all it can.', 0.0, 1000.0, live=True
    )
    min_rate_hz: float = parameter(
        0.0, 'Warn in /diagnostics when fewer results a second come; 0 never does.', 0.0, 1000.0,
        live=True,
    )
    rotate: int = parameter(
        0, 'Degrees clockwise that set the image of a tilted camera upright for the network.',
        choices=(0, 90, 180, 270),
    )
    autostart: bool = parameter(True, 'Configure and activate without a lifecycle manager.')

    def check(self) -> None:
        """Raise ParameterError if values contradict each other."""
        require_rates(self.min_rate_hz, self.max_rate_hz)


@dataclass(frozen=True)
class SegmentationParameters(CameraParameters):
    """Parameters of segmentation_node."""

    model: str = parameter(models.SEGMENTATION_MODEL, MODEL, live=True)
    min_confidence: float = parameter(
        0.0, 'Pixels whose confidence is below get id 255 (no class).', 0.0, 1.0, live=True
    )
    ignore_mask: str = parameter(
        '', "PNG of the image's size; its non-black pixels get id 255 (the own bumper)."
    )
    overlay_alpha: float = parameter(
        0.5, 'Weight of the colours in the overlay.', 0.0, 1.0, live=True
    )
    detection_classes: tuple[str, ...] = parameter(
        (), 'Classes whose connected pixels are published as detections; none when empty.'
    )
    detection_min_area: int = parameter(
        100, 'Pixels of the image that such a detection has at least.', 1, 10**9, live=True
    )

    def check(self) -> None:
        """Raise ParameterError if values contradict each other."""
        super().check()
        require_each_once({'detection_classes': self.detection_classes})


@dataclass(frozen=True)
class ClassificationParameters(CameraParameters):
    """Parameters of classification_node."""

    model: str = parameter(models.CLASSIFICATION_MODEL, MODEL, live=True)
    region: tuple[float, ...] = parameter(
        (0.0, 0.0, 1.0, 1.0),
        'Part of the image that is classified: x1, y1, x2, y2 of its width and height.', 0.0, 1.0,
    )
    top_k: int = parameter(5, 'Classes to report at most.', 1, 1000, live=True)
    min_confidence: float = parameter(
        0.0, 'Classes that are less probable are not reported.', 0.0, 1.0, live=True
    )
    debounce_frames: int = parameter(
        1, 'Frames in a row that a class must win before it is reported first; 1 is off.',
        1, 1000, live=True,
    )

    def check(self) -> None:
        """Raise ParameterError if values contradict each other."""
        super().check()
        if len(self.region) != 4:
            raise ParameterError(
                f'region is {list(self.region)}, expected four numbers: x1, y1, x2, y2'
            )
        require_order(self.region[0], 'x1 of region', self.region[2], 'x2')
        require_order(self.region[1], 'y1 of region', self.region[3], 'y2')


@dataclass(frozen=True)
class DetectionParameters(CameraParameters):
    """Parameters of detection_node."""

    model: str = parameter(models.DETECTION_MODEL, MODEL, live=True)
    min_score: float = parameter(
        0.3, 'Boxes whose score is below are left out.', 0.0, 1.0, live=True
    )
    nms_iou: float = parameter(
        0.5, 'A box that overlaps a better one of its class by more (IoU) is left out.',
        0.0, 1.0, live=True,
    )


CLASS_LISTS = 'traversable_classes', 'forbidden_classes', 'obstacle_classes', 'ignored_classes'


@dataclass(frozen=True)
class CostmapParameters(PlacingParameters):
    """Parameters of costmap_node."""

    source: str = parameter(
        'ground', 'What places pixels: flat ground, depth with its camera_info, or a cloud.',
        choices=('ground', 'depth', 'points'),
    )
    traversable_classes: tuple[str, ...] = parameter(
        ('floor', 'sidewalk'), 'Ground to drive on; marked free.'
    )
    forbidden_classes: tuple[str, ...] = parameter(
        ('speed_bump', 'stairs'), 'Ground not to drive on; marked where it is seen.'
    )
    obstacle_classes: tuple[str, ...] = parameter(
        (), 'What stands on the ground; marked at its base. All other classes when empty.'
    )
    ignored_classes: tuple[str, ...] = parameter((), 'Neither marked nor free.')
    cloud_classes: tuple[str, ...] = parameter(
        (), 'Of what blocks: classes that have a cloud of their own, obstacles/NAME.'
    )
    grid_frame: str = parameter(
        'odom', 'Frame whose axes the grid follows; base_frame where there is no tf2.'
    )
    horizontal_fov_rad: float = parameter(
        0.0, 'Field of view of a camera that sends no camera_info: an ideal pinhole; 0 waits for '
        'one.', 0.0, 3.1,
    )
    max_range_m: float = parameter(10.0, 'Farthest ground and obstacles.', 0.1, 1000.0)
    max_footprint_m: float = parameter(
        0.25, 'Largest size of a pixel on the ground; limits the range of ground.',
        0.001, 100.0,
    )
    obstacle_height_m: float = parameter(
        0.25, 'Height given to obstacles that are placed on flat ground.', 0.0, 10.0,
        live=True,
    )
    min_height_m: float = parameter(
        0.05, 'Measured obstacle points below are left out.', -10.0, 10.0, live=True
    )
    max_height_m: float = parameter(
        2.0, 'Measured obstacle points above are left out.', -10.0, 100.0, live=True
    )
    semantic_height: int = parameter(
        240, "Rows of semantic/*; the mask's own when it has fewer.", 1, 10000
    )
    grid_size_m: float = parameter(20.0, 'Side of the grid.', 0.1, 1000.0)
    grid_resolution_m: float = parameter(0.1, 'Side of a cell.', 0.005, 10.0)
    scan_angle_min_rad: float = parameter(-1.57, 'Of the scan.', -3.1416, 3.1416)
    scan_angle_max_rad: float = parameter(1.57, 'Of the scan.', -3.1416, 3.1416)
    scan_angle_increment_rad: float = parameter(0.01, 'Of the scan.', 0.0005, 1.0)

    def check(self) -> None:
        """Raise ParameterError if values contradict each other, or hide every obstacle."""
        super().check()
        require_order(self.min_height_m, 'min_height_m', self.max_height_m, 'max_height_m')
        require_order(
            self.scan_angle_min_rad + self.scan_angle_increment_rad,
            'scan_angle_min_rad plus one increment', self.scan_angle_max_rad, 'scan_angle_max_rad',
        )
        if not self.traversable_classes:
            raise ParameterError(
                "traversable_classes is empty, expected names of the model's classes that one "
                'can drive on'
            )
        require_each_once({name: getattr(self, name) for name in CLASS_LISTS})
        require_each_once({'cloud_classes': self.cloud_classes})
        require_marked(
            self.cloud_classes, (*self.traversable_classes, *self.ignored_classes),
            (*self.obstacle_classes, *self.forbidden_classes) if self.obstacle_classes else None,
        )
        topics_of_classes(self.cloud_classes)
        require_frame('grid_frame', self.grid_frame)
        cells = (self.grid_size_m / self.grid_resolution_m) ** 2
        if not 1.0 <= cells <= MAX_CELLS:
            raise ParameterError(
                f'a grid of {self.grid_size_m} m in cells of {self.grid_resolution_m} m has '
                f'{cells:.3g} of them, expected 1 to {MAX_CELLS}: change grid_size_m or '
                f'grid_resolution_m'
            )
        if self.source == 'depth' and self.horizontal_fov_rad:
            raise ParameterError(
                "horizontal_fov_rad is no calibration for source 'depth', whose points would be "
                "off by the guess; remap camera_info to the camera's own, or, where depth is "
                'registered to the image, to depth/camera_info'
            )


# What `perception` runs, by short name, in the order of creation: results before what places them.
# The node of a name is class NameNode in name_node.py.
SHARING_NODES: dict[str, type[LifecycleParameters]] = {
    'segmentation': SegmentationParameters,
    'classification': ClassificationParameters,
    'detection': DetectionParameters,
    'costmap': CostmapParameters,
    'detection3d': Detection3DParameters,
}
CAMERA_NAME = '[A-Za-z][A-Za-z0-9_]*'


@dataclass(frozen=True)
class PerceptionParameters:
    """Parameters of perception."""

    nodes: tuple[str, ...] = parameter(
        ('segmentation', 'costmap'),
        f'Those to run, out of {" and ".join(", ".join(SHARING_NODES).rsplit(", ", 1))}.',
    )
    cameras: tuple[str, ...] = parameter(
        (), 'Names of the cameras, each a namespace of its nodes and topics; one without when '
        'empty.',
    )


@dataclass(frozen=True)
class BagPlayerParameters:
    """Parameters of bag_player_node; `mnv2 bag play` has options of the same names."""

    bag: str = parameter('', 'Bag folder, or a single .mcap or .db3 file.')
    rate: float = parameter(1.0, 'Bag seconds per second.', 0.001, 1000.0)
    loop: bool = parameter(False, 'Start again at the end; /clock then jumps back.')
    topics: tuple[str, ...] = parameter((), 'Topics to play; all when empty.')
    exclude: tuple[str, ...] = parameter((), 'Topics not to play.')
    remap: tuple[str, ...] = parameter((), 'Rules from:=to to publish under another name.')
    start_delay_s: float = parameter(
        0.5, 'How long /clock stands at the first message, for discovery.', 0.0, 3600.0
    )
    wait_for_subscribers_s: float = parameter(
        0.0, 'Before that, wait at most so long until each topic has a subscriber.', 0.0, 3600.0
    )
    wait_for_topics: tuple[str, ...] = parameter(
        (), 'Wait for subscribers of these only; of all that are played when empty.'
    )
    clock_hz: float = parameter(
        100.0, '/clock messages a second, 0 for none; a /clock in the bag is played instead.',
        0.0, 10000.0,
    )
    max_gap_s: float = parameter(
        60.0, 'A longer gap in the recording is told, and shortened to 1 s; 0: none is.',
        0.0, 1e9,
    )
    log: str = parameter('', 'CSV file to write: topic,stamp_ns,published_ns (monotonic).')
    foxglove: str = parameter(
        '', 'PORT or HOST:PORT at which Foxglove sees the whole graph; empty: none.'
    )


@dataclass(frozen=True)
class BagRecorderParameters:
    """Parameters of bag_recorder_node; `mnv2 bag record` has options of the same names."""

    out: str = parameter('', "The new bag's folder.")
    topics: tuple[str, ...] = parameter((), 'Topics to record.')
    storage: str = parameter('mcap', 'File format of the bag.', choices=('mcap', 'sqlite3'))
    log: str = parameter('', 'CSV file to write: topic,stamp_ns,received_ns (monotonic).')


# Every node: the name of its executable and of its file, and its parameters.
NODES: dict[str, type[Any]] = {
    **{f'{name}_node': cls for name, cls in SHARING_NODES.items()},
    'perception': PerceptionParameters,
    'bag_player_node': BagPlayerParameters,
    'bag_recorder_node': BagRecorderParameters,
}

TYPE_NAMES = {bool: 'bool', int: 'integer', float: 'double', str: 'string'}


def table(items: 'Sequence[Field[Any]]') -> str:
    """Return a Markdown table of parameters."""
    lines = [
        '| parameter | type | default | values | live | meaning |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for item in items:
        example, kind = ros_default(item), ''
        default = '(empty)' if item.default in ('', ()) else f'`{example}`'
        if isinstance(example, list):
            example, kind = example[0], ' list'
        lines.append(
            f'| `{item.name}` | {TYPE_NAMES[type(example)]}{kind} | {default} '
            f'| {describe_range(item)} | {"yes" if item.metadata["live"] else ""} '
            f'| {item.metadata["meaning"]} |'
        )
    return '\n'.join(lines)


PAGE = """\
# Parameters

*Printed by `python -m mnv2_perception.nodes.parameters`; a test compares it with the code.*

Set them in a copy of a file in [config/](../config), by node name (`/**/segmentation_node:`,
`/front/costmap_node:`), and give it to `perception.launch.py` as `params_file:=robot.yaml`.
Where several sections fit a node the last one in the file counts: one camera's stands below
`/**/…`. Doubles have a point: `4.0`, not `4`, which ROS takes for an integer and refuses.
A parameter that is *live* can be set while the node runs (`ros2 param set`). Any other is read
when the node is configured: set it before, or after `cleanup`. Those of `perception` and of the
bag nodes are fixed once the process runs.

"""


def page() -> str:
    """Return docs/parameters.md; what several nodes share is told once."""
    shared: list[Field[Any]] = []
    parts = []
    for base, special in ((CameraParameters, 'model'), (PlacingParameters, 'source')):
        common = [item for item in fields(base) if item.name != special]
        names = [name for name, cls in NODES.items() if issubclass(cls, base)]
        parts.append(f'## Shared by {", ".join(names)}\n\n{table(common)}')
        shared += common
    for name, cls in NODES.items():
        own = [item for item in fields(cls) if item not in shared]
        parts.append(f'## {name}: parameters\n\n{table(own)}')
    return PAGE + '\n\n'.join(parts)


if __name__ == '__main__':
    print(page())
