"""Describe a bag: what it holds, what each node can use from it, and what is missing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
import statistics
from typing import Any

from mnv2_perception.bags.camera import CAMERA_INFO, COMPRESSED, find_camera, RAW
from mnv2_perception.bags.messages import stamp_ns
from mnv2_perception.bags.read import BagMessage, BagReader, BagTopic
from mnv2_perception.bags.transforms import add_transforms
from mnv2_perception.errors import BagError, CalibrationError, PerceptionError
from mnv2_perception.vision.camera import Camera, oddity
from mnv2_perception.vision.encodings import image_from_compressed_msg
from mnv2_perception.vision.transforms import TransformTree

GAP = 3.0  # times the median interval between two messages
BASE, GRID = 'base_link', 'odom'  # costmap_node's default frames


@dataclass
class _Seen:
    """What was found in one topic's messages."""

    times_ns: list[int] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    frame_ids: set[str] = field(default_factory=set)
    images: dict[str, None] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)
    calibration: Any = None
    first: Any = None
    unreadable: int = 0


def describe_bag(path: Path) -> dict[str, Any]:
    """Read a bag from end to end and describe it.

    Args:
        path: path of the bag.

    Returns:
        `bag`, `seconds`, `messages`, `damage` (reasons); `topics`, each with `name`, `type`,
        `count`, and where known `rate_hz`, `gaps` and `longest_gap_s`, `frame_ids`,
        `zero_stamps`, `stamps_back`, `images` (height × width and encoding), `unreadable`,
        `odd` (what looks wrong in a usable camera_info); `frames` (each frame with its parent);
        `nodes`, each with what it can `use` and what is `missing` for it.

    Raises:
        BagError: the bag cannot be opened.
    """
    tree = TransformTree()
    add_transforms(path, tree)
    with BagReader(path) as reader:
        seen = {topic.name: _Seen() for topic in reader.topics}
        for message in reader.readable():
            _look(reader, message, seen[message.topic])
        damage = list(reader.losses.reasons)
        if reader.missing:
            damage.append(f'metadata.yaml promises {sum(reader.missing.values())} more messages')
        return {
            'bag': str(path),
            'seconds': (reader.end_ns - reader.start_ns) / 1e9,
            'messages': reader.message_count,
            'damage': damage,
            'topics': [_topic(topic, seen[topic.name]) for topic in reader.topics],
            'frames': tree.frames,
            'nodes': _nodes(path, seen, tree),
        }


def _look(reader: BagReader, message: BagMessage, seen: _Seen) -> None:
    seen.times_ns.append(message.stamp_ns)
    kind = message.type_name
    known = seen.first is not None and (kind != RAW or len(message.cdr) in seen.sizes)
    seen.sizes.add(len(message.cdr))
    try:
        msg = reader.deserialize(message) if kind == CAMERA_INFO or not known else None
        if seen.first is None:
            seen.first = msg
        if not hasattr(seen.first, 'header'):
            return
        if msg is None:
            head = _Head(message.cdr)
            stamp, frame_id = head.stamp_ns, head.frame_id
        else:
            stamp, frame_id = stamp_ns(msg.header), msg.header.frame_id
        seen.stamps_ns.append(stamp)
        seen.frame_ids.add(frame_id[:100])
        if kind == CAMERA_INFO:
            seen.calibration = msg
        elif msg is not None and kind == RAW:
            seen.images[f'{msg.height} × {msg.width} {msg.encoding[:40]}'] = None
        elif msg is not None and kind == COMPRESSED:
            height, width = image_from_compressed_msg(msg).shape[:2]
            seen.images[f'{height} × {width} {msg.format[:40]}'] = None
    except PerceptionError:
        seen.unreadable += 1


class _Head:
    """Stamp and frame_id of a message that begins with a header, read from its bytes."""

    def __init__(self, cdr: bytes) -> None:
        order = 'little' if len(cdr) > 1 and cdr[1] & 1 else 'big'
        if len(cdr) < 16:
            raise BagError(f'a message of {len(cdr)} bytes has no header')
        second, nanosecond, length = (
            int.from_bytes(cdr[place:place + 4], order, signed=place == 4)  # type: ignore[arg-type]
            for place in (4, 8, 12)
        )
        self.stamp_ns = second * 10**9 + nanosecond
        self.frame_id = cdr[16:16 + max(0, length - 1)].decode('utf-8', 'replace')


def _topic(topic: BagTopic, seen: _Seen) -> dict[str, Any]:
    facts: dict[str, Any] = {
        'name': topic.name, 'type': topic.type_name, 'count': topic.message_count,
    }
    apart_s = [(b - a) / 1e9 for a, b in pairwise(seen.times_ns)]
    if apart_s and sum(apart_s) > 0:
        usual_s = statistics.median(apart_s)
        gaps = [each for each in apart_s if each > GAP * max(usual_s, 1e-6)]
        facts |= {
            'rate_hz': round(len(apart_s) / sum(apart_s), 3), 'gaps': len(gaps),
            'longest_gap_s': round(max(apart_s), 3),
        }
    if seen.stamps_ns:
        stamps = seen.stamps_ns
        facts |= {
            'frame_ids': sorted(seen.frame_ids),
            'zero_stamps': sum(stamp == 0 for stamp in stamps),
            'stamps_back': sum(b < a for a, b in pairwise(stamps)),
        }
    if seen.images:
        facts['images'] = list(seen.images)
    if seen.unreadable:
        facts['unreadable'] = seen.unreadable
    if seen.calibration is not None:
        with suppress(CalibrationError):  # reported as missing for the node
            odd = oddity(seen.calibration, Camera.from_info(seen.calibration))
            facts |= {'odd': odd} if odd else {}
    return facts


