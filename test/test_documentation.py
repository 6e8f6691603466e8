"""What the documents say is what the code does."""

import argparse
import ast
from collections.abc import Iterator
from dataclasses import fields
import hashlib
import json
from pathlib import Path
import re
import shlex
import statistics
from typing import Any

import pytest
from test_import_boundaries import ROS, RULES
import yaml

from mnv2_perception.cli.main import build_parser
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.model_info import missing_facts
from mnv2_perception.training.recipe import PASTED, SegmentationRecipe, TINTED

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mnv2_perception'
PAGES = [
    'README.md', 'CONTRIBUTING.md', 'QUALITY_DECLARATION.md', 'SECURITY.md',
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'docs').glob('*.md')),
]
CARDS = sorted(str(path.relative_to(ROOT)) for path in (PACKAGE / 'models').glob('*.md'))
MAKEFILE = (ROOT / 'Makefile').read_text(encoding='utf-8')
NO_RCLPY = 'no rclpy: run make setup, or source a ROS distro'


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


def section(page: str, title: str) -> str:
    """Return what stands below a heading of the second level."""
    return re.split(r'^## ', read(page).split(f'\n## {title}\n')[1], flags=re.M)[0]


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks in a language, without their indentation."""
    found = re.findall(rf'^( *)```{language}\n(.*?)^ *```$', read(page), re.M | re.S)
    return [re.sub(rf'^{indent}', '', code, flags=re.M) for indent, code in found]


def snippets(page: str) -> list[str]:
    """Return what stands between backticks within the lines."""
    text = re.sub(r'^ *```.*?^ *```$', '', read(page), flags=re.M | re.S)
    return re.findall(r'`([^`\n]+)`', text)


def commands(page: str) -> list[str]:
    """Return the lines of the page's shell blocks, without comments, and commands within them."""
    text = ''.join(blocks(page, 'sh')).replace('\\\n', ' ')
    lines = [re.sub(r'(^|\s)#.*', '', line).strip() for line in text.splitlines()]
    inner = re.findall(r'\$\((.*?)\)', text)
    return [re.sub(r'\$\(.*?\)', 'FILE', line) for line in lines] + inner


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r'^#+ (.*)$', page.read_text(encoding='utf-8'), re.M)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


# Pages


@pytest.mark.parametrize('page', [*PAGES, *CARDS])
def test_links_lead_to_files_and_headings(page: str) -> None:
    dead = []
    for link in re.findall(r'\]\(([^)]+)\)', read(page)):
        file, _, anchor = link.partition('#')
        path = (ROOT / page).parent / file if file else ROOT / page
        if '://' not in link and not (
            path.exists() and (not anchor or anchor in anchors(path))
        ):
            dead.append(link)
    assert dead == []


def test_every_page_is_reached_from_the_readme() -> None:
    links = set(re.findall(r'\]\(([^)#]+)', read('README.md')))
    assert {*PAGES, *CARDS} - {'README.md'} <= links


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(read('README.md').splitlines()) <= 160


def test_the_map_of_folders_names_what_exists() -> None:
    drawn = section('README.md', 'Map of the folders').split('```')[1]
    named, base = set(), ''
    for line in drawn.strip().splitlines():
        if not line.startswith(' '):
            base = line.split()[0] if line.startswith('mnv2_perception/') else ''
            named.add(line.split()[0])
        else:
            named |= {base + name for name in re.findall(r'\w+/', line[:19])}
    assert sorted(path for path in named if not (ROOT / path).is_dir()) == []
    folders = {f'mnv2_perception/{path.parent.name}/' for path in PACKAGE.glob('*/*.py')}
    assert folders <= named


# Commands


