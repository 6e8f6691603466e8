"""What the documents say is what the code does."""

import hashlib
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


@pytest.mark.ros
def test_the_readme_s_parameter_tables_are_those_of_the_code() -> None:
    pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
    from mnv2_perception.nodes.parameters import tables

    begin, end = '-->\n', '<!-- end of parameters -->'
    section = README[README.index('<!-- parameters:') : README.index(end)]
    assert section.split(begin, 1)[1].strip() == tables().strip()


@pytest.mark.parametrize(
    'name',
    [
        'README.md', 'CONTRIBUTING.md', 'docs/foreign_models.md', 'docs/limits.md',
        'docs/training.md',
    ],
)
def test_links_lead_to_files(name: str) -> None:
    links = re.findall(r'\]\(([^)#]+)', (ROOT / name).read_text(encoding='utf-8'))
    local = [link for link in links if '://' not in link]
    assert [link for link in local if not (ROOT / name).parent.joinpath(link).exists()] == []


def test_the_map_of_folders_names_what_exists() -> None:
    drawn = README[README.index('## Map of the folders') :].split('```')[1]
    top, folder = [], ''
    for line in drawn.strip().splitlines():
        names = re.findall(r'(?:^|\s{2,})([a-z_0-9/]+(?:\.py|/))', line)
        if not line.startswith(' '):
            folder = names[0] if names[0] == 'mnv2_perception/' else ''
        top += [(folder if line.startswith(' ') else '') + found for found in names]
    assert len(top) > 20
    assert [path for path in top if not (ROOT / path).exists()] == []


def test_each_hazard_names_a_test_that_exists_or_what_it_needs() -> None:
    limits = (ROOT / 'docs/limits.md').read_text(encoding='utf-8')
    rows = [row for row in re.findall(r'^\| (.*) \|$', limits, re.M) if not row.startswith('---')]
    held = [row.split(' | ')[1] for row in rows if not row.endswith(' | held by')]
    assert len(held) > 50
    assert [text for text in held if '::' not in text and 'needs ' not in text] == []
    named = set(re.findall(r'`([\w/]+\.py)::(\w+)`', limits))
    assert len(named) > 50
    assert sorted(
        f'{file}::{test}' for file, test in named
        if f'def {test}(' not in (ROOT / 'test' / file).read_text(encoding='utf-8')
    ) == []


@pytest.mark.parametrize(
    'model', sorted((ROOT / 'mnv2_perception/models').glob('*.onnx')), ids=lambda path: path.stem
)
def test_each_shipped_model_has_a_card_with_its_hash_and_licence(model: Path) -> None:
    from mnv2_perception.engines import open_engine
    from mnv2_perception.model_spec import ModelSpec

    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    card = model.with_suffix('.md').read_text(encoding='utf-8')
    assert hashlib.sha256(model.read_bytes()).hexdigest() in card
    assert model.stat().st_size <= 12e6
    with open_engine(model) as engine:
        spec = ModelSpec.from_metadata(engine.metadata, model)
    assert spec.licence == 'CC-BY-NC-4.0' and 'CC BY-NC 4.0' in card