def _nodes(path: Path, seen: Mapping[str, _Seen], tree: TransformTree) -> list[dict[str, Any]]:
    try:
        camera = find_camera(path)
    except BagError as exc:
        return [{'node': 'segmentation_node, detection_node, classification_node, costmap_node',
                 'use': [], 'missing': [str(exc)]}]
    image = camera.image.removesuffix('/compressed')
    use = [f'image:={image}' + (' (image_transport: compressed)' if camera.compressed else '')]
    missing = _stamps_missing(seen[camera.image], camera.image)
    nodes = [{'node': 'segmentation_node, detection_node, classification_node', 'use': use,
              'missing': missing}]
    frame_id = next(iter(sorted(seen[camera.image].frame_ids)), '')
    lacks, has = _calibration(camera.info, seen), []
    if camera.info and not lacks:
        has.append(f'camera_info:={camera.info}')
    lacks += _transforms_missing(tree, frame_id)
    if not _transforms_missing(tree, frame_id):
        has.append(f'/tf, from {frame_id!r} to {BASE!r}')
    depth = [
        name for name, each in seen.items()
        if any(what.split()[-1] in ('16UC1', '32FC1') for what in each.images)
    ]
    has += [f'depth/image:={name}' for name in depth]
    nodes.append({'node': 'costmap_node', 'use': has, 'missing': lacks})
    if camera.label:
        nodes.append({'node': '`mnv2 evaluate`', 'use': [f'--labels {camera.label}'],
                      'missing': []})
    return nodes


def _stamps_missing(seen: _Seen, topic: str) -> list[str]:
    missing = []
    if seen.stamps_ns and not any(seen.stamps_ns):
        missing.append(f'stamps: those of {topic} are zero, so it cannot be paired with other '
                       f'topics')
    if '' in seen.frame_ids:
        missing.append(f'a frame_id: that of {topic} is empty, so tf cannot place it')
    return missing


def _calibration(topic: str | None, seen: Mapping[str, _Seen]) -> list[str]:
    cure = 'calibrate the camera, or give horizontal_fov_rad (`bag run`: --camera-fov)'
    if topic is None:
        return [f'camera_info beside the images; {cure}']
    info = seen[topic].calibration
    try:
        if info is None:
            raise CalibrationError('none of its messages can be read')
        Camera.from_info(info)
    except CalibrationError as exc:
        return [f'{topic}: {exc}']
    return []


def _transforms_missing(tree: TransformTree, frame_id: str) -> list[str]:
    cure = "give the camera's pose in the parameters camera_* (`bag run`: --camera-height)"
    frames = {*tree.frames, *tree.frames.values()}
    if not frames:
        return [f'/tf and /tf_static; {cure}']
    missing = []
    if BASE not in frames:
        tops = sorted({*tree.frames.values()} - set(tree.frames))
        missing.append(f'the frame {BASE!r}; name another as base_frame ({", ".join(tops)})')
    if frame_id.lstrip('/') not in frames:
        missing.append(f'a transform of {frame_id!r}, the frame of the images; {cure}')
    if GRID not in frames:
        missing.append(f'the frame {GRID!r}, without which the grid moves with the robot')
    return missing


def info_text(facts: Mapping[str, Any]) -> str:
    """Return the result of `describe_bag` as text."""
    lines = [f'{facts["bag"]}: {facts["messages"]} messages, {facts["seconds"]:.2f} s']
    lines += [f'damaged: {reason}' for reason in facts['damage']]
    width = max(len(topic['name']) for topic in facts['topics'])
    for topic in facts['topics']:
        lines.append(f'{topic["name"]:<{width}}  {topic["count"]:>6} × {topic["type"]}')
        told = ', '.join(_told(topic))
        if told:
            lines.append(f'{"":<{width}}  {told}')
    if facts['frames']:
        frames = ', '.join(f'{child} in {parent}' for child, parent in facts['frames'].items())
        lines.append(f'frames: {frames}')
    for node in facts['nodes']:
        lines.append(f'{node["node"]}: {", ".join(node["use"]) or "nothing to use"}')
        lines += [f'  missing: {what}' for what in node['missing']]
    return '\n'.join(lines)


def _told(topic: Mapping[str, Any]) -> Sequence[str]:
    told = []
    if 'rate_hz' in topic:
        told.append(f'{topic["rate_hz"]:.2f} Hz')
        if topic['gaps']:
            told.append(f'gaps: {topic["gaps"]}, the longest {topic["longest_gap_s"]:.2f} s')
    told += topic.get('images', [])
    told += [f'frame {name!r}' for name in topic.get('frame_ids', [])]
    for key, what in (('zero_stamps', 'stamps of zero'), ('stamps_back', 'stamps that go back'),
                      ('unreadable', 'unreadable')):
        if topic.get(key):
            told.append(f'{topic[key]} {what}')
    told += [topic['odd']] if 'odd' in topic else []
    return told
