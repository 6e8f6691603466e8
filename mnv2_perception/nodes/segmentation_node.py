"""segmentation_node: camera images in, masks for Nav2's semantic layer out."""

from pathlib import Path
import sys
import threading
import time
from typing import Any

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes.lifecycle import LATCHED_QOS, PerceptionNode, spin
from mnv2_perception.nodes.messages import (
    IMAGE_CONVERTER,
    image_from_compressed_msg,
    image_from_msg,
    label_info_to_msg,
    mask_to_msg,
    rgb_to_msg,
)
from mnv2_perception.nodes.parameters import SegmentationParameters
from mnv2_perception.pipeline import read_ignore_mask, Segmenter
from mnv2_perception.vision.overlay import blend_mask

# A late subscriber has no order between label_info and mask: Nav2's layer dereferences null when
# a mask comes first. So masks wait this long after a subscriber appeared.
HOLD_S = 0.5
GREET_PERIOD_S = 0.1


class SegmentationNode(PerceptionNode):
    """Publishes a mask and its confidence for the newest image, at the image's size and stamp."""

    Parameters = SegmentationParameters

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('segmentation_node', **kwargs)
        self.segmenter: Segmenter | None = None
        self._publishers_made: list[Any] = []
        self._subscription: Any = None
        self._greeting = threading.Lock()
        self._mask_subscribers = 0
        self._hold_until_s = 0.0
        self.create_steady_timer(GREET_PERIOD_S, self.greet)

    def acquire(self) -> None:
        values: SegmentationParameters = self.parameters
        self.segmenter = Segmenter.open(
            values.model, values.engine, values.threads, values.min_confidence, values.rotate,
            read_ignore_mask(Path(values.ignore_mask)) if values.ignore_mask else None,
            values.build_engine, values.precision,
        )
        spec = self.segmenter.spec
        self.get_logger().info(
            f'{spec.name}: {spec.width}×{spec.height}, {len(spec.classes)} classes, engine '
            f'{self.segmenter.engine.name} in {self.segmenter.engine.precision}, images through '
            f'{IMAGE_CONVERTER}'
        )
        self.get_logger().info(f'licence of the model {spec.name}: {spec.licence}')
        self._label_info = self._create(LabelInfo, 'segmentation/label_info', LATCHED_QOS)
        self._mask = self._create(Image, 'segmentation/mask')
        self._confidence = self._create(Image, 'segmentation/confidence')
        self._overlay = self._create(Image, 'segmentation/overlay')
        # As image_transport does: the transport's name is appended to the remapped name.
        image_topic = self.resolve_topic_name('image')
        if values.image_transport == 'compressed':
            self._subscription = self.create_camera_subscription(
                CompressedImage, f'{image_topic}/compressed'
            )
        else:
            self._subscription = self.create_camera_subscription(Image, image_topic)

    def _create(self, msg_type: Any, topic: str, *qos: Any) -> Any:
        publisher = self.create_result_publisher(msg_type, topic, *qos)
        self._publishers_made.append(publisher)
        return publisher

    def release(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        while self._publishers_made:
            self.destroy_lifecycle_publisher(self._publishers_made.pop())
        if self.segmenter:
            self.segmenter.close()
            self.segmenter = None

    def announce(self) -> None:
        with self._greeting:
            self._mask_subscribers = self._mask.get_subscription_count()
            self._publish_label_info()
            self._hold_until_s = time.monotonic() + HOLD_S

    def greet(self) -> None:
        """Announce again when a subscriber has appeared on the mask.

        A timer does it, so that the wait is over before a camera starts; and so does each frame
        before its mask goes out.
        """
        if not self.active:
            return
        with self._greeting:
            known, self._mask_subscribers = (
                self._mask_subscribers, self._mask.get_subscription_count()
            )
            if self._mask_subscribers > known:
                self._publish_label_info()
                self._hold_until_s = time.monotonic() + HOLD_S

    def _holding(self) -> bool:
        self.greet()
        return time.monotonic() < self._hold_until_s

    def _publish_label_info(self) -> None:
        assert self.segmenter
        header = Header(stamp=self.get_clock().now().to_msg())
        values: SegmentationParameters = self.parameters
        self._label_info.publish(
            label_info_to_msg(self.segmenter.spec.classes, header, values.min_confidence)
        )

    def process(self, msg: Image | CompressedImage) -> bool:
        assert self.segmenter
        if self._holding():
            return False
        if isinstance(msg, CompressedImage):
            image = image_from_compressed_msg(msg)
        else:
            image = image_from_msg(msg)
        values: SegmentationParameters = self.parameters
        self.segmenter.min_confidence = values.min_confidence
        result = self.segmenter(image)
        if self._holding():  # a subscriber may have come during the inference
            return False
        # Confidence first: whoever pairs the two has both when the mask arrives.
        self._confidence.publish(mask_to_msg(result.confidence, msg.header))
        self._mask.publish(mask_to_msg(result.class_ids, msg.header))
        if self._overlay.get_subscription_count():
            colours = self.segmenter.spec.colours
            overlay = blend_mask(image, result.class_ids, colours, values.overlay_alpha)
            self._overlay.publish(rgb_to_msg(overlay, msg.header))
        return True

    def _on_set_parameters(self, changes: list[Any]) -> Any:
        result = super()._on_set_parameters(changes)
        if self.active and result.successful:
            with self._greeting:
                self._publish_label_info()  # its threshold is min_confidence
        return result

    def describe(self) -> dict[str, object]:
        segmenter = self.segmenter
        if segmenter is None:
            return {}
        return {
            'model': segmenter.spec.name,
            'engine': segmenter.engine.name,
            'precision': segmenter.engine.precision,
            'licence': segmenter.spec.licence,
        }

    def explain_silence(self) -> str:
        topic = self._subscription.topic_name
        if self.count_publishers(topic):
            return (
                f'{topic} has a publisher, but no image arrives: images between processes need '
                f'larger transport buffers, see config/fastdds.xml (both sides need it)'
            )
        return f"{topic} has no publisher; remap image to the camera's topic"


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return spin(SegmentationNode, args)


if __name__ == '__main__':
    sys.exit(main())
