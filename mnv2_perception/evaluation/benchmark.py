"""Measure how long a model takes: all engines in turns on one image (`mnv2 benchmark`).

The baseline for each model is its bare call: ONNX Runtime on the CPU with the same weights runs
only the network, from the scaled float image to the output of the last layer. Scaling, decoding
and all that happens outside of the graph is overhead.
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
    """Wraps another engine and records when its last inference began and ended."""

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
        raise NotImplementedError  # never called: `infer` calls that of the other engine

    def _release(self) -> None:
        self._engine.close()


@dataclass
class Way:
    """One way to run a model, and its times.

    Attributes:
        model: path of the model's file.
        call: runs the model once.
        pipeline: pipeline from image to result; None for a bare call.
        memory_mb: memory that opening and warming up added to the process, MB.
        total_ms: time of each run.
        cpu_ms: CPU time of each run, summed over all threads.
        stages_ms: time of each of STAGES in each run; empty for a bare call.
    """

    model: Path
    call: Callable[[], Any]
    pipeline: Any = None
    memory_mb: float = 0.0
    total_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    stages_ms: list[tuple[float, ...]] = field(default_factory=list)

    def warm_up(self) -> None:
        """Run the model a few times without measuring."""
        for _ in range(WARM_UP):
            self.call()

    @property
    def median_ms(self) -> float:
        """Median time of a run."""
        return float(np.median(self.total_ms))

    def figures(self) -> dict[str, float]:
        """Return the times, see `benchmark`."""
        found = {
            'ms': self.median_ms,
            'ms_p95': float(np.quantile(self.total_ms, 0.95)),
            'cpu_ms': float(np.median(self.cpu_ms)),
            'images_per_s': 1000.0 / self.median_ms,
        }
        if self.stages_ms:
            medians = np.median(self.stages_ms, axis=0).tolist()
            found |= {f'{name}_ms': ms for name, ms in zip(STAGES, medians, strict=True)}
        return found


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
        models: paths of the model files, for example one in fp32 and the same in int8.
        image: (H, W, 3) uint8 RGB, as from the camera.
        engines: names of ENGINES; empty for all except `fake`.
        precisions: precisions to try in each engine.
        runs: number of measured runs of each, after WARM_UP unmeasured ones.
        threads: CPU threads for one inference; 0 uses one for each core.

    Returns:
        `bare`, the bare call of each opened model that is an ONNX file, and `engines`, an entry
        for
        each combination that opened: `ms` and `ms_p95`, time of one image from camera to result;
        `cpu_ms`, summed over all threads, including busy waiting, and less disturbed by other
        processes; `images_per_s`; `preprocess_ms`, `inference_ms` and `decode_ms`; `memory_mb`,
        memory added by opening and warming up (the first model in a runtime includes the runtime);
        `to_bare`, the time in units of its model's bare call. All are medians, except the 95th
        percentile. `not_run`: reasons why others did not run. Then the conditions of the
        measurement.

    Raises:
        EngineError: no engine opens a model, or `runs` is below 1.
        ModelError: a model has no spec.
    """
    if runs < 1:
        raise EngineError(f'runs is {runs}, expected 1 or more')
    for model in models:
        check_file(model, 'fake' if 'fake' in engines else 'auto')
    not_run: dict[str, str] = {}
    with ExitStack() as stack:
        ways = open_ways(models, image, engines, precisions, threads, stack, not_run)
        bare: dict[Path, Way] = {}
        for model in dict.fromkeys(way.model for way in ways):
            try:
                way = Way(model, open_bare(model, threads, stack))
                way.warm_up()
                bare[model] = way
            except (EngineError, ModelError) as exc:
                not_run[f'{model.name} bare call'] = str(exc).removeprefix(f'{model}: ')
        take_turns([*ways, *bare.values()], runs)
    name_of = unique_names(ways)
    return {
        'image': list(image.shape[:2]),
        'bare': [{'model': name_of[model], **way.figures()} for model, way in bare.items()],
        'engines': [
            {
                'model': name_of[way.model],
                'engine': way.pipeline.engine.name,
                'precision': way.pipeline.engine.precision,
                **way.figures(),
                'to_bare': (
                    way.median_ms / bare[way.model].median_ms if way.model in bare else None
                ),
                'memory_mb': way.memory_mb,
            }
            for way in ways
        ],
        'not_run': not_run,
        'runs': runs,
        'threads': threads or os.cpu_count(),
        'cpu': cpu_name(),
        'load': os.getloadavg()[0],
    }


