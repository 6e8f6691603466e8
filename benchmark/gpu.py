"""The torch engine on an NVIDIA GPU: `python benchmark/gpu.py RUN/best.pt … --images ground/val`.

Each checkpoint is written as .pt2 and as ONNX. Timed are the whole call (pixels of the host in,
ids and confidence back), the CUDA graph alone, and the floor of a network: the bytes that its
convolutions read and write in fp16 over what the card copies in a second. Class ids are compared
with ONNX Runtime's in fp32, pixel by pixel. Writes results/gpu.json.
"""

import argparse
import json
from pathlib import Path
import statistics
import subprocess
import tempfile
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from mnv2_perception.data.images import spread_images
from mnv2_perception.nets.checkpoint import load_checkpoint, make_network
from mnv2_perception.nets.export import export_model
from mnv2_perception.tasks.models import opening
from mnv2_perception.tasks.pipeline import input_tensor

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 20


def copy_rate() -> float:
    """Return the bytes per second that the card reads and writes when it copies 1 GB."""
    source = torch.zeros(2**30, dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    target.copy_(source)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(10):
        target.copy_(source)
    end.record()
    torch.cuda.synchronize()
    return float(10 * 2 * 2**30 / (begin.elapsed_time(end) / 1e3))


def bytes_of_convolutions(path: Path) -> int:
    """Return the bytes of inputs, outputs and weights of one inference's convolutions in fp16."""
    checkpoint = load_checkpoint(path)
    net = make_network(checkpoint.spec, checkpoint.architecture).eval()
    moved = [0]

    def count(layer: nn.Module, taken: tuple[torch.Tensor, ...], given: torch.Tensor) -> None:
        weights = sum(values.numel() for values in layer.parameters())
        moved[0] += 2 * (taken[0].numel() + given.numel() + weights)

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, 3, checkpoint.spec.height, checkpoint.spec.width))
    return moved[0]


def milliseconds(call: Any, runs: int) -> list[float]:
    """Return the time of each call by the host's clock, in milliseconds."""
    for _ in range(WARM_UP):
        call()
    taken = []
    for _ in range(runs):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - begin) * 1e3)
    return taken


def measure(path: Path, images: list[Any], runs: int, rate: float) -> list[dict[str, Any]]:
    """Return a row of results for each precision."""
    rows = []
    floor_ms = bytes_of_convolutions(path) / rate * 1e3
    with tempfile.TemporaryDirectory() as folder:
        program, graph = Path(folder, 'model.pt2'), Path(folder, 'model.onnx')
        export_model(path, program)
        export_model(path, graph)
        with opening(graph, 'onnx_runtime', precision='fp32') as (reference, spec):
            tensors = [
                {reference.inputs[0].name: input_tensor(image, spec, reference.inputs[0].dtype)}
                for image in images
            ]
            expected = [reference.infer(each) for each in tensors]
            reference.close()
        for precision in ('fp16', 'fp32'):
            with opening(program, 'torch', precision=precision) as (engine, _):
                taken = milliseconds(lambda: engine.infer(tensors[0]), runs)
                begin = torch.cuda.Event(enable_timing=True)
                end = torch.cuda.Event(enable_timing=True)
                begin.record()
                for _ in range(runs):
                    engine.graph.replay()  # type: ignore[attr-defined]
                end.record()
                torch.cuda.synchronize()
                same = [
                    float(np.mean(engine.infer(each)['class_ids'] == wanted['class_ids']))
                    for each, wanted in zip(tensors, expected, strict=True)
                ]
                engine.close()
            rows.append({
                'model': spec.name, 'precision': precision,
                'ms': round(statistics.median(taken), 3),
                'p95_ms': round(float(np.percentile(taken, 95)), 3),
                'graph_ms': round(begin.elapsed_time(end) / runs, 3),
                'floor_fp16_ms': round(floor_ms, 4),
                'same_ids': round(statistics.mean(same), 5), 'least_same_ids': round(min(same), 5),
            })
    return rows


def main() -> None:
    """Measure; print a table; write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoints', nargs='+', type=Path, help='.pt of segmentation runs')
    parser.add_argument('--images', type=Path, required=True, help='pictures to compare ids on')
    parser.add_argument('--count', type=int, default=20, help='number of pictures')
    parser.add_argument('--runs', type=int, default=300)
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/gpu.json')
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, 'torch finds no NVIDIA GPU: nothing was measured\n')
    driver = subprocess.run(
        ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader'],
        capture_output=True, text=True, check=True,
    ).stdout.strip()
    rate = copy_rate()
    images = list(spread_images(arguments.images, arguments.count))
    rows = []
    for path in arguments.checkpoints:
        rows += measure(path, images, arguments.runs, rate)
        for row in rows[-2:]:
            print(json.dumps(row), flush=True)
    result = {
        'machine': {
            'gpu': driver, 'torch': torch.__version__, 'cuda': torch.version.cuda,
            'copy_gb_s': round(rate / 1e9),
        },
        'images': len(images), 'runs': arguments.runs, 'engines': rows,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
