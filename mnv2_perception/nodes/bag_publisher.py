"""Publish one topic of a bag again."""

from rclpy.node import Node
from rclpy.publisher import Publisher

from mnv2_perception.bags.messages import deserialised, serialised
from mnv2_perception.bags.read import BagTopic
from mnv2_perception.errors import BagError
from mnv2_perception.nodes.bag_topics import (
    begins_with_header,
    is_static_tf,
    message_class,
    publisher_qos,
    TF,
)


class BagPublisher:
    """Publishes a topic's messages as recorded; for static transforms, each with all earlier ones.

    Each static broadcaster latches its own message. Here one publisher stands for all of them, and
    a late subscriber gets only its last message.

    Attributes:
        ros: the publisher.
        stamped: whether messages begin with a header.
    """

    ros: Publisher

    def __init__(self, node: Node, topic: BagTopic, name: str) -> None:
        """Create the publisher.

        Args:
            node: node that publishes.
            topic: topic of the bag.
            name: name under which it is published.

        Raises:
            BagError: its message type is not installed.
        """
        self._node, self._type = node, message_class(topic.type_name)
        self.stamped = begins_with_header(self._type)
        self.ros = node.create_publisher(self._type, name, publisher_qos(topic))
        self._static = is_static_tf(topic)
        self._transforms: dict[str, object] = {}  # the latest transform of each child frame

    def publish(self, cdr: bytes) -> None:
        """Publish a serialised message."""
        self.ros.publish(self._with_earlier(cdr) if self._static else cdr)

    def _with_earlier(self, cdr: bytes) -> bytes:
        try:
            message = deserialised(cdr, TF)
        except BagError as exc:
            self._node.get_logger().warning(
                f'{self.ros.topic_name}: a message is damaged ({exc}); played unchanged',
                throttle_duration_sec=10.0,
            )
            return cdr
        for transform in message.transforms:
            self._transforms[transform.child_frame_id] = transform
        message.transforms = list(self._transforms.values())
        return serialised(message)
