"""Build the page of `mnv2 bag report`: one HTML file that loads nothing from elsewhere.

Its content comes from untrusted bags. Text is escaped, data are JSON without `<`, and the page's
policy (CSP) allows no script but the one of this package, and no connections.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import hashlib
from html import escape
import json
from pathlib import Path
import re
from typing import Any

from mnv2_perception.evaluation.parts import NOTHING
from mnv2_perception.report.results import COUNTS
from mnv2_perception.tasks.model_info import UNSTATED

HERE = Path(__file__).parent
NAMES = 'A', 'B'
LEVELS = 10  # shades of a cell of the confusion matrix
MOST_ROWS = 40
MOST_TEXT = 300  # characters of an untrusted text
RUN_FACTS = (
    ('engine', 'Engine'), ('precision', 'Precision'), ('file', 'File'), ('sha256', 'SHA-256'),
    ('licence', 'Licence of the weights'), ('attribution', 'Attribution'),
)
COUNTED = {
    'received': 'received', 'published': 'with a result', 'passed_over': 'passed over',
    'rejected': 'rejected', 'lost': 'lost',
}


def page_html(facts: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        facts: what it shows as text and tables, see `report.report`.
        data: what its script draws.
    """
    style, script = (
        (HERE / name).read_text(encoding='utf-8') for name in ('page.css', 'page.js')
    )
    two = len(facts['runs']) == 2
    parts = {
        'policy': (
            f"default-src 'none'; img-src data:; style-src '{digest(style)}'; "
            f"script-src '{digest(script)}'; base-uri 'none'; form-action 'none'"
        ),
        'style': style, 'script': script,
        'data': json.dumps(data, allow_nan=False, separators=(',', ':')).replace('<', '\\u003c'),
        'title': text(facts['name']), 'about': _about(facts), 'tiles': _tiles(facts),
        'notes': ''.join(f'<li>{text(note, 600)}</li>' for note in facts['notes']),
        'worst_by': text(facts['worst']),
        'accuracy': ''.join(map(_accuracy, facts['runs'], _badges(two))),
        'checks': _checks(facts['checks']) if two else '',
        'left_out': ''.join(map(_left_out, facts['runs'], _badges(two))),
        'models': ''.join(map(_models, facts['runs'], _badges(two))),
        'environment': ''.join(map(_environment, facts['runs'], _badges(two))),
    }
    template = (HERE / 'page.html').read_text(encoding='utf-8')
    # In a single pass: the content of a part is not searched for placeholders.
    return re.sub(r'\{\{(\w+)\}\}', lambda found: parts[found[1]], template)


def digest(part: str) -> str:
    """Return the hash by which a CSP names a script or style.

    https://www.w3.org/TR/CSP3/#grammardef-hash-source
    """
    found = hashlib.sha256(part.encode()).digest()
    return f'sha256-{base64.b64encode(found).decode()}'


def text(value: object, most: int = MOST_TEXT) -> str:
    """Return untrusted text as HTML, shortened if it is long."""
    shown = str(value)
    return escape(shown if len(shown) <= most else f'{shown[:most]} …')


def _badges(two: bool) -> Sequence[str]:
    return [f'<b class="badge {name}">{name}</b> ' for name in NAMES] if two else ['']


def table(rows: Iterable[tuple[str, str]], kind: str = 'facts') -> str:
    """Return pairs of HTML as a table with a heading in each row."""
    body = ''.join(f'<tr><th scope="row">{left}</th><td>{right}</td></tr>' for left, right in rows)
    return f'<div class="scroll"><table class="{kind}">{body}</table></div>' if body else ''


def percent(share: float | None) -> str:
    """Return a share as a percentage, with one decimal where it matters."""
    if share is None:
        return '–'
    value = 100.0 * share
    return f'{value:.0f} %' if value >= 99.95 or value == 0.0 else f'{value:.1f} %'


def _about(facts: Mapping[str, Any]) -> str:
    seconds = facts['seconds']
    parts = [f'{facts["frames"]} frames', f'{seconds:.1f} s' if seconds else '']
    for run, name in zip(facts['runs'], NAMES, strict=False):
        models = ' + '.join(model.get('name', 'a model') for model in run['models'])
        badge = f'{name}: ' if len(facts['runs']) == 2 else ''
        parts.append(badge + (models or ('live recording' if run['live'] else run['path'])))
    return ' · '.join(text(part) for part in parts if part)


