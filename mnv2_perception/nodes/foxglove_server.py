"""A server for Foxglove that sends ROS messages unchanged, with their definitions."""

from collections import Counter, defaultdict
import threading
from typing import Any

from mnv2_perception.bags.definitions import typestore_of
from mnv2_perception.bags.viewing import check_viewer, FOXGLOVE_SDK, viewer_address
from mnv2_perception.errors import SetupError

# Messages of all topics that may wait for one viewer's connection; then the oldest is dropped. As
# many times and offers may wait; then the viewer is disconnected, and may connect again.
BACKLOG = 64


class FoxgloveServer:
    """Serves ROS topics as channels to any number of viewers, who can change nothing here.

    Viewers come and go in the SDK's threads, which call `on_subscribe` and `on_unsubscribe`. The
    SDK also calls these while it closes a channel, so the SDK is never called under the lock.

    Attributes:
        url: address that viewers connect to.
    """

    def __init__(self, address: str, own_time: bool) -> None:
        """Begin to listen.

        Args:
            address: see `viewer_address`.
            own_time: whether viewers take the time from `tell_time`, not from their own clock.

        Raises:
            ParameterError: the address is invalid.
            SetupError: the SDK is missing, or the address cannot be used.
        """
        host, port = viewer_address(address)
        check_viewer()
        try:
            import foxglove
            from foxglove.websocket import Capability
        except ImportError as exc:  # PyPI has another package whose module has the same name
            raise SetupError(
                f'the Python module foxglove is not the Foxglove SDK ({exc}): pip install '
                f'{FOXGLOVE_SDK}'
            ) from exc
        self._foxglove: Any = foxglove
        self._lock = threading.Lock()
        self._viewers: dict[str, set[int]] = defaultdict(set)
        self._greeted: Counter[str] = Counter()
        self._channels: dict[str, Any] = {}
        self._context: Any = foxglove.Context()
        try:
            self._server: Any = foxglove.start_server(
                name='mnv2_perception', host=host, port=port, context=self._context,
                capabilities=[Capability.Time] if own_time else [],
                server_listener=self, message_backlog_size=BACKLOG,
            )
        except RuntimeError as exc:
            raise SetupError(
                f'Foxglove cannot be served at {host}:{port} ({exc}); give a free port and an '
                f'address of this machine'
            ) from exc
        self.url = f'ws://{f"[{host}]" if ":" in host else host}:{port}'

    @property
    def watched(self) -> dict[str, int]:
        """Topics that are watched now, each with the number of viewers that ever came for it."""
        with self._lock:
            return {name: self._greeted[name] for name, seen in self._viewers.items() if seen}

    def offer(self, topic: str, type_name: str) -> None:
        """Offer a topic to viewers.

        Raises:
            BagError: the definition of its type cannot be found.
        """
        definition, _ = typestore_of(type_name, None).generate_msgdef(type_name, ros_version=2)
        self._channels[topic] = self._foxglove.Channel(
            topic, message_encoding='cdr', context=self._context,
            schema=self._foxglove.Schema(
                name=type_name, encoding='ros2msg', data=definition.encode()
            ),
        )

    def withdraw(self, topic: str) -> None:
        """Stop offering a topic."""
        self._channels.pop(topic).close()
        with self._lock:
            self._viewers.pop(topic, None)

    def send(self, topic: str, cdr: bytes, time_ns: int) -> None:
        """Send a serialised message to the viewers of its topic; never waits for them."""
        if channel := self._channels.get(topic):
            channel.log(cdr, log_time=time_ns)

    def tell_time(self, time_ns: int) -> None:
        """Send the time to the viewers."""
        self._server.broadcast_time(time_ns)

    def close(self) -> None:
        """End all connections."""
        self._server.stop()

    def on_subscribe(self, client: Any, channel: Any) -> None:
        """Count a new viewer of a topic; called by the SDK."""
        with self._lock:
            self._viewers[channel.topic].add(client.id)
            self._greeted[channel.topic] += 1

    def on_unsubscribe(self, client: Any, channel: Any) -> None:
        """Remove a viewer of a topic; called by the SDK."""
        with self._lock:
            self._viewers[channel.topic].discard(client.id)
