"""`mnv2 info|build|quantize|benchmark`: inspect, convert and time models."""

import argparse
from collections.abc import Mapping
import json
import logging
from pathlib import Path
import signal
import sys
from typing import Any, TYPE_CHECKING

from mnv2_perception.cli import verify
from mnv2_perception.cli.options import (
    add_command,
    add_force,
    add_label_classes,
    AT_LEAST_ONE,
    check_output,
    label_classes,
    MODEL_HELP,
    Number,
    PIXELS,
    table,
    THREADS,
)
from mnv2_perception.engines import ENGINES, PRECISIONS
from mnv2_perception.engines.builders import RTX_DEFAULT, RTX_GPUS
from mnv2_perception.engines.quantize import TOLERANCE
from mnv2_perception.errors import command_name, SetupError, with_home

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands

MOST_ITEMS_SHOWN = 50


def add(commands: 'Commands') -> None:
    """Add the commands."""
    info = add_command(
        commands, 'info', info_command, 'Say what a model takes, gives and lacks.'
    )
    info.add_argument('model', help=MODEL_HELP)
    info.add_argument('--json', action='store_true')

    build = add_command(commands, 'build', build_command, 'Build the TensorRT plan of a model.')
    build.add_argument('model', help=MODEL_HELP)
    build.add_argument(
        '--precision', choices=('fp32', 'fp16', 'int8'),
        help='(default: fp16, or what the file holds)',
    )
    build.add_argument(
        '--rtx', action='store_true',
        help='for `engine: tensorrt_rtx` (TensorRT for RTX), on any machine; not run yet',
    )
    build.add_argument(
        '--gpu', nargs='+', choices=RTX_GPUS, metavar='SM',
        help=f'with --rtx, compute capabilities of the GPUs that it is for: some of '
             f'{", ".join(RTX_GPUS)} (default: all but SM75, which makes large plans)',
    )
    build.add_argument(
        '--dla', type=Number(int, 0, 15), metavar='N', help='DLA core; fp16 only; untested'
    )
    build.add_argument(
        '--batch', type=Number(int, 1, 1024), default=1,
        help='images in one inference, such as one of each camera (%(default)s)',
    )
    build.add_argument(
        '--cache', type=Path, help='folder of the plans (default: where the nodes look)'
    )
    build.add_argument(
        '--timing-cache', type=Path, help='file of kernel timings (default: in the folder)'
    )

    quantize = add_command(
        commands, 'quantize', quantize_command, 'Write a model in int8, for every runtime.'
    )
    quantize.add_argument('model', help=f'{MODEL_HELP}, in fp32')
    quantize.add_argument(
        '--calibrate', type=Path, required=True, metavar='IMAGES|BAG',
        help='folder of images, or bag, like what it will see; not those it is measured on',
    )
    quantize.add_argument(
        '--labels', type=Path, metavar='DATA',
        help='measure on them before and after, as `evaluate` does',
    )
    add_label_classes(quantize)
    quantize.add_argument(
        '--topic', default='', help="of a bag's images (default: what looks like its camera)"
    )
    quantize.add_argument(
        '--out', type=Path,
        help='(default: MODEL_int8.onnx beside the model; of a shipped one, in this folder)',
    )
    quantize.add_argument(
        '--images', type=AT_LEAST_ONE, default=100, help='how many to calibrate with (%(default)s)'
    )
    quantize.add_argument(
        '--tolerance', type=Number(float, 0.0), default=TOLERANCE,
        help='how much the layers in int8 may err in all, as a share of the variance of what the '
             'network gives (%(default)s); those that err most stay in float, at most a tenth',
    )
    quantize.add_argument(
        '--small', action='store_true',
        help='hold the weights in int8, too: a quarter of the bytes; for CPUs',
    )
    quantize.add_argument('--json', action='store_true')
    add_force(quantize)

    verify.add(commands)

    benchmark = add_command(
        commands, 'benchmark', benchmark_command, 'Time models in every engine, all taking turns.'
    )
    benchmark.add_argument(
        'models', nargs='+', help='paths, or names of shipped models, such as fp32 and int8'
    )
    benchmark.add_argument(
        '--engine', nargs='+', default=[], choices=ENGINES, help='(default: all that open it)'
    )
    benchmark.add_argument(
        '--precision', nargs='+', default=['auto'], choices=('auto', *PRECISIONS),
        help='each is tried in each engine (default: auto)',
    )
    benchmark.add_argument('--image', type=Path, help='(default: a street that is drawn)')
    benchmark.add_argument('--height', type=PIXELS, default=480, help='of that (%(default)s)')
    benchmark.add_argument('--width', type=PIXELS, default=640, help='of that (%(default)s)')
    benchmark.add_argument('--runs', type=AT_LEAST_ONE, default=50, help='(%(default)s)')
    benchmark.add_argument('--threads', type=THREADS, default=0, help='0: one for each core')
    benchmark.add_argument('--json', action='store_true')