def parsers(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Go through a parser and those of its commands, each with the words that lead there."""
    yield [], parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                for words, inner in parsers(sub):
                    yield [name, *words], inner


@pytest.mark.parametrize('page', [*PAGES, *CARDS])
def test_shell_commands_are_those_of_the_program(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in commands(page):
        words = shlex.split(line)
        if words[:1] != ['mnv2']:
            continue
        if words[1:3] in (['bag', 'play'], ['bag', 'record']):
            pytest.importorskip('rclpy', reason=NO_RCLPY)
            from mnv2_perception.nodes.bag_arguments import player_arguments, recorder_arguments

            parse = player_arguments if words[2] == 'play' else recorder_arguments
            words = words[2:]
        else:
            parse = build_parser().parse_args
        try:
            parse(words[1:])
        except SystemExit:
            pytest.fail(f'{line}: {capsys.readouterr().err}')


@pytest.mark.parametrize('page', PAGES)
def test_commands_told_in_passing_exist(page: str) -> None:
    known = {tuple(words): parser for words, parser in parsers(build_parser())}
    for snippet in snippets(page):
        words = re.sub(r'[][…]', '', snippet).split()
        if words[:1] != ['mnv2'] or words == ['mnv2'] or words[1:] == ['']:
            continue
        names = [word for word in words[1:] if re.fullmatch('[a-z][a-z-]*', word)]
        lead = max(
            (tuple(names[:count]) for count in range(len(names) + 1)
             if tuple(names[:count]) in known), key=len,
        )
        assert lead or not names, f'{snippet}: mnv2 has no such command'
        options = {word.partition('=')[0] for word in words if word.startswith('--')}
        unknown = options - set(known[lead]._option_string_actions)
        assert not unknown or lead[:1] == ('bag',), snippet


def test_shares_of_crops_are_those_that_training_takes() -> None:
    meant = {item.name: item.metadata['meaning'] for item in fields(SegmentationRecipe)}
    for share, meaning in ((PASTED, meant['paste']), (TINTED, meant['light'])):
        told = f'{100 * share:g} % of the crops'
        assert told in meaning and told in read('docs/training.md')
        assert told not in read('mnv2_perception/training/recipe.py')  # made of the number


@pytest.mark.parametrize('page', ['docs/training.md', 'docs/bags.md', 'docs/labelling.md'])
def test_options_told_in_passing_exist(page: str) -> None:
    known = {option for _, parser in parsers(build_parser())
             for option in parser._option_string_actions}
    known |= set(re.findall(r"'(--[a-z-]+)'", read('mnv2_perception/nodes/bag_arguments.py')))
    told = {snippet.split()[0] for snippet in snippets(page) if snippet.startswith('--')}
    assert told
    assert sorted(told - known) == []


@pytest.mark.parametrize('page', PAGES)
def test_make_knows_the_targets_and_variables(page: str) -> None:
    targets = set(re.findall(r'^([a-z-]+):', MAKEFILE, re.M))
    for line in [*commands(page), *snippets(page)]:
        words = shlex.split(line) if re.search(r'(^|\S+=.* )make [a-z]', line) else []
        variables = {word.partition('=')[0] for word in words if '=' in word}
        assert {word for word in words if '=' not in word} <= {'make', *targets}, line
        assert [name for name in variables if f'({name})' not in MAKEFILE] == [], line
        tests = re.findall(r'test/[\w./]+', line if words else '')
        assert [path for path in tests if not (ROOT / path).exists()] == [], line


def launch_arguments(name: str) -> set[str]:
    """Return the arguments that a launch file declares."""
    tree = ast.parse(read(f'launch/{name}'))
    return {
        node.args[0].value for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        and node.func.id == 'DeclareLaunchArgument'
        and isinstance(node.args[0], ast.Constant)
    }


@pytest.mark.parametrize('page', PAGES)
def test_launch_arguments_are_declared(page: str) -> None:
    perception = launch_arguments('perception.launch.py')
    known = perception | launch_arguments('replay.launch.py')
    for text in [*commands(page), *snippets(page)]:
        if any(word in text for word in ('bag play', 'republish', 'rviz2')):
            continue  # its a:=b are topics, and parameters of others
        allowed = perception if 'perception.launch.py' in text else known
        used = set(re.findall(r'(?<![\w/}])([a-z_]+):=', text))
        assert used <= allowed, text


# Parameters and topics


def test_the_page_of_parameters_is_that_of_the_code() -> None:
    pytest.importorskip('rclpy', reason=NO_RCLPY)
    from mnv2_perception.nodes.parameters import page

    assert read('docs/parameters.md') == page() + '\n', (
        'run: python -m mnv2_perception.nodes.parameters > docs/parameters.md'
    )


def parameters_of_nodes() -> dict[str, set[str]]:
    """Return the names of each node's parameters, as docs/parameters.md tells them."""
    found: dict[str, set[str]] = {}
    for part in re.split(r'^## ', read('docs/parameters.md'), flags=re.M)[1:]:
        title, _, rows = part.partition('\n')
        for node in title.removeprefix('Shared by ').removesuffix(': parameters').split(', '):
            found.setdefault(node, set()).update(re.findall(r'^\| `(\w+)`', rows, re.M))
    return found


@pytest.mark.parametrize('page', PAGES)
def test_yaml_sets_what_exists(page: str) -> None:
    spec_keys = {item.name for item in fields(ModelSpec)}
    nodes = parameters_of_nodes()
    for block in blocks(page, 'yaml'):
        values = yaml.safe_load(block)
        for name, content in values.items():
            if isinstance(content, dict) and 'ros__parameters' in content:
                assert set(content['ros__parameters']) <= nodes[name.rpartition('/')[2]], block
            else:
                assert name in spec_keys, block
    known = spec_keys.union({'bond_timeout'}, *nodes.values())  # the one is Nav2's
    told = {
        snippet.partition(':')[0] for snippet in snippets(page)
        if re.fullmatch(r'[a-z_]+: \S.*', snippet)
    }
    assert sorted(told - known) == []


def topics_told() -> set[str]:
    """Return the topics in the first columns of docs/topics.md."""
    columns = re.findall(r'^\| ([^|]*`[^|]*) \|', read('docs/topics.md'), re.M)
    names = {name for column in columns for name in re.findall(r'`([^`]+)`', column)}
    return {name for name in names if name != 'remap' and not name.startswith('…')}


def strings_in_calls(path: Path, functions: set[str]) -> set[str]:
    """Return the texts that calls of functions of these names are given."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
            if name in functions:
                found |= {arg.value for arg in node.args
                          if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def test_topics_are_those_of_the_nodes() -> None:
    calls = {
        'create_result_publisher', 'publisher', 'create_camera_subscription', 'listen',
        'acquire_model', 'create_publisher', 'create_service',
    }
    created = set().union(
        *(strings_in_calls(path, calls) for path in (PACKAGE / 'nodes').glob('*.py'))
    )
    assert len(created) > 20
    assert topics_told() == created | {
        'image/compressed', 'segmentation/mask/compressed', 'obstacles/*'
    }


def texts_of_nodes() -> str:
    """Return all texts that the nodes put together, … for what they put in."""
    found = []
    for folder in ('nodes', 'vision'):
        for path in (PACKAGE / folder).glob('*.py'):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                if isinstance(node, ast.JoinedStr):
                    found.append(''.join(
                        str(part.value) if isinstance(part, ast.Constant) else '…'
                        for part in node.values
                    ))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return '\n'.join(found)


def test_messages_told_by_symptom_are_those_of_the_nodes() -> None:
    texts = texts_of_nodes()
    titles = 'No mask', 'The grid is empty', 'No boxes in space'
    text = ''.join(section('docs/troubleshooting.md', title) for title in titles)
    rows = re.findall(r'^\| ([^|]*) \|', text, re.M)
    told = [text for row in rows for text in re.findall('`([^`]+)`', row) if '…' in text]
    assert len(told) > 12
    pieces = {piece.strip(' ;:,') for text in told for piece in text.split('…')}
    assert [piece for piece in sorted(pieces) if piece not in texts] == []


# CONTRIBUTING


def boundary_table() -> str:
    """Return the table of CONTRIBUTING.md: what the test of the boundaries allows."""
    def listed(names: set[str]) -> str:
        rest = sorted(names - ROS)
        return ', '.join([*(['ROS'] if names >= ROS else []), *(f'`{name}`' for name in rest)])

    rows = ['| | of this package | from elsewhere | |', '| --- | --- | --- | --- |']
    for path, rule in RULES.items():
        name = f'`{path}`' if path else 'the root'
        lazy = 'only inside functions' if rule.lazy else ''
        own = listed(set(rule.own) - {path})
        rows.append(f'| {name} | {own} | {listed(set(rule.third_party))} | {lazy} |')
    return '\n'.join(rows)


def test_the_boundaries_are_those_of_the_test() -> None:
    assert boundary_table() in read('CONTRIBUTING.md'), 'run: python test/test_documentation.py'


def names_defined() -> set[str]:
    """Return every function, class and `Class.method` of the package."""
    found = set()
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ClassDef):
                found |= {node.name, *(
                    f'{node.name}.{item.name}' for item in node.body
                    if isinstance(item, ast.FunctionDef)
                )}
            elif isinstance(node, ast.FunctionDef):
                found.add(node.name)
    return found


def test_the_way_of_a_frame_goes_through_functions_that_exist() -> None:
    way = section('CONTRIBUTING.md', 'The way of a frame')
    steps = re.findall(r'^\d+\. ', way, re.M)
    named = {name for name in re.findall(r'`([\w.]+)`', way) if re.search('[A-Z]|_', name)}
    assert len(steps) == 10 and len(named) > 10
    assert named - names_defined() <= {'costmap_node', 'max_rate_hz'}


def test_contributing_names_files_that_exist() -> None:
    paths = [
        snippet for snippet in snippets('CONTRIBUTING.md')
        if re.fullmatch(r'[\w./]+(\.(py|md|rst|yaml|toml)|/)', snippet) and 'NAME' not in snippet
    ]
    assert {
        f'nodes/{path.name}' for path in (PACKAGE / 'nodes').glob('[a-z]*.py')
        if not path.stem.endswith('_node') and path.stem != 'perception'
    } <= set(paths)
    assert [
        path for path in paths if not (ROOT / path).exists() and not (PACKAGE / path).exists()
    ] == []


def test_contributing_names_tables_and_variables_that_exist() -> None:
    code = '\n'.join(
        path.read_text(encoding='utf-8')
        for folder in (PACKAGE, ROOT / 'test', ROOT / 'tools') for path in folder.rglob('*.py')
    )
    tables = {name for name in snippets('CONTRIBUTING.md') if re.fullmatch('[A-Z_]{5,}', name)}
    assert len(tables) > 5
    assert [
        name for name in tables if not re.search(rf"^{name}\b.* = |environ.*'{name}'", code, re.M)
    ] == []


# Hazards and models


def test_each_hazard_names_a_test_that_exists_or_what_it_needs() -> None:
    limits = read('docs/limits.md')
    rows = [row for row in re.findall(r'^\| (.*) \|$', limits, re.M) if not row.startswith('---')]
    held = [row.split(' | ')[1] for row in rows if not row.endswith(' | test')]
    assert len(held) > 50
    assert [text for text in held if '::' not in text and 'needs ' not in text] == []
    named = set(re.findall(r'`([\w/]+\.py)::(\w+)`', limits))
    assert len(named) > 50
    assert sorted(
        f'{file}::{test}' for file, test in named
        if f'def {test}(' not in (ROOT / 'test' / file).read_text(encoding='utf-8')
    ) == []


@pytest.mark.parametrize(
    'model', sorted((PACKAGE / 'models').glob('*.onnx')), ids=lambda path: path.stem
)
def test_card_and_readme_tell_a_shipped_model_s_licence(model: Path) -> None:
    from mnv2_perception.engines import open_engine

    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    name = model.stem.removesuffix('_int8')  # that is no model of its own
    card = model.with_name(f'{name}.md').read_text(encoding='utf-8')
    assert hashlib.sha256(model.read_bytes()).hexdigest() in card
    assert model.stat().st_size <= 12e6
    with open_engine(model) as engine:
        spec = ModelSpec.from_metadata(engine.metadata, model)
    assert not {'licence', 'attribution'} & set(missing_facts(spec))
    row: Any = re.search(rf'^\| \[`{name}`\].*$', read('README.md'), re.M)
    licence = spec.licence.replace('-', ' ')  # SPDX writes CC-BY-NC-4.0
    assert row and licence in row[0].replace('-', ' ') and licence in card.replace('-', ' ')
    assert f'*{spec.attribution}*' in card


def test_figures_of_the_shipped_models_are_those_that_were_measured() -> None:
    measured = json.loads(read('benchmark/results/shipped.json'))
    paths = [
        path for path in (PACKAGE / 'models').glob('*.onnx') if not path.stem.endswith('_int8')
    ]
    for path in paths:
        name = path.stem
        value = next(values[name] for values in measured['accuracy'].values() if name in values)
        if 'camvid' in name:
            assert re.search(rf'`{name}`.* {value:.3f} on CamVid val \|', read('README.md'))
        else:
            card = path.with_suffix('.md').read_text(encoding='utf-8')
            assert re.search(rf'^\| .* of ground val.* \| {value:.3f}|'
                             rf'^\| .* on ground val.* \| {value:.3f}', card, re.M), name
    for name in {path.stem for path in paths} & set(measured['latency_ms']):
        told = f'| `{name}` | {measured["latency_ms"][name]:.1f} ms'
        assert told in read('docs/performance.md')


def test_figures_of_the_runtimes_are_those_that_were_measured() -> None:
    rows = {
        'OpenVINO fp32': ('', 'openvino', 'fp32'), 'OpenVINO bf16': ('', 'openvino', 'bf16'),
        'OpenVINO int8': ('_int8', 'openvino', 'fp32'),
        'OpenVINO int8, the rest bf16': ('_int8', 'openvino', 'bf16'),
        'ONNX Runtime int8': ('_int8', 'onnx_runtime', 'fp32'),
    }
    measured = {
        (item['model'].removeprefix('unet_mobilenetv2_camvid'), item['engine'], item['precision']):
        item for item in json.loads(read('benchmark/results/engines.json'))['engines']
    }
    for name, key in rows.items():
        speed, miou = statistics.median(measured[key]['speed_up']), measured[key]['miou']
        told = f'| {name} | × {speed:.1f} | {miou:.3f} |'
        assert told in read('docs/performance.md')


def test_figures_of_the_node_are_those_that_were_measured() -> None:
    models = json.loads(read('benchmark/results/node.json'))['models']
    found = [models[f'unet_mobilenetv2_{name}'] for name in ('ground_fast', 'ground')]

    def cells(key: str, way: str, digits: int) -> str:
        quartiles = [model[key][way] for model in found]
        return ' | '.join(
            rf'× {middle:.{digits}f} \({low:.{digits}f} to {high:.{digits}f}\)[^|]*'
            for low, middle, high in quartiles
        )

    page = read('docs/performance.md')
    for row, key, way, digits in (
        ('masks per second, next image sent after the mask', 'masks_per_s_to_tutorial',
         'default', 1),
        ('masks per second, next image always waiting', 'flooded_to_tutorial', 'default', 1),
        ('time within which 95 % of the masks came, at 30 Hz', 'p95_to_tutorial', 'default', 2),
        ('in ONNX Runtime fp32: masks per second', 'masks_per_s_to_tutorial',
         'onnx_runtime fp32', 1),
        ('in ONNX Runtime fp32: time for 95 % at 30 Hz', 'p95_to_tutorial',
         'onnx_runtime fp32', 2),
    ):
        assert re.search(rf'^\| {row} \| {cells(key, way, digits)}\|$', page, re.M), row
    fast, accurate = (model['masks_per_s_to_tutorial']['default'][1] for model in found)
    told = f'{fast:.1f} times as many masks per second (accurate model: {accurate:.1f} times)'
    assert told in read('README.md')


def test_figures_of_the_nodes_start_are_those_that_were_measured() -> None:
    models = json.loads(read('benchmark/results/node.json'))['models']
    starts = [
        models[f'unet_mobilenetv2_{name}']['starts']['default']
        for name in ('ground_fast', 'ground')
    ]
    (active, accurate), (mask, accurate_mask) = (
        [statistics.median(model[key]) for model in starts] for key in ('active_s', 'first_mask_s')
    )
    slowest, slowest_mask = (
        max(start_s for model in starts for start_s in model[key])
        for key in ('active_s', 'first_mask_s')
    )
    page = ' '.join(read('docs/performance.md').split())
    assert (
        f'active after {active:.1f} s with the fast model and {accurate:.1f} s with the '
        f'accurate one, and its first mask came after {mask:.1f} and {accurate_mask:.1f} s '
        f'(medians of five starts; the slowest {slowest:.1f} and {slowest_mask:.1f} s)'
    ) in page
    assert slowest < 3.0  # the goal


if __name__ == '__main__':
    TABLE = re.compile(r'^\| \| of this package .*?(?=\n\n)', re.M | re.S)
    (ROOT / 'CONTRIBUTING.md').write_text(TABLE.sub(boundary_table(), read('CONTRIBUTING.md')))
