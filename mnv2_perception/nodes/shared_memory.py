"""Free shared memory that killed processes left behind with Fast DDS: nobody else frees it."""

from contextlib import suppress
import fcntl
import os
from pathlib import Path
import re
import time

SHARED_MEMORY = Path('/dev/shm')
# Each process makes a segment and locks the file beside it until it ends, however it ends.
_LOCK = re.compile(r'(fast(?:dds|rtps)_[0-9a-f]{16})_el')
_SETTLED_S = 2.0  # a process locks its file immediately after creating it


def reclaim(folder: Path = SHARED_MEMORY) -> int:
    """Delete the segments whose process has ended; return their size in bytes.

    A process that still reads a segment keeps it until it ends. Segments of other users stay.
    """
    freed = 0
    for lock in sorted(folder.glob('fast*_el')):
        if found := _LOCK.fullmatch(lock.name):
            with suppress(OSError):  # another process was first, or another user owns it
                freed += _reclaim(lock, folder / found[1])
    return freed


def _reclaim(lock: Path, segment: Path) -> int:
    if time.time() - lock.stat().st_mtime < _SETTLED_S:
        return 0
    held = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its process is alive
        size = segment.stat().st_size if segment.exists() else 0
        segment.unlink(missing_ok=True)
        lock.unlink()
        return size
    finally:
        os.close(held)
