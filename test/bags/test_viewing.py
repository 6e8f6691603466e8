"""Where a bag can be watched: addresses, and the package that serves there."""

import argparse
import importlib.util
from pathlib import Path
import re
import subprocess
import sys

import pytest

from mnv2_perception.bags.viewing import (
    add_viewer_option,
    check_viewer,
    FOXGLOVE_SDK,
    viewer_address,
)
from mnv2_perception.errors import ParameterError, SetupError


@pytest.mark.parametrize(
    ('text', 'address'),
    [
        ('8765', ('127.0.0.1', 8765)), ('0.0.0.0:9000', ('0.0.0.0', 9000)),
        ('robot-1.local:8765', ('robot-1.local', 8765)), ('[::]:1', ('::', 1)),
    ],
)
def test_an_address_is_this_machine_s_alone_unless_it_says_another(
    text: str, address: tuple[str, int]
) -> None:
    assert viewer_address(text) == address


@pytest.mark.parametrize(
    'text', ['', '0', '65536', 'drive', 'drive.mcap', '::1:80', 'a b:80', '-1']
)
def test_what_is_no_address_is_refused_with_one_that_is(text: str) -> None:
    with pytest.raises(ParameterError, match=r'PORT or HOST:PORT, such as 8765'):
        viewer_address(text)


def test_a_bag_behind_the_option_is_not_taken_for_its_address(
    capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('bag')
    add_viewer_option(parser)
    assert parser.parse_args(['drive', '--foxglove']).foxglove == '8765'
    assert parser.parse_args(['drive']).foxglove is None
    with pytest.raises(SystemExit):
        parser.parse_args(['--foxglove', 'drive'])
    assert "got 'drive', expected PORT" in capsys.readouterr().err


def test_without_the_package_one_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SetupError, match=re.escape(f'pip install {FOXGLOVE_SDK}')) as error:
        check_viewer()
    assert '\n' not in str(error.value)


def test_the_version_that_is_told_is_the_one_that_is_tested() -> None:
    root = Path(__file__).parents[2]
    for file in ('tools/ros_from_pypi/requirements-train.txt', 'setup.py', 'docs/robot.md'):
        told = set(re.findall(r'foxglove-sdk==[\d.]+', (root / file).read_text(encoding='utf-8')))
        assert told == {FOXGLOVE_SDK}, file


def test_neither_the_player_nor_the_demo_loads_the_package() -> None:
    pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
    code = (
        'import sys, mnv2_perception.nodes.bag_player_node, mnv2_perception.demo.run\n'
        "print('foxglove' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'False\n'
