"""Describe the models of a run: from the run itself, and from the cards of shipped models."""

from collections.abc import Mapping
import hashlib
from pathlib import Path
import re
from typing import Any

from mnv2_perception.errors import PerceptionError
from mnv2_perception.model_spec import default_colours, ModelSpec
from mnv2_perception.report.results import Results
from mnv2_perception.tasks.model_info import UNSTATED
from mnv2_perception.tasks.models import find_shared_file, opening

TOLD = 'name', 'task', 'file', 'sha256', 'engine', 'precision', 'licence', 'attribution'
NODE_TASKS = 'segmentation', 'classification', 'detection'


def models_of(results: Results) -> list[dict[str, Any]]:
    """Return what is known of each model of a run.

    Returns:
        For each model the entries of TOLD that are known, as text; `card`, pairs of text from the
        card of the shipped model; `colours` by class; `note`, what is uncertain about this.
    """
    told = results.run.get('models')
    if isinstance(told, list):
        return [_known(model) for model in told if isinstance(model, Mapping)]
    found = []
    for node, rows in results.diagnostics.items():
        values = rows[-1][1]
        task = next((task for task in NODE_TASKS if task in node), '')
        if task and values.get('model'):
            found.append(_known({
                'name': values['model'], 'file': values.get('model_file', ''), 'task': task,
                **{name: values.get(name, '') for name in ('engine', 'precision')},
                'licence': values.get('licence', '').partition(' (')[0],
            }))
    return found


def _known(model: Mapping[str, Any]) -> dict[str, Any]:
    """Add the facts of the shipped model with the same name, if it may be the same."""
    facts: dict[str, Any] = {name: str(model[name]) for name in TOLD if model.get(name)}
    facts |= {'card': [], 'note': '', 'colours': _colours(model.get('colours'))}
    shipped = _shipped(facts.get('name', ''))
    if shipped is None:
        return facts
    if facts.get('sha256') not in (None, hashlib.sha256(shipped.read_bytes()).hexdigest()):
        facts['note'] = (
            'The shipped model of this name is a different file, so its card is left out.'
        )
        return facts
    if not facts.get('sha256'):
        facts['note'] = (
            'Found by the name of a shipped model: a live recording does not say which file was '
            'used.'
        )
    facts['card'] = read_card(shipped.with_suffix('.md'))
    if 'attribution' in facts and facts['colours']:
        return facts
    try:
        with opening(shipped, 'onnx_runtime') as (engine, spec):
            engine.close()
    except PerceptionError:  # the facts from the card still count
        return facts
    if facts.get('licence', '') in UNSTATED:
        facts['licence'] = spec.licence
    facts.setdefault('attribution', spec.attribution)
    facts['colours'] = facts['colours'] or spec_colours(spec)
    return facts


def spec_colours(spec: ModelSpec) -> dict[str, tuple[int, int, int]]:
    """Return a model's colours by class."""
    return dict(zip(spec.classes, spec.colours, strict=True))


def _colours(told: Any) -> dict[str, tuple[int, int, int]]:
    """Return the valid colours from a file's description."""
    return {
        str(name): (colour[0], colour[1], colour[2])
        for name, colour in (told.items() if isinstance(told, Mapping) else ())
        if isinstance(colour, list) and len(colour) == 3
        and all(isinstance(value, int) and 0 <= value <= 255 for value in colour)
    }


def _shipped(name: str) -> Path | None:
    """Return the file of the shipped model with this name; None if there is none."""
    if not re.fullmatch(r'\w[\w.-]*', name):  # an untrusted name must not be a path
        return None
    try:
        return find_shared_file(f'models/{name}.onnx')
    except PerceptionError:
        return None


def read_card(path: Path) -> list[tuple[str, str]]:
    """Return the rows of a model card's first table but `file`, with Markdown removed."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding='utf-8').splitlines():
        cells = [cell.strip() for cell in line.strip().strip('|').split('|')]
        if line.startswith('|') and len(cells) == 2:
            left, right = (re.sub(r'\*\*|`|\[([^]]*)\]\([^)]*\)', r'\1', cell) for cell in cells)
            if left and left != 'file' and not set(left) <= set('-: '):
                rows.append((left, right))
        elif rows:
            break
    return rows


def class_colours(
    names: list[str], models: list[dict[str, Any]]
) -> dict[str, tuple[int, int, int]]:
    """Return a colour for each class: from a model that has the class, otherwise a default."""
    known: dict[str, tuple[int, int, int]] = {}
    for model in reversed(models):
        known |= model['colours']
    return dict(zip(names, default_colours(names), strict=True)) | {
        name: known[name] for name in names if name in known
    }
