"""A WebSocket client that speaks Foxglove's protocol, as a viewer does."""

from collections.abc import Callable
import json
import socket
import struct
import time
from types import TracebackType
from typing import Any

import pytest

websockets = pytest.importorskip(
    'websockets.sync.client', reason='no websockets: run make setup-train'
)

PROTOCOL = 'foxglove.sdk.v1'
UNKNOWN = 'Unknown channel ID: '
MESSAGE, TIME = 1, 2  # first byte of a binary frame


class Viewer:
    """A connected viewer and all that the server sent.

    Attributes:
        server: information about the server.
        channels: advertised channels by topic.
        messages: (log time, bytes) by topic.
        times_ns: times that the server sent.
    """

    def __init__(self, url: str, timeout_s: float = 20.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                self._connection = websockets.connect(
                    url, subprotocols=[PROTOCOL], max_size=None, proxy=None, close_timeout=1.0
                )
                break
            except OSError:
                assert time.monotonic() < deadline_s, f'nobody serves at {url}'
                time.sleep(0.1)
        assert self._connection.subprotocol == PROTOCOL
        self.server: dict[str, Any] = {}
        self.channels: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, list[tuple[int, bytes]]] = {}
        self.times_ns: list[int] = []
        self._topic_of: dict[int, str] = {}  # of subscriptions

    def __enter__(self) -> 'Viewer':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def subscribe(self, *topics: str) -> None:
        """Subscribe to topics as soon as all of them are advertised."""
        self.wait(lambda: set(topics) <= set(self.channels), f'{topics} advertised')
        for topic in topics:
            self._topic_of[self.channels[topic]['id']] = topic
            self._subscribe(self.channels[topic]['id'])

    def unsubscribe(self, *topics: str) -> None:
        self._send(
            'unsubscribe', subscriptionIds=[self.channels[topic]['id'] for topic in topics]
        )

    def wait(self, done: Callable[[], Any], what: str, timeout_s: float = 30.0) -> None:
        """Receive until a condition holds."""
        deadline_s = time.monotonic() + timeout_s
        while not done():
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f'not in time: {what}; there are {sorted(self.channels)}'
            try:
                self._take(self._connection.recv(timeout=min(left_s, 0.2)))
            except TimeoutError:
                continue

    def _subscribe(self, channel: int) -> None:
        self._send('subscribe', subscriptions=[{'id': channel, 'channelId': channel}])

    def _send(self, operation: str, **values: Any) -> None:
        self._connection.send(json.dumps({'op': operation, **values}))

    def _take(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            if frame[0] == MESSAGE:
                subscription, time_ns = struct.unpack_from('<IQ', frame, 1)
                topic = self._topic_of[subscription]
                self.messages.setdefault(topic, []).append((time_ns, frame[13:]))
            elif frame[0] == TIME:
                self.times_ns += struct.unpack_from('<Q', frame, 1)
            return
        said = json.loads(frame)
        if said['op'] == 'serverInfo':
            self.server = said
        elif said['op'] == 'advertise':
            self.channels |= {channel['topic']: channel for channel in said['channels']}
        elif said['op'] == 'status' and said['message'].startswith(UNKNOWN):
            # SDK 0.30.3 advertises a channel an instant before it accepts subscriptions.
            self._subscribe(int(said['message'].removeprefix(UNKNOWN)))
        elif said['op'] == 'unadvertise':
            self.channels = {
                topic: channel for topic, channel in self.channels.items()
                if channel['id'] not in said['channelIds']
            }


def free_port() -> int:
    """Return a TCP port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])
