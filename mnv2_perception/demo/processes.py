"""Run nodes in their own processes, which report in JSON."""

from collections.abc import Mapping
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from mnv2_perception.errors import DemoError
from mnv2_perception.tasks.models import find_shared_file

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


class Process:
    """A node in its own process, which ends with the `with` block.

    On stdout it prints JSON, one object per line: events while it runs, such as
    `{"event": "recording", "topic": "/grid"}`, and counts at its end. Other lines are ignored. All
    output goes to its log.

    Attributes:
        said: the objects, in their order.
        log: path of its log.
    """

    def __init__(self, module: str, args: list[str], out: Path) -> None:
        """Start a node.

        Args:
            module: module in `mnv2_perception.nodes`.
            args: command line arguments.
            out: folder for the log.
        """
        self.said: list[dict[str, Any]] = []
        self.log = out / f'{module}.log'
        with self.log.open('ab') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-m', f'mnv2_perception.nodes.{module}', *args],
                stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL,
                env=ros_environment(os.environ),
            )
        self._listener = threading.Thread(target=self._listen, name=module, daemon=True)
        self._listener.start()

    def __enter__(self) -> 'Process':
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()

    @property
    def running(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    def wait_for(self, event: Mapping[str, Any], *others: 'Process') -> None:
        """Wait until the process has reported an event, which may have more entries than `event`.

        Raises:
            DemoError: the time is over, or this process or one of the others has ended.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        everyone = (self, *others)
        while not any(event.items() <= said.items() for said in self.said):
            if time.monotonic() > deadline_s or not all(each.running for each in everyone):
                words = '\n'.join(each.last_words() for each in everyone)
                raise DemoError(f'the nodes did not start; the end of their log:\n{words}')
            time.sleep(0.05)

    def counts(self, key: str) -> dict[str, int]:
        """Return the counts per topic that the process reported at its end.

        Raises:
            DemoError: there are none, because it did not end properly.
        """
        if not self.said or key not in self.said[-1]:
            raise DemoError(f'{self.log}: ends without the counts; its last '
                            f'lines:\n{self.last_words()}')
        return dict(self.said[-1][key])

    def last_words(self) -> str:
        """Return the end of the log."""
        return self.log.read_text(encoding='utf-8', errors='replace')[-2000:]

    def _listen(self) -> None:
        assert self._process.stdout
        with self.log.open('ab', buffering=0) as log, self._process.stdout as lines:
            for line in lines:
                log.write(line)
                if (event := read_event(line)) is not None:
                    self.said.append(event)


def read_event(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line of stdout; None for other lines."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def ros_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose ROS graph is limited to this machine, with room for images.

    Variables that the user has set are kept.
    """
    profile = str(find_shared_file('config/fastdds.xml'))
    ours = {
        'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'FASTDDS_DEFAULT_PROFILES_FILE': profile,
        'FASTRTPS_DEFAULT_PROFILES_FILE': profile,
    }
    if environ.get('ROS_DISTRO') == 'humble':
        ours['ROS_LOCALHOST_ONLY'] = '1'  # later distros have the discovery range instead
    return ours | dict(environ)
