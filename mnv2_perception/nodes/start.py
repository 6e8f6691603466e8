"""The executables of the nodes, from before their libraries are loaded."""

from functools import partial
from importlib import import_module
import os
import signal
import sys


def start(name: str) -> int:
    """Run a node's `main`; return the process's exit code.

    Loading takes seconds on a small computer. Ctrl-C meanwhile would be a traceback, of whatever
    library is being loaded, so it ends the process at once, as one that was told to stop; `main`
    then has a handler of its own.

    Args:
        name: module of this folder, such as `segmentation_node`.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    code: int = import_module(f'{__package__}.{name}').main()
    return code


segmentation_node = partial(start, 'segmentation_node')
classification_node = partial(start, 'classification_node')
detection_node = partial(start, 'detection_node')
costmap_node = partial(start, 'costmap_node')
detection3d_node = partial(start, 'detection3d_node')
perception = partial(start, 'perception')
bag_player_node = partial(start, 'bag_player_node')
bag_recorder_node = partial(start, 'bag_recorder_node')

if __name__ == '__main__':
    sys.exit(start(sys.argv.pop(1)))
