"""CameraNode: the base class of the nodes that run one model on the images of a camera."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

from mnv2_perception.errors import describe_error, EngineError, ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nodes.advice import wrong_topic
from mnv2_perception.nodes.lifecycle import PerceptionNode
from mnv2_perception.nodes.loader import Loader
from mnv2_perception.nodes.messages import IMAGE_CONVERTER, label_info_to_msg
from mnv2_perception.nodes.parameters import CameraParameters
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.topics import Publisher, Subscription
from mnv2_perception.nodes.worker import Frame, Turns
from mnv2_perception.tasks.contract import images_at_once
from mnv2_perception.tasks.model_info import licence_of
from mnv2_perception.tasks.models import Engine, find_model
from mnv2_perception.tasks.onnx_spec import read_spec
from mnv2_perception.tasks.pipeline import infer_images, Pipeline, require_task

HELD = 'held back until a new subscriber of the results has received the class names'
PUBLISHER_BEGINS_S = 10.0  # a bag player waits for its subscribers before it begins
TOLD_S = 60.0  # how long the refusal of a new model is shown as a warning

Values = TypeVar('Values', bound=CameraParameters)
Outputs = Sequence[NDArray[Any]]
Model = TypeVar('Model', bound=Pipeline[Any])


@dataclass(frozen=True)
class Entry:
    """A frame of a batch: its node, its RGB image, the network's input image and the model."""

    node: 'CameraNode[Any, Any]'
    frame: Frame
    image: NDArray[uint8]
    prepared: NDArray[uint8]
    model: Pipeline[Any]


def warm_up(engine: Engine, spec: ModelSpec) -> None:
    """Run one black image, so that the runtime allocates memory and loads its kernels now."""
    infer_images(engine, spec, [np.zeros((spec.height, spec.width, 3), np.uint8)])


