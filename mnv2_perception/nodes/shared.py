"""Shared: what all nodes of one process share, be it a single node or all of `perception`."""

from typing import Any

from numpy import uint8
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from mnv2_perception.nodes.diagnostics import Heartbeat
from mnv2_perception.nodes.messages import image_from_compressed_msg, image_from_msg
from mnv2_perception.nodes.topics import Topics
from mnv2_perception.nodes.worker import Turns
from mnv2_perception.tasks.models import OpenModels
from mnv2_perception.vision.low_bits import LowBits


class Shared:
    """Objects that the nodes of one process share.

    Attributes:
        topics: which of the nodes publish and subscribe to which topics.
        turns: turns in which images go through the models one after the other, so that no camera
            waits for more than one image of each other camera.
        models: the models that are open.
        heartbeat: thread that publishes the nodes' diagnostics.
        model_nodes: the camera nodes whose model is open, in the order of opening.
    """

    def __init__(self) -> None:
        self.topics = Topics()
        self.turns = Turns()
        self.models = OpenModels()
        self.heartbeat = Heartbeat()
        self.model_nodes: list[Any] = []  # of CameraNode, whose module imports this one
        self._low_bits = LowBits()
        self._decoded: dict[str, tuple[Image | CompressedImage, NDArray[uint8]]] = {}

    def image_of(
        self, msg: Image | CompressedImage, topic_name: str, max_megapixels: float
    ) -> NDArray[uint8]:
        """Decode a camera's message to (H, W, 3) uint8 RGB, read-only; call it in a turn.

        A message that several nodes ask for is decoded once.

        Raises:
            ImageError: it is malformed, or larger than `max_megapixels`.
        """
        decoded, image = self._decoded.get(topic_name, (None, None))
        if image is None or decoded is not msg:
            limit = round(1e6 * max_megapixels)
            if isinstance(msg, CompressedImage):
                image = image_from_compressed_msg(msg, limit)
            else:
                image = image_from_msg(msg, limit)
            self._low_bits.look(topic_name, msg, image)
            self._decoded[topic_name] = msg, image
        return image

    def close(self) -> None:
        """Stop the diagnostics."""
        self.heartbeat.close()
