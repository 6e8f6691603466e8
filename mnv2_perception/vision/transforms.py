"""A tree of frames over time: what tf2 would answer, from recorded transforms."""

from bisect import bisect_right
from dataclasses import dataclass, field
import math

import numpy as np

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.pose import Pose

Values = tuple[float, ...]  # x, y, z, and a quaternion's x, y, z, w


@dataclass
class _Link:
    """The known poses of a frame in its parent; times in ns, ascending."""

    parent: str
    static: bool
    times: list[int] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)


class TransformTree:
    """Transforms between frames, interpolated between two recorded ones, never extrapolated."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}

    @property
    def frames(self) -> dict[str, str]:
        """The parent of each frame."""
        return {child: link.parent for child, link in self._links.items()}

    def add(self, parent: str, child: str, stamp_ns: int, values: Values, static: bool) -> None:
        """Add a transform; if a frame has several parents, the last one counts.

        Args:
            parent: name of the parent frame, with or without a leading slash.
            child: name of the frame.
            stamp_ns: time at which the transform holds, in nanoseconds.
            values: x, y, z in metres, and a quaternion's x, y, z, w.
            static: whether it holds at all times.
        """
        parent, child = parent.lstrip('/'), child.lstrip('/')
        link = self._links.get(child)
        if link is None or link.static or static or link.parent != parent:
            link = self._links[child] = _Link(parent, static)
        place = bisect_right(link.times, stamp_ns)
        link.times.insert(place, stamp_ns)
        link.values.insert(place, values)

    def look_up(self, target: str, source: str, stamp_ns: int) -> Pose:
        """Return `target_from_source` at a time.

        Raises:
            CalibrationError: the frames are not connected, or not recorded at that time.
        """
        target, source = target.lstrip('/'), source.lstrip('/')
        up, down = self._way_up(source), self._way_up(target)
        shared = next((frame for frame in up if frame in down), None)
        if shared is None:
            known = {*self.frames, *self.frames.values()}
            missing = next((name for name in (source, target) if name not in known), None)
            raise CalibrationError(
                f'no transform from {source!r} to {target!r}: '
                + (f'the bag has no transform of {missing!r}' if missing is not None
                   else 'the frames are not connected')
                + f'; it has {", ".join(sorted(known)) or "none"}'
            )
        above_source = self._pose(up[:up.index(shared)], stamp_ns)
        above_target = self._pose(down[:down.index(shared)], stamp_ns)
        return above_target.inverse() @ above_source

    def newest_ns(self, target: str, source: str, until_ns: int) -> int:
        """Return the latest time, up to `until_ns`, at which all between two frames is known."""
        ways = self._way_up(source.lstrip('/')), self._way_up(target.lstrip('/'))
        moving = [
            self._links[frame] for frame in {*ways[0]} ^ {*ways[1]}
            if frame in self._links and not self._links[frame].static
        ]
        return min([until_ns, *(link.times[-1] for link in moving)])

    def _way_up(self, frame: str) -> list[str]:
        way = [frame]
        while frame in self._links and (frame := self._links[frame].parent) not in way:
            way.append(frame)
        return way

    def _pose(self, way: list[str], stamp_ns: int) -> Pose:
        """Return the pose of a chain's first frame in the parent of its last one."""
        pose = Pose(np.eye(3), np.zeros(3))
        for frame in way:
            link = self._links[frame]
            values = link.values[-1] if link.static else _between(frame, link, stamp_ns)
            pose = Pose.from_quaternion(values[:3], values[3:]) @ pose
        return pose


def _between(frame: str, link: _Link, stamp_ns: int) -> Values:
    """Interpolate as tf2 does: translations linearly, rotations by slerp."""
    after = bisect_right(link.times, stamp_ns)
    if after and link.times[after - 1] == stamp_ns:
        return link.values[after - 1]
    if not 0 < after < len(link.times):
        edge_ns = link.times[0 if after == 0 else -1]
        raise CalibrationError(
            f'transform of {frame!r} in {link.parent!r}: the nearest is '
            f'{abs(stamp_ns - edge_ns) * 1e-9:.3f} s {"later" if after == 0 else "earlier"} than '
            f'the image; transforms are not extrapolated'
        )
    first, last = link.values[after - 1], link.values[after]
    begin_ns, end_ns = link.times[after - 1:after + 1]
    share = (stamp_ns - begin_ns) / (end_ns - begin_ns)
    place = [a + (b - a) * share for a, b in zip(first[:3], last[:3], strict=True)]
    return *place, *_slerp(first[3:], last[3:], share)


def _slerp(first: Values, last: Values, share: float) -> Values:
    """Return the rotation between two (quaternions x, y, z, w), the short way round."""
    dot = sum(a * b for a, b in zip(first, last, strict=True))
    length = math.sqrt(sum(a * a for a in first) * sum(b * b for b in last)) or 1.0
    sign = math.copysign(1.0, dot)
    angle = math.acos(min(1.0, abs(dot) / length))
    if angle < 1e-6:
        return last if share > 0.5 else first
    near, far = math.sin((1.0 - share) * angle), sign * math.sin(share * angle)
    return tuple(
        (a * near + b * far) / math.sin(angle) for a, b in zip(first, last, strict=True)
    )