class CameraNode(PerceptionNode[Values], Generic[Values, Model]):
    """A node that runs one model on a camera's images and publishes the names of its classes.

    A subclass calls `acquire_model` in its `acquire`, and implements `open_model`, and
    `publish_result` instead of `work`. Its `Parameters` derive from CameraParameters; `threshold`
    is the name of the parameter that label_info contains. label_info is sent again whenever a
    parameter changes.

    The parameter `model` may be set at any time: the new model is opened in a thread of its own
    while the current one works on, and takes its place between two frames. If that fails, the
    parameter returns to the current model, and the log and the diagnostics say why.

    If the model takes several images at once, it runs on the newest frames of all nodes of this
    process that use it, such as those of other cameras, together.
    """

    task: str
    threshold: str

    def __init__(self, name: str, **kwargs: Any) -> None:
        self._model: Model | None = None
        self._in_use = ''  # value of the parameter `model` when the current model was opened
        self._refusal = ''  # why the last new model was refused
        self._refused_s = 0.0
        self._setting = threading.RLock()
        self._loader: Loader[Model] = Loader(self._on_loaded, self._on_not_loaded)
        self._label_info: Publisher
        self._label_info_lock = threading.Lock()
        self._camera: Subscription
        self._publisher_since_s = 0.0
        super().__init__(name, **kwargs)

    @property
    def model(self) -> Model:
        """The model of the configured node."""
        assert self._model is not None, 'the node is not configured'
        return self._model

    @property
    def image_topic(self) -> str:
        """The topic of its images, with the suffix `/compressed` for compressed transport."""
        return self._camera.topic_name

    def turns(self) -> Turns:
        return self.shared.turns

    def prepare(self, image: NDArray[uint8]) -> NDArray[uint8] | None:
        """Return the network's input for an RGB image (H, W, 3); None passes the image over."""
        return self.model.prepare(image)

    @abstractmethod
    def publish_result(
        self, image: NDArray[uint8], outputs: Outputs, header: Header
    ) -> bool:
        """Publish the result for an image from the model's outputs; return whether it did."""

    @abstractmethod
    def open_model(self, values: Values) -> Model:
        """Open the model that the values name, with `opening`, and change nothing else."""

    def check_spec(self, spec: ModelSpec, values: Values) -> None:
        """Raise ParameterError if the values name classes that the model does not have."""

    def use_model(self, model: Model) -> None:
        """Use an opened model from the next frame on."""
        self._model = model
        spec = model.spec
        self.get_logger().info(
            f'{spec.name}: {spec.width}×{spec.height}, {len(spec.classes)} classes, engine '
            f'{model.engine.name} in {model.engine.precision}, images converted by '
            f'{IMAGE_CONVERTER}'
        )
        by = f'; made by {spec.attribution}' if spec.attribution else ''
        self.get_logger().info(f'licence of the model {spec.name}: {licence_of(spec)}{by}')

    def acquire_model(self, label_info_topic: str) -> None:
        """Open the model that the parameters name; create the latched topic of its class names."""
        values = self.parameters
        self.use_model(self.open_model(values))
        self._in_use, self._refusal = values.model, ''
        self.shared.model_nodes.append(self)
        self._label_info = self.create_result_publisher(LabelInfo, label_info_topic, LATCHED_QOS)

    @contextmanager
    def opening(self, values: Values) -> Iterator[tuple[Engine, ModelSpec]]:
        """Open the model that the values name, or share the one that another node has open."""
        with self.shared.models.opening(
            values.model, values.engine, values.threads, values.build_engine, values.precision,
            warm_up,
        ) as (engine, spec):
            yield engine, spec

    def release(self) -> None:
        self._loader.cancel()
        if self in self.shared.model_nodes:
            self.shared.model_nodes.remove(self)
        if self._model:
            self._model.close()
            self._model = None

    def destroy_node(self) -> None:
        self._loader.cancel()
        self._loader.join()
        super().destroy_node()

    def announce(self) -> None:
        self.publish_label_info()

    def publish_label_info(self) -> None:
        """Publish the names of the classes and the threshold; thread-safe."""
        with self._label_info_lock:
            header = Header(stamp=self.get_clock().now().to_msg())
            threshold = getattr(self.parameters, self.threshold)
            self._label_info.publish(
                label_info_to_msg(self.model.spec.classes, header, threshold)
            )

    def rename(self) -> None:
        """Publish the class names of a model that has replaced another."""
        self.publish_label_info()

    def subscribe(self) -> None:
        self._publisher_since_s = time.monotonic()
        if self.parameters.image_transport == 'compressed':
            # Named as image_transport does: the transport is appended to the remapped name.
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
        except Exception as exc:  # each node reports it for its own frame
            outputs = [exc] * len(batch)
        for entry, output in zip(batch, outputs, strict=True):
            entry.node._publish(entry, output)

    def _companions(self) -> list[tuple['CameraNode[Any, Any]', Frame]]:
        """Take waiting frames of other nodes with the same model, as many as it has room for."""
        engine = self.model.engine
        users = [node for node in self.shared.model_nodes if node.model.engine is engine]
        after = users.index(self) + 1
        others = users[after:] + users[:after - 1]  # round robin: each gets a share of little room
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
                return Entry(self, frame, image, prepared, self.model)
            self.count(frame, 'passed_over', HELD)
        return None

    def _publish(self, entry: Entry, outputs: Outputs | Exception) -> None:
        with self.rejecting(entry.frame):
            if isinstance(outputs, Exception):
                raise outputs
            if entry.model is not self._model:
                raise ModelError('the model was replaced while it processed this frame')
            done = self.publish_result(entry.image, outputs, entry.frame.msg.header)
            self.count(entry.frame, 'published' if done else 'passed_over', '' if done else HELD)

    # Locked: a model may be refused before rclpy has stored the parameter that names it.

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        with self._setting:
            results: list[SetParametersResult] = super().set_parameters(parameter_list)
        return results

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        with self._setting:
            return super().set_parameters_atomically(parameter_list)

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        other = next((each.value for each in changes if each.name == 'model'), None)
        if other is not None and self._values is not None:
            try:
                self._check_model(other, self._values)
            except Exception as exc:  # the given path may be impossible as a file name
                return SetParametersResult(successful=False, reason=str(exc))
        result = super()._on_set_parameters(changes)
        if not result.successful or self._values is None:
            return result
        if other is not None:
            self._change_model(other)
        if self.state_label in ('activating', 'active'):
            self.publish_label_info()
        return result

    # Another model

    def _check_model(self, name: str, values: Values) -> None:
        """Raise PerceptionError if a model clearly cannot replace the current one."""
        if name == self._in_use:
            return
        if loading := self._loader.loading:
            raise ModelError(
                f'another model is being opened, {loading}; set model again when it is ready, or '
                f'to {self._in_use} to cancel it'
            )
        path = find_model(name)
        if spec := read_spec(path):
            require_task(path.name, spec, self.task)
            self.check_spec(spec, values)

    def _change_model(self, name: str) -> None:
        self._loader.cancel()
        if name == self._in_use:
            return
        # Building a plan takes minutes: too long beside a robot's work.
        values = replace(self.parameters, build_engine=False)
        engine = self.model.engine.name

        def open_other() -> Model:
            model = self.open_model(values)
            if (found := model.engine.name) != engine:
                model.close()
                raise EngineError(
                    f'{name} would run in {found}, but the model in use runs in {engine}; if its '
                    f'TensorRT plan is missing, build it (mnv2 build); otherwise clean up and '
                    f'configure the node'
                )
            return model

        self.get_logger().info(f'opening {name}; {self._in_use} stays in use until it is ready')
        self._loader.start(name, open_other)

    def _on_loaded(self) -> None:
        if worker := self._worker:
            worker.post(self._take_over)

    def _take_over(self) -> None:
        """Replace the current model by the one that is ready, in a turn, between two frames."""
        taken = self._loader.take()
        if taken is None:
            return
        former = self.model
        self._in_use, model = taken
        self.use_model(model)
        self.rename()
        former.close()

    def _on_not_loaded(self, name: str, exc: Exception) -> None:
        why = describe_error(exc)
        self._refusal = f'model {name} was not accepted, {self._in_use} stays in use: {why}'
        self._refused_s = time.monotonic()
        self.get_logger().error(self._refusal)
        with self._setting:
            if self._values and self._values.model == name:
                self.set_parameters([Parameter('model', value=self._in_use)])

    def describe(self) -> dict[str, object]:
        model = self._model
        if model is None:
            return {}
        return {
            'model': model.spec.name,
            'model_file': model.engine.model,
            'opening': self._loader.loading,
            'last_refusal': self._refusal,
            'engine': model.engine.name,
            'precision': model.engine.precision,
            'licence': licence_of(model.spec),
        }

    def warning(self) -> str:
        is_new = time.monotonic() - self._refused_s < TOLD_S
        return self._refusal if is_new and self._refusal else self._loader.warning

    def explain_silence(self) -> str:
        topic = self._camera.topic_name
        compressed = self.parameters.image_transport == 'compressed'
        wrong = wrong_topic(self, topic, compressed, self.counts['received'] > 0)
        now_s = time.monotonic()
        if wrong:
            self._publisher_since_s = now_s
            return wrong
        if now_s - self._publisher_since_s < PUBLISHER_BEGINS_S:
            return ''
        return (
            f'{topic} has a publisher, but no image arrives: if `ros2 topic hz` shows none, '
            f'the camera sends none; otherwise its images need larger transport buffers, see '
            f'config/fastdds.xml (for both sides)'
        )