def info_command(arguments: argparse.Namespace) -> None:
    """Print a model's tensors and ModelSpec and what is missing; draft a spec if it has none.

    Raises:
        ModelError: the model has no spec, or one that contradicts it.
    """
    from dataclasses import asdict

    from mnv2_perception.engines import open_engine
    from mnv2_perception.engines.encoder import FEATURES
    from mnv2_perception.engines.verified import int8_beside, read_verified
    from mnv2_perception.errors import ModelError
    from mnv2_perception.model_spec import METADATA_KEY, ModelSpec, TO_FILL_IN
    from mnv2_perception.tasks.contract import check_input, check_model
    from mnv2_perception.tasks.model_info import draft_yaml, licence_of, missing_facts
    from mnv2_perception.tasks.models import find_model

    path = find_model(arguments.model)
    with open_engine(path) as engine:
        facts: dict[str, Any] = {
            'file': str(path),
            'takes': [str(tensor) for tensor in engine.inputs],
            'gives': [str(tensor) for tensor in engine.outputs],
            'runs here': f'{engine.model}, in {engine.name} {engine.precision}',
            **{
                f'in {precision}': str(measured)
                for precision, measured in read_verified(engine.metadata, path).items()
            },
        }
        if 'in int8' in facts and not (int8 := int8_beside(path)).is_file():
            facts['in int8'] += f'; {int8.name}, which that is of, is not beside it'
        try:
            spec = ModelSpec.from_metadata(engine.metadata, path)
            if [tensor.name for tensor in engine.outputs] == [FEATURES]:
                check_input(engine, spec)
                facts['of'] = f'the encoder alone, of {spec.name}; for `mnv2 embed`'
            else:
                check_model(engine, spec)
        except ModelError:
            beside, draft = path.with_suffix('.yaml'), ''
            if METADATA_KEY not in engine.metadata and not beside.exists():
                draft, facts['lacks'] = draft_yaml(engine, path.stem)
            print_facts(facts, arguments.json)
            if draft and not arguments.json:
                print(f'\n# {beside.name}: fill in each {TO_FILL_IN}\n{draft}')
            raise
    facts |= {**asdict(spec), 'lacks': missing_facts(spec)}
    if not arguments.json:
        facts['licence'] = licence_of(spec)
    print_facts(facts, arguments.json)


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print the facts of `mnv2 info`."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, (list, tuple)):
            items = [str(item) for item in value[:MOST_ITEMS_SHOWN]]
            if len(value) > MOST_ITEMS_SHOWN:
                items.append(f'… ({len(value)})')
            value = ', '.join(items) or 'nothing'
        print(f'{name:<14} {value}')


