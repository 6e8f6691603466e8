"""CostmapInputs: the messages that costmap_node has received and places masks with."""

from collections.abc import Callable
import time

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import LabelInfo

from mnv2_perception.errors import ParameterError
from mnv2_perception.model_spec import UNLABELLED
from mnv2_perception.nodes.measurements import max_age_s, Measurements, RAISE
from mnv2_perception.nodes.messages import pinhole_to_msg, stamp_to_ns
from mnv2_perception.nodes.parameters import CLASS_LISTS, CostmapParameters
from mnv2_perception.nodes.placing_parameters import PlacingParameters
from mnv2_perception.nodes.sync import StampedQueue, StampWatch
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.ground_view import GroundView
from mnv2_perception.vision.pose import Pose
from mnv2_perception.vision.roles import (
    describe_roles,
    misspelt_classes,
    roles_of,
    topics_of_classes,
)

NO_CONFIDENCE = f"segmentation/confidence with the mask's stamp; {RAISE}"

LONGEST_NAME = 1000  # of a class, in characters


class CostmapInputs(Measurements):
    """The measurements that place masks, the latest class names, and the latest confidences.

    Args:
        sync_queue: number of confidences, and of depth images or clouds, to keep.
        rectified: whether images are rectified.
        tell: called with a sentence if a camera_info is unusable.

    Attributes:
        label_info: class names of the masks.
        renamed_s: when the classes last changed (time.monotonic); masks that came before have the
            former classes.
        confidences: confidences of the masks.
    """

    def __init__(
        self, sync_queue: int, rectified: bool = False,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        super().__init__(sync_queue, rectified, tell)
        self.label_info: LabelInfo | None = None
        self.renamed_s = 0.0
        self.confidences: StampedQueue[Image] = StampedQueue(sync_queue)

    def forget(self, after_ns: int) -> None:
        super().forget(after_ns)
        self.confidences.forget(after_ns)

    def confidence_of(
        self, frame: Frame, values: CostmapParameters, stamps: StampWatch
    ) -> Image | None:
        """Return the confidence image of a mask, None if there is none."""
        stamp_ns, age_s = stamp_to_ns(frame.msg.header.stamp), max_age_s(frame, values, stamps)
        return self.confidences.find(stamp_ns, 0.0, frame.received_s, age_s)

    def awaits_confidence(
        self, frame: Frame, values: CostmapParameters, stamps: StampWatch
    ) -> bool:
        """Tell whether a mask's confidence may still come; not if none has come so far."""
        return not (self.confidences.is_empty() or self.confidence_of(frame, values, stamps))

    def take_label_info(self, msg: LabelInfo) -> bool:
        """Store the names of the ids that a mask can contain; return whether they are new.

        Nav2's layer would cast larger ids to a byte. If an id occurs twice, its last name counts.
        """
        # A new message: the given one is shared with other nodes of the process.
        held = list({
            item.class_id: item for item in msg.class_map
            if item.class_id < UNLABELLED and len(item.class_name) <= LONGEST_NAME
        }.values())
        known = self.label_info
        if known and known.class_map != held:
            self.renamed_s = time.monotonic()  # first: a reader of the new names needs it
        self.label_info = LabelInfo(header=msg.header, class_map=held, threshold=msg.threshold)
        return known is None or bool(known.class_map != held)

    @property
    def id_of(self) -> dict[str, int]:
        """Class ids by class name; empty before the names are known."""
        known = self.label_info.class_map if self.label_info else ()
        return {item.class_name: item.class_id for item in known}

    def roles(self, values: CostmapParameters) -> NDArray[np.uint8]:
        """Return the role of each class id; like `roles_of`, it raises if the names do not fit."""
        return roles_of(
            self.id_of, values.traversable_classes, values.forbidden_classes,
            values.obstacle_classes, values.ignored_classes,
        )

    def describe_classes(self, values: CostmapParameters) -> str:
        """Say how the lists treat each class; empty if they do not fit the masks."""
        try:
            roles = describe_roles(self.roles(values), self.id_of)
            return f'classes of the masks that are {roles}'
        except ParameterError:
            return ''  # each mask is rejected with this reason

    def semantic_size(
        self, ids: NDArray[np.uint8], values: CostmapParameters
    ) -> tuple[int, int]:
        """Return the height and width of the semantic layer's topics for a mask (H, W)."""
        height = min(values.semantic_height, len(ids))
        return height, max(1, round(height * ids.shape[1] / len(ids)))

    def missing(self, values: PlacingParameters) -> list[str]:
        needed = [] if self.label_info else ['segmentation/label_info']
        assert isinstance(values, CostmapParameters)
        calibrated = values.horizontal_fov_rad or values.source == 'points'
        return needed + [
            name for name in super().missing(values) if name != 'camera_info' or not calibrated
        ]

    def misspelt_classes(self, values: CostmapParameters) -> str:
        """Return which class names look misspelt, so that the classes meant are not marked."""
        lists = {name: getattr(values, name) for name in CLASS_LISTS}
        found = misspelt_classes([*self.id_of], lists)
        found |= misspelt_classes([*self.id_of], {'cloud_classes': values.cloud_classes})
        return '; '.join(
            f'the masks have no class {name!r}, did you mean {close!r}?'
            for name, close in found.items()
        )

    def absent_classes(self, values: CostmapParameters) -> str:
        """Return which blocking classes the masks lack; empty before their names are known."""
        if not self.label_info:
            return ''
        known, obstacles = self.id_of, values.obstacle_classes
        told = [
            f'the masks have no class {name!r} of cloud_classes: nothing is published on '
            f'obstacles/{topic}'
            for name, topic in topics_of_classes(values.cloud_classes).items() if name not in known
        ]
        if obstacles and not set(obstacles) & set(known):
            told.append(
                f'obstacle_classes is {list(obstacles)}, but the masks have none of these '
                f'classes, so nothing is an obstacle; name some of {str(sorted(known))[:1000]}, '
                f'or leave it empty: then every class in no other list is an obstacle'
            )
        return '; '.join(told)

    def calibration(self, values: CostmapParameters) -> str:
        """Return the source of the mask camera's calibration, empty if there is none."""
        if values.horizontal_fov_rad and not self.camera_info.usable:
            return 'horizontal_fov_rad'
        return 'camera_info' if self.camera_info else ''

    def refused(self, values: PlacingParameters) -> str:
        assert isinstance(values, CostmapParameters)
        if self.calibration(values) == 'horizontal_fov_rad':
            return self.depth_info.refusal  # the fov is for a camera without calibration
        return super().refused(values)

    def camera_of(
        self, frame: Frame, values: CostmapParameters
    ) -> tuple[Camera | None, CameraInfo | None]:
        """Return the camera and the camera_info of a mask, None and None if it has no calibration.

        Raises:
            CalibrationError: the camera_info does not fit the mask, or is unusable.
        """
        mask, fov_rad = frame.msg, values.horizontal_fov_rad
        if fov_rad and not self.camera_info.usable:
            camera = Camera.from_fov(mask.height, mask.width, fov_rad)
            return camera, pinhole_to_msg(camera)
        found = self.camera_info.of(stamp_to_ns(mask.header.stamp), frame.received_s)
        if found is None:
            return None, None
        found[0].require_size(mask.height, mask.width)
        return found


class Views:
    """The part of the ground that the camera sees, computed again when the camera has moved.

    Args:
        tell: function that logs how far the ground is seen, once per camera.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._last: tuple[Camera, Pose, GroundView] | None = None

    def of(self, camera: Camera, pose: Pose, values: CostmapParameters) -> GroundView:
        """Return a camera's view of the ground from a pose.

        Raises:
            CalibrationError: it sees no ground.
        """
        last = self._last
        if last and last[0] == camera and last[1].is_close(pose):
            return last[2]
        view = GroundView(camera, pose, values.max_range_m, values.max_footprint_m)
        if last is None or last[0] != camera:
            self._tell(
                f'the camera, at a height of {pose.translation[2]:.2f} m, sees ground up to '
                f'{view.range_max_m:.1f} m away'
            )
        self._last = camera, pose, view
        return view
