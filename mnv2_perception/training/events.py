"""TensorBoard's event files, where the package `tensorboard` is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """The scalars of a run's log, for `tensorboard --logdir`; nothing without the package.

    Args:
        out: folder of the run.
        first_epoch: epochs that the run has behind it; what an earlier process wrote of later
            ones is not shown.
    """

    def __init__(self, out: Path, first_epoch: int) -> None:
        self._writer = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(out), purge_step=first_epoch + 1)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write an entry of `log.jsonl`."""
        if self._writer is None:
            return
        for name, value in entry.items():
            values = value if isinstance(value, dict) else {'': value}
            for inner, number in values.items():
                if name != 'epoch' and number is not None:
                    tag = f'{name}/{inner}' if inner else name
                    self._writer.add_scalar(tag, number, entry['epoch'])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
