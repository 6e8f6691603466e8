"""All ROS parameters of all nodes, each declared once: type, default, meaning, range.

`python -m mnv2_perception.nodes.parameters` prints docs/parameters.md.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, Field, fields
from typing import Any, Protocol

from mnv2_perception.errors import ParameterError
from mnv2_perception.nodes.bag_parameters import BagPlayerParameters, BagRecorderParameters
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
    """The parameters that every lifecycle node has."""

    @property
    def max_rate_hz(self) -> float:
        """The most frames to process per second; 0: all."""

    @property
    def min_rate_hz(self) -> float:
        """Results per second below which `/diagnostics` warns; 0: never."""

    @property
    def autostart(self) -> bool:
        """Whether the node configures and activates itself."""


MAX_CELLS = 4_000_000  # 100 m in cells of 5 cm; a larger grid would take longer than a frame


def require_each_once(lists: dict[str, tuple[str, ...]]) -> None:
    """Raise ParameterError if a name is in two of the lists, or twice in one of them."""
    names = Counter(name for each in lists.values() for name in each)
    for name, count in names.items():
        if count > 1:
            where = ' and '.join(key for key, each in lists.items() if name in each)
            raise ParameterError(f'{name!r} is {count} times in {where}; leave it in one place')


MODEL = 'Name of a shipped model, or path of an ONNX file.'


@dataclass(frozen=True)
class CameraParameters:
    """The parameters shared by the nodes that run a model on a camera's images."""

    model: str = parameter('', MODEL, live=True)
    engine: str = parameter(
        'auto', 'Runtime of the model; fake is for tests.',
        choices=('auto', *models.ENGINES),
    )
    precision: str = parameter(
        'auto', 'Precision of the computation. auto: that of a TensorRT plan; in OpenVINO the '
        'faster of int8 and bf16 that the CPU has and the model was verified in; otherwise fp32.',
        choices=('auto', *models.PRECISIONS),
    )
    build_engine: bool = parameter(
        False, 'Build a missing TensorRT plan while configuring; takes minutes, but only once.'
    )
    threads: int = parameter(0, 'CPU threads for one inference; 0: one for each core.', 0, 256)
    image_transport: str = parameter(
        'raw', 'Topic of the camera: raw is image, compressed is image/compressed.',
        choices=('raw', 'compressed'),
    )
    max_image_megapixels: float = parameter(
        16.0, 'Larger images are rejected before they are decoded; a pixel takes up to 24 bytes.',
        0.01, 100.0, live=True,
    )
    max_rate_hz: float = parameter(
        0.0, 'Process at most this many images per second; 0: no limit.', 0.0, 1000.0, live=True
    )
    min_rate_hz: float = parameter(
        0.0, 'Warn in /diagnostics if there are fewer results per second; 0: never.',
        0.0, 1000.0, live=True,
    )
    rotate: int = parameter(
        0, 'Rotate the image clockwise by this many degrees for the network, if the camera is '
        'mounted tilted.', choices=(0, 90, 180, 270),
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
        0.0, 'Pixels with a lower confidence get id 255 (no class).', 0.0, 1.0, live=True
    )
    ignore_mask: str = parameter(
        '', "PNG of the image's size; its non-black pixels get id 255, for instance the robot's "
        'own bumper.'
    )
    overlay_alpha: float = parameter(
        0.5, 'Opacity of the colours in the overlay.', 0.0, 1.0, live=True
    )
    detection_classes: tuple[str, ...] = parameter(
        (), 'Classes whose connected regions are published as detections; empty: none.'
    )
    detection_min_area: int = parameter(
        100, 'Smallest area of such a detection, in pixels of the image.', 1, 10**9, live=True
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
        (0.0, 0.0, 1.0, 1.0), 'Part of the image that is classified: x1, y1, x2, y2 as fractions '
        'of its width and height.', 0.0, 1.0,
    )
    top_k: int = parameter(5, 'Largest number of classes to report.', 1, 1000, live=True)
    min_confidence: float = parameter(
        0.0, 'Classes with a lower probability are not reported.', 0.0, 1.0, live=True
    )
    debounce_frames: int = parameter(
        1, 'Number of frames in a row that a class must win before it is reported first; 1: off.',
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
        0.3, 'Boxes with a lower score are left out.', 0.0, 1.0, live=True
    )
    nms_iou: float = parameter(
        0.5, 'A box is left out if its IoU with a better box of its class is higher.',
        0.0, 1.0, live=True,
    )


CLASS_LISTS = 'traversable_classes', 'forbidden_classes', 'obstacle_classes', 'ignored_classes'


