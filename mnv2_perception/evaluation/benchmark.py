"""How long a model takes: every engine on one image, taking turns (`mnv2 benchmark`).

The floor that a model is compared with is its bare call: ONNX Runtime on the CPU, with the same
weights, on the network alone. It takes the scaled float image and gives what the last layer gives;
scaling, decoding, and all that happens outside of the graph is overhead.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import product
import os
from pathlib import Path
import platform
import tempfile
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.engines import check_file, Engine, ENGINES, open_engine
from mnv2_perception.engines.base import Tensors
from mnv2_perception.engines.graph import cut_network
from mnv2_perception.errors import EngineError, ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.segmenter import Segmenter

WARM_UP = 5
STAGES = ('preprocess', 'inference', 'decode')
PIPELINES: dict[str, Callable[[Engine, ModelSpec], Any]] = {
    'segmentation': Segmenter, 'classification': Classifier, 'detection': Detector,
}


class TimedEngine(Engine):
    """Another engine, and when its last inference began and ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.model, self.metadata = engine.name, engine.model, engine.metadata
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.precision = engine.precision
        self.began_s = self.ended_s = 0.0

    def infer(self, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
        self.began_s = time.perf_counter()
        outputs = self._engine.infer(tensors)
        self.ended_s = time.perf_counter()
        return outputs

    def _infer(self, tensors: Tensors) -> Tensors:
        raise NotImplementedError  # `infer` hands over to the other engine's

    def _release(self) -> None:
        self._engine.close()


@dataclass
class Times:
    """What one way to run the model took in each turn."""

    total_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    stages_ms: list[tuple[float, ...]] = field(default_factory=list)


def benchmark(
    models: Sequence[Path],
    image: NDArray[np.uint8],
    engines: Sequence[str] = (),
    precisions: Sequence[str] = ('auto',),
    runs: int = 50,
    threads: int = 0,
) -> dict[str, Any]:
    """Time models in several engines, which take turns on one image.

    Args:
        models: paths of the model files, such as one in fp32 and the same in int8.
        image: (H, W, 3) uint8 RGB, as the camera gives it.
        engines: names of ENGINES; all but `fake` if there is none.
        precisions: each is tried in each engine.
        runs: how often each is timed, after WARM_UP runs that are not.
        threads: CPU threads for one inference; 0 uses one for each core.

    Returns:
        `bare`, the bare call of each model that opened and is an ONNX file, and `engines`, one for
        each that opened: `ms` and `ms_p95` of one image from camera to result; `cpu_ms`,
        which other processes disturb less, summed over all threads, those that wait included;
        `images_per_s`; `preprocess_ms`, `inference_ms` and `decode_ms`; `memory_mb`, what opening
        and warming up added to the process (so the first in a runtime pays for the runtime);
        `to_bare`, how many bare calls of its own model it takes. All are medians but the 95th
        percentile. `not_run` says why the others did not. Then the circumstances.

    Raises:
        EngineError: no engine opens a model, or there is no run.
        ModelError: nothing says what a model takes and gives.
    """
    if runs < 1:
        raise EngineError(f'runs is {runs}, expected 1 or more')
    for model in models:
        check_file(model, 'fake' if 'fake' in engines else 'auto')
    not_run: dict[str, str] = {}
    opened: dict[str, Any] = {}
    ways: dict[str, Callable[[], Any]] = {}
    model_of: dict[str, Path] = {}
    memory_mb: dict[str, float] = {}
    tried = product(models, engines or [name for name in ENGINES if name != 'fake'], precisions)
    with ExitStack() as stack:
        for model, name, precision in tried:
            before_mb = resident_mb()
            try:
                engine = TimedEngine(open_engine(model, name, threads, precision=precision))
            except EngineError as exc:
                if engines or precision == precisions[0]:
                    wanted = '' if precision == 'auto' else f' {precision}'
                    label = f'{model.name} {name}{wanted}'
                    not_run[label] = str(exc).removeprefix(f'{model}: ')
                continue
            stack.callback(engine.close)
            key = f'{model} {name} {engine.precision}'
            spec = ModelSpec.from_metadata(engine.metadata, model)
            opened[key], model_of[key] = PIPELINES[spec.task](engine, spec), model
            ways[key] = partial(opened[key], image)
            for _ in range(WARM_UP):
                ways[key]()
            memory_mb[key] = resident_mb() - before_mb
        if not ways:
            raise EngineError(
                f'no engine opens {", ".join(map(str, models))}: '
                + '; '.join(f'{label}: {reason}' for label, reason in not_run.items())
            )
        bare_of: dict[Path, str] = {}
        for model in dict.fromkeys(model_of.values()):
            try:
                bare = open_bare(model, threads, stack)
                for _ in range(WARM_UP):
                    bare()
            except (EngineError, ModelError) as exc:
                not_run[f'{model.name} bare call'] = str(exc).removeprefix(f'{model}: ')
                continue
            bare_of[model] = f'{model} bare'
            ways[bare_of[model]] = bare
        times = take_turns(ways, opened, runs)
    found = {key: _summary(each) for key, each in times.items()}
    name_of = {model_of[key]: opened[key].spec.name for key in opened}
    names = list(name_of.values())
    # Two files of one name, such as a model before and after training, are told apart.
    name_of = {
        model: name if names.count(name) == 1 else f'{name}: {model}'
        for model, name in name_of.items()
    }
    return {
        'image': list(image.shape[:2]),
        'bare': [
            {'model': name_of[model], **found[key]} for model, key in bare_of.items()
        ],
        'engines': [
            {
                'model': name_of[model],
                'engine': opened[key].engine.name,
                'precision': opened[key].engine.precision,
                **found[key],
                'to_bare': (
                    found[key]['ms'] / found[bare_of[model]]['ms'] if model in bare_of else None
                ),
                'memory_mb': memory_mb[key],
            }
            for key, model in model_of.items()
        ],
        'not_run': not_run,
        'runs': runs,
        'threads': threads or os.cpu_count(),
        'cpu': cpu_name(),
        'load': os.getloadavg()[0],
    }


def take_turns(
    ways: Mapping[str, Callable[[], Any]], opened: Mapping[str, Any], runs: int
) -> dict[str, Times]:
    """Time each way once, then each again, so that what disturbs disturbs them alike."""
    times = {key: Times() for key in ways}
    for _ in range(runs):
        for key, way in ways.items():
            cpu_s, start_s = time.process_time(), time.perf_counter()
            way()
            end_s = time.perf_counter()
            times[key].cpu_ms.append((time.process_time() - cpu_s) * 1000.0)
            times[key].total_ms.append((end_s - start_s) * 1000.0)
            if key in opened:
                engine = opened[key].engine
                marks = (start_s, engine.began_s, engine.ended_s, end_s)
                times[key].stages_ms.append(tuple(np.diff(marks) * 1000.0))
    return times


def open_bare(model: Path, threads: int, stack: ExitStack) -> Callable[[], Any]:
    """Open the network alone in ONNX Runtime; return what runs it.

    Raises:
        EngineError: onnx or onnxruntime is missing.
        ModelError: the file is no ONNX model, or its network takes an open size.
    """
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    path = Path(folder, 'bare.onnx')
    cut_network(model, path)
    engine = open_engine(path, 'onnx_runtime', threads)
    stack.callback(engine.close)
    rng = np.random.default_rng(0)
    tensors = {}
    for spec in engine.inputs:
        sides = [side for side in spec.shape if side is not None]
        if len(sides) < len(spec.shape):
            raise ModelError(f'{model}: its network takes {spec}; export it with a fixed size')
        tensors[spec.name] = rng.standard_normal(sides).astype(spec.dtype)
    return lambda: engine.infer(tensors)


def _summary(times: Times) -> dict[str, float]:
    median_ms = float(np.median(times.total_ms))
    found = {
        'ms': median_ms,
        'ms_p95': float(np.quantile(times.total_ms, 0.95)),
        'cpu_ms': float(np.median(times.cpu_ms)),
        'images_per_s': 1000.0 / median_ms,
    }
    if times.stages_ms:
        medians = np.median(times.stages_ms, axis=0).tolist()
        found |= {f'{name}_ms': ms for name, ms in zip(STAGES, medians, strict=True)}
    return found


def resident_mb() -> float:
    """Return the memory that this process holds, in MB; 0 where the system does not tell."""
    try:
        pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def benchmark_table(result: Mapping[str, Any]) -> str:
    """Return the result as a Markdown table, the fastest first."""
    names = ('ms', 'ms_p95', 'cpu_ms', 'preprocess_ms', 'inference_ms', 'decode_ms', 'to_bare',
             'images_per_s', 'memory_mb')
    rows = [
        ['model', 'engine', 'ms', 'p95', 'cpu ms', *STAGES, '× bare', 'images/s', 'MB'],
        ['---'] * (2 + len(names)),
    ]
    bare = {'engine': 'onnx_runtime', 'precision': 'fp32', 'to_bare': 1.0}
    found = sorted(result['engines'], key=lambda each: float(each['ms']))
    alone = len(result['bare']) == 1
    for each in [*found, *(
        {**bare, **each, 'model': 'bare call' if alone else f'bare call of {each["model"]}'}
        for each in result['bare']
    )]:
        figures = (each.get(name) for name in names)
        rows.append([
            each['model'], f'{each["engine"]} {each["precision"]}',
            *('' if figure is None else f'{figure:.2f}' for figure in figures),
        ])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f'| {" | ".join(map(str.ljust, row, widths))} |' for row in rows
    ]
    lines += [
        # The cure, behind the semicolon, is for who wanted this engine.
        f'not run: {label}: {reason.partition(";")[0]}'
        for label, reason in result['not_run'].items()
    ]
    return '\n'.join(lines)
