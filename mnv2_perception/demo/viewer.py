"""Let a user watch the demo in Foxglove."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
import time

from mnv2_perception.demo.processes import Process
from mnv2_perception.errors import SetupError

# The drawn street lasts only six seconds, so the demo waits for a viewer to connect.
WAIT_S = 60.0
BRIDGE = 'foxglove_bridge'


def serve(address: str, out: Path) -> AbstractContextManager[Process | None]:
    """Serve the graph in its own process; do nothing if the address is empty."""
    if not address:
        return nullcontext()
    return Process(BRIDGE, [address, '--ros-args', '-p', 'use_sim_time:=true'], out)


def wait_for_viewer(bridge: Process, nodes: Process) -> None:
    """Wait for a viewer, for a minute at most.

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
                bridge.wait_for({'event': event}, nodes)  # raises, with the end of the logs
            time.sleep(0.05)
        if event == 'serving':
            print(f'waiting for a viewer at {found[0]["url"]} …', flush=True)