def build_command(arguments: argparse.Namespace) -> None:
    """Build a TensorRT plan and print its path; progress goes to stderr.

    Raises:
        SetupError: options contradict each other.
    """
    from mnv2_perception.engines import check_file, plans
    from mnv2_perception.engines.build import build_plan, Options
    from mnv2_perception.engines.builders import RtxBuilder, TensorRTBuilder
    from mnv2_perception.tasks.models import find_model

    logging.basicConfig(level=logging.INFO, format='%(message)s')
    # TensorRT returns to Python only after minutes. Ending at once leaves no incomplete file.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    model = find_model(arguments.model)
    check_file(model)
    folder = (arguments.cache or plans.cache_folder()).absolute()
    if arguments.rtx and (arguments.dla is not None or arguments.timing_cache):
        raise SetupError('--rtx takes neither --dla nor --timing-cache: it uses no device here')
    if arguments.gpu and not arguments.rtx:
        raise SetupError('--gpu is for --rtx; without it the plan is for the GPU of this machine')
    if arguments.timing_cache:
        check_output(arguments.timing_cache, True, [model])
    builder = (
        RtxBuilder(model, arguments.gpu or RTX_DEFAULT) if arguments.rtx
        else TensorRTBuilder(model, folder, arguments.timing_cache)
    )
    options = Options(arguments.precision or '', arguments.dla, arguments.batch)
    plan = build_plan(model, options, folder, builder)
    print(folder / plan.key.file_name(model))


def quantize_command(arguments: argparse.Namespace) -> None:
    """Write a model in int8; progress goes to stderr."""
    from mnv2_perception.data.images import spread_images
    from mnv2_perception.engines import check_file
    from mnv2_perception.engines.quantize import quantize_model
    from mnv2_perception.engines.verified import int8_beside
    from mnv2_perception.evaluation.evaluate import evaluate_model, HEADLINE
    from mnv2_perception.tasks.models import find_model, opening
    from mnv2_perception.tasks.pipeline import input_tensor

    path = find_model(arguments.model)
    check_file(path)
    given = with_home(arguments.model)
    out = arguments.out or int8_beside(given if given.is_file() else Path(path.name))
    check_output(out, arguments.force, [path], ['.onnx'])
    if (arguments.map or arguments.spec is not None) and not arguments.labels:
        raise SetupError('--spec and --map are about the classes of --labels DATA; give that too')
    labels = label_classes(arguments)

    def show(what: str, done: int, of: int) -> None:
        print(f'{what}: {done} of {of}', end='\n' if done == of else '\r', file=sys.stderr)

    def quiet(*_: object) -> None:
        """Print nothing."""

    with opening(path, 'onnx_runtime') as (engine, spec):
        dtype = engine.inputs[0].dtype
    engine.close()
    tensors = [
        input_tensor(image, spec, dtype)
        for image in spread_images(arguments.calibrate, arguments.images, arguments.topic)
    ]
    done = quantize_model(
        path, out, tensors, arguments.tolerance, show if sys.stderr.isatty() else quiet,
        arguments.small,
    )
    facts: dict[str, Any] = {
        'file': str(out), 'images': len(tensors), 'layers_int8': done.layers,
        'layers_float': done.kept, 'error': done.error, 'error_all_int8': done.error_of_all,
    }
    if arguments.labels:
        for name, model in (('before', path), ('after', out)):
            with opening(model, precision='fp32') as (engine, spec):
                result = evaluate_model(
                    engine, spec, arguments.labels, '', arguments.map, labels
                )
            engine.close()
            facts[name] = {
                key: value for key, value in result.items() if key in HEADLINE.values()
            }
    print(json.dumps(facts, indent=2) if arguments.json else table(facts))
    if out.absolute() == int8_beside(path) and not arguments.json:
        print(f'taken by `precision: auto` after: {command_name()} verify {arguments.model} DATA')


def benchmark_command(arguments: argparse.Namespace) -> None:
    """Time models in every engine and print a table."""
    from mnv2_perception.data.images import read_image
    from mnv2_perception.evaluation.benchmark import benchmark, benchmark_table
    from mnv2_perception.scenes.street import draw_scene
    from mnv2_perception.tasks.models import find_model

    if arguments.image:
        image = read_image(arguments.image)
    else:
        image, _ = draw_scene(7, 0.0, arguments.height, arguments.width)
    result = benchmark(
        [find_model(model) for model in arguments.models], image, arguments.engine,
        arguments.precision, arguments.runs, arguments.threads,
    )
    print(json.dumps(result, indent=2) if arguments.json else benchmark_table(result))
