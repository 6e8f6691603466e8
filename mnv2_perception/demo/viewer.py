"""Somebody who watches the demo in Foxglove."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
import time

from mnv2_perception.demo.processes import Process
from mnv2_perception.errors import SetupError

# The street lasts six seconds: whoever wants to see it connects first.
WAIT_S = 60.0
BRIDGE = 'foxglove_bridge'


def serve(address: str, out: Path) -> AbstractContextManager[Process | None]:
    """Serve the graph in a process of its own; nothing where the address is empty."""
    if not address:
        return nullcontext()
    return Process(BRIDGE, [address, '--ros-args', '-p', 'use_sim_time:=true'], out)


def wait_for_viewer(bridge: Process, nodes: Process) -> None:
    """Wait until somebody watches, for a minute at most.

    Raises:
        DemoError: the server or the nodes have ended.
        SetupError: nothing can be served at the address.
    """
    for event in ('serving', 'watched'):
        deadline_s = time.monotonic() + WAIT_S
        while not (found := [said for said in bridge.said if said.get('event') == event]):
            if failed := [said for said in bridge.said if said.get('event') == 'failed']:
                raise SetupError(failed[0]['error'])
            if time.monotonic() > deadline_s and event == 'watched':
                print('no viewer connected; continuing', flush=True)
                return
            if not (bridge.running and nodes.running):
                bridge.wait_for({'event': event}, nodes)  # says which, and its last words
            time.sleep(0.05)
        if event == 'serving':
            print(f'waiting for a viewer at {found[0]["url"]} …', flush=True)
