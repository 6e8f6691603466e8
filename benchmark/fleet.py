"""What `mnv2 bag run` does on one machine, and what its driver could hand out with `--ray`.

`python benchmark/fleet.py BAG`, after `make setup-ray`. The bag is given several times over, first
without Ray, then to a cluster of this machine's cores; in turns, in rounds. Reported are medians:
frames a second; CPU time that a frame costs the process that reads, hands out and writes, which
further machines do not lessen; bytes that it reads, receives and writes for a frame. Adds a row to
results/fleet.json. Two minutes a bag.
"""

import argparse
from contextlib import ExitStack
import json
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any

from mnv2_perception.bags.result_file import ResultFile
from mnv2_perception.evaluation.benchmark import cpu_name
from mnv2_perception.replay.fleet import Cluster, FleetRun, SLICE_FRAMES
from mnv2_perception.replay.fleet_worker import Piece
from mnv2_perception.replay.frames import open_source
from mnv2_perception.replay.models import AT_ONCE, open_tasks
from mnv2_perception.replay.run import describe, Run
from mnv2_perception.tasks.models import SEGMENTATION_MODEL

ROOT = Path(__file__).resolve().parents[1]


def measure(bag: Path, times: int, model: str, out: Path, with_ray: bool) -> dict[str, float]:
    """Run a model once on a bag that is repeated several times."""
    opening: dict[str, Any] = {
        'engine': 'auto', 'threads': int(with_ray), 'at_once': 1 if with_ray else AT_ONCE,
    }
    with ExitStack() as stack:
        source = open_source([bag] * times, stack)
        tasks = open_tasks([model], stack, **opening)
        of_run = source, tasks, None, ResultFile(out), describe(source, tasks, {})
        if with_ray:
            cluster = Cluster('local', stack, [model], opening, tasks, None)
            frames = [item.frame for item in source.items() if item.frame]
            pieces = [[Piece(0, frame, None)] for frame in frames[:SLICE_FRAMES]]
            started = set[str]()
            while len(started) < cluster.slots:
                sent = [cluster.send(None, pieces) for _ in range(2 * cluster.slots)]
                started |= {cluster.answer(name, 'warm-up').worker for name in sent}
            run: Run = FleetRun(cluster, *of_run)
        else:
            run = Run(*of_run)
        begun_s = time.process_time()
        summary = run(lambda *_: None)
        cpu_s = time.process_time() - begun_s
    return {
        'frames_per_s': summary.frames_per_s, 'cpu_ms': 1000.0 * cpu_s / summary.frames,
        'written_bytes': out.stat().st_size / summary.frames,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('bag', type=Path)
    parser.add_argument(
        '--times', type=int, default=5, help='times that the bag is given (%(default)s)'
    )
    parser.add_argument('--rounds', type=int, default=3, help='rounds (%(default)s)')
    parser.add_argument('--model', default=SEGMENTATION_MODEL, help='model (%(default)s)')
    arguments = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {'alone': [], 'ray': []}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for _ in range(arguments.rounds):
            for name, values in rounds.items():
                values.append(measure(
                    arguments.bag, arguments.times, arguments.model, Path(folder, 'out.mcap'),
                    name == 'ray',
                ))
                print(name, values[-1], flush=True)
        frames = [item.frame for item in open_source([arguments.bag], stack).items() if item.frame]
    _, image = frames[0]()
    row = {
        'cpu': cpu_name(), 'model': arguments.model, 'image': list(image.shape[:2]),
        'frames': len(frames) * arguments.times,
        'read_bytes': statistics.mean(frame.size for frame in frames),
        'received_bytes': 2 * image.shape[0] * image.shape[1],  # a mask and its confidence
        **{name: {key: statistics.median(each[key] for each in values) for key in values[0]}
           for name, values in rounds.items()},
    }
    path = ROOT / 'benchmark/results/fleet.json'
    rows = json.loads(path.read_text()) if path.exists() else {}
    rows[arguments.bag.name] = row
    path.write_text(json.dumps(rows, indent=1) + '\n')
    print(json.dumps(row, indent=1))


if __name__ == '__main__':
    main()
