"""What the cards of the shipped models say of where they come from, and of who may use them."""

from pathlib import Path, PurePath
import re
from typing import Any

import pytest
import yaml

from mnv2_perception.cli.main import build_parser
from mnv2_perception.demo.models import SHIPPED
from mnv2_perception.model_spec import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / 'mnv2_perception/models'
FREE = (
    'unet_mobilenetv2_ground', 'unet_mobilenetv2_ground_fast', 'ssdlite_mobilenetv2_ground',
    'mobilenetv2_ground_ahead',
)
IMAGENET = '9e4eabccc92dedcc6fdcf2a77daf92e71412849c95bc4013a6d64cbede6349e9'
# One in int8 belongs to the model beside it, to its card and to its row in the README.
FLOAT = sorted(path for path in MODELS.glob('*.onnx') if not path.stem.endswith('_int8'))
GROUND = 'a7713f0e2cc91a9e92700a7d82d50efc0d332a22db9b2a92d1a4af1738b2a0b4'


def section(card: str, title: str) -> str:
    found = re.search(rf'^## {title}\n(.*?)(?=^## |\Z)', card, re.M | re.S)
    assert found, title
    return found[1]


@pytest.mark.parametrize('name', FREE)
def test_nothing_of_camvid_flowed_into_a_model_that_may_be_sold(name: str) -> None:
    card = (MODELS / f'{name}.md').read_text(encoding='utf-8')
    data, training = section(card, 'Data'), section(card, 'How it was trained')
    assert IMAGENET in data and 'Apache-2.0' in data and GROUND in data
    for part in (data, training):
        assert not re.search('camvid|pascal|cityscapes|non-commercial|BY-NC', part, re.I)
    # What it started from, and what taught it, are models of the same lineage.
    named = re.findall(r'\b(?:unet|ssdlite)_mobilenet\w+|mobilenetv2_\w+', data + training)
    assert set(named) <= set(FREE)
    weights = re.findall(r'--weights (\S+)', training)
    # A second run goes on with the first.
    assert set(weights) <= {'mobilenet_v2', 'run/best.pt', *FREE}


@pytest.mark.parametrize('name', FREE)
def test_its_licence_asks_for_the_attribution_that_the_card_gives(name: str) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    from mnv2_perception.engines import open_engine

    card = (MODELS / f'{name}.md').read_text(encoding='utf-8')
    path = MODELS / f'{name}.onnx'
    with open_engine(path) as engine:
        spec = ModelSpec.from_metadata(engine.metadata, path)
    assert spec.licence == 'CC-BY-4.0' and spec.name == name
    for source in ('DHCN_dataset', 'TQBdataset', 'buinghia3101', 'LUMS', 'Faizan Ali'):
        assert source in spec.attribution and source in card


def test_a_robot_that_sets_no_parameter_runs_models_that_may_be_sold() -> None:
    pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
    from mnv2_perception.nodes.parameters import PerceptionParameters, SHARING_NODES

    nodes = PerceptionParameters().nodes
    file = ROOT / 'config/perception.yaml'  # the launch file's
    section = yaml.safe_load(file.read_text('utf-8'))['/**/perception']
    launched = section['ros__parameters']['nodes']
    assert launched == list(nodes) == ['segmentation', 'costmap']
    for name in ('segmentation', 'classification', 'detection'):  # costmap has no model
        values: Any = SHARING_NODES[name]()
        model = values.model
        card = (MODELS / f'{model}.md').read_text(encoding='utf-8')
        licence, = re.findall(r'^\| \*\*Licence of the weights\*\* \| (.*) \|$', card, re.M)
        assert licence.startswith('**CC BY 4.0**') and 'commercial' in licence, model
        assert model in FREE  # of which the tests above hold the lineage


def test_commands_that_are_told_no_model_take_one_that_may_be_sold() -> None:
    assert build_parser().parse_args(['run', 'picture.png']).model in FREE
    assert build_parser().parse_args(['demo']).model == []  # then SHIPPED
    assert set(SHIPPED.values()) <= set(FREE)


@pytest.mark.parametrize('path', FLOAT, ids=lambda path: path.stem)
def test_readme_says_which_models_may_be_sold(path: Path) -> None:
    row = re.search(rf'^\| \[`{path.stem}`\].*$', (ROOT / 'README.md').read_text('utf-8'), re.M)
    assert row is not None
    free = path.stem in FREE
    assert ('| yes |' in row[0], '| **no** |' in row[0]) == (free, not free)


def test_the_shipped_models_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.glob('*.onnx')) <= 45e6


@pytest.mark.parametrize('file', sorted(path.stem for path in MODELS.glob('*.onnx')))
def test_the_table_of_licences_says_what_the_card_says(file: str) -> None:
    card = MODELS / f'{file.removesuffix("_int8")}.md'
    table = (ROOT / 'REUSE.toml').read_text(encoding='utf-8')
    licences = [
        licence for pattern, licence in re.findall(
            r"path = '(.*?)'\n.*?License-Identifier = '(.*?)'", table, re.S
        ) if PurePath(f'mnv2_perception/models/{file}.onnx').match(pattern)
    ]
    assert licences[-1].startswith('CC-BY')
    assert f'**{licences[-1].replace("CC-", "CC ").replace("-4", " 4")}' in card.read_text('utf-8')
