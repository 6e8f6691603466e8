"""mnv2_perception.bags.definitions: types without ROS, as ROS has them."""

import json
from pathlib import Path

import pytest

from mnv2_perception.bags.definitions import jazzy_types, VISION_MSGS
from mnv2_perception.bags.write import BagWriter

LABEL_INFO_HASH = 'RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783'


def test_label_info_has_its_official_hash() -> None:
    assert jazzy_types().hash_rihs01('vision_msgs/msg/LabelInfo') == LABEL_INFO_HASH


def test_types_of_vision_msgs_have_their_official_hashes(mnv2_data: Path) -> None:
    official = json.loads((mnv2_data / 'type_hashes.json').read_text())
    names = [f'vision_msgs/msg/{name}' for name in VISION_MSGS]
    assert names
    found = {name: jazzy_types().hash_rihs01(name) for name in names}
    assert found == {name: official[name] for name in names}


def test_they_are_written_where_ros_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/detections', 'vision_msgs/msg/Detection2DArray')
        bag.write('/detections', 1, bytes([0, 1, 0, 0]) + bytes(24))
        assert bag.message_counts == {'/detections': 1}
