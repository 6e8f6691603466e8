"""SIGINT and SIGTERM end a process of nodes within 5 s, whatever it is doing."""

from pathlib import Path
import signal
import subprocess
import time
from typing import Any

from identity_network import identity_spec, write_fake
import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from running_nodes import Running, running, wait
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros

LONGEST_S = 5.0
SLOW_S = 1e6
# Of each state: the parameters of segmentation_node, what its model is besides, and what leads
# to the state once the process runs.
STATES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    'starting': ({}, {}, []),
    'unconfigured': ({'autostart': False}, {}, ['up']),
    'configuring': ({}, {'opening_s': SLOW_S}, ['beside']),
    'inactive': ({'autostart': False}, {}, ['up', 'configure']),
    'active': ({}, {}, ['active']),
    'working': ({}, {'latency_ms': 300.0}, ['active', 'image']),
    'hanging': ({}, {'hang_after': 1}, ['active', 'image']),
    'deactivating': ({}, {'latency_ms': 2000.0}, ['active', 'image', 'deactivate']),
    'deactivating while it hangs': ({}, {'hang_after': 1}, ['active', 'image', 'deactivate']),
}


def lead(run: Running, step: str) -> None:
    peer = run.peer
    if step == 'up':
        wait(lambda: peer.node.count_publishers('/segmentation/mask') or (
            'segmentation_node' in peer.node.get_node_names()), 30.0, 'segmentation_node is there')
    elif step == 'beside':  # costmap_node is active, and this one has begun to open its model
        run.active(1)
        time.sleep(0.5)
    elif step == 'active':
        run.active(2)
    elif step == 'image':
        camera = peer.publisher(Image, 'image')
        wait(camera.get_subscription_count, 30.0, 'image is heard')
        time.sleep(0.7)  # held back after the start
        for _ in range(5):
            camera.publish(Image(
                height=64, width=96, encoding='rgb8', step=288, data=bytes(64 * 288)
            ))
            time.sleep(0.1)
    else:
        transition = Transition(id=getattr(Transition, f'TRANSITION_{step.upper()}'))
        client = peer.node.create_client(ChangeState, '/segmentation_node/change_state')
        assert client.wait_for_service(20.0)
        done = client.call_async(ChangeState.Request(transition=transition))
        if step == 'configure':
            wait(done.done, 20.0, step)
        else:
            time.sleep(0.5)


@pytest.mark.parametrize(('state', 'number'), [
    *((state, signal.SIGTERM) for state in STATES),
    ('active', signal.SIGINT), ('hanging', signal.SIGINT),  # which go the same way
])
def test_a_signal_ends_the_process_in_every_state(
    state: str, number: signal.Signals, tmp_path: Path
) -> None:
    parameters, facts, steps = STATES[state]
    model = write_fake(tmp_path / 'm.yaml', identity_spec(64, 96))
    model.write_text(yaml.safe_dump({**yaml.safe_load(model.read_text()), **facts}))
    given = {'segmentation_node': {'engine': 'fake', 'model': str(model), **parameters}}
    with running(tmp_path / 'run', 'perception', given) as run:
        for step in steps:
            lead(run, step)
        begun_s = time.monotonic()
        run.process.send_signal(number)
        try:
            code = run.process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f'{state}: still there {LONGEST_S} s after {number.name}')
        finally:
            took_s = time.monotonic() - begun_s
            run.process.kill()
            run.process.wait()
        if state == 'starting':  # Python's own end, before anything is to be undone
            assert code in (0, 1, -number, 130)
        elif 'hang' in state or state == 'configuring':
            assert code == 1, (code, took_s)
        else:
            assert code == 0, (code, run.log()[-2000:])
        assert '\nTraceback' not in run.log() or state == 'starting'