@dataclass(frozen=True)
class CostmapParameters(PlacingParameters):
    """Parameters of costmap_node."""

    source: str = parameter(
        'ground', 'How pixels are placed in 3D: on flat ground, by depth with its camera_info, '
        'or by a cloud.',
        choices=('ground', 'depth', 'points'),
    )
    traversable_classes: tuple[str, ...] = parameter(
        ('floor', 'sidewalk'), 'Classes of ground to drive on; marked free.'
    )
    forbidden_classes: tuple[str, ...] = parameter(
        ('speed_bump', 'stairs'), 'Classes of ground that must not be driven on; marked as '
        'blocked where they are seen.'
    )
    obstacle_classes: tuple[str, ...] = parameter(
        (), 'Classes of things that stand on the ground; marked at their base. Empty: all '
        'classes in no other list.'
    )
    ignored_classes: tuple[str, ...] = parameter((), 'Classes that are neither marked nor free.')
    cloud_classes: tuple[str, ...] = parameter(
        (), 'Blocking classes that are also published as a cloud of their own, obstacles/NAME.'
    )
    grid_frame: str = parameter(
        'odom', 'Frame whose axes the grid follows; without tf2: base_frame.'
    )
    horizontal_fov_rad: float = parameter(
        0.0, 'Field of view of a camera without camera_info, taken as an ideal pinhole; 0: wait '
        'for camera_info.', 0.0, 3.1,
    )
    max_range_m: float = parameter(10.0, 'Largest distance of ground and obstacles.', 0.1, 1000.0)
    max_footprint_m: float = parameter(
        0.25, 'Largest size of a pixel on the ground; limits how far ground is used.', 0.001, 100.0
    )
    obstacle_height_m: float = parameter(
        0.25, 'Height of obstacles that are placed on flat ground.', 0.0, 10.0, live=True
    )
    min_height_m: float = parameter(
        0.05, 'Lower measured obstacle points are left out.', -10.0, 10.0, live=True
    )
    max_height_m: float = parameter(
        2.0, 'Higher measured obstacle points are left out.', -10.0, 100.0, live=True
    )
    semantic_height: int = parameter(
        240, 'Number of rows of semantic/*; that of the mask if it has fewer.', 1, 10000
    )
    grid_size_m: float = parameter(20.0, 'Side length of the grid.', 0.1, 1000.0)
    grid_resolution_m: float = parameter(0.1, 'Side length of a cell.', 0.005, 10.0)
    scan_angle_min_rad: float = parameter(
        -1.57, 'First angle of the scan.', -3.1416, 3.1416
    )
    scan_angle_max_rad: float = parameter(1.57, 'Last angle of the scan.', -3.1416, 3.1416)
    scan_angle_increment_rad: float = parameter(
        0.01, 'Angle between two beams of the scan.', 0.0005, 1.0
    )

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
                "horizontal_fov_rad cannot calibrate source 'depth': its points would be wrong by "
                "the error of the guess; remap camera_info to the camera's own, or, where depth "
                'is registered to the image, to depth/camera_info'
            )


# Nodes that `perception` can run, by short name, in the order of their creation: those that make
# results come before those that place them. Short name `name`: class NameNode in name_node.py.
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
        f'Nodes to run, out of {" and ".join(", ".join(SHARING_NODES).rsplit(", ", 1))}.',
    )
    cameras: tuple[str, ...] = parameter(
        (), 'Names of the cameras; each is the namespace of its nodes and topics. Empty: one '
        'camera, no namespace.',
    )


# All nodes: the name of the executable, which is that of the file, and the parameters.
NODES: dict[str, type[Any]] = {
    **{f'{name}_node': cls for name, cls in SHARING_NODES.items()},
    'perception': PerceptionParameters,
    'bag_player_node': BagPlayerParameters,
    'bag_recorder_node': BagRecorderParameters,
}

TYPE_NAMES = {bool: 'bool', int: 'integer', float: 'double', str: 'string'}


def table(items: 'Sequence[Field[Any]]') -> str:
    """Format parameters as a Markdown table."""
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

To set parameters, copy a file from [config/](../config) and give the copy to
`perception.launch.py` as `params_file:=robot.yaml`. Its sections are named after nodes
(`/**/segmentation_node:`, `/front/costmap_node:`). If several sections match a node, the last one
in the file wins, so place the section of a single camera below `/**/…`. Write doubles with a
point: `4.0`, not `4`, which ROS takes for an integer and refuses.
You can change a *live* parameter while the node runs (`ros2 param set`). All others are read
when the node is configured: set them before, or after `cleanup`. The parameters of `perception`
and of the bag nodes cannot be changed once the process runs.

"""


def page() -> str:
    """Return docs/parameters.md; parameters that several nodes share are listed once."""
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
