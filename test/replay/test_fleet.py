"""`mnv2 bag run --ray`: on a real cluster of two workers, the same bytes as without."""

from collections.abc import Iterator
from contextlib import ExitStack
import os
from pathlib import Path
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from camera_bags import (
    HEIGHT,
    IMAGE,
    INFO,
    masks,
    MATRIX,
    picture,
    run,
    stamp,
    transform_cdr,
    WIDTH,
    write_bag,
    write_model,
)
import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.bags.write import BagWriter, camera_info_cdr, image_cdr
from mnv2_perception.errors import EngineError, SetupError
from mnv2_perception.replay.fleet import check_address, Cluster, FleetRun, RAY
from mnv2_perception.replay.fleet_worker import open_work, Orders
from mnv2_perception.replay.frames import Frame, Item, open_source
from mnv2_perception.replay.models import open_tasks
from mnv2_perception.replay.run import describe, ResultFile, Run

ROOT = Path(__file__).parents[2]
OPENING: dict[str, Any] = {
    'engine': 'fake', 'threads': 1, 'precision': 'auto', 'min_confidence': 0.0, 'min_score': 0.3,
}


@pytest.fixture(scope='module')
def cluster() -> Iterator[str]:
    """Address of a cluster with two CPUs, and so with two workers."""
    pytest.importorskip('ray', reason='no ray: run make setup-ray')
    ray = shutil.which('ray', path=str(Path(sys.executable).parent))
    assert ray
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    home = tempfile.mkdtemp(prefix='ray')  # its sockets' names are long already
    environment = {
        **os.environ, 'HOME': home, 'RAY_USAGE_STATS_ENABLED': '0', 'PYTHONPATH': os.pathsep.join(
            [str(ROOT), str(ROOT / 'test'), str(Path(__file__).parent)]),
    }
    head = subprocess.Popen(
        [ray, 'start', '--head', '--block', f'--port={port}', '--node-ip-address=127.0.0.1',
         '--num-cpus=2', '--include-dashboard=false', f'--temp-dir={home}',
         '--disable-usage-stats'],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('HOME', home)  # where the cluster's token is
        address = f'127.0.0.1:{port}'
        while True:
            try:
                check_address(address)
                break
            except SetupError:
                assert head.poll() is None
                time.sleep(0.2)
        yield address
        head.terminate()
        head.wait(30)
    shutil.rmtree(home, ignore_errors=True)


def write_hard_bag(path: Path, frames: int = 60) -> Path:
    """Write a bag with damaged images and calibrations, and a lens that changes on the way."""
    optical = (-0.5, 0.5, -0.5, 0.5)
    with BagWriter(path) as bag:
        for topic, kind in (
            (IMAGE, 'sensor_msgs/msg/Image'), (INFO, 'sensor_msgs/msg/CameraInfo'),
            ('/count', 'std_msgs/msg/UInt32'), ('/tf', 'tf2_msgs/msg/TFMessage'),
        ):
            bag.add_topic(topic, kind)
        for number in range(frames):
            now = stamp(number)
            x = 0.000002 * number  # a mount that slips
            bag.write('/tf', now, transform_cdr('base_link', 'camera', now, x, 1.0, optical))
            if number % 7 == 0:
                lens = MATRIX + np.diag([number / 10, number / 10, 0])
                info = camera_info_cdr(HEIGHT, WIDTH, lens, now, 'camera')
                bag.write(INFO, now, info[:50] if number == 28 else info)
            good = image_cdr(picture(number), now, 'camera')
            bag.write(IMAGE, now, good[:40] if number % 9 == 4 else good)
            bag.write('/count', now + 1, bytes([0, 1, 0, 0, number, 0, 0, 0]))
    return path


@pytest.mark.parametrize('batch', [1, 3])
def test_two_workers_give_the_bytes_and_counts_of_a_run_without_them(
    tmp_path: Path, cluster: str, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_hard_bag(tmp_path / 'bag')
    write_model(tmp_path / 'model.yaml', batch=batch)
    told = []
    for name, more in (('alone.mcap', []), ('ray.mcap', ['--ray', cluster])):
        assert run(bag, tmp_path / name, '--copy', '/count', *more) == 3
        out, err = capsys.readouterr()
        counts = re.findall(r'^(?!out|frames_per_s|inference_ms).*$', out, re.M)
        told.append((counts, re.findall(r'^\d+ × .*$', err, re.M)))
    assert 'ray: 1 machine; 2 slices of 16 frames at once, each on 1 CPU' in err
    assert told[0] == told[1] and 'rejected                           7' in told[0][0]
    assert (tmp_path / 'ray.mcap').read_bytes() == (tmp_path / 'alone.mcap').read_bytes()


def test_pictures_and_videos_need_no_shared_folder(tmp_path: Path, cluster: str) -> None:
    (tmp_path / 'pictures').mkdir()
    video = cv2.VideoWriter(
        str(tmp_path / 'drive.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 10.0, (WIDTH, HEIGHT)
    )
    for number in range(20):
        bgr = cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(tmp_path / f'pictures/{number:02}.png'), bgr)
        video.write(bgr)
    video.release()
    (tmp_path / 'pictures/07.png').write_bytes(b'no picture')
    for name, code in (('pictures', 3), ('drive.avi', 0)):
        alone, ray = tmp_path / f'{name}.alone.mcap', tmp_path / f'{name}.ray.mcap'
        assert run(tmp_path / name, alone) == code
        assert run(tmp_path / name, ray, '--ray', cluster) == code
        assert ray.read_bytes() == alone.read_bytes()
        assert len(masks(ray)) == 20 - (code == 3)


def fleet_run(
    bag: Path, out: Path, cluster: str, stack: ExitStack, frames: list[Frame] | None = None
) -> FleetRun:
    models = [str(out.parent / 'model.yaml')]
    source = open_source([bag], stack)
    if frames is not None:
        source.items = lambda: (Item(stamp(n), frame) for n, frame in enumerate(frames))
    tasks = open_tasks(models, stack, **OPENING)
    workers = Cluster(cluster, stack, models, OPENING, tasks, None)
    return FleetRun(
        workers, source, tasks, None, ResultFile(out), describe(source, tasks, {})
    )


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(
    tmp_path: Path, cluster: str
) -> None:
    bag = write_bag(tmp_path / 'bag', frames=100)
    write_model(tmp_path / 'model.yaml', latency_ms=30.0)
    out, killed = tmp_path / 'ray.mcap', list[int]()
    with ExitStack() as stack:
        fleet = fleet_run(bag, out, cluster, stack)

        def tell(done: int, *_: object) -> None:
            if not killed:  # a slice is there: its worker is at the next
                killed.append(int(next(iter(fleet.workers)).split()[1]))
                os.kill(killed[0], signal.SIGKILL)

        summary = fleet(tell)
    assert killed and (summary.frames, summary.rejected) == (100, 0)
    assert len(fleet.workers) == 3  # two, and who came in the killed one's place
    with ExitStack() as stack:
        source = open_source([bag], stack)
        tasks = open_tasks([str(tmp_path / 'model.yaml')], stack, **OPENING)
        alone = ResultFile(tmp_path / 'alone.mcap')
        Run(source, tasks, None, alone, describe(source, tasks, {}))(lambda *_: None)
    assert out.read_bytes() == (tmp_path / 'alone.mcap').read_bytes()


class Deadly(Frame):
    """A frame that ends the process that decodes it."""

    size = 0

    def __call__(self) -> tuple[Any, NDArray[np.uint8]]:
        os._exit(9)


def test_a_slice_that_kills_each_worker_ends_the_run_and_not_what_was_before(
    tmp_path: Path, cluster: str
) -> None:
    bag = write_bag(tmp_path / 'bag', frames=20)
    write_model(tmp_path / 'model.yaml')
    with ExitStack() as stack:
        source = open_source([bag], stack)
        good = [item.frame for item in source.items() if item.frame]
        fleet = fleet_run(bag, tmp_path / 'out.mcap', cluster, stack, [*good[:16], Deadly()])
        with pytest.raises(EngineError, match=r'the worker was lost 4 times .* --resume'):
            fleet(lambda *_: None)
    assert sorted(masks(tmp_path / 'out.mcap')) == [stamp(number) for number in range(16)]


def test_after_ctrl_c_amid_the_writing_resume_goes_on_to_the_same_bytes(
    tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_bag(tmp_path / 'bag', frames=64, tf=True)
    alone, out = tmp_path / 'alone.mcap', tmp_path / 'out.mcap'
    assert run(bag, alone) == 0
    write = ResultFile.write

    def interrupted(self: ResultFile, topic: str, *rest: Any) -> None:
        write(self, topic, *rest)
        if topic == '/segmentation/confidence' and self.counts[topic] == 20:
            os.kill(os.getpid(), signal.SIGINT)

    # What a shell starts in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(ResultFile, 'write', interrupted)
            assert run(bag, out, '--ray', cluster) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert 20 <= len(masks(out)) < 64
    assert run(bag, out, '--resume', '--ray', cluster) == 0
    assert out.read_bytes() == alone.read_bytes()


def test_what_no_machine_of_the_cluster_can_do_is_refused_and_earlier_results_stay(
    tmp_path: Path, cluster: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bag, out = write_bag(tmp_path / 'bag'), tmp_path / 'out.mcap'
    out.write_bytes(b'mine')
    assert run(bag, out, '--force', '--ray', cluster, '--threads', '3') == 1
    assert 'no machine of the cluster has 3 CPUs and 0 GPUs, at most 2' in capsys.readouterr().err
    # As on a cluster whose machines lack the file.
    monkeypatch.setattr('mnv2_perception.replay.fleet.find_model', lambda name: f'/no{name}')
    assert run(bag, out, '--force', '--ray', cluster) == 1
    error = capsys.readouterr().err
    assert f'error: on {socket.gethostname()}: /no/' in error and 'a shared folder' in error
    assert out.read_bytes() == b'mine'


# What needs no cluster


def test_without_ray_it_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert run(write_bag(tmp_path / 'bag'), tmp_path / 'out.mcap', '--ray') == 1
    assert f"pip install '{RAY}', or run `make setup-ray`" in capsys.readouterr().err
    assert not (tmp_path / 'out.mcap').exists()


@pytest.mark.parametrize('address', ['drive', 'ray://host:10001', ':6379', 'host:', 'host:99999'])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(SetupError, match=r'expected HOST:PORT.*put the recordings before --ray'):
        check_address(address)


def test_where_nobody_answers_that_is_told_at_once() -> None:
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        begun_s = time.monotonic()
        with pytest.raises(SetupError, match='no Ray cluster answers there'):
            check_address(f'127.0.0.1:{silent.getsockname()[1]}')
    assert time.monotonic() - begun_s < 10.0


def test_what_answers_but_is_no_cluster_is_told() -> None:
    with socket.create_server(('127.0.0.1', 0)) as server, ExitStack() as stack:
        served = subprocess.Popen(
            [sys.executable, '-c', 'import socket, sys\nconnection, _ = socket.socket(fileno=int('
             "sys.argv[1])).accept()\nconnection.sendall(b'SSH-2.0-Open\\r\\n')\ninput()",
             str(server.fileno())],
            pass_fds=[server.fileno()], stdin=subprocess.PIPE,
        )
        stack.callback(served.wait)
        stack.callback(served.kill)
        with pytest.raises(SetupError, match='what answers there is not a Ray cluster'):
            check_address(f'127.0.0.1:{server.getsockname()[1]}')


def test_a_worker_says_what_model_it_lacks_or_has_otherwise(tmp_path: Path) -> None:
    model = write_model(tmp_path / 'model.yaml')
    with ExitStack() as stack:
        (task,) = open_tasks([str(model)], stack, **OPENING)
    here = socket.gethostname()
    for models, facts, words in (
        ([str(tmp_path / 'other.onnx')], task.facts, 'is neither a model file nor.*same path'),
        ([str(model)], {**task.facts, 'sha256': 'abc'}, 'has sha256 .*, expected abc, as on'),
        ([str(model)], {**task.facts, 'precision': 'bf16'}, 'has precision .*give --engine'),
    ):
        with pytest.raises(SetupError, match=f'^on {re.escape(here)}: .*{words}'):
            open_work(Orders('1', models, OPENING, [facts], None))


def test_the_pin_stands_in_the_extra_and_in_the_set_up() -> None:
    assert f"'ray': ['{RAY}']" in (ROOT / 'setup.py').read_text(encoding='utf-8')
    pins = ROOT / 'tools/ros_from_pypi/requirements-ray.txt'
    assert RAY in pins.read_text(encoding='utf-8').splitlines()
