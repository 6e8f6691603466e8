"""What decoding costs on this CPU: `python benchmark/decode.py` (after `make setup-train`).

The same network, exported three ways, runs interleaved in one process:

* bare: logits out, nothing else. The floor.
* graph: class ids and softmax confidence computed in the graph; what the package exports.
* numpy: bare, then `vision.decode.ids_and_confidence`; what foreign models get.
* naive: bare, then numpy's argmax and softmax along the first axis.

Weights are random: time does not depend on them.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
import json
from pathlib import Path
import platform
import statistics
import tempfile
import time
from typing import Any, get_args

import numpy as np
import onnxruntime
import yaml

from mnv2_perception.engines import open_engine
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.export import export_network
from mnv2_perception.nets.unet import Decoder, UNet
from mnv2_perception.vision.decode import ids_and_confidence

ROOT = Path(__file__).resolve().parents[1]


def naive(logits: np.ndarray) -> Any:
    """Decode (C, H, W) logits as one would first write it."""
    exp = np.exp(logits - logits.max(0))
    return logits.argmax(0).astype(np.uint8), (exp / exp.sum(0)).max(0)


def measure(height: int, width: int, decoder: Decoder, threads: int, runs: int) -> dict[str, Any]:
    """Return the median time of each way in milliseconds, and its ratio to bare."""
    values = yaml.safe_load((ROOT / 'mnv2_perception/training/camvid.yaml').read_text())
    spec = ModelSpec.from_dict({**values, 'height': height, 'width': width}, 'camvid.yaml')
    net = UNet(len(spec.classes), decoder=decoder).eval()
    with tempfile.TemporaryDirectory() as folder:
        engines = {}
        for output in ('logits', 'ids_confidence'):
            path = Path(folder, f'{output}.onnx')
            export_network(net, replace(spec, output=output), path)
            engines[output] = open_engine(path, 'onnx_runtime', threads)
        image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)

        def bare() -> Any:
            return engines['logits'].infer({'image': image})['logits'][0]

        ways: dict[str, Callable[[], Any]] = {
            'bare': bare,
            'graph': lambda: engines['ids_confidence'].infer({'image': image}),
            'numpy': lambda: ids_and_confidence(bare(), 'logits'),
            'naive': lambda: naive(bare()),
        }
        times_ms: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(runs + 3):
            for name, way in ways.items():
                start_s = time.perf_counter()
                way()
                if turn >= 3:
                    times_ms[name].append((time.perf_counter() - start_s) * 1000.0)
    medians = {name: statistics.median(values) for name, values in times_ms.items()}
    return {
        'height': height, 'width': width, 'decoder': decoder,
        'ms': {name: round(value, 2) for name, value in medians.items()},
        'ratio_to_bare': {
            name: round(value / medians['bare'], 3) for name, value in medians.items()
        },
    }


def main() -> None:
    """Measure two sizes and both decoders; print a table; write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--threads', type=int, default=0, help='CPU threads; 0: one per core (default: 0)'
    )
    parser.add_argument('--runs', type=int, default=30)
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/decode.json')
    arguments = parser.parse_args()
    results = [
        measure(height, width, decoder, arguments.threads, arguments.runs)
        for decoder in get_args(Decoder)
        for height, width in ((352, 480), (480, 640))
    ]
    print('| decoder | size | bare ms | graph | numpy | naive |')
    print('| --- | --- | --- | --- | --- | --- |')
    for result in results:
        ratio = result['ratio_to_bare']
        print(
            f'| {result["decoder"]} | {result["height"]}×{result["width"]} '
            f'| {result["ms"]["bare"]:.1f} | ×{ratio["graph"]:.2f} | ×{ratio["numpy"]:.2f} '
            f'| ×{ratio["naive"]:.2f} |'
        )
    machine = {
        'cpu': platform.processor() or platform.machine(),
        'python': platform.python_version(),
        'onnxruntime': onnxruntime.__version__,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({'machine': machine, 'results': results}, indent=2) + '\n')


if __name__ == '__main__':
    main()
