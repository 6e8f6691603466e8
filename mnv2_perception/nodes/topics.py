"""Topics: pass messages between nodes of one process in memory, and use DDS only where needed."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
import threading
import time
from typing import Any

from rclpy.duration import Duration
from rclpy.lifecycle import LifecyclePublisher
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription as DdsSubscription

try:
    from rclpy.event_handler import UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import UnsupportedEventTypeError

from mnv2_perception.nodes.losses import Losses
from mnv2_perception.nodes.rclpy_private import telling_losses, WithMessageInfo


@dataclass(frozen=True, eq=False)
class Subscription:
    """One node's subscription to a topic.

    Attributes:
        node: node that subscribes, also over DDS, with its remappings and QoS overrides.
        msg_type: message type of the topic.
        topic: name before remapping.
        callback: called with each message, in the executor's thread, or in the thread of the node
            of this process that publishes it.
        on_lost: called with the number of lost messages of other processes, see `Losses`.
        qos: QoS of the DDS subscription.
    """

    node: Node
    msg_type: Any
    topic: str
    callback: Callable[[Any], object]
    on_lost: Callable[[int], None]
    qos: QoSProfile

    @cached_property
    def topic_name(self) -> str:
        """The name after remapping."""
        return str(self.node.resolve_topic_name(self.topic))

    @property
    def latched(self) -> bool:
        """Whether it also gets messages that were published before it began."""
        return bool(self.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass
class Topic:
    """The publishers and subscriptions of a topic in this process.

    Attributes:
        subscriptions: all of them; the first one subscribes over DDS for all.
        publishers: all of them.
        dds: the DDS subscription, and the subscription it was made for; None without one.
        last: the last message over DDS, if the subscription is latched.
    """

    subscriptions: list[Subscription] = field(default_factory=list)
    publishers: list['Publisher'] = field(default_factory=list)
    dds: tuple[Subscription, DdsSubscription] | None = None
    last: Any = None


class Publisher:
    """A lifecycle publisher that also hands its messages to the subscriptions of this process.

    Over DDS it sends only what has a subscriber there, and latched messages.
    """

    def __init__(self, topics: 'Topics', publisher: LifecyclePublisher) -> None:
        self.publisher = publisher
        self.topic_name = publisher.topic_name
        self.last: Any = None
        self._topics = topics
        durability = publisher.qos_profile.durability
        self._latched = durability == DurabilityPolicy.TRANSIENT_LOCAL

    def publish(self, msg: Any, elsewhere: bool = True) -> None:
        """Publish a message, which must not be changed afterwards; do nothing while inactive.

        Args:
            msg: message of the topic's type.
            elsewhere: whether to send it to other processes, too.
        """
        if not self.publisher.is_activated:
            return
        if self._latched:
            self.last = msg
        if elsewhere and (self._latched or self.publisher.get_subscription_count()):
            self.publisher.publish(msg)
        self._topics.deliver(self.topic_name, msg)

    def get_subscription_count(self) -> int:
        """Return the number of subscriptions of the topic, in this process and elsewhere."""
        return self.count_elsewhere() + self._topics.count(self.topic_name)

    def count_elsewhere(self) -> int:
        """Return the number of subscriptions of the topic in other processes."""
        return int(self.publisher.get_subscription_count())

    def wait_until_heard(self, count: int, timeout_s: float) -> None:
        """Wait until `count` subscriptions of other processes have all that was published.

        Args:
            count: number of subscriptions to wait for.
            timeout_s: longest wait, in seconds.
        """
        until_s = time.monotonic() + timeout_s
        while self.count_elsewhere() < count and time.monotonic() < until_s:
            time.sleep(0.005)
        if self.count_elsewhere():
            left_s = max(0.0, until_s - time.monotonic())
            self.publisher.wait_for_all_acked(Duration(seconds=left_s))


class Topics:
    """Publishers and subscriptions of this process, like rclcpp's intra-process manager.

    A topic is received once, however many nodes subscribe, and not at all if a node of this
    process publishes it. Every node has an executor's thread and a worker's thread: all methods
    are thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._topics: dict[str, Topic] = {}

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription; it first gets what is latched in this process."""
        with self._lock:
            topic = self._topics.setdefault(subscription.topic_name, Topic())
            topic.subscriptions.append(subscription)
            before = [topic.last, *(publisher.last for publisher in topic.publishers)]
        self._connect(topic)
        for msg in before:
            if subscription.latched and msg is not None:
                subscription.callback(msg)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; the next one takes over its DDS side, and may lose a frame then."""
        with self._lock:
            topic = self._topics[subscription.topic_name]
            topic.subscriptions.remove(subscription)
        self._connect(topic)

    def add_publisher(self, publisher: Publisher) -> None:
        """Add a publisher: subscriptions of this process now get its messages, and none of DDS."""
        with self._lock:
            topic = self._topics.setdefault(publisher.topic_name, Topic())
            topic.publishers.append(publisher)
        self._connect(topic)

    def remove_publisher(self, publisher: Publisher) -> None:
        """Remove a publisher; after the last one, subscriptions of this process get DDS again."""
        with self._lock:
            topic = self._topics[publisher.topic_name]
            topic.publishers.remove(publisher)
        self._connect(topic)

    def deliver(self, topic_name: str, msg: Any) -> None:
        """Hand a message to the subscriptions of this process."""
        with self._lock:
            subscriptions = list(self._topics[topic_name].subscriptions)
        for subscription in subscriptions:
            subscription.callback(msg)

    def count(self, topic_name: str) -> int:
        """Return the number of subscriptions of this process to a topic."""
        with self._lock:
            return len(self._topics[topic_name].subscriptions)

    def _connect(self, topic: Topic) -> None:
        """Subscribe over DDS if, and only if, this process has subscriptions and no publisher."""
        with self._connecting:
            with self._lock:
                heard = topic.subscriptions and not topic.publishers
                listener = topic.subscriptions[0] if heard else None
            if topic.dds is not None and topic.dds[0] is not listener:
                owner, subscription = topic.dds
                owner.node.destroy_subscription(subscription)
                topic.dds = topic.last = None
            if topic.dds is None and listener is not None:
                topic.dds = listener, self._subscribe_over_dds(topic, listener)

    def _subscribe_over_dds(self, topic: Topic, listener: Subscription) -> DdsSubscription:
        topic_name = listener.topic_name

        def on_lost(count: int) -> None:
            for subscription in list(topic.subscriptions):
                subscription.on_lost(count)

        def on_mixed(count: int) -> None:
            listener.node.get_logger().warning(
                f'{topic_name} has {count} publishers: their messages are mixed, and losses '
                f'cannot be counted reliably; remap it to a topic with one publisher'
            )

        def find_publishers() -> set[tuple[int, ...]]:
            found = listener.node.get_publishers_info_by_topic(topic_name)
            return {tuple(info.endpoint_gid) for info in found}

        losses = Losses(on_lost, on_mixed, find_publishers)

        def deliver(msg: Any, info: dict[str, Any]) -> None:
            losses.on_message(info)
            if listener.latched:
                topic.last = msg
            self.deliver(topic_name, msg)

        # A copy, because overrides write into the profile.
        arguments = listener.msg_type, listener.topic, WithMessageInfo(deliver), copy(listener.qos)
        overriding = QoSOverridingOptions.with_default_policies()
        try:
            return listener.node.create_subscription(
                *arguments, qos_overriding_options=overriding, **telling_losses(losses.on_event)
            )
        except UnsupportedEventTypeError:  # not every middleware reports losses
            return listener.node.create_subscription(
                *arguments, qos_overriding_options=overriding
            )