def _tiles(facts: Mapping[str, Any]) -> str:
    """Return the most important figures as tiles."""
    runs = facts['runs']

    def each(name: str, values: Sequence[str | None], what: str) -> str:
        if not any(values):
            return ''
        shown = [value or '–' for value in values]
        if len(runs) == 1:
            inner = f'<strong>{shown[0]}</strong>'
        else:
            inner = ''.join(
                f'<strong><b class="badge {name}">{name}</b> {value}</strong>'
                for name, value in zip(NAMES, shown, strict=True)
            )
        return f'<div class="tile"><span>{name}</span>{inner}<small>{what}</small></div>'

    def latency(run: Mapping[str, Any]) -> str | None:
        told = {
            node: values['latency_p50_ms'] for node, values in run['nodes'].items()
            if 'latency_p50_ms' in values
        }
        node = next((n for n in told if 'segmentation' in n), next(iter(told), None))
        return f'{text(told[node], 12)} ms' if node else None

    without = [run['missing'].get('frames') for run in runs]
    accuracy = [run['accuracy'].get('miou') for run in runs]
    return ''.join((
        each('Frames with a result', [f'{run["results"]}' for run in runs],
             f'of {facts["frames"]}'),
        each('Left out', [None if count is None else str(count) for count in without],
             'frames of the camera without a result'),
        each('Mean IoU', [None if miou is None else f'{miou:.3f}' for miou in accuracy],
             'against the labels; 1 is perfect'),
        each('Mean confidence', [
            None if run['confidence'] is None else percent(run['confidence']) for run in runs
        ], "the model's own confidence"),
        each('Latency, median', [latency(run) for run in runs], 'of the last seconds'),
        '' if facts['agreed'] is None else (
            f'<div class="tile"><span>A and B agree</span><strong>{percent(facts["agreed"])}'
            f'</strong><small>of all pixels</small></div>'
        ),
    ))


def _accuracy(run: Mapping[str, Any], badge: str) -> str:
    found = run['accuracy']
    if not found:
        return ''
    rows = [
        (text(name), '–' if iou is None else f'<meter min="0" max="1" value="{iou:.3f}"></meter>'
         f' {iou:.3f}') for name, iou in found['iou'].items()
    ]
    return (
        f'<div><h3>{badge}IoU by class</h3><p>{found["labels"]} labelled frames, compared '
        f'{text(found["compared"], 600)}. {percent(found["accuracy"])} of the labelled pixels are '
        f'right.</p>{table(rows)}</div><div><h3>{badge}Confusion matrix</h3><p>Rows: label. '
        f'Columns: prediction. Per cent of the row.</p>{confusion(found["confusion"])}</div>'
    )


def confusion(found: Mapping[str, Mapping[str, int]]) -> str:
    """Return a confusion matrix as an HTML table.

    Args:
        found: number of pixels by true class and predicted class.
    """
    rows = list(found)[:MOST_ROWS]
    columns = list(dict.fromkeys([*rows, *(name for row in rows for name in found[row])]))
    columns = [name for name in columns if name != NOTHING]
    head = ''.join(f'<th scope="col"><span>{text(name, 40)}</span></th>' for name in columns)
    body = ''
    for row in rows:
        total = sum(found[row].values())
        cells = ''
        for name in columns:
            share = found[row].get(name, 0) / total
            shown = f'{100 * share:.0f}' if share >= 0.005 else ('·' if share else '')
            own = ' own' if name == row else ''
            cells += f'<td class="h{round(share * LEVELS)}{own}">{shown}</td>'
        body += f'<tr><th scope="row">{text(row, 40)}</th>{cells}</tr>'
    more = f'<p>{len(found) - MOST_ROWS} more classes are left out.</p>' * (len(found) > MOST_ROWS)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">'
        f'<table class="confusion"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody>'
        f'</table></div>{more}'
    )


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = ''.join(
        f'<tr><td class="{"ok" if check["passed"] else "fail"}">'
        f'{"passed" if check["passed"] else "failed"}</td><th scope="row">{text(check["name"])}'
        f'</th><td>{text(check["told"], 600)}</td></tr>' for check in checks
    )
    return (
        f'<section><h2>B judged by A</h2><p>As <code>mnv2 bag compare A B</code> does without '
        f'labels: how far B is from A, not which of them is better.</p>'
        f'<div class="scroll"><table>{rows}</table></div></section>'
    ) if rows else ''


