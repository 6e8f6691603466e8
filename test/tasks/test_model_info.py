"""`mnv2 info`: what a model lacks, and the YAML that it drafts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from identity_network import identity_spec
from onnx_graphs import node, onnx, write_graph
import pytest
import yaml

from mnv2_perception.engines import open_engine
from mnv2_perception.tasks.model_info import draft_yaml, licence_of, missing_facts
from mnv2_perception.tasks.segmenter import Segmenter

IMAGE = ('float32', (1, 3, 48, 64))


def draft(path: Path, takes: Any, gives: dict[str, Any]) -> dict[str, Any]:
    """Return the drafted facts of a graph of these inputs and outputs."""
    # The graph is opened only. Its sides come from its data, so the runtime believes what it says.
    nodes = [
        node('Shape', 'image', 'shape'), node('NonZero', 'shape', 'indices'),
        onnx().helper.make_node('Constant', [], ['flat'], value_ints=[-1]),
        onnx().helper.make_node('Reshape', ['indices', 'flat'], ['sides']),
        node('ConstantOfShape', 'sides', 'zeros'),
        *(node('Cast', 'zeros', name, to=dtype) for name, (dtype, _) in gives.items()),
    ]
    with open_engine(write_graph(path, nodes, takes, gives), 'onnx_runtime') as engine:
        text, missing = draft_yaml(engine, 'foreign')
    facts = yaml.safe_load(text)
    assert missing == [name for name, value in facts.items() if value == '???']
    return facts


@pytest.mark.parametrize(
    ('takes', 'told'),
    [
        (('float32', (1, 3, 48, 64)), ('float_nchw', 48, 64)),
        (('float16', ('n', 48, 64, 3)), ('float_nhwc', 48, 64)),
        (('uint8', (1, 48, 64, 3)), ('uint8_nhwc', 48, 64)),
        (('float32', (1, 3, 'h', 'w')), ('float_nchw', '???', '???')),
        (('float32', ('n', 'c', 'h', 'w')), ('???', '???', '???')),
        (('float32', (1, 3, 48, 3)), ('???', '???', '???')),
    ],
)
def test_the_draft_tells_the_input_as_far_as_the_graph_does(
    tmp_path: Path, takes: Any, told: tuple[Any, ...]
) -> None:
    facts = draft(tmp_path / 'm.onnx', takes, {'out': ('float32', (1, 5))})
    assert (facts['input'], facts['height'], facts['width']) == told
    assert facts['mean'] == facts['std'] == facts['channel_order'] == '???'


@pytest.mark.parametrize(
    ('gives', 'told'),
    [
        ({'out': ('float32', (1, 1001))}, {'task': 'classification', 'output': '???'}),
        ({'out': ('float32', ('n', 10, 1, 1))}, {'task': 'classification'}),
        ({'out': ('float32', (1, 21, 48, 64))},
         {'task': 'segmentation', 'output': '???', 'output_layout': 'nchw', 'background': '???',
          'fit': 'stretch'}),
        ({'out': ('float32', (1, 6, 8, 21))}, {'task': 'segmentation', 'output_layout': 'nhwc'}),
        ({'out': ('float32', (1, 21, 'h', 'w'))}, {'output_layout': 'nchw'}),
        ({'out': ('float32', ('n', 'a', 'b', 'c'))}, {'output_layout': '???', 'output': '???'}),
        ({'out': ('float32', (1, 1, 48, 64))}, {'output': 'sigmoid', 'output_layout': 'nchw'}),
        ({'out': ('int64', (1, 48, 64))}, {'task': 'segmentation', 'output': 'ids'}),
        ({'out': ('int32', (1, 48, 64, 1))}, {'output': 'ids', 'output_layout': 'nhwc'}),
        ({'a': ('uint8', (1, 24, 32)), 'b': ('uint8', (1, 24, 32))}, {'output': 'ids_confidence'}),
        ({'a': ('float32', (1, 5, 6, 8)), 'b': ('float32', (1, 5, 6, 8))},
         {'output_name': '???', 'task': 'segmentation'}),
        ({'out': ('float32', (1, 100, 4))}, {'task': '???', 'output': '???'}),
    ],
)
def test_the_draft_tells_the_output_as_far_as_the_graph_does(
    tmp_path: Path, gives: dict[str, Any], told: dict[str, str]
) -> None:
    facts = draft(tmp_path / 'm.onnx', IMAGE, gives)
    assert facts['classes'] == '???'
    assert {name: facts[name] for name in told} == told
    assert ('output_name' in facts) == ('output_name' in told)


def test_a_draft_that_is_filled_in_opens_the_model(tmp_path: Path) -> None:
    model = write_graph(
        tmp_path / 'm.onnx', [node('Transpose', 'image', 'out', perm=[0, 2, 3, 1])],
        IMAGE, {'out': ('float32', (1, 48, 64, 3))},
    )
    with open_engine(model) as engine:
        facts = yaml.safe_load(draft_yaml(engine, 'mine')[0])
    facts |= {'output': 'logits', 'background': False, 'classes': ['a', 'b', 'c'],
              'channel_order': 'rgb', 'mean': [0, 0, 0], 'std': [1, 1, 1]}
    assert '???' not in facts.values()
    (tmp_path / 'm.yaml').write_text(yaml.safe_dump(facts))
    assert Segmenter.open(model).spec.name == 'mine'


def test_facts_that_a_spec_leaves_out_are_missing() -> None:
    colours = [[index, 0, 0] for index in range(255)]
    assert missing_facts(identity_spec(4, 4, licence='unknown')) == [
        'licence', 'description', 'colours',
    ]
    assert missing_facts(identity_spec(4, 4, description='it', colours=colours)) == []
    by = identity_spec(4, 4, description='it', colours=colours, licence='CC-BY-NC-4.0')
    assert missing_facts(by) == ['attribution']
    assert missing_facts(replace(by, attribution='Ada')) == []
    assert missing_facts(  # a classification draws no colours
        identity_spec(4, 4, description='it', task='classification', output='logits')
    ) == []


@pytest.mark.parametrize(
    ('licence', 'told'),
    [
        ('CC-BY-4.0', 'CC-BY-4.0'),
        ('cc-by-nc-sa-4.0', 'cc-by-nc-sa-4.0 (not for commercial use)'),
        ('unknown', 'not stated'), ('', 'not stated'),
    ],
)
def test_a_licence_is_told_in_words_also_where_there_is_none(licence: str, told: str) -> None:
    assert licence_of(identity_spec(4, 4, licence=licence)) == told
