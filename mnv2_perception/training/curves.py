"""Learning curves as a picture."""

import json
from pathlib import Path


def draw_curves(log: Path, picture: Path) -> None:
    """Draw the loss and the validation metric of a `log.jsonl` over the epochs, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = log.read_text(encoding='utf-8').splitlines()
    # By epoch: a run that was killed between its log and its checkpoint logs an epoch twice.
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
