"""segmentation_node: take camera images, publish masks for Nav2's semantic layer."""

from pathlib import Path
import sys
from typing import Any

from numpy import uint8
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from mnv2_perception.errors import ParameterError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nodes.camera import CameraNode, Outputs
from mnv2_perception.nodes.greeting import Greeting
from mnv2_perception.nodes.messages import (
    detections_to_msg,
    mask_to_msg,
    mask_to_png_msg,
    rgb_to_msg,
)
from mnv2_perception.nodes.overrides import did_you_mean
from mnv2_perception.nodes.parameters import SegmentationParameters
from mnv2_perception.nodes.process import spin
from mnv2_perception.nodes.topics import Publisher
from mnv2_perception.tasks.detector import detections_from_mask
from mnv2_perception.tasks.segmenter import read_ignore_mask, Segmenter
from mnv2_perception.vision.overlay import blend_mask


class SegmentationNode(CameraNode[SegmentationParameters, Segmenter]):
    """Publishes a mask and its confidence for the newest image, at the image's size and stamp.

    With `detection_classes` it also publishes the boxes around connected regions of these classes,
    on the topic that detection_node uses.
    """

    Parameters = SegmentationParameters
    task = Segmenter.task
    threshold = 'min_confidence'

    def __init__(self, **kwargs: Any) -> None:
        self.greeting: Greeting
        self._mask: Publisher
        self._compressed: Publisher
        self._confidence: Publisher
        self._overlay: Publisher
        self._detections: Publisher
        self._detected_ids: list[int] = []
        super().__init__('segmentation_node', **kwargs)

    def open_model(self, values: SegmentationParameters) -> Segmenter:
        ignored = read_ignore_mask(Path(values.ignore_mask)) if values.ignore_mask else None
        with self.opening(values) as (engine, spec):
            self.check_spec(spec, values)
            return Segmenter(engine, spec, values.min_confidence, values.rotate, ignored)

    def check_spec(self, spec: ModelSpec, values: SegmentationParameters) -> None:
        unknown = sorted(set(values.detection_classes) - set(spec.classes))
        if unknown:
            raise ParameterError(
                f'detection_classes: {spec.name} has no class {", ".join(unknown)}; '
                f'{did_you_mean(unknown[0], spec.classes)}'
            )

    def use_model(self, model: Segmenter) -> None:
        super().use_model(model)
        names = model.spec.classes
        self._detected_ids = [names.index(name) for name in self.parameters.detection_classes]

    def acquire(self) -> None:
        self.acquire_model('segmentation/label_info')
        publisher = self.create_result_publisher
        self._mask = publisher(Image, 'segmentation/mask')
        # Named as image_transport does: the transport is appended to the remapped name.
        self._compressed = publisher(CompressedImage, f'{self._mask.topic_name}/compressed')
        self.greeting = Greeting(
            self, [self._mask, self._compressed], self._label_info, self.publish_label_info
        )
        self._confidence = publisher(Image, 'segmentation/confidence')
        self._overlay = publisher(Image, 'segmentation/overlay')
        if self.parameters.detection_classes:
            self._detections = publisher(Detection2DArray, 'detections')

    def announce(self) -> None:
        self.greeting.announce()

    def rename(self) -> None:
        self.greeting.rename()

    def greet(self) -> None:
        self.greeting.greet()

    def publish_result(
        self, image: NDArray[uint8], outputs: Outputs, header: Header
    ) -> bool:
        segmenter = self.model
        values = self.parameters
        segmenter.min_confidence = values.min_confidence
        result = segmenter.finish(image, outputs)
        held = self.greeting.holding()
        # Confidence first: a subscriber that pairs the two has both when the mask arrives.
        if self._confidence.get_subscription_count():
            self._confidence.publish(mask_to_msg(result.confidence, header), elsewhere=not held)
        self._mask.publish(mask_to_msg(result.class_ids, header), elsewhere=not held)
        if not held and self._compressed.get_subscription_count():
            self._compressed.publish(mask_to_png_msg(result.class_ids, header))
        if self._detected_ids:
            found = detections_from_mask(result, self._detected_ids, values.detection_min_area)
            self._detections.publish(
                detections_to_msg(
                    found.boxes, found.scores, found.class_ids, segmenter.spec.classes, header
                )
            )
        if self._overlay.get_subscription_count():
            colours = segmenter.spec.colours
            overlay = blend_mask(image, result.class_ids, colours, values.overlay_alpha)
            self._overlay.publish(rgb_to_msg(overlay, header))
        return not held or self._mask.get_subscription_count() > self._mask.count_elsewhere()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return spin(SegmentationNode, args)


if __name__ == '__main__':
    sys.exit(main())
