"""Advice about topics from which no messages come."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from rclpy.node import Node

from mnv2_perception.errors import quoted
from mnv2_perception.nodes.topics import Publisher, Subscription

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
SUFFIX = '/compressed'


def types_on(node: Node, topic: str) -> set[str]:
    """Return the message types of a topic's publishers."""
    return {info.topic_type for info in node.get_publishers_info_by_topic(topic)}


def wrong_type(node: Node, topic: str, msg_type: Any) -> str:
    """Return a sentence if a topic's publishers have another type than expected, else empty."""
    expected = f'{msg_type.__module__.partition(".")[0]}/msg/{msg_type.__name__}'
    found = types_on(node, topic)
    if not found or expected in found:
        return ''
    return f'{topic} carries {quoted(", ".join(sorted(found)))}, expected {expected}; remap it'


def image_topic_behind(node: Node, topic: str, model_nodes: Iterable[Any]) -> str:
    """Return the topic of the images from which results are made; empty if it is unknown.

    Args:
        node: node that asks the ROS graph.
        topic: topic of the results, resolved.
        model_nodes: camera nodes of this process, whose subscriptions may be another node's.
    """
    known = {(each.get_name(), each.get_namespace()): each.image_topic for each in model_nodes}
    for info in node.get_publishers_info_by_topic(topic):
        place = info.node_name, info.node_namespace
        if place in known:
            return str(known[place])
        with suppress(Exception):  # the publisher's node may have ended meanwhile
            heard = node.get_subscriber_names_and_types_by_node(*place)
            images = [name for name, types in heard if {RAW, COMPRESSED} & set(types)]
            if len(images) == 1:
                return str(images[0])
    return ''


def incompatible_qos(
    node: Node, publishers: Iterable[Publisher], subscriptions: Iterable[Subscription]
) -> Iterator[str]:
    """Yield a warning for each topic whose other side has an incompatible QoS.

    Args:
        node: node that owns the publishers and subscriptions.
        publishers: publishers of its results.
        subscriptions: its subscriptions; only latched ones can be incompatible.
    """
    pairs: list[tuple[str, Any, Any, Any, str]] = []
    for each in publishers:
        if node.count_subscribers(each.topic_name) > each.count_elsewhere():
            found = node.get_subscriptions_info_by_topic(each.topic_name)
            ours = each.publisher.qos_profile
            pairs += [
                (each.topic_name, info, ours, info.qos_profile, 'subscribes to') for info in found
            ]
    for listener in subscriptions:
        if listener.latched:
            found = node.get_publishers_info_by_topic(listener.topic_name)
            pairs += [
                (listener.topic_name, info, info.qos_profile, listener.qos, 'publishes')
                for info in found
            ]
    for topic, info, offered, asked, does in pairs:
        wanted = [what for what, has, needs in (
            ('reliable', offered.reliability, asked.reliability),
            ('transient_local', offered.durability, asked.durability),
        ) if needs.name.lower() == what != has.name.lower()]
        if wanted:
            yield (
                f'{quoted(info.node_name)} {does} {topic} with an incompatible QoS, so no '
                f'message arrives: {" and ".join(wanted)} is required, but not offered'
            )


def wrong_topic(node: Node, topic: str, compressed: bool, heard: bool = False) -> str:
    """Say which topic or transport is the camera's, if no image can come on `topic`.

    Args:
        node: node that subscribes.
        topic: resolved name, with its suffix for compressed transport.
        compressed: whether the node expects CompressedImage.
        heard: whether images have come on it before.

    Returns:
        A sentence; empty if a publisher of the right type exists.
    """
    expected, other = (COMPRESSED, RAW) if compressed else (RAW, COMPRESSED)
    found = types_on(node, topic)
    if expected in found:
        return ''
    base = topic.removesuffix(SUFFIX)
    if other in found:
        said = f'{topic} carries {other}, expected {expected}'
        if compressed:
            return f'{said}; set image_transport to raw and remap image to {topic}'
        if base != topic:
            return f'{said}; set image_transport to compressed and remap image to {base}'
        return (
            f'{said}; set image_transport to compressed and remap image{SUFFIX}, instead of '
            f'image, to {topic}'
        )
    if found:
        names = quoted(', '.join(sorted(found)))
        return f"{topic} carries {names}, expected {expected}; remap image to the camera's topic"
    if compressed and COMPRESSED in types_on(node, base):
        image = base.removesuffix(SUFFIX)
        return f'{topic} has no publisher, but {base} has; remap image to {image}'
    if compressed and RAW in types_on(node, base):
        return f'{topic} has no publisher, but {base} carries {RAW}; set image_transport to raw'
    if not compressed and COMPRESSED in types_on(node, topic + SUFFIX):
        return (
            f'{topic} has no publisher, but {topic}{SUFFIX} has; set image_transport to compressed'
        )
    if heard:
        return f'{topic} has no publisher any more: check that the camera and its driver run'
    return f"{topic} has no publisher; remap image to the camera's topic"
