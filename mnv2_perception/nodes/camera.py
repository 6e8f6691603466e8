"""CameraNode: what the nodes that run one model on a camera's images share."""

from abc import abstractmethod
import threading
from typing import Any

from numpy import uint8
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes.lifecycle import LATCHED_QOS, PerceptionNode
from mnv2_perception.nodes.messages import (
    IMAGE_CONVERTER,
    image_from_compressed_msg,
    image_from_msg,
    label_info_to_msg,
)
from mnv2_perception.pipeline import Classifier, Detector, Segmenter


class CameraNode(PerceptionNode):
    """A node that runs one model on a camera's images and tells the names of its classes.

    A subclass opens the model in `acquire` with `use_model`, and implements `process_image`
    instead of `process`. `Parameters` derives from CameraParameters; `threshold` names the one
    that label_info tells, and sending it again follows each change.
    """

    threshold: str

    def __init__(self, name: str, **kwargs: Any) -> None:
        self.model: Any = None
        self._label_info_lock = threading.Lock()
        super().__init__(name, **kwargs)

    @abstractmethod
    def process_image(self, image: NDArray[uint8], header: Header) -> bool:
        """Publish what the model says of one RGB image (H, W, 3); return whether that was done."""

    def use_model(
        self, model: Segmenter | Classifier | Detector, label_info_topic: str
    ) -> None:
        """Take over an opened model, whose classes are told on a latched topic."""
        self.model = model
        spec = model.spec
        self.get_logger().info(
            f'{spec.name}: {spec.width}×{spec.height}, {len(spec.classes)} classes, engine '
            f'{model.engine.name}, images through {IMAGE_CONVERTER}'
        )
        self.get_logger().info(f'licence of the model {spec.name}: {spec.licence}')
        self._label_info = self.create_result_publisher(LabelInfo, label_info_topic, LATCHED_QOS)

    def release(self) -> None:
        if self.model:
            self.model.close()
            self.model = None

    def announce(self) -> None:
        self.publish_label_info()

    def publish_label_info(self) -> None:
        """Publish the names of the classes and the threshold; any thread may do it."""
        with self._label_info_lock:
            header = Header(stamp=self.get_clock().now().to_msg())
            threshold = getattr(self.parameters, self.threshold)
            self._label_info.publish(
                label_info_to_msg(self.model.spec.classes, header, threshold)
            )

    def subscribe(self) -> None:
        # As image_transport does: the transport's name is appended to the remapped name.
        topic = self.resolve_topic_name('image')
        if self.parameters.image_transport == 'compressed':
            self._camera = self.create_camera_subscription(CompressedImage, f'{topic}/compressed')
        else:
            self._camera = self.create_camera_subscription(Image, topic)

    def process(self, msg: Image | CompressedImage) -> bool:
        compressed = isinstance(msg, CompressedImage)
        image = image_from_compressed_msg(msg) if compressed else image_from_msg(msg)
        return self.process_image(image, msg.header)

    def _on_set_parameters(self, changes: list[Any]) -> Any:
        result = super()._on_set_parameters(changes)
        if self.active and result.successful:
            self.publish_label_info()
        return result

    def describe(self) -> dict[str, object]:
        model = self.model
        if model is None:
            return {}
        return {
            'model': model.spec.name,
            'engine': model.engine.name,
            'licence': model.spec.licence,
        }

    def explain_silence(self) -> str:
        topic = self._camera.topic_name
        if self.count_publishers(topic):
            return (
                f'{topic} has a publisher, but no image arrives: images between processes need '
                f'larger transport buffers, see config/fastdds.xml (both sides need it)'
            )
        return f"{topic} has no publisher; remap image to the camera's topic"
