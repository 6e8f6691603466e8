"""A .pt2 file is data: whatever torch would run of it is refused before torch sees it."""

from collections.abc import Callable
import io
import json
import os
from pathlib import Path
import pickle
from typing import Any
import zipfile

from identity_network import identity_spec, write_program
import numpy as np
import pytest

from mnv2_perception.engines import Opening
from mnv2_perception.engines.torch import TorchEngine
from mnv2_perception.errors import EngineError

torch = pytest.importorskip('torch', reason='no torch: run make setup-train')

HEIGHT, WIDTH = 32, 48
GRAPH = 'archive/models/model.json'
Records = dict[str, bytes]


class Touch:
    """Unpickled, it makes a file: the code of a stranger ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def pickled(mark: Path) -> bytes:
    file = io.BytesIO()
    torch.save({'x': Touch(mark)}, file)
    return file.getvalue()


def examples(records: Records, mark: Path) -> None:
    records['archive/data/sample_inputs/model.pt'] = pickled(mark)


def tensor(records: Records, mark: Path) -> None:
    records['archive/data/weights/weight_0'] = pickled(mark)
    entry = {'path_name': 'weight_0', 'is_param': True, 'use_pickle': True, 'tensor_meta': None}
    config = json.dumps({'config': {'w': entry}}).encode()
    records['archive/data/weights/model_weights_config.json'] = config


def an_object(records: Records, mark: Path) -> None:
    records['archive/data/constants/opaque_obj_0'] = pickle.dumps(Touch(mark))
    entry = {
        'path_name': 'opaque_obj_0', 'is_param': False, 'use_pickle': True, 'tensor_meta': None,
    }
    config = json.dumps({'config': {'w': entry}}).encode()
    records['archive/data/constants/model_constants_config.json'] = config


def library(records: Records, mark: Path) -> None:
    records['archive/data/aotinductor/model/model.so'] = b'\x7fELF'


def legacy(records: Records, mark: Path) -> None:
    records['archive/data/weights/model.pt'] = pickled(mark)


def changed(records: Records, change: Callable[[dict[str, Any]], None]) -> None:
    graph = json.loads(records[GRAPH])
    change(graph)
    records[GRAPH] = json.dumps(graph).encode()


def symbol(records: Records, mark: Path) -> None:
    size = {'as_expr': {'expr_str': f'__import__("os").mkdir("{mark}")', 'hint': {'as_int': 1}}}

    def change(graph: dict[str, Any]) -> None:
        values = graph['graph_module']['graph']['tensor_values']
        next(iter(values.values()))['sizes'][0] = size

    changed(records, change)


def guard(records: Records, mark: Path) -> None:
    changed(records, lambda graph: graph.update(guards_code=[f'__import__("os").mkdir("{mark}")']))


def operator(records: Records, mark: Path) -> None:
    def change(graph: dict[str, Any]) -> None:
        graph['graph_module']['graph']['nodes'][0]['target'] = 'torch.serialization.load'

    changed(records, change)


def name(records: Records, mark: Path) -> None:
    injected = f'x=__import__("os").mkdir("{mark}")'
    text = records[GRAPH].decode().replace('"image"', json.dumps(injected))
    records[GRAPH] = text.encode()


def tree(records: Records, mark: Path) -> None:
    context = json.dumps([1, {'type': 'enum.Enum', 'context': '{"__enum__": true}'}])

    def change(graph: dict[str, Any]) -> None:
        signature = graph['graph_module']['module_call_graph'][0]['signature']
        signature['in_spec'] = context

    changed(records, change)


def rewritten(path: Path, change: Callable[[Records, Path], None], mark: Path) -> None:
    write_program(path, identity_spec(HEIGHT, WIDTH))
    with zipfile.ZipFile(path) as file:
        records = {item: file.read(item) for item in file.namelist()}
    change(records, mark)
    with zipfile.ZipFile(path, 'w') as file:
        for item, content in records.items():
            file.writestr(item, content)


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (tensor, 'a pickled tensor or object'), (an_object, 'opaque_obj_0'),
        (library, r'model\.so'), (legacy, r'weights/model\.pt'), (symbol, 'an argument as_expr'),
        (guard, 'sizes that are open'), (operator, r'operator .torch\.serialization\.load'),
        (name, 'the name .x=__import__'), (tree, 'inputs or outputs of the form'),
    ],
)
def test_what_could_run_code_is_refused_and_does_not_run(
    change: Callable[[Records, Path], None], told: str, tmp_path: Path
) -> None:
    path, mark = tmp_path / 'model.pt2', tmp_path / 'ran'
    rewritten(path, change, mark)
    with pytest.raises(EngineError, match=rf'model\.pt2: has .*{told}.*export .* again'):
        TorchEngine(path, Opening('torch', threads=1))
    assert not mark.exists()


def test_example_inputs_are_not_read_at_all(tmp_path: Path) -> None:
    path, mark = tmp_path / 'model.pt2', tmp_path / 'ran'
    rewritten(path, examples, mark)
    engine = TorchEngine(path, Opening('torch', threads=1))
    image = np.full((1, HEIGHT, WIDTH, 3), 7, np.uint8)
    assert (engine.infer({'image': image})['class_ids'] == 7).all()
    assert not mark.exists()


def test_a_file_with_two_directories_is_read_once(tmp_path: Path) -> None:
    """Two records of one name: which one a reader takes is its own affair."""
    path, mark = tmp_path / 'model.pt2', tmp_path / 'ran'
    write_program(path, identity_spec(HEIGHT, WIDTH))
    with (
        pytest.warns(UserWarning, match='Duplicate name'),
        zipfile.ZipFile(path, 'a') as file,
    ):
        file.writestr('archive/data/sample_inputs/model.pt', pickled(mark))
    with pytest.raises(EngineError, match='has a record'):
        TorchEngine(path, Opening('torch', threads=1))
    assert not mark.exists()
