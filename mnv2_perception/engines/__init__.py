"""Runtimes with a common interface: `open_engine` opens a model, `Engine.infer` runs it."""

from dataclasses import replace
import logging
import os
from pathlib import Path
import sys
from typing import Any, cast

from mnv2_perception.engines.base import cores, Engine, Opening, PRECISIONS, TensorSpec
from mnv2_perception.engines.registry import ENGINES, find_engine, REGISTRY
from mnv2_perception.engines.weights import lacks_weights
from mnv2_perception.errors import command_name, EngineError, stand_in

__all__ = ['ENGINES', 'PRECISIONS', 'Engine', 'TensorSpec', 'check_file', 'open_engine']

CHECKPOINTS = ('.pt', '.pth')
SPECS = ('.yaml', '.yml')
MAX_THREADS = 256

logger = logging.getLogger(__name__)

# A robot does not report what it runs, unless its owner sets the variable to 0. Newer ONNX
# Runtimes report to Microsoft; `import openvino` starts a process that reports to Google
# Analytics, but has a stub in case the module that does it cannot be imported.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
if 'openvino' not in sys.modules:
    cast('dict[str, Any]', sys.modules).setdefault('openvino_telemetry', None)


def open_engine(
    model: Path,
    engine: str = 'auto',
    threads: int = 0,
    build: bool = False,
    precision: str = 'auto',
    at_once: int = 1,
) -> Engine:
    """Open a model.

    Args:
        model: path of the model file.
        engine: a name in ENGINES, or `auto`: TensorRT if the cache folder has a plan of the model
            or `build` is set, otherwise the first of ONNX Runtime's CUDA provider, OpenVINO and
            ONNX Runtime on the CPU that is installed and takes the model.
        threads: CPU threads for one inference; 0: the runtime decides.
        build: whether to build a TensorRT plan if none fits; takes minutes.
        precision: precision of the computation, one of PRECISIONS; `auto` is that of a TensorRT
            plan, in OpenVINO the faster of int8 and bf16 that the CPU has and the model was
            verified in (`mnv2 verify`), otherwise fp32.
        at_once: number of inferences to run concurrently if the engine can (see `Engine.at_once`),
            at most `threads`, which they share: on a CPU that gives more images per second than
            one after the other with all threads, but each takes longer.

    Raises:
        EngineError: the name is unknown or `threads` out of range; the file is a Git LFS pointer,
            a web page, a checkpoint or a YAML, or its weights are not beside it; the runtime is
            missing, refuses the model or does not have the precision.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise EngineError(f'threads is {threads}, expected 0 (one for each core) to {MAX_THREADS}')
    check_file(model, engine)
    how = Opening(engine, threads, build, precision, min(at_once, threads or cores()))
    return _open_auto(model, how) if engine == 'auto' else _open(model, how)


def check_file(model: Path, engine: str = 'auto') -> None:
    """Raise for a file that no engine opens; a YAML is for `fake` only. Part of `open_engine`.

    Raises:
        EngineError: it is a Git LFS pointer, a web page, a checkpoint or a YAML, or its weights
            are not beside it.
    """
    if wrong := stand_in(model) or lacks_weights(model):
        raise EngineError(f'{model}: {wrong}')
    if model.suffix in CHECKPOINTS and model.is_file():
        raise EngineError(
            f'{model}: is a checkpoint, expected a model such as an .onnx; write one of what '
            f'`{command_name()} train` made: {command_name()} export {model} model.onnx'
        )
    if model.suffix in SPECS and model.is_file() and engine != 'fake':
        raise EngineError(
            f'{model}: is a YAML, expected a model such as an .onnx; name that: a YAML of the '
            'same name beside it is read with it'
        )


def _open(model: Path, how: Opening) -> Engine:
    return find_engine(how.engine).load()(model, how)


def _open_auto(model: Path, how: Opening) -> Engine:
    """Open a model with the first engine that can, and log why it was this one."""
    for info in REGISTRY:
        if info.suffix and model.suffix == info.suffix:
            return _open(model, replace(how, engine=info.name))
    if not model.is_file():
        raise EngineError(f'{model}: no such model file')
    passed_over, missing, refusals = [], [], []
    *tried, last = [info for info in REGISTRY if info.auto]
    for info in tried:
        if lacks := info.load().lacks(model, replace(how, engine=info.name)):
            passed_over.append(lacks)
            missing.append(lacks)
            continue
        try:
            opened = _open(model, replace(how, engine=info.name))
        except EngineError as exc:
            logger.warning('%s is skipped: %s', info.name, exc)
            passed_over.append(f'{info.name} cannot open it')
            refusals.append(str(exc))
            continue
        break
    else:
        try:
            opened = _open(model, replace(how, engine=last.name))
        except EngineError as exc:
            if how.precision == 'auto':
                raise
            # The last engine only knows that it does not have the precision.
            raise EngineError('; '.join([*refusals, str(exc), *missing])) from exc
    why = '; '.join(passed_over) or 'it has a plan'
    logger.info('%s: engine %s in %s: %s', model.name, opened.name, opened.precision, why)
    return opened
