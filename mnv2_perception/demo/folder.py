"""The folder of the demo's results: only results of an earlier demo are removed from it."""

from fnmatch import fnmatch
from pathlib import Path
import shutil

from mnv2_perception.data.files import make_folder
from mnv2_perception.errors import BagError, SetupError

LOGS = {'bag_player_node.log', 'bag_recorder_node.log', 'perception.log'}
RESULTS = {
    *LOGS, 'summary.json', 'masks.mcap', 'sent.csv', 'received.csv', 'recording', 'drawn_street',
    'report.html', 'foxglove_bridge.log',
}


def clear(out: Path, bag: Path | None) -> None:
    """Create the folder, or remove an earlier demo's results from it; then create empty logs.

    An earlier demo is recognised by its logs: a folder that has only some of these names is not
    one.

    Raises:
        SetupError: the folder cannot be created, or holds other files.
        BagError: the bag to replay is in this folder.
    """
    if bag is not None and bag.resolve().is_relative_to(out.resolve()):
        raise BagError(f'{bag}: is inside {out}, which the demo replaces; choose another --out')
    make_folder(out)
    try:
        found = {path.name for path in out.iterdir()}
        foreign = sorted(
            name for name in found - RESULTS if not fnmatch(name, 'frame_[0-9][0-9].png')
        )
        if not found >= LOGS:
            foreign += sorted(found)
        if foreign:
            raise SetupError(
                f'{out}: contains {foreign[0]}, which is not from a demo; choose an empty --out'
            )
        for name in found:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink()
        for name in LOGS:
            (out / name).touch()
    except OSError as exc:
        raise SetupError(f'{out}: cannot be used for the results: {exc}') from exc
