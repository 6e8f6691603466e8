"""`mnv2 boxes|patches`: make data sets from masks."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mnv2_perception.cli.options import (
    add_command,
    add_force,
    add_masks_spec,
    check_output,
    classes_of,
    COUNT,
    PAIRS_HELP,
    PIXELS,
)
from mnv2_perception.errors import DataError

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands


def add(commands: 'Commands') -> None:
    """Add the commands."""
    boxes = add_command(
        commands, 'boxes', boxes_command, "Write the boxes around masks' objects as COCO JSON."
    )
    boxes.add_argument('folder', type=Path, help=PAIRS_HELP)
    boxes.add_argument('--classes', nargs='+', required=True, help='names of those to look for')
    boxes.add_argument('--out', type=Path, required=True, help='the .json file to write')
    add_masks_spec(boxes)
    boxes.add_argument(
        '--min-area', type=COUNT, default=40,
        help='pixels; smaller ones are marked to be ignored (%(default)s)',
    )
    add_force(boxes)

    patches = add_command(
        commands, 'patches', patches_command, 'Cut windows, labelled by masks, for a classifier.'
    )
    patches.add_argument('folder', type=Path, help=PAIRS_HELP)
    patches.add_argument(
        '--groups', nargs='+', required=True, metavar='CLASS=NAME,NAME',
        help='classes of the windows, and the classes of the masks that each is made of',
    )
    patches.add_argument('--out', type=Path, required=True, help='folder for labels.tsv, images/')
    add_masks_spec(patches)
    patches.add_argument('--height', type=PIXELS, default=192, help='of a window (%(default)s)')
    patches.add_argument('--width', type=PIXELS, default=256, help='of a window (%(default)s)')
    patches.add_argument('--top', type=COUNT, default=48, help='row of the first (%(default)s)')
    patches.add_argument('--step', type=PIXELS, default=56, help='pixels between (%(default)s)')
    patches.add_argument('--per-class', type=COUNT, default=0, help='at most; 0 keeps all')


def boxes_command(arguments: argparse.Namespace) -> None:
    """Write boxes around the objects in masks."""
    from mnv2_perception.data.coco import write_coco
    from mnv2_perception.data.from_masks import boxes_from_labels

    names = classes_of(arguments.spec)
    if unknown := [name for name in arguments.classes if name not in names]:
        raise DataError(
            f'{arguments.spec} has no class {", ".join(unknown)}; it has {", ".join(names)}; '
            f"give --spec with the masks' classes"
        )
    check_output(arguments.out, arguments.force, [Path(arguments.spec)], ['.json'])
    class_ids = [names.index(name) for name in arguments.classes]
    samples = boxes_from_labels(arguments.folder, class_ids, arguments.min_area)
    write_coco(arguments.out, arguments.classes, samples)
    count, ignored = (sum(map(len, boxes)) for boxes in (
        [sample.boxes for sample in samples], [sample.ignored for sample in samples]
    ))
    print(f'{arguments.out}: {count} boxes in {len(samples)} images, {ignored} more to ignore')


def patches_command(arguments: argparse.Namespace) -> None:
    """Cut labelled windows out of labelled images."""
    from mnv2_perception.data.from_masks import write_patches

    names = classes_of(arguments.spec)
    groups: dict[str, list[int]] = {}
    for group in arguments.groups:
        name, equals, parts = group.partition('=')
        if not (name and equals) or name in groups:
            raise DataError(
                f'--groups {group}: expected CLASS=NAME,NAME such as wall=door,fence, each CLASS '
                f'once'
            )
        for part in parts.split(','):
            if part not in names:
                raise DataError(
                    f'--groups {group}: {arguments.spec} has no class {part!r}; it has '
                    f"{', '.join(names)}; give --spec with the masks' classes"
                )
        groups[name] = [names.index(part) for part in parts.split(',')]
    counts = write_patches(
        arguments.folder, arguments.out, groups, (arguments.height, arguments.width),
        arguments.top, arguments.step, arguments.per_class,
    )
    listed = ', '.join(f'{count} {name}' for name, count in counts.items())
    print(f'{arguments.out}/labels.tsv: {listed}')
