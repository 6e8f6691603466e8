"""Check programs of torch.export before torch reads them.

torch.export.load unpickles whatever a file contains (example inputs, tensors, objects), loads
compiled libraries, evaluates symbolic sizes, and turns names into Python code: each can run code
of the file's author. Programs of `mnv2 export` need none of that. So anything beyond their plain
form is refused, and torch gets a copy that is written here, so that it cannot read any other file
than the one that was checked.
"""

from collections.abc import Iterator
import io
import json
from pathlib import Path
import re
from typing import Any
from zipfile import BadZipFile, ZIP_STORED, ZipFile

from mnv2_perception.errors import EngineError, quoted

FACTS = 'mnv2_perception.json'  # beside the program: names of inputs and outputs, metadata
_GRAPH = 'models/model.json'
_CONFIGS = (
    'data/weights/model_weights_config.json', 'data/constants/model_constants_config.json'
)
_EXAMPLES = 'data/sample_inputs/model.pt'  # a pickle that nobody needs
_RECORD = re.compile(
    r'archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id|extra/[\w.]+'
    rf'|data/weights/weight_\d+|data/constants/tensor_\d+|{_GRAPH}|{_EXAMPLES}|'
    + '|'.join(_CONFIGS), re.ASCII,
)
_OPERATOR = re.compile(r'torch\.ops\.aten\.(?!from_file)\w+\.\w+|_operator\.getitem', re.ASCII)
_NAME = re.compile(r'[\w.+]*', re.ASCII)
_TREE = re.compile(r'[\w.\s"\[\]{},:]*', re.ASCII)
_TREE_CLASSES = ('builtins.tuple', 'builtins.list', 'builtins.dict')


def checked_program(model: Path) -> tuple[io.BytesIO, dict[str, Any]]:
    """Return a program of `mnv2 export` for torch.export.load, and the facts stored beside it.

    Raises:
        EngineError: it is not such a program, or has parts that could run code.
    """
    try:
        return _checked(model)
    except (BadZipFile, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise EngineError(
            f'{model}: torch refuses it: {exc}; expected a .pt2 file of `mnv2 export`'
        ) from exc


def _checked(model: Path) -> tuple[io.BytesIO, dict[str, Any]]:
    copy = io.BytesIO()
    with ZipFile(model) as source, ZipFile(copy, 'w', ZIP_STORED) as target:
        records: dict[str, bytes] = {}
        for item in source.infolist():
            name = item.filename.partition('/')[2]
            plain = item.compress_type == ZIP_STORED and name not in records
            if not plain or not _RECORD.fullmatch(name):
                _refuse(model, f'a record {quoted(item.filename)}')
            records[name] = source.read(item)
        graph = json.loads(records[_GRAPH])
        _check_graph(model, graph)
        for name in _CONFIGS:
            for entry in json.loads(records[name])['config'].values():
                if entry['use_pickle'] or not _NAME.fullmatch(entry['path_name']):
                    _refuse(model, 'a pickled tensor or object')
        facts: dict[str, Any] = json.loads(records[f'extra/{FACTS}'])
        records[_EXAMPLES] = b''
        records[_GRAPH] = json.dumps(graph).encode()
        for name, content in records.items():
            target.writestr(f'archive/{name}', content)
    copy.seek(0)
    return copy, facts


def _check_graph(model: Path, graph: dict[str, Any]) -> None:
    """Refuse what becomes code: foreign operators, symbolic sizes, guards, odd names."""
    if graph.get('guards_code') or graph.get('range_constraints'):
        _refuse(model, 'sizes that are open')
    for node in graph['graph_module']['graph']['nodes']:
        node['metadata'] = {}  # for debugging; it contains names of classes
        if not _OPERATOR.fullmatch(node['target']):
            _refuse(model, f'the operator {quoted(node["target"])}')
    for key, text in _strings(graph):
        if key in ('in_spec', 'out_spec'):
            names = re.findall(r'"type": *"([^"]*)"', text)
            if not _TREE.fullmatch(text) or '__enum__' in text or set(names) - set(_TREE_CLASSES):
                _refuse(model, f'inputs or outputs of the form {quoted(text)}')
        elif key in ('as_expr', 'expr_str', 'as_custom_obj', 'as_graph', 'as_operator'):
            _refuse(model, f'an argument {key}')
        elif not _NAME.fullmatch(text):
            _refuse(model, f'the name {quoted(text)}')


def _strings(value: Any, key: str = '') -> Iterator[tuple[str, str]]:
    """Yield each string with the key above it, and each key with itself."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield name, name
            yield from _strings(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each, key)
    elif isinstance(value, str):
        yield key, value


def _refuse(model: Path, what: str) -> None:
    raise EngineError(
        f'{model}: has {what}, which no file of `mnv2 export` has (with torch 2.8 or newer); it '
        f'was not opened, because such files can run code; export the checkpoint again'
    )
