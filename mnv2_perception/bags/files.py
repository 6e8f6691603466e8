"""Find the files of a bag, open them, and read metadata.yaml."""

from collections import Counter
from contextlib import closing, ExitStack
from dataclasses import dataclass, field
from functools import cache
import logging
from pathlib import Path, PurePath
import shutil
import sqlite3
from tempfile import TemporaryDirectory
from typing import Any, cast

from rosbags.interfaces import Qos
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.metadata import parse_qos
import yaml

from mnv2_perception.bags.damage import Losses
from mnv2_perception.bags.ros1 import Ros1File
from mnv2_perception.bags.unfinished import Completed, is_indexed
from mnv2_perception.bags.zstandard import zstd
from mnv2_perception.errors import BagError, stand_in

logger = logging.getLogger(__name__)
SUFFIXES = ('.mcap', '.db3', '.mcap.zstd', '.db3.zstd', '.bag')
ROS1_UNFINISHED = '.bag.active'


@dataclass
class Metadata:
    """What a bag's metadata.yaml says beyond its storage files; empty if there is no such file.

    Attributes:
        files: names of the storage files.
        counts: number of messages of each topic.
        qos: QoS profiles that the publishers of each topic offered, where they are given.
        type_hashes: hash of each topic's type; empty where it is not given.
    """

    files: tuple[str, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)
    qos: dict[str, list[Qos]] = field(default_factory=dict)
    type_hashes: dict[str, str] = field(default_factory=dict)


@cache
def warn_once(text: str) -> None:
    """Log a warning once, although the same bag may be opened several times."""
    logger.warning(text)


def find_files(path: Path) -> tuple[list[Path], Metadata]:
    """Return a bag's storage files and what its metadata.yaml says.

    Args:
        path: a bag folder, or a single storage file.

    Raises:
        BagError: the path is no bag, or a file that metadata.yaml names is missing.
    """
    if not path.exists():
        raise BagError(
            f'{path}: no such bag; expected a bag folder, or a .mcap, .db3 or .bag file'
        )
    if path.is_file():
        if path.name.endswith(ROS1_UNFINISHED):
            raise BagError(_unfinished(path))
        if not path.name.endswith(SUFFIXES):
            raise BagError(
                f'{path}: not a bag by its name; expected a folder, or a .mcap, .db3 or .bag file'
            )
        return [path], Metadata()
    present = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
    for unfinished in sorted(path.glob(f'*{ROS1_UNFINISHED}')):
        if not present:
            raise BagError(_unfinished(unfinished))
        warn_once(f'{_unfinished(unfinished)}: left out')
    metadata = _read_metadata(path / 'metadata.yaml')
    listed = [path / PurePath(name).name for name in metadata.files]
    if missing := [file.name for file in listed if not file.exists()]:
        raise BagError(
            f'{path}: metadata.yaml lists {", ".join(missing)}, which does not exist; copy it '
            f'too, or remove metadata.yaml to read the rest'
        )
    if not (listed or present):
        raise BagError(
            f'{path}: not a bag; expected a folder with a metadata.yaml, or with .mcap, .db3 '
            'or .bag files'
        )
    if listed and (others := [file.name for file in present if file not in listed]):
        warn_once(f'{path}: metadata.yaml does not list {", ".join(others)}: left out')
    return listed or present, metadata


def _unfinished(path: Path) -> str:
    return (
        f'{path}: is a ROS 1 bag that is still being recorded, or whose recorder was killed; if '
        f"it was killed, run 'rosbag reindex {path.name}' where ROS 1 is installed, and rename it "
        f'to {path.name.removesuffix(".active")}'
    )


