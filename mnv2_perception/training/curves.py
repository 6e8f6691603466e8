"""Draw learning curves."""

import json
from pathlib import Path

from mnv2_perception.data.files import replacing


def draw_curves(log: Path, picture: Path) -> None:
    """Draw the loss and validation metric of a `log.jsonl` over the epochs, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = log.read_text(encoding='utf-8').splitlines()
    entries = {entry['epoch']: entry for entry in map(json.loads, lines)}
    figure = Figure(figsize=(7, 4), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel='epoch', ylabel='training loss')
    axes.plot(list(entries), [entry['loss'] for entry in entries.values()], color='tab:blue')
    logged = {key for entry in entries.values() for key in entry}
    for metric in sorted(key for key in logged if key.startswith('val_')):
        measured = {n: entry[metric] for n, entry in entries.items() if metric in entry}
        right = axes.twinx()
        right.set_ylabel(metric)
        right.plot(list(measured), list(measured.values()), color='tab:orange', marker='.')
    figure.savefig(picture, dpi=120)


def cut_log(log: Path, epochs: int) -> None:
    """Keep in a `log.jsonl` only the first `epochs` epochs.

    For later ones there is no checkpoint. Incomplete lines, from a full disk, are dropped too.
    """
    if not log.is_file():
        return
    kept = []
    for line in log.read_text(encoding='utf-8').splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry['epoch'] <= epochs:
            kept.append(f'{line}\n')
    with replacing(log) as partial:
        partial.write_text(''.join(kept), encoding='utf-8')
