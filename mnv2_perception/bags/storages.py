"""rosbags' writers, changed so that the files on disk are a readable bag at any moment.

With rosbags' own writers an mcap has no end and a database has no messages until they are closed.
Here each flush leaves the storage file and metadata.yaml complete. Later writes change nothing
that a flush has left until they are complete themselves, except the end of an mcap, which the
next chunks overwrite.
"""

from contextlib import suppress
import io
import json
import os
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer
import yaml

from mnv2_perception.bags.unfinished import UNINDEXED_END

INFORMATION = 'rosbag2_bagfile_information'


class _Waiting(io.BytesIO):
    """Data to be written to a file at `start`; positions count from the file's beginning."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self._start = start

    def tell(self) -> int:
        return self._start + super().tell()

    def close(self) -> None:
        """Stay open: rosbags closes it before its content is written to the file."""


class _Mcap(McapWriter):
    """Gathers chunks in memory and writes them to the file at once, followed by an end."""

    bio: Any
    finishing = False

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        super().__init__(path, compression)
        self.bio.flush()
        self._file, self._end = self.bio, self.bio.tell()
        self.bio = _Waiting(self._end)
        self._put(UNINDEXED_END)

    def close(self, version: int, metadata: str) -> None:
        if self.finishing:
            super().close(version, metadata)
            self._put(b'')
            self._file.close()
        else:
            if self.chunk.bio.tell():
                self.close_chunk()
            self._put(UNINDEXED_END)

    def abort(self) -> None:
        self._file.close()

    def _put(self, end: bytes) -> None:
        """Write the waiting data and an end over the last end; restore that end if it fails."""
        data = memoryview(self.bio.getvalue() + end)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._file.fileno(), data[written:], self._end + written)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self._end + len(UNINDEXED_END))
                os.pwrite(self._file.fileno(), UNINDEXED_END, self._end)
            raise
        self._end += len(data) - len(end)
        self.bio = _Waiting(self._end)


class _Sqlite3(Sqlite3Writer):
    """Commits at each flush."""

    finishing = False

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        super().__init__(path, compression)
        # Nothing may reach the file before a commit: rosbags reads it without its journal.
        self.conn.execute('PRAGMA cache_spill = OFF')
        # As in rosbag2: the kernel writes what it was given, unless the power fails.
        self.conn.execute('PRAGMA synchronous = OFF')

    def close(self, version: int, metadata: str) -> None:
        self.cursor.execute('DELETE FROM metadata')
        if self.finishing:
            super().close(version, metadata)
        else:
            self.cursor.execute(
                'INSERT INTO metadata(metadata_version, metadata) VALUES(?, ?)',
                (version, metadata),
            )
            self.conn.commit()


class SteadyWriter(Writer):
    """rosbags' writer, whose bag is complete after each `flush`.

    Attributes:
        kept: for each connection's id the number of messages that the last flush wrote.
    """

    STORAGE_PLUGINS = {
        StoragePlugin.MCAP: _Mcap, StoragePlugin.SQLITE3: _Sqlite3,
    }

    def open(self) -> None:
        """Create the bag's folder and files."""
        super().open()
        self._storage: Any = self.storage
        self._said: dict[str, Any] = {}
        self.kept: dict[int, int] = {}

    def flush(self) -> None:
        """Write all pending messages to the files, metadata.yaml last.

        Raises:
            OSError, sqlite3.Error: the disk is full or failed; the bag is as the last flush left
                it.
        """
        topics = self._said.get(INFORMATION, {}).get('topics_with_message_count', [])
        if len(topics) != len(self.connections):
            try:
                self.close()
            finally:
                if self.storage is None:  # the messages are stored, even if metadata.yaml is not
                    self.kept, self.storage = dict(self.counts), self._storage
            self._said = yaml.safe_load(self.metapath.read_text(encoding='utf-8'))
            return
        # Written here, because rosbags takes 20 ms for it. JSON is valid YAML.
        span: dict[str, Any] = {
            'duration': {'nanoseconds': max(0, self.max_timestamp - self.min_timestamp)},
            'starting_time': {'nanoseconds_since_epoch': self.min_timestamp},
            'message_count': sum(self.counts.values()),
        }
        said = self._said[INFORMATION]
        said |= span
        said['files'][0] |= span
        for topic, connection in zip(topics, self.connections, strict=True):
            topic['message_count'] = self.counts[connection.id]
        self._storage.close(self.version, json.dumps(said))
        self.kept = dict(self.counts)
        waiting = self.metapath.with_suffix('.yaml.tmp')
        waiting.write_text(json.dumps(self._said, indent=1), encoding='utf-8')
        waiting.replace(self.metapath)

    def finish(self) -> None:
        """Write the index, if the storage has one, and close the files.

        Raises:
            OSError, sqlite3.Error: the disk is full or failed; the bag is as the last flush left
                it.
        """
        self._storage.finishing = True
        self.close()

    def abandon(self) -> None:
        """Close the files as the last flush left them."""
        with suppress(Exception):
            self._storage.abort()
        with suppress(OSError):
            self.metapath.with_suffix('.yaml.tmp').unlink(missing_ok=True)
