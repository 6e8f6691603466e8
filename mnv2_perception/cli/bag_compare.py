"""`mnv2 bag compare` and `mnv2 bag info`."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
import json
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from mnv2_perception.cli.options import (
    add_command,
    add_force,
    add_json,
    check_output,
    check_rosbags,
    FRACTION,
    table,
)

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands


def add(commands: 'Commands') -> None:
    """Add the commands to those of `mnv2 bag`."""
    compare = add_command(
        commands, 'compare', compare_command,
        'Compare the results of two runs of one recording.',
        'Exit code 1 if the new results are worse by more than the options allow.',
    )
    compare.add_argument('base', type=Path, help='results to compare with, written by `bag run`')
    compare.add_argument('new', type=Path, help='results to judge, of the same recording')
    compare.add_argument(
        '--labels', default='', metavar='TOPIC|BAG|DIR',
        help='correct masks: a topic in the results (`bag run --copy`), a bag with labels, or a '
        'folder of PNG files, one for each mask (default: compare the two runs with each other)',
    )
    compare.add_argument(
        '--max-drop', type=FRACTION, default=0.01,
        help='largest drop, 0 to 1: of mIoU against --labels; without labels, of the '
        'agreement of the two runs below 1 (default: %(default)s)',
    )
    compare.add_argument(
        '--max-changed-cells', type=FRACTION, default=1.0,
        help='largest share of known grid cells that may differ, 0 to 1 (default: %(default)s)',
    )
    compare.add_argument(
        '--junit', type=Path, metavar='FILE', help='also write the checks as a JUnit file (.xml)'
    )
    add_force(compare)
    add_json(compare)

    info = add_command(
        commands, 'info', info_command,
        'Show what a bag contains and what the nodes can use.',
        'Also says what is missing for them.',
    )
    info.add_argument('bag', type=Path, help='bag folder, or a single .mcap, .db3 or .bag file')
    add_json(info)


def compare_command(arguments: argparse.Namespace) -> int:
    """Judge one run by another; return the exit code."""
    check_rosbags()
    from mnv2_perception.evaluation.compare import compare_runs
    from mnv2_perception.evaluation.junit import write_junit

    if arguments.junit:
        check_output(arguments.junit, arguments.force, [arguments.base, arguments.new], ['.xml'])
    base, new = ran_in(arguments.base), ran_in(arguments.new)
    if base and new and base != new:
        print(
            f'{arguments.base} was made with {base}, {arguments.new} with {new}, which may cause '
            f'part of the differences; run both with the same --engine and --precision',
            file=sys.stderr,
        )
    checks = compare_runs(
        arguments.base, arguments.new, arguments.labels, arguments.max_drop,
        arguments.max_changed_cells,
    )
    if arguments.junit:
        write_junit(arguments.junit, checks)
    passed = all(check.passed for check in checks)
    if arguments.json:
        print(json.dumps({
            'passed': passed,
            'checks': [
                {**asdict(check), 'worst': [str(frame) for frame in check.worst]}
                for check in checks
            ],
        }, indent=2))
        return 0 if passed else 1
    for check in checks:
        print(f'{"ok  " if check.passed else "FAIL"}  {check.name}: {check.told}')
        by_class = {k: v for k, v in check.figures.items() if isinstance(v, dict)}
        if plain := {f'      {k}': v for k, v in check.figures.items() if k not in by_class}:
            print(table(plain))
        if by_class:
            print(class_table(by_class))
        if not check.passed and check.worst:
            print(f'      worst frames: {", ".join(map(str, check.worst))}')
    return 0 if passed else 1


def ran_in(results: Path) -> str:
    """Return the engines and precisions of a run; empty for a live recording."""
    from mnv2_perception.bags.results import read_run

    models = read_run(results).get('models', [])
    return ', '.join(f'{each["engine"]} {each["precision"]}' for each in models)


def class_table(figures: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return figures by class as a table with a row per class and a column per figure."""
    columns = [name.replace('_per_class', '').replace('per_class_', '') for name in figures]
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    width = max(len(name) for name in [*names, 'class'])
    lines = [f'      {"class":<{width}}' + ''.join(f'{column:>11}' for column in columns)]
    for name in names:
        shown = [values.get(name) for values in figures.values()]
        cells = ''.join(f'{"-" if value is None else format(value, ".3f"):>11}' for value in shown)
        lines.append(f'      {name:<{width}}{cells}')
    return '\n'.join(lines)


def info_command(arguments: argparse.Namespace) -> None:
    """Print what a bag holds."""
    check_rosbags()
    from mnv2_perception.bags.info import describe_bag, info_text

    facts = describe_bag(arguments.bag)
    print(json.dumps(facts, indent=2) if arguments.json else info_text(facts))
