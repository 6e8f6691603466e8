"""A replacement for tf2_ros, which PyPI lacks; it listens to /tf and behaves like geometry2.

Behaviour taken from its sources: transforms are interpolated, never extrapolated; a transform more
than 10 s older than the newest is refused (TF_OLD_DATA); `clear` keeps static transforms; a buffer
made with `node=` clears itself when the node's clock jumps back by a second, another one does not;
a leading slash is stripped from frames in transforms, but refused in queries.
"""

from bisect import insort
import math
from typing import Any

from geometry_msgs.msg import TransformStamped
import numpy as np
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from mnv2_perception.nodes.messages import stamp_to_ns
from mnv2_perception.vision.pose import Pose

CACHE_NS = 10 * 10**9
Vector = tuple[float, ...]


class LookupException(Exception):
    """The frame is not known."""


class ExtrapolationException(Exception):
    """The time is before the oldest transform or after the newest."""


class InvalidArgumentException(Exception):
    """The name of a frame begins with a slash."""


class Buffer:
    """Replacement for tf2_ros.Buffer."""

    def __init__(self, node: Node | None = None) -> None:
        self._moving: dict[str, list[tuple[int, str, Vector]]] = {}
        self._static: dict[str, tuple[str, Vector]] = {}
        self.refused = 0
        if node is not None:
            self.jump_handle = node.get_clock().create_jump_callback(
                JumpThreshold(
                    min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True
                ),
                post_callback=lambda _: self.clear(),
            )

    def clear(self) -> None:
        self._moving = {}

    def set_transform(self, msg: TransformStamped, authority: str) -> None:
        parent, child = msg.header.frame_id.lstrip('/'), msg.child_frame_id.lstrip('/')
        known = self._moving.setdefault(child, [])
        stamp_ns = stamp_to_ns(msg.header.stamp)
        if known and stamp_ns < known[-1][0] - CACHE_NS:
            self.refused += 1
            get_logger('tf2_buffer').warning(
                f'TF_OLD_DATA ignoring data from the past for frame {msg.child_frame_id}'
            )
            return
        insort(known, (stamp_ns, parent, _values(msg)))
        while known[0][0] < known[-1][0] - CACHE_NS:
            del known[0]

    def set_transform_static(self, msg: TransformStamped, authority: str) -> None:
        parent, child = msg.header.frame_id.lstrip('/'), msg.child_frame_id.lstrip('/')
        self._static[child] = parent, _values(msg)

    def can_transform(
        self, target_frame: str, source_frame: str, time: Time
    ) -> bool:
        try:
            self.lookup_transform(target_frame, source_frame, time)
        except (LookupException, ExtrapolationException, InvalidArgumentException):
            return False
        return True

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time
    ) -> TransformStamped:
        for name in (target_frame, source_frame):
            if name.startswith('/'):
                raise InvalidArgumentException(f'"{name}": frame_ids cannot start with a slash')
        # In the queries of these tests, the target is always an ancestor of the source.
        pose = Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        frame = source_frame
        while frame != target_frame:
            frame, values = self._step(frame, time.nanoseconds)
            pose = Pose.from_quaternion(values[:3], values[3:]) @ pose
        msg = TransformStamped()
        place, turn = msg.transform.translation, msg.transform.rotation
        place.x, place.y, place.z = pose.translation.tolist()
        turn.x, turn.y, turn.z, turn.w = _quaternion(pose)
        return msg

    def get_latest_common_time(self, target_frame: str, source_frame: str) -> Time:
        newest, frame = [], source_frame
        while frame != target_frame:
            if known := self._moving.get(frame):
                newest.append(known[-1][0])
                frame = known[-1][1]
            elif frame in self._static:
                frame = self._static[frame][0]
            else:
                raise LookupException(f'"{frame}" does not exist')
        return Time(nanoseconds=min(newest, default=0))

    def _step(self, frame: str, stamp_ns: int) -> tuple[str, Vector]:
        if frame in self._static:
            return self._static[frame]
        known = list(self._moving.get(frame, []))
        if not known:
            raise LookupException(f'"{frame}" does not exist')
        if stamp_ns == 0:
            return known[-1][1:]
        later = next((index for index, item in enumerate(known) if item[0] >= stamp_ns), None)
        if later is None or (later == 0 and known[0][0] != stamp_ns):
            raise ExtrapolationException(f'{frame} at {stamp_ns}: into the future or the past')
        before, after = known[max(0, later - 1)], known[later]
        share = (stamp_ns - before[0]) / max(1, after[0] - before[0])
        mixed = np.add(np.multiply(before[2], 1 - share), np.multiply(after[2], share))
        return after[1], tuple(mixed.tolist())


class TransformListener:
    """Replacement for tf2_ros.TransformListener."""

    def __init__(self, buffer: Buffer, node: Node) -> None:
        self.node = node
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.tf_sub = node.create_subscription(
            TFMessage, '/tf', lambda msg: _each(msg, buffer.set_transform), 100
        )
        self.tf_static_sub = node.create_subscription(
            TFMessage, '/tf_static', lambda msg: _each(msg, buffer.set_transform_static), latched
        )

    def unregister(self) -> None:
        self.node.destroy_subscription(self.tf_sub)
        self.node.destroy_subscription(self.tf_static_sub)


def _each(msg: TFMessage, take: Any) -> None:
    for transform in msg.transforms:
        take(transform, 'default_authority')


def _values(msg: TransformStamped) -> Vector:
    place, turn = msg.transform.translation, msg.transform.rotation
    return place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w


def _quaternion(pose: Pose) -> Vector:
    r = pose.rotation
    w = math.sqrt(max(0.0, 1 + r[0, 0] + r[1, 1] + r[2, 2])) / 2
    x = math.copysign(math.sqrt(max(0.0, 1 + r[0, 0] - r[1, 1] - r[2, 2])) / 2, r[2, 1] - r[1, 2])
    y = math.copysign(math.sqrt(max(0.0, 1 - r[0, 0] + r[1, 1] - r[2, 2])) / 2, r[0, 2] - r[2, 0])
    z = math.copysign(math.sqrt(max(0.0, 1 - r[0, 0] - r[1, 1] + r[2, 2])) / 2, r[1, 0] - r[0, 1])
    return x, y, z, w


def transform(parent: str, child: str, pose: Pose, stamp_ns: int) -> TransformStamped:
    """Return the message for a pose."""
    msg = TransformStamped(child_frame_id=child)
    msg.header.frame_id = parent
    msg.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
    place, turn = msg.transform.translation, msg.transform.rotation
    place.x, place.y, place.z = pose.translation.tolist()
    turn.x, turn.y, turn.z, turn.w = _quaternion(pose)
    return msg