def open_file(file: Path, stack: ExitStack, losses: Losses) -> Reader | Ros1File:
    """Open a storage file, even if its recorder did not finish it.

    Args:
        file: an .mcap or .db3 file, one of these compressed as a whole (.zstd), or a ROS 1 .bag.
        stack: closes the file.
        losses: records what an unfinished file has lost.

    Raises:
        BagError: the file is a Git LFS pointer, its messages are not CDR, or the journal of its
            killed recorder cannot be applied.
        Exception: whatever rosbags or a decompressor raises on a damaged file.
    """
    _refuse_stand_in(file)
    if file.suffix == '.bag':
        ros1 = Ros1File(file)
        stack.callback(ros1.close)
        return ros1
    if file.suffix == '.zstd':
        folder = Path(stack.enter_context(TemporaryDirectory()))
        with zstd.open(file, 'rb') as packed, (folder / file.stem).open('wb') as unpacked:
            shutil.copyfileobj(packed, unpacked)
        file = folder / file.stem
    path: Any = file
    if file.suffix == '.mcap' and not is_indexed(file):
        path = completed = Completed(file)
        if completed.whole:
            warn_once(
                f'{file}: is incomplete (recorder killed, disk full, copied in part?); the intact '
                f'part is read, and the last {completed.lost_bytes} bytes are lost'
            )
        if completed.lost_bytes:
            losses.add(Counter(), BagError(f'{file.name}: cut, {completed.lost_bytes} bytes'))
    elif file.suffix == '.db3':
        _roll_back(file)
    reader = Reader(path)
    reader.open()
    stack.callback(reader.close)
    formats = {cast(Any, each.ext).serialization_format for each in reader.connections}
    if others := formats - {'cdr'}:
        raise BagError(
            f'{file}: its messages are serialised as {", ".join(sorted(map(repr, others)))}, '
            "expected 'cdr'; record the bag again with an rmw of ROS 2's default"
        )
    return reader


def _refuse_stand_in(file: Path) -> None:
    if other := stand_in(file):
        raise BagError(f'{file}: {other}')


def _roll_back(file: Path) -> None:
    """Let SQLite complete what a killed recorder had begun: rosbags does not read its journals."""
    journals = [file.with_name(f'{file.name}-{what}') for what in ('journal', 'wal')]
    if not any(journal.exists() for journal in journals):
        return
    try:
        with closing(sqlite3.connect(file)) as database:
            database.execute('SELECT count(*) FROM topics').fetchone()
    except sqlite3.Error as exc:
        raise BagError(
            f'{file}: its recorder was killed, and the rest of its data in {file.name}-* cannot '
            f'be merged ({exc}); copy the bag with these files to a writable folder'
        ) from exc


def _read_metadata(file: Path) -> Metadata:
    """Read a metadata.yaml; an unusable one is reported and ignored."""
    if not file.exists():
        return Metadata()
    _refuse_stand_in(file)
    metadata = Metadata()
    try:
        loaded = yaml.safe_load(_without_aliases(file.read_text(encoding='utf-8')))
        said = loaded['rosbag2_bagfile_information']
        metadata.files = tuple(map(str, said['relative_file_paths']))
        for topic in said['topics_with_message_count']:
            about = topic['topic_metadata']
            name = str(about['name'])
            metadata.counts[name] += int(topic['message_count'])
            offered = about.get('offered_qos_profiles') or []
            if isinstance(offered, str):
                _without_aliases(offered)
            metadata.qos[name] = parse_qos(offered)
            metadata.type_hashes[name] = str(about.get('type_description_hash') or '')
    except OSError:
        raise
    except Exception as exc:  # bad YAML, or fields of unexpected types
        reason = ' '.join(str(exc).split())[:200]
        warn_once(f'{file}: cannot be used ({type(exc).__name__}: {reason}); the bag is read '
                  f'without it')
        return Metadata()
    if not said.get('storage_identifier'):
        warn_once(f'{file}: names no storage; it is taken from the file names')
    return metadata


def _without_aliases(text: str) -> str:
    """Return a YAML text that has no aliases, which could expand to gigabytes.

    Raises:
        ValueError: the text has an alias.
    """
    if '*' in text and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError('it has an alias (*name)')
    return text
