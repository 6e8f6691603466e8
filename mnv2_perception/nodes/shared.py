"""Shared: what the nodes of one process share, be it one node or all of them (`perception`)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy import uint8
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from mnv2_perception.nodes.messages import image_from_compressed_msg, image_from_msg
from mnv2_perception.nodes.topics import Topics
from mnv2_perception.tasks.models import OpenModels


class Shared:
    """What the nodes of one process share.

    Attributes:
        topics: who of them publishes and listens.
        thread: where all models are opened, run and closed; one after the other, so no camera
            waits for more than one image of each other.
        models: those that are open.
        model_nodes: the camera nodes whose model is open, in the order of opening.
    """

    def __init__(self) -> None:
        self.topics = Topics()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix='models')
        self.models = OpenModels()
        self.model_nodes: list[Any] = []  # CameraNode, which imports this
        self._decoded: dict[str, tuple[Image | CompressedImage, NDArray[uint8]]] = {}

    def image_of(
        self, msg: Image | CompressedImage, topic_name: str, max_megapixels: float
    ) -> NDArray[uint8]:
        """Decode a camera's message, (H, W, 3) uint8 RGB to read only; models' thread only.

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
            self._decoded[topic_name] = msg, image
        return image

    def close(self) -> None:
        """End the models' thread."""
        self.thread.shutdown()
