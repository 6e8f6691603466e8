"""CameraNode: what the nodes that run one model on a camera's images share."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import threading
import time
from typing import Any, Generic, TypeVar

import numpy as np
from numpy import uint8
from numpy.typing import NDArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nodes.advice import wrong_topic
from mnv2_perception.nodes.lifecycle import PerceptionNode
from mnv2_perception.nodes.messages import IMAGE_CONVERTER, label_info_to_msg
from mnv2_perception.nodes.parameters import CameraParameters
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.topics import Publisher, Subscription
from mnv2_perception.nodes.worker import Frame, Turns
from mnv2_perception.tasks.contract import images_at_once
from mnv2_perception.tasks.model_info import licence_of
from mnv2_perception.tasks.models import Engine
from mnv2_perception.tasks.pipeline import infer_images, Pipeline

HELD = 'held back until a new subscriber of the results has the names of the classes'
PUBLISHER_BEGINS_S = 10.0  # a bag's player waits for its subscribers first

Values = TypeVar('Values', bound=CameraParameters)
Outputs = Sequence[NDArray[Any]]
Model = TypeVar('Model', bound=Pipeline[Any])


@dataclass(frozen=True)
class Entry:
    """A frame of a batch."""

    node: 'CameraNode[Any, Any]'
    frame: Frame
    image: NDArray[uint8]
    prepared: NDArray[uint8]


class CameraNode(PerceptionNode[Values], Generic[Values, Model]):
    """A node that runs one model on a camera's images and tells the names of its classes.

    A subclass opens the model in `acquire` with `use_model`, and implements `publish_result`
    instead of `work`. `Parameters` derives from CameraParameters; `threshold` names the one
    that label_info tells, and sending it again follows each change.

    Where the model takes several images at once, the newest frames of the nodes of this process
    that use the same one, such as those of other cameras, go through it together.
    """

    threshold: str

    def __init__(self, name: str, **kwargs: Any) -> None:
        self._model: Model | None = None
        self._label_info: Publisher
        self._label_info_lock = threading.Lock()
        self._camera: Subscription
        self._publisher_since_s = 0.0
        super().__init__(name, **kwargs)

    @property
    def model(self) -> Model:
        """What the configured node runs."""
        assert self._model is not None, 'the node is not configured'
        return self._model

    def turns(self) -> Turns:
        return self.shared.turns

    def prepare(self, image: NDArray[uint8]) -> NDArray[uint8] | None:
        """Return what the network is to see of an RGB image (H, W, 3); None passes it over."""
        return self.model.prepare(image)

    @abstractmethod
    def publish_result(
        self, image: NDArray[uint8], outputs: Outputs, header: Header
    ) -> bool:
        """Publish what the model's outputs say of an image; return whether that was done."""

    def use_model(self, model: Model, label_info_topic: str) -> None:
        """Take over an opened model, whose classes are told on a latched topic."""
        self._model = model
        self.shared.model_nodes.append(self)
        spec = model.spec
        self.get_logger().info(
            f'{spec.name}: {spec.width}×{spec.height}, {len(spec.classes)} classes, engine '
            f'{model.engine.name} in {model.engine.precision}, images through {IMAGE_CONVERTER}'
        )
        by = f'; made by {spec.attribution}' if spec.attribution else ''
        self.get_logger().info(f'licence of the model {spec.name}: {licence_of(spec)}{by}')
        self._label_info = self.create_result_publisher(LabelInfo, label_info_topic, LATCHED_QOS)

    @contextmanager
    def opening(self) -> Iterator[tuple[Engine, ModelSpec]]:
        """Open the model that the parameters name, or share it with another node."""
        values = self.parameters
        with self.shared.models.opening(
            values.model, values.engine, values.threads, values.build_engine, values.precision
        ) as (engine, spec):
            # Runtimes allocate, and load their kernels, with the first image; no camera is to
            # wait for that.
            if engine not in self.shared.warm:
                infer_images(engine, spec, [np.zeros((spec.height, spec.width, 3), np.uint8)])
                self.shared.warm.add(engine)
            yield engine, spec

    def release(self) -> None:
        if self._model:
            self.shared.model_nodes.remove(self)
            self._model.close()
            self._model = None

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
        self._publisher_since_s = time.monotonic()
        if self.parameters.image_transport == 'compressed':
            # As image_transport does: the transport's name is appended to the remapped name.
            topic = self.resolve_topic_name('image')
            self._camera = self.create_camera_subscription(CompressedImage, f'{topic}/compressed')
        else:
            self._camera = self.create_camera_subscription(Image, 'image')

    def work(self, frame: Frame) -> None:
        model = self.model
        frames = [(self, frame), *self._companions()]
        batch = [entry for node, each in frames if (entry := node._prepare(each))]
        if not batch:
            return
        try:
            outputs: Sequence[Outputs | Exception] = infer_images(
                model.engine, model.spec, [entry.prepared for entry in batch]
            )
        except Exception as exc:  # each frame's node tells it
            outputs = [exc] * len(batch)
        for entry, output in zip(batch, outputs, strict=True):
            entry.node._publish(entry, output)

    def _companions(self) -> list[tuple['CameraNode[Any, Any]', Frame]]:
        """Take the frames that the model has room for, of other nodes that use it."""
        engine = self.model.engine
        users = [node for node in self.shared.model_nodes if node.model.engine is engine]
        after = users.index(self) + 1
        others = users[after:] + users[:after - 1]  # in turn: room for few goes to each as often
        room = images_at_once(engine)
        found: list[tuple[CameraNode[Any, Any], Frame]] = []
        for node in others:
            if room is not None and len(found) + 1 >= room:
                break
            if frame := node.take_waiting():
                found.append((node, frame))
        return found

    def _prepare(self, frame: Frame) -> Entry | None:
        with self.rejecting(frame):
            image = self.shared.image_of(
                frame.msg, self._camera.topic_name, self.parameters.max_image_megapixels
            )
            prepared = self.prepare(image)
            if prepared is not None:
                return Entry(self, frame, image, prepared)
            self.count(frame, 'passed_over', HELD)
        return None

    def _publish(self, entry: Entry, outputs: Outputs | Exception) -> None:
        with self.rejecting(entry.frame):
            if isinstance(outputs, Exception):
                raise outputs
            done = self.publish_result(entry.image, outputs, entry.frame.msg.header)
            self.count(entry.frame, 'published' if done else 'passed_over', '' if done else HELD)

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        result = super()._on_set_parameters(changes)
        if self.active and result.successful:
            self.publish_label_info()
        return result

    def describe(self) -> dict[str, object]:
        model = self._model
        if model is None:
            return {}
        return {
            'model': model.spec.name,
            'engine': model.engine.name,
            'precision': model.engine.precision,
            'licence': licence_of(model.spec),
        }

    def explain_silence(self) -> str:
        topic = self._camera.topic_name
        wrong = wrong_topic(self, topic, self.parameters.image_transport == 'compressed')
        now_s = time.monotonic()
        if wrong:
            self._publisher_since_s = now_s
            return wrong
        if now_s - self._publisher_since_s < PUBLISHER_BEGINS_S:
            return ''
        return (
            f'{topic} has a publisher, but no image arrives: it sends none (ros2 topic hz), or '
            f'its images need larger transport buffers, see config/fastdds.xml (both sides need '
            f'it)'
        )
