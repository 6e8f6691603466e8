"""Shared: what the nodes of one process share, be it one node or all of them (`perception`)."""

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
    """What the nodes of one process share.

    Attributes:
        topics: who of them publishes and listens.
        turns: in which images go through models, one after the other, so no camera waits for
            more than one image of each other.
        models: those that are open.
        heartbeat: of the nodes' diagnostics.
        model_nodes: the camera nodes whose model is open, in the order of opening.
    """

    def __init__(self) -> None:
        self.topics = Topics()
        self.turns = Turns()
        self.models = OpenModels()
        self.heartbeat = Heartbeat()
        self.model_nodes: list[Any] = []  # CameraNode, which imports this
        self._low_bits = LowBits()
        self._decoded: dict[str, tuple[Image | CompressedImage, NDArray[uint8]]] = {}

    def image_of(
        self, msg: Image | CompressedImage, topic_name: str, max_megapixels: float
    ) -> NDArray[uint8]:
        """Decode a camera's message, (H, W, 3) uint8 RGB to read only, in a turn.

        Raises:
            ImageError: it is malformed, or larger.
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
        """End the diagnostics."""
        self.heartbeat.close()
