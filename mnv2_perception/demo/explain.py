"""Explain a demo in plain text: what was run, the results, and what to try next."""

from collections.abc import Mapping, Sequence
import math
from pathlib import Path
import shlex
from typing import Any

from mnv2_perception.demo.camera import GRID_SIZE_M
from mnv2_perception.demo.topics import (
    CLASSIFICATION,
    CONFIDENCE,
    DETECTIONS,
    GRID,
    LABEL_INFO,
    MASK,
)
from mnv2_perception.errors import command_name

MOST_NAMES = 12
TOPICS = {
    'segmentation': (MASK, CONFIDENCE, LABEL_INFO), 'detection': (DETECTIONS,),
    'classification': (CLASSIFICATION,),
}


def explain(
    summary: Mapping[str, Any], out: Path, pictures: int, given: Sequence[str] = (),
    roles: Sequence[str] = (),
) -> str:
    """Return a readable text of a demo's summary.

    Args:
        summary: what `run_demo` returns.
        out: folder of the results.
        pictures: number of pictures in it.
        given: options of this demo that `mnv2 bag run` takes too.
        roles: options of this demo for the grid.
    """
    return '\n'.join([
        *_what_was_run(summary), '', *_rates(summary), '', *_results(summary, out, pictures), '',
        'Next:',
        *(f'  {about}:\n    {line}' for about, line in next_steps(summary, out, given, roles)),
        '', f'{out / "report.html"}: all of it on one page; open it in a browser',
    ])


def _what_was_run(summary: Mapping[str, Any]) -> list[str]:
    pace = '' if summary['rate'] == 1.0 else f', at {summary["rate"]:g} bag seconds per second'
    lines = [f'{summary["image"]} of {summary["bag"]} went through the live nodes{pace}:']
    for task, topics in TOPICS.items():
        engine = f' on {summary["engine"]}' if task == 'segmentation' else ''
        lines += [
            f'  {task}: {summary["models"][task]}{engine} → {", ".join(topics)}',
            f'    classes: {_named(summary["classes"][task])}; '
            f'licence: {summary["licences"][task]}',
        ]
    if not summary['ground']:
        return [*lines, f'  grid: {summary["camera"]}']
    return [
        *lines,
        f'  grid: {GRID_SIZE_M:g} × {GRID_SIZE_M:g} m around the robot → {GRID}; ground: '
        f'{", ".join(summary["ground"])}',
        f'    camera: {summary["camera"]}',
    ]


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ', '.join(names[:MOST_NAMES]) + (f' and {more} more' if more > 0 else '')


def _rates(summary: Mapping[str, Any]) -> list[str]:
    frames, latency = summary['frames_in'], summary['latency_ms']
    lines = [
        f'{_count(frames, "image")} in{_rate(summary["images_per_s"])}, '
        f'{_count(summary["masks_out"], "mask")} out{_rate(summary["fps"])}, '
        f'{_count(summary["detections"], "message")} of boxes and {summary["classifications"]} of '
        f'classes (at most two per second)'
        + (f', {_count(summary["grids"], "grid")}.' if summary['ground'] else '.')
    ]
    if latency['p50'] is not None:
        lines.append(
            f'The mask came {latency["p50"]:.0f} ms after its image.'
            if summary['masks_out'] == 1 else
            f'Half of the masks came within {latency["p50"]:.0f} ms of their image, 95 % within '
            f'{latency["p95"]:.0f} ms; the model alone takes '
            f'{summary["bare_inference_ms"]:.0f} ms.'
        )
    reasons = [
        f'{summary[name]} {why}' for name, why in (
            ('passed_over', 'passed over: a newer image came while the models were busy'),
            ('rejected', 'rejected: not readable as images; perception.log says why'),
            ('lost', 'lost on the way between the processes'),
        ) if summary[name] > 0
    ]
    lines.append(
        f'{summary["dropped"]} of {_count(frames, "image")} without a mask: {"; ".join(reasons)}.'
        if summary['dropped'] else 'No image was dropped.'
    )
    return lines


def _count(number: int, name: str) -> str:
    return f'{number} {name}{"" if number == 1 else "s"}'


def _rate(rate_hz: float | None) -> str:
    """Return a rate as text; empty if it is unknown."""
    return '' if rate_hz is None else f' ({rate_hz:.1f} per second)'


def _results(summary: Mapping[str, Any], out: Path, pictures: int) -> list[str]:
    last = f' … frame_{pictures - 1:02d}.png' if pictures > 1 else ''
    shown = [
        'the mask in the colours of the legend below', 'boxes with class and score',
        'above, the most likely class of what lies ahead',
    ]
    if summary['grids']:
        shown.append(
            'beside it, the grid from above, with ahead at the top (light: free, red: occupied, '
            'gray: unseen)'
        )
    lines = [f'In {out}:', f'  frame_00.png{last}: {"; ".join(shown)}']
    if 'compared' in summary:
        agreed = [
            f'{name} {summary[key]:.2f}' for key, name in (
                ('miou', 'mIoU'), ('road_iou', 'IoU of the road')
            ) if summary.get(key) is not None and not math.isnan(summary[key])
        ]
        lines.append(
            f"  against the bag's labels: {', '.join([*agreed, ''])}compared {summary['compared']}"
        )
    return [
        *lines, '  masks.mcap: what the nodes published; summary.json: these figures; '
        'perception.log and others: logs of the processes',
    ]


def next_steps(
    summary: Mapping[str, Any], out: Path, given: Sequence[str] = (), roles: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return (purpose, command line) pairs that can be typed here; see `explain`."""
    def line(*words: str) -> str:
        return f'{command_name()} {shlex.join(words)}'

    bag, rest = summary['bag'], ('--out', 'results.mcap', *given)
    steps = [
        ('every image, none dropped, without ROS', line('bag', 'run', bag, *rest)),
        ('what the bag contains and what the nodes can use', line('bag', 'info', bag)),
    ]
    if summary['passed_over'] and summary['images_per_s']:
        rate = 0.9 * summary['rate'] * summary['masks_out'] / summary['frames_in']
        slower = ('--rate', f'{max(0.01, rate):.2g}', '--out', f'{out}_slower')
        steps.insert(0, (
            'the same at lower speed, so that each image gets a mask',
            line('demo', '--bag', bag, *slower, *given, *roles),
        ))
    if Path(bag).is_relative_to(out):
        steps.append(('your own recording', line('demo', '--bag', 'path/to/bag')))
    return [*steps, (
        'other models (--model), ground (--traversable), camera, speed', line('demo', '--help')
    )]
