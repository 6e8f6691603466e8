"""`mnv2 bag frames`."""

import argparse
from contextlib import ExitStack
import json
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

import yaml

from mnv2_perception.cli.bag_run import PARTLY, progress, show_reasons
from mnv2_perception.cli.options import (
    add_command,
    add_json,
    add_model_options,
    AT_LEAST_ONE,
    check_rosbags,
    COUNT,
    FPS_HELP,
    FRACTION,
    Number,
    RECORDING_HELP,
    table,
    TOPIC_HELP,
)
from mnv2_perception.errors import DataError, SetupError
from mnv2_perception.replay.choose import WAYS

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands
    from mnv2_perception.model_spec import ModelSpec
    from mnv2_perception.replay.collect import Found


def add(commands: 'Commands') -> None:
    """Add the command to those of `mnv2 bag`."""
    frames = add_command(
        commands, 'frames', frames_command,
        'Select pictures of a recording that are worth labelling.',
        'Also writes the masks of a model for you to correct. `mnv2 train segmentation` reads the '
        'resulting folder. Exit code 3: done, but part of the recording could not be read.',
    )
    frames.add_argument('recording', type=Path, nargs='+', help=RECORDING_HELP)
    frames.add_argument(
        '--out', type=Path, required=True, metavar='FOLDER',
        help='new folder for images/, labels/, spec.yaml and frames.csv',
    )
    frames.add_argument(
        '--count', type=AT_LEAST_ONE, default=50,
        help='largest number of pictures (default: %(default)s)',
    )
    frames.add_argument(
        '--by', choices=tuple(WAYS), default='time',
        help='how to select: '
             + '; '.join(f'{name}: {what}' for name, what in WAYS.items())
             + ' (default: %(default)s)',
    )
    add_model_options(frames, optional=True)
    frames.add_argument(
        '--min-confidence', type=FRACTION, default=0.0,
        help='pixels with a lower confidence stay unlabelled, 0 to 1 (default: %(default)s)',
    )
    frames.add_argument(
        '--spacing', type=COUNT, default=0, metavar='FRAMES',
        help='with --by uncertainty: smallest distance between selected frames, counted in '
             'examined frames (default: half the distance of evenly spaced ones)',
    )
    frames.add_argument(
        '--every', type=AT_LEAST_ONE, default=1, metavar='N',
        help='examine only every Nth frame (default: %(default)s)',
    )
    frames.add_argument('--topic', default='', help=TOPIC_HELP)
    frames.add_argument(
        '--fps', type=Number(float, 0.0, 1000.0, above=True), default=0.0, help=FPS_HELP
    )
    add_json(frames)


def frames_command(arguments: argparse.Namespace) -> int:
    """Choose and write frames, and print a summary; return the exit code."""
    check_rosbags()
    from mnv2_perception.replay.collect import collect
    from mnv2_perception.replay.frames import open_source
    from mnv2_perception.tasks.embedder import Embedder
    from mnv2_perception.tasks.segmenter import Segmenter

    out = arguments.out
    if arguments.spacing and arguments.by != 'uncertainty':
        raise SetupError(f'--spacing needs --by uncertainty, got --by {arguments.by}')
    for recording in arguments.recording:
        if recording.is_dir() and out.resolve().is_relative_to(recording.resolve()):
            raise SetupError(f'{out}: is inside {recording}, which is read; choose another folder')
    with ExitStack() as stack:
        source = open_source(
            arguments.recording, stack, arguments.topic, fps=arguments.fps, transforms=False
        )
        segmenter = Segmenter.open(
            arguments.model, arguments.engine, arguments.threads, precision=arguments.precision,
            min_confidence=arguments.min_confidence,
        )
        stack.callback(segmenter.close)
        embedder = None
        if arguments.by == 'diversity':
            embedder = Embedder.open(arguments.model, arguments.engine, arguments.threads)
            stack.callback(embedder.close)
        make_empty_folder(out)
        found = collect(
            source, segmenter, embedder, out, arguments.by, arguments.count, arguments.spacing,
            arguments.every, progress(),
        )
    if not found.chosen:
        raise DataError(
            f'{source.name}: none of {found.frames} frames could be read, and {found.lost} more '
            f'are lost ({"; ".join(found.reasons) or "it is empty"})'
        )
    (out / 'spec.yaml').write_text(spec_text(segmenter.spec, out.resolve().name), 'utf-8')
    show(out, found, arguments.count, arguments.json)
    if segmenter.spec.background:
        print(
            f'{out}/labels: 255 (not labelled) also marks what {segmenter.spec.name} takes for '
            f'background; give it a class of its own in labels and spec.yaml', file=sys.stderr,
        )
    return 0 if found.whole else PARTLY


def make_empty_folder(out: Path) -> None:
    """Create an empty folder.

    Raises:
        SetupError: it cannot be created, or is not empty: it may have labels that were edited.
    """
    from mnv2_perception.data.files import make_folder

    make_folder(out)
    if any(out.iterdir()):
        raise SetupError(f'{out}: is not empty; choose another --out')


def spec_text(spec: 'ModelSpec', name: str) -> str:
    """Return a YAML spec for `mnv2 train`, with the model's classes, size, scaling and licence."""
    turned = -1 if spec.channel_order == 'bgr' else 1  # networks trained here take RGB
    facts: dict[str, Any] = {
        'name': f'{spec.name}_{name}', 'task': 'segmentation',
        # Input sizes of networks trained here are divisible by 32.
        'height': -(-spec.height // 32) * 32, 'width': -(-spec.width // 32) * 32,
        'classes': list(spec.classes), 'colours': [list(colour) for colour in spec.colours],
        'mean': list(spec.mean)[::turned], 'std': list(spec.std)[::turned],
        'licence': spec.licence, 'attribution': spec.attribution,
    }
    if spec.fit == 'letterbox':
        facts |= {'fit': spec.fit, 'pad': list(spec.pad)}
    return (
        '# The ids in labels/ are the positions in classes, from 0; 255 is not labelled. Add new '
        'classes at the end.\n'
        + yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, default_flow_style=None)
    )


def show(out: Path, found: 'Found', asked: int, as_json: bool) -> None:
    """Print the summary of a recording."""
    facts: dict[str, Any] = {
        'out': str(out), 'frames': found.frames, 'looked_at': found.looked_at,
        'chosen': found.chosen, 'rejected': found.rejected, 'lost': found.lost,
    }
    if found.spacing:
        facts['spacing'] = found.spacing
    if as_json:
        print(json.dumps({**facts, 'reasons': dict(found.reasons)}, indent=2))
        return
    print(table(facts))
    if found.chosen < asked:
        why = 'there are no more'
        if found.chosen < found.looked_at:
            why = (
                f'no more frames are {found.spacing} frames apart; give a smaller --spacing'
                if found.spacing else 'the other frames are equal to these'
            )
        print(f'{found.chosen} of {asked}: {why}', file=sys.stderr)
    show_reasons(found.reasons)
