"""Speed and accuracy of the runtimes on this CPU: `python benchmark/engines.py TRAIN VAL`.

The model is written in int8 (calibrated on TRAIN, whose labels are not used), each runtime and
precision is measured on VAL, and all of them are timed in five rounds, within each of which they
take turns. `speed_up` is against ONNX Runtime in fp32, one figure for each round. Takes a few
minutes on two cores; writes results/engines.json.
"""

import argparse
import json
from pathlib import Path
import statistics
import tempfile
from typing import Any

import onnxruntime
import openvino

from mnv2_perception.data.images import spread_images
from mnv2_perception.engines.quantize import quantize_model
from mnv2_perception.evaluation.benchmark import benchmark
from mnv2_perception.evaluation.evaluate import evaluate_model, HEADLINE
from mnv2_perception.scenes.street import draw_scene
from mnv2_perception.tasks.models import find_model, opening
from mnv2_perception.tasks.pipeline import input_tensor

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
ENGINES, PRECISIONS = ('onnx_runtime', 'openvino'), ('fp32', 'bf16')


def main() -> None:
    """Quantise, measure and time the model; print a table; write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('train', type=Path, help='images to calibrate with')
    parser.add_argument('val', type=Path, help='folder with images/ and labels/ to measure on')
    parser.add_argument('--model', default='unet_mobilenetv2_camvid')
    parser.add_argument('--images', type=int, default=100, help='images to calibrate with')
    parser.add_argument('--runs', type=int, default=30, help='inferences per round')
    parser.add_argument(
        '--threads', type=int, default=0, help='CPU threads; 0: one per core (default: 0)'
    )
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/engines.json')
    arguments = parser.parse_args()
    model = find_model(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder, f'{model.stem}_int8.onnx')
        with opening(model, 'onnx_runtime') as (engine, spec):
            tensors = [
                input_tensor(image, spec, engine.inputs[0].dtype)
                for image in spread_images(arguments.train, arguments.images)
            ]
        quantised = quantize_model(model, int8, tensors)
        image, _ = draw_scene(7, 0.0, 480, 640)
        rounds = [
            benchmark([model, int8], image, ENGINES, PRECISIONS, arguments.runs, arguments.threads)
            for _ in range(ROUNDS)
        ]
        rows: list[dict[str, Any]] = []
        for index, each in enumerate(rounds[0]['engines']):
            found = [result['engines'][index] for result in rounds]
            path = model if each['model'] == spec.name else int8
            with opening(
                path, each['engine'], arguments.threads, precision=each['precision']
            ) as (engine, opened):
                accuracy = evaluate_model(engine, opened, arguments.val)
            rows.append({
                **{name: each[name] for name in ('model', 'engine', 'precision')},
                HEADLINE[spec.task]: accuracy[HEADLINE[spec.task]],
                'ms': statistics.median(one['ms'] for one in found),
                'cpu_ms': statistics.median(one['cpu_ms'] for one in found),
                'to_bare': statistics.median(one['to_bare'] for one in found),
                # The first engine of each round is ONNX Runtime in fp32.
                'speed_up': [
                    round(result['engines'][0]['ms'] / one['ms'], 3)
                    for result, one in zip(rounds, found, strict=True)
                ],
            })
    for row in rows:
        print(json.dumps(row))
    result = {
        'machine': {
            **{name: rounds[-1][name] for name in ('cpu', 'threads', 'load')},
            'onnxruntime': onnxruntime.__version__, 'openvino': openvino.__version__,
        },
        'layers_int8': quantised.layers, 'layers_float': quantised.kept, 'engines': rows,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
