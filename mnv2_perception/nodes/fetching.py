"""Fetching: get latched messages that a publisher sent once, before the node subscribed."""

from typing import Any

from rclpy.node import Node

from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.topics import Subscription


class Fetching:
    """Fetches latched messages for a node, once from each publisher.

    A subscription that asks for latched messages (transient local) does not match a volatile
    publisher, which most drivers have. So this opens a second subscription, and ends it when a
    message has come.

    Args:
        node: node that owns the subscriptions.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._asked: dict[Subscription, set[tuple[int, ...]]] = {}
        self._open: dict[Subscription, Any] = {}
        self._came: set[Subscription] = set()

    def fetch(self, heard: Subscription) -> None:
        """Fetch from latched publishers that were not asked yet; to be called periodically."""
        keepers = find_keepers(self._node, heard.topic_name)
        if keepers - self._asked.get(heard, set()):
            self._close(heard)

            def take(msg: Any) -> None:
                heard.callback(msg)
                self._came.add(heard)

            self._asked[heard] = keepers
            self._open[heard] = self._node.create_subscription(
                heard.msg_type, heard.topic, take, LATCHED_QOS
            )
        elif heard in self._came or not keepers:
            self._close(heard)

    def end(self) -> None:
        """End all subscriptions; the next `fetch` asks every publisher again."""
        for heard in list(self._open):
            self._close(heard)
        self._asked.clear()

    def _close(self, heard: Subscription) -> None:
        if subscription := self._open.pop(heard, None):
            self._node.destroy_subscription(subscription)
        self._came.discard(heard)


def find_keepers(node: Node, topic: str) -> set[tuple[int, ...]]:
    """Return the gids of a topic's publishers if all are latched and reliable, else none."""
    found = node.get_publishers_info_by_topic(topic)
    kept = (LATCHED_QOS.durability, LATCHED_QOS.reliability)
    offered = [(each.qos_profile.durability, each.qos_profile.reliability) for each in found]
    if any(each != kept for each in offered):
        return set()
    return {tuple(each.endpoint_gid) for each in found}
