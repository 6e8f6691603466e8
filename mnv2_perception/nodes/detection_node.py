"""detection_node: take camera images, publish bounding boxes of objects."""

import sys
from typing import Any

from numpy import uint8
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from mnv2_perception.nodes.camera import CameraNode, Outputs
from mnv2_perception.nodes.messages import detections_to_msg, rgb_to_msg
from mnv2_perception.nodes.parameters import DetectionParameters
from mnv2_perception.nodes.process import spin
from mnv2_perception.nodes.topics import Publisher
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.vision.overlay import draw_boxes


class DetectionNode(CameraNode[DetectionParameters, Detector]):
    """Publishes the boxes in the newest image in its pixels, best first; an empty list, too.

    The header is that of the image.
    """

    Parameters = DetectionParameters
    task = Detector.task
    rank = 1  # segmentation goes first, so that masks keep their rate
    threshold = 'min_score'

    def __init__(self, **kwargs: Any) -> None:
        self._detections: Publisher
        self._overlay: Publisher
        super().__init__('detection_node', **kwargs)

    def open_model(self, values: DetectionParameters) -> Detector:
        with self.opening(values) as (engine, spec):
            return Detector(engine, spec, values.min_score, values.nms_iou, values.rotate)

    def acquire(self) -> None:
        self.acquire_model('detections/label_info')
        publisher = self.create_result_publisher
        self._detections = publisher(Detection2DArray, 'detections')
        self._overlay = publisher(Image, 'detections/overlay')

    def publish_result(
        self, image: NDArray[uint8], outputs: Outputs, header: Header
    ) -> bool:
        detector = self.model
        values = self.parameters
        detector.min_score, detector.nms_iou = values.min_score, values.nms_iou
        found = detector.finish(image, outputs)
        boxes, scores, class_ids = found.boxes, found.scores, found.class_ids
        names = detector.spec.classes
        self._detections.publish(detections_to_msg(boxes, scores, class_ids, names, header))
        if self._overlay.get_subscription_count():
            overlay = draw_boxes(image, boxes, scores, class_ids, names, detector.spec.colours)
            self._overlay.publish(rgb_to_msg(overlay, header))
        return True


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return spin(DetectionNode, args)


if __name__ == '__main__':
    sys.exit(main())
