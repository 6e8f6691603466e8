"""Write TensorBoard event files if the package `tensorboard` is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """Writes the scalars of a run's log for `tensorboard --logdir`; without the package, nothing.

    Args:
        out: folder of the run.
        first_epoch: number of finished epochs; what an earlier process wrote for later epochs is
            hidden.
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