def _left_out(run: Mapping[str, Any], badge: str) -> str:
    rows: list[tuple[str, str]] = []
    missing, nodes = run['missing'], run['nodes']
    if missing:
        damaged = sum(missing['damaged'].values())
        rest = missing['tried'] - damaged
        rows.append(('Camera frames without a result', str(missing['frames'])))
        rows += [(f'{count} of them', text(why)) for why, count in missing['damaged'].items()]
        if rest:
            why = (
                'are intact: a newer frame came first, or they were lost on the way or cut off at '
                'the beginning or end; see the counts of the nodes' if nodes else
                'are intact: the run ended before them, or rejected them'
            )
            rows.append((f'{rest} of them', why))
        if missing['tried'] < missing['frames']:
            rows.append((f'{missing["frames"] - missing["tried"]} of them', 'were not checked'))
    rows += [
        (f'{count} ×', text(why, 600)) for why, count in run['reasons'].items()
    ]
    if run['more_reasons']:
        rows.append((str(run['more_reasons']), 'more reasons'))
    shown = table(rows) or '<p>No frame is known to be missing.</p>'
    if not missing:
        shown += "<p>Without the camera's images, frames without a result cannot be found.</p>"
    return f'<h3>{badge}{text(run["path"])}</h3>{shown}{_nodes(nodes)}'


def _nodes(nodes: Mapping[str, Mapping[str, str]]) -> str:
    if not nodes:
        return ''
    head = ''.join(f'<th scope="col">{COUNTED[name]}</th>' for name in COUNTS)
    body = ''
    for node, values in nodes.items():
        cells = ''.join(f'<td>{text(values.get(name, "–"), 20)}</td>' for name in COUNTS)
        why = values.get('last_rejection') or values.get('message', '')
        body += f'<tr><th scope="row">{text(node, 80)}</th>{cells}<td>{text(why)}</td></tr>'
    return (
        f'<p>What the nodes counted, on <code>/diagnostics</code>. Passed over: a newer frame '
        f'came first, or the node processes fewer per second.</p><div class="scroll"><table '
        f'class="counts"><thead><tr><td></td>{head}<th '
        f'scope="col">message</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _models(run: Mapping[str, Any], badge: str) -> str:
    shown = ''
    for model in run['models']:
        title = ' · '.join(
            text(model[name]) for name in ('name', 'task') if model.get(name)
        ) or 'A model'
        rows = [
            (name, text(model[key], 600)) for key, name in RUN_FACTS
            if model.get(key, '') not in UNSTATED
        ]
        if model.get('licence', '') in UNSTATED:
            rows.append((RUN_FACTS[4][1], "not stated: ask the model's author before you use it"))
        elif '-NC' in model['licence'].upper():
            rows.append(('', '<strong>not for commercial use</strong>'))
        card = table(((text(left), text(right)) for left, right in model['card']), 'facts')
        note = f'<p>{text(model["note"])}</p>' if model['note'] else ''
        shown += f'<article><h3>{badge}{title}</h3>{note}{table(rows)}' + (
            f'<h4>From its card</h4>{card}' if card else '<p>No card is shipped for it.</p>'
        ) + '</article>'
    return shown or f'<p>{badge}{text(run["path"])} does not say which models ran.</p>'


def _environment(run: Mapping[str, Any], badge: str) -> str:
    rows = [('Results', text(run['path']))]
    rows += [(text(name), f'<code>{text(topic)}</code>') for name, topic in run['topics'].items()]
    told = {
        f'{part}.{name}': value for part in ('source', 'options')
        if isinstance(run['run'].get(part), dict) for name, value in run['run'][part].items()
    }
    rows += [
        (text(name), text(', '.join(map(str, value)) if isinstance(value, list) else value) or '–')
        for name, value in told.items()
    ]
    how = (
        'Recorded from live nodes.' if run['live'] else
        'Made by <code>mnv2 bag run</code>; its own description on <code>/mnv2/run</code>.'
    )
    live = ''.join(
        f'<details><summary>{text(node, 80)}</summary>'
        f'{table((text(name), text(value) or "–") for name, value in values.items())}</details>'
        for node, values in run['nodes'].items()
    )
    return f'<h3>{badge}{text(run["path"])}</h3><p>{how}</p>{table(rows)}{live}'
