"""What `--help` says of each command: a summary of one line, and a text for each option."""

import argparse
from collections.abc import Iterator

import pytest

from mnv2_perception.cli.main import build_parser

SUMMARY = 63  # characters that fit beside a name, 80 columns wide


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command, and those below it, with its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield below.prog.partition(' ')[2] or name, below
                yield from commands(below)


def summaries(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (each.help or '' for each in action._choices_actions)


@pytest.mark.parametrize('command', [name for name, _ in commands(build_parser())])
def test_each_option_says_what_it_is(command: str) -> None:
    parser = dict(commands(build_parser()))[command]
    silent = [
        action.dest for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction)
        and len((action.help or '').split()) < 2
    ]
    assert silent == []


@pytest.mark.parametrize('command', ['', 'bag', 'train'])
def test_each_summary_is_one_line(command: str) -> None:
    parser = dict(commands(build_parser()))[command] if command else build_parser()
    found = list(summaries(parser))
    assert found and [text for text in found if not 0 < len(text) <= SUMMARY] == []


@pytest.mark.parametrize('command', [name for name, _ in commands(build_parser())])
def test_defaults_are_told_alike(command: str) -> None:
    for action in dict(commands(build_parser()))[command]._actions:
        told = (action.help or '') % {'default': action.default, 'prog': ''}
        assert not told.startswith('('), action.dest
        assert '(default' not in told or '(default: ' in told, action.dest