def open_ways(
    models: Sequence[Path], image: NDArray[np.uint8], engines: Sequence[str],
    precisions: Sequence[str], threads: int, stack: ExitStack, not_run: dict[str, str],
) -> list[Way]:
    """Open and warm up each model in each engine and precision, without duplicates.

    Args, besides those of `benchmark`:
        stack: closes the engines.
        not_run: dict to which the reasons are added why something did not open.

    Raises:
        EngineError: nothing opens.
        ModelError: a model has no spec.
    """
    ways: dict[tuple[Path, str, str], Way] = {}
    names = engines or [name for name in ENGINES if name != 'fake']
    for model, name, precision in product(models, names, precisions):
        before_mb = resident_mb()
        try:
            engine = TimedEngine(open_engine(model, name, threads, precision=precision))
        except EngineError as exc:
            if engines or precision == precisions[0]:
                wanted = '' if precision == 'auto' else f' {precision}'
                not_run[f'{model.name} {name}{wanted}'] = str(exc).removeprefix(f'{model}: ')
            continue
        stack.callback(engine.close)
        spec = ModelSpec.from_metadata(engine.metadata, model)
        pipeline = PIPELINES[spec.task](engine, spec)
        way = ways[model, name, engine.precision] = Way(model, partial(pipeline, image), pipeline)
        way.warm_up()
        way.memory_mb = resident_mb() - before_mb
    if not ways:
        raise EngineError(
            f'no engine opens {", ".join(map(str, models))}: '
            + '; '.join(f'{label}: {reason}' for label, reason in not_run.items())
        )
    return list(ways.values())


def unique_names(ways: Sequence[Way]) -> dict[Path, str]:
    """Return the name of each model, with its path if several files have this name.

    For example, a model before and after training.
    """
    name_of = {way.model: way.pipeline.spec.name for way in ways}
    names = list(name_of.values())
    return {
        model: name if names.count(name) == 1 else f'{name}: {model}'
        for model, name in name_of.items()
    }


def take_turns(ways: Sequence[Way], runs: int) -> None:
    """Time each way once, then each again, so that disturbances affect all alike."""
    for _ in range(runs):
        for way in ways:
            cpu_s, start_s = time.process_time(), time.perf_counter()
            way.call()
            end_s = time.perf_counter()
            way.cpu_ms.append((time.process_time() - cpu_s) * 1000.0)
            way.total_ms.append((end_s - start_s) * 1000.0)
            if way.pipeline is not None:
                engine = way.pipeline.engine
                marks = (start_s, engine.began_s, engine.ended_s, end_s)
                way.stages_ms.append(tuple(np.diff(marks) * 1000.0))


def open_bare(model: Path, threads: int, stack: ExitStack) -> Callable[[], Any]:
    """Open the network alone in ONNX Runtime; return a function that runs it.

    Raises:
        EngineError: onnx or onnxruntime is missing.
        ModelError: the file is no ONNX model, or the size of its network's input is not fixed.
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


def resident_mb() -> float:
    """Return the resident memory of this process in MB; 0 if the system does not tell it."""
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
    """Return the result as a Markdown table, fastest first."""
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
        # The advice after the semicolon matters only to those who asked for this engine.
        f'not run: {label}: {reason.partition(";")[0]}'
        for label, reason in result['not_run'].items()
    ]
    return '\n'.join(lines)
