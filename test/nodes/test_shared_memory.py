"""What a killed process leaves in /dev/shm is freed by the next, and what lives is left alone."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import fcntl
import os
from pathlib import Path
import re
import subprocess
import sys
import time

from colcon_workspace import own_domain_id
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from mnv2_perception.nodes.shared_memory import reclaim, SHARED_MEMORY

pytestmark = pytest.mark.ros

PROFILE = str(Path(__file__).resolve().parents[2] / 'config/fastdds.xml')
NAMES = ('fastrtps_0123456789abcdef', 'fastdds_0123456789abcdee')


def leave(folder: Path, name: str, age_s: float = 60.0) -> None:
    (folder / name).write_bytes(bytes(1000))
    (folder / f'{name}_el').touch()
    os.utime(folder / f'{name}_el', (time.time() - age_s,) * 2)


@pytest.mark.parametrize('name', NAMES)
def test_a_segment_whose_lock_nobody_holds_is_deleted(name: str, tmp_path: Path) -> None:
    leave(tmp_path, name)
    assert reclaim(tmp_path) == 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', NAMES)
def test_a_segment_whose_process_lives_stays(name: str, tmp_path: Path) -> None:
    leave(tmp_path, name)
    with (tmp_path / f'{name}_el').open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert reclaim(tmp_path) == 0
        assert (tmp_path / name).stat().st_size == 1000


def test_a_segment_that_is_being_made_and_what_is_none_stay(tmp_path: Path) -> None:
    leave(tmp_path, NAMES[0], age_s=0.0)
    for name in ('fastrtps_port7411', 'fastdds_0123', 'other_0123456789abcdef'):
        leave(tmp_path, name)
    before = sorted(tmp_path.iterdir())
    assert reclaim(tmp_path) == 0
    assert sorted(tmp_path.iterdir()) == before


@contextmanager
def node(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, '-m', 'mnv2_perception.nodes.bag_recorder_node', '--out',
         str(folder / str(time.monotonic_ns())), '/nothing'],
        env={
            **os.environ, 'ROS_DOMAIN_ID': str(own_domain_id()),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'FASTDDS_DEFAULT_PROFILES_FILE': PROFILE, 'FASTRTPS_DEFAULT_PROFILES_FILE': PROFILE,
        },
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def segment(process: subprocess.Popen[str]) -> Path:
    """Return the large segment that a process made: it holds the lock of the file beside it."""
    deadline_s = time.monotonic() + 30.0
    while time.monotonic() < deadline_s:
        locks = Path('/proc/locks').read_text(encoding='utf-8')
        held = set(re.findall(rf'FLOCK +ADVISORY +WRITE {process.pid} \w+:\w+:(\d+)', locks))
        for lock in SHARED_MEMORY.glob('fast*_el'):
            made = lock.with_name(lock.name.removesuffix('_el'))
            with suppress(OSError):  # of a process that ends just now
                if made.stat().st_size > 60_000_000 and str(lock.stat().st_ino) in held:
                    return made
        time.sleep(0.1)
    pytest.skip('the middleware makes no such segment')


def test_after_a_kill_the_next_process_frees_64_mb_and_no_living_ones(tmp_path: Path) -> None:
    with node(tmp_path) as living, node(tmp_path) as killed:
        kept, left = segment(living), segment(killed)
        killed.kill()
        killed.wait()
        assert left.exists()
        time.sleep(2.1)  # until the file counts as settled
        with node(tmp_path) as following:
            segment(following)
            assert not left.exists() and kept.exists()
