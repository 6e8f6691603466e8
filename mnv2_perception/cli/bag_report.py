"""`mnv2 bag report`."""

import argparse
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
import sys
import time
from typing import Any, TYPE_CHECKING

from mnv2_perception.cli.bag_run import progress
from mnv2_perception.cli.options import (
    add_command,
    add_force,
    check_output,
    check_rosbags,
    Number,
)
from mnv2_perception.errors import PerceptionError, SetupError
from mnv2_perception.report import FRAMES

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands
    from mnv2_perception.report.results import Images


def add(commands: 'Commands') -> None:
    """Add the command to those of `mnv2 bag`."""
    report = add_command(
        commands, 'report', report_command,
        'Write one run, or two side by side, as an HTML page.',
        'The page works offline.',
    )
    report.add_argument(
        'results', type=Path, help='results of `bag run`, or a recording of live nodes'
    )
    report.add_argument(
        'other', type=Path, nargs='?', help='results of another run of the same recording'
    )
    report.add_argument(
        '--out', type=Path, required=True, metavar='FILE', help='the .html file to write'
    )
    report.add_argument(
        '--bag', type=Path, metavar='ORIGINAL',
        help='recording that was run, if the results contain no images: a bag, a folder of '
        'pictures, or a video file',
    )
    report.add_argument(
        '--topic', default='',
        help='image topic of --bag (default: the topic that looks most like a camera)',
    )
    report.add_argument(
        '--labels', default='', metavar='TOPIC|BAG|DIR',
        help='correct masks: a topic in one of the bags, a bag with labels, or a folder of PNG '
        'files, one for each mask (default: labels in the bags that come with class names)',
    )
    report.add_argument(
        '--frames', type=Number(int, 2, 5000), default=FRAMES,
        help='largest number of frames whose pictures are on the page (default: %(default)s)',
    )
    report.add_argument(
        '--video', type=Path, metavar='FILE', help='also write the frames as a video (.mp4)'
    )
    add_force(report)


def report_command(arguments: argparse.Namespace) -> None:
    """Write a report, and print its path and size."""
    check_rosbags()
    from mnv2_perception.data.images import is_bag
    from mnv2_perception.report.report import make_report, write_report
    from mnv2_perception.report.video import write_video

    paths = [path for path in (arguments.results, arguments.other) if path is not None]
    original, video = arguments.bag, arguments.video
    read = [*paths, *([original] if original else [])]
    check_output(arguments.out, arguments.force, read, ['.html'])
    if video:
        check_output(video, arguments.force, [*read, arguments.out], ['.mp4'])
    if original and not original.exists():
        raise SetupError(f'{original}: no such file or folder; give the recording that was run')
    if arguments.topic and not original:
        raise SetupError('--topic is the image topic of --bag; give --bag too')
    images = None
    if original and not is_bag(original):
        images = pictures(original, paths[0], arguments.topic)
    report = make_report(paths, original, images, arguments.labels, arguments.topic)
    for note in report.notes:
        print(note, file=sys.stderr)
    write_report(report, arguments.out, arguments.frames, timed())
    print(f'{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB')
    if video:
        write_video(report, video, timed())
        print(f'{video}: {video.stat().st_size / 1e6:.1f} MB')


def timed() -> Callable[[int, int], None]:
    """Return a function that shows the progress of drawing pictures."""
    tell, begun_s = progress(), time.perf_counter()
    return lambda done, of: tell(done, of, time.perf_counter() - begun_s)


def pictures(original: Path, results: Path, topic: str) -> 'Images':
    """Return the images of a folder or video, with the stamps that they had in a run."""
    from mnv2_perception.bags.results import read_run
    from mnv2_perception.replay.frames import open_source
    from mnv2_perception.report.results import Images

    source: Any = read_run(results).get('source')
    fps = source.get('fps') if isinstance(source, dict) else None
    opened = open_source(
        [original], ExitStack(), topic, fps=float(fps) if isinstance(fps, int | float) else 0.0
    )
    keys = [(item.stamp_ns, 0) for item in opened.items()]

    def read(wanted: Collection[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], Any]]:
        for item in opened.items():
            key = item.stamp_ns, 0
            if item.frame is None or key not in wanted:
                continue
            try:
                yield key, item.frame()[1]
            except PerceptionError as exc:
                images.failed[key] = str(exc)

    images = Images(opened.name, keys, read)
    return images
