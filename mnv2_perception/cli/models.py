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
    add_json,
    add_label_classes,
    AT_LEAST_ONE,
    check_output,
    label_classes,
    MODEL_HELP,
    Number,
    PIXELS,
    table,
    THREADS,
    THREADS_HELP,
    TOPIC_HELP,
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
        commands, 'info', info_command, "Show a model's inputs, outputs and missing facts.",
        'Drafts the YAML file for an ONNX model that was exported elsewhere.',
    )
    info.add_argument('model', help=MODEL_HELP)
    add_json(info)

    build = add_command(
        commands, 'build', build_command, 'Build the TensorRT plan of a model.',
        'Build it on the machine that runs it, except with --rtx. Prints the path of the plan.',
    )
    build.add_argument('model', help=MODEL_HELP)
    build.add_argument(
        '--precision', choices=('fp32', 'fp16', 'int8'),
        help='precision of the plan (default: fp16, or that of a quantised or fp16 model)',
    )
    build.add_argument(
        '--rtx', action='store_true',
        help='build for TensorRT for RTX (`engine: tensorrt_rtx`), on any machine; such plans '
             'have not been run yet',
    )
    build.add_argument(
        '--gpu', nargs='+', choices=RTX_GPUS, metavar='SM',
        help=f'with --rtx: compute capabilities of the GPUs to build for, out of '
             f'{", ".join(RTX_GPUS)} (default: all but SM75, which makes plans large)',
    )
    build.add_argument(
        '--dla', type=Number(int, 0, 15), metavar='N',
        help='build for this DLA core of a Jetson; fp16 only, not tested (default: use the GPU)',
    )
    build.add_argument(
        '--batch', type=Number(int, 1, 1024), default=1,
        help='images per inference, such as one for each camera (default: %(default)s)',
    )
    build.add_argument(
        '--cache', type=Path, metavar='FOLDER',
        help='folder for the plan (default: the folder where the nodes look)',
    )
    build.add_argument(
        '--timing-cache', type=Path, metavar='FILE',
        help='file of kernel timings, to read and update (default: one in that folder)',
    )

    quantize = add_command(
        commands, 'quantize', quantize_command,
        'Write an int8 version of a model, for every runtime.',
        'Layers with a large error stay in float.',
    )
    quantize.add_argument('model', help=f'{MODEL_HELP}; in fp32')
    quantize.add_argument(
        '--calibrate', type=Path, required=True, metavar='IMAGES|BAG',
        help='images to calibrate with: a folder or a bag, like what the model will see; not the '
             'images you measure on',
    )
    quantize.add_argument(
        '--labels', type=Path, metavar='DATA',
        help='labelled images: measure the accuracy before and after, as `evaluate` does',
    )
    add_label_classes(quantize)
    quantize.add_argument(
        '--topic', default='', help=TOPIC_HELP
    )
    quantize.add_argument(
        '--out', type=Path, metavar='FILE',
        help='the .onnx file to write (default: MODEL_int8.onnx, beside the model or, for a '
             'shipped model, in the current folder)',
    )
    quantize.add_argument(
        '--images', type=AT_LEAST_ONE, default=100,
        help='number of images to calibrate with (default: %(default)s)',
    )
    quantize.add_argument(
        '--tolerance', type=Number(float, 0.0), default=TOLERANCE,
        help="largest error of all int8 layers together, as a fraction of the variance of the "
             "network's output; up to a tenth of the layers, those with the largest errors, stay "
             'in float to reach it (default: %(default)s)',
    )
    quantize.add_argument(
        '--small', action='store_true',
        help='also store the weights in int8, for CPUs: a quarter of the file size',
    )
    add_json(quantize)
    add_force(quantize)

    verify.add(commands)

    benchmark = add_command(
        commands, 'benchmark', benchmark_command, 'Measure the latency of models in every engine.',
        'All of them take turns, so that changes of the clock rate affect all alike.',
    )
    benchmark.add_argument(
        'models', nargs='+', help='paths of models, or names of shipped models'
    )
    benchmark.add_argument(
        '--engine', nargs='+', default=[], choices=ENGINES, metavar='ENGINE',
        help=f'runtimes: {", ".join(ENGINES)} (default: all that can open the model here)',
    )
    benchmark.add_argument(
        '--precision', nargs='+', default=['auto'], choices=('auto', *PRECISIONS),
        metavar='PRECISION',
        help=f'precisions, each measured in each engine: auto, {", ".join(PRECISIONS)} '
             f'(default: auto)',
    )
    benchmark.add_argument(
        '--image', type=Path, metavar='FILE',
        help='picture to measure on (default: a drawn street)',
    )
    for side, pixels in ('height', 480), ('width', 640):
        benchmark.add_argument(
            f'--{side}', type=PIXELS, default=pixels,
            help=f'{side} of the drawn street, in pixels (default: %(default)s)',
        )
    benchmark.add_argument(
        '--runs', type=AT_LEAST_ONE, default=50,
        help='number of images to measure (default: %(default)s)',
    )
    benchmark.add_argument('--threads', type=THREADS, default=0, help=THREADS_HELP)
    add_json(benchmark)


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
            facts['in int8'] += f'; its file {int8.name} is missing beside it'
        try:
            spec = ModelSpec.from_metadata(engine.metadata, path)
            if [tensor.name for tensor in engine.outputs] == [FEATURES]:
                check_input(engine, spec)
                facts['of'] = f'only the encoder of {spec.name}; for `mnv2 embed`'
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
    model = find_model(arguments.model)
    check_file(model)
    folder = (arguments.cache or plans.cache_folder()).absolute()
    if arguments.rtx and (arguments.dla is not None or arguments.timing_cache):
        raise SetupError('--rtx cannot be combined with --dla or --timing-cache: it builds '
                         'without a GPU')
    if arguments.gpu and not arguments.rtx:
        raise SetupError('--gpu is for --rtx; without it the plan is for the GPU of this machine')
    if arguments.timing_cache:
        check_output(arguments.timing_cache, True, [model])
    builder = (
        RtxBuilder(model, arguments.gpu or RTX_DEFAULT) if arguments.rtx
        else TensorRTBuilder(model, folder, arguments.timing_cache)
    )
    options = Options(arguments.precision or '', arguments.dla, arguments.batch)
    # TensorRT returns to Python only after minutes. Ending at once leaves no incomplete file.
    usual = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        plan = build_plan(model, options, folder, builder)
    finally:
        signal.signal(signal.SIGINT, usual)
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
        raise SetupError('--spec and --map are for the classes of --labels; give --labels DATA '
                         'too')
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
        print(f'`precision: auto` uses it after: {command_name()} verify {arguments.model} DATA')


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
