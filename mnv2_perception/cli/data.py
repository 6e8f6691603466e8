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
        commands, 'boxes', boxes_command,
        "Convert masks to boxes around objects, in COCO's format.",
    )
    boxes.add_argument('folder', type=Path, help=PAIRS_HELP)
    boxes.add_argument(
        '--classes', nargs='+', required=True, help='classes whose objects get boxes'
    )
    boxes.add_argument(
        '--out', type=Path, required=True, metavar='FILE', help='the .json file to write'
    )
    add_masks_spec(boxes)
    boxes.add_argument(
        '--min-area', type=COUNT, default=40,
        help='smaller objects, in pixels, are marked as to be ignored (default: %(default)s)',
    )
    add_force(boxes)

    patches = add_command(
        commands, 'patches', patches_command,
        'Cut labelled windows out of images, for a classifier.',
        'The mask labels a window by the class that fills most of its middle.',
    )
    patches.add_argument('folder', type=Path, help=PAIRS_HELP)
    patches.add_argument(
        '--groups', nargs='+', required=True, metavar='CLASS=NAME,NAME',
        help='each class of the windows, with the classes of the masks that belong to it',
    )
    patches.add_argument(
        '--out', type=Path, required=True, metavar='FOLDER',
        help='folder for labels.tsv and images/',
    )
    add_masks_spec(patches)
    for option, kind, value, meaning in (
        ('height', PIXELS, 192, 'height of a window, in pixels'),
        ('width', PIXELS, 256, 'width of a window, in pixels'),
        ('top', COUNT, 48, 'first row of the topmost windows'),
        ('step', PIXELS, 56, 'distance between windows, in pixels'),
        ('per-class', COUNT, 0, 'largest number of windows of a class; 0: no limit'),
    ):
        patches.add_argument(
            f'--{option}', type=kind, default=value, help=f'{meaning} (default: %(default)s)'
        )


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
    print(f'{arguments.out}: {count} boxes in {len(samples)} images, and {ignored} to be ignored')


def patches_command(arguments: argparse.Namespace) -> None:
    """Cut labelled windows out of labelled images."""
    from mnv2_perception.data.from_masks import write_patches

    names = classes_of(arguments.spec)
    groups: dict[str, list[int]] = {}
    for group in arguments.groups:
        name, equals, parts = group.partition('=')
        if not (name and equals) or name in groups:
            raise DataError(
                f'--groups {group}: expected CLASS=NAME,NAME such as wall=door,fence, with each '
                f'CLASS only once'
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
