"""`mnv2 verify`: measure a model's loss of accuracy in bf16 and int8, and store it in the file."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
import json
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from mnv2_perception.cli.options import (
    add_command,
    add_force,
    add_json,
    add_label_classes,
    check_output,
    label_classes,
    MODEL_HELP,
    table,
    THREADS,
    THREADS_HELP,
)
from mnv2_perception.errors import command_name, DataError, SetupError, with_home

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands
    from mnv2_perception.engines import Engine
    from mnv2_perception.engines.verified import Verified
    from mnv2_perception.model_spec import ModelSpec

LEAST = 0.05  # minimum figure; below it, a loss of MOST_LOST would be a large part of it
LACKS = {
    'bf16': 'this CPU has no hardware support for bf16 (AVX-512 BF16, AMX)',
    'int8': 'this CPU has no hardware support for int8 (VNNI, AMX)',
}


def add(commands: 'Commands') -> None:
    """Add the command."""
    verify = add_command(
        commands, 'verify', verify_command,
        'Measure a model in bf16 and int8, for `precision: auto`.',
        'The int8 version is MODEL_int8.onnx beside the model, as `quantize` writes it. Both are '
        'compared with fp32 on labelled pictures, and the results are written into the model: '
        '`precision: auto` uses the faster one if it loses almost nothing. Precisions without '
        'hardware support in this CPU are not measured: bf16 needs AVX-512 BF16 or AMX, int8 '
        'needs VNNI or AMX.',
    )
    verify.add_argument('model', help=f'{MODEL_HELP}; an .onnx file')
    verify.add_argument('data', type=Path, help='labelled images, as for `evaluate`')
    add_label_classes(verify)
    verify.add_argument('--threads', type=THREADS, default=0, help=THREADS_HELP)
    verify.add_argument(
        '--out', type=Path, metavar='FILE',
        help='write the results into a copy of the model (default: into the model itself)',
    )
    add_json(verify)
    add_force(verify)


def verify_command(arguments: argparse.Namespace) -> None:
    """Measure a model in the precisions that `auto` may choose, and store the figures in it."""
    from mnv2_perception.engines.graph import read_onnx
    from mnv2_perception.engines.plans import sha256
    from mnv2_perception.engines.verified import (
        ENOUGH_IMAGES,
        int8_beside,
        MOST_LOST,
        Verified,
        write_verified,
        yaml_digest,
    )
    from mnv2_perception.evaluation.evaluate import evaluate_model
    from mnv2_perception.model_spec import METADATA_KEY as SPEC_KEY
    from mnv2_perception.tasks.models import find_model, opening

    path, data, threads = find_model(arguments.model), arguments.data, arguments.threads
    int8 = int8_beside(path)
    out = choose_out(arguments, path, int8)
    in_place = out.resolve() == path.resolve()
    labels = label_classes(arguments)

    def evaluate(engine: 'Engine', spec: 'ModelSpec') -> dict[str, Any]:
        return evaluate_model(engine, spec, data, '', arguments.map, labels)

    read_onnx(path)  # fails before measuring if the figures could not be stored
    with opening(path, 'openvino', threads, precision='fp32') as (engine, spec):
        lacks = find_lacks(engine, path, int8)
        yaml_sha256 = '' if SPEC_KEY in engine.metadata else yaml_digest(path)
        result = evaluate(engine, spec)
    engine.close()
    figure, exact = exact_figure(result, spec, path, data)
    precisions = ['fp32'] if 'bf16' in lacks else ['fp32', 'bf16']
    files = [path] if 'int8' in lacks else [path, int8]
    values = {(path, 'fp32'): exact}
    for way in product(files, precisions):
        if way in values:
            continue
        with opening(way[0], 'openvino', threads, precision=way[1]) as (engine, other):
            values[way] = evaluate(engine, other)[figure]
        engine.close()
        if replace(other, name=spec.name, description=spec.description) != spec:
            raise SetupError(
                f'{int8}: its input or output differs from that of {path.name}; quantise '
                f'{path.name} again'
            )
    times_ms = time_ways(files, precisions, threads)

    def verified(file: Path, among: list[str]) -> Verified:
        return Verified(
            figure, exact, min(values[file, precision] for precision in among), result['images'],
            '/'.join(data.absolute().parts[-2:]), '' if file == path else sha256(file),
            times_ms[path, 'fp32'] / times_ms[file, precisions[-1]],
            yaml_sha256 if in_place else '',
        )

    found = {}
    if 'bf16' not in lacks:
        found['bf16'] = verified(path, ['bf16'])
    if 'int8' not in lacks:  # its float layers may run in fp32 or bf16: the worse figure counts
        found['int8'] = verified(int8, precisions)
    # The spec of another program's model may be in a YAML beside it, so a copy gets it inside.
    write_verified(path, out, found, {} if in_place else spec.to_metadata())
    facts = {'file': str(out), **describe(found, lacks, out, int8)}
    print(json.dumps(facts, indent=2) if arguments.json else table(facts))
    if result['images'] < ENOUGH_IMAGES:
        print(
            f'{data}: {result["images"]} labelled images are few: the measured loss may be wrong '
            f'by more than the {MOST_LOST} that `auto` may lose; verify with {ENOUGH_IMAGES} or '
            f'more, from all places and in all kinds of light, or run with precision '
            f'fp32', file=sys.stderr,
        )


def choose_out(arguments: argparse.Namespace, path: Path, int8: Path) -> Path:
    """Return the file to write: the model itself, unless another one was requested.

    Raises:
        SetupError: it must not be written, for example a shipped model, or an int8 file whose
            sha256 its fp32 model has stored.
        EngineError: no engine can open the model.
    """
    from mnv2_perception.engines import check_file

    if arguments.out is None and not with_home(arguments.model).is_file():
        raise SetupError(
            f'{arguments.model}: is a shipped model, which must stay as its card describes it; '
            f'write to a copy with --out'
        )
    check_file(path)
    out: Path = arguments.out or path
    in_place = out.resolve() == path.resolve()
    check_output(out, arguments.force or in_place, [int8], ['.onnx'])
    exact_file = path.with_name(path.name.replace('_int8.onnx', '.onnx'))
    if in_place and exact_file != path and exact_file.is_file():
        raise SetupError(
            f'{path}: is the int8 file of {exact_file.name}, which identifies it by its sha256, '
            f'so it must not change; verify {exact_file} instead: that measures both'
        )
    return out


def find_lacks(engine: 'Engine', path: Path, int8: Path) -> dict[str, str]:
    """Return the precisions that cannot be measured here, each with the reason.

    Raises:
        SetupError: none can be measured.
    """
    from mnv2_perception.engines.openvino import OpenVINOEngine

    assert isinstance(engine, OpenVINOEngine)
    lacks = {name: LACKS[name] for name, native in engine.native().items() if not native}
    if not int8.is_file():
        lacks['int8'] = f'there is no {int8.name} beside the model'
    if len(lacks) == len(LACKS):
        raise SetupError(
            f'{path}: no precision except fp32 can be measured: {"; ".join(lacks.values())}; run '
            f'verify on a computer like the ones that will use the model'
        )
    return lacks


def exact_figure(
    result: Mapping[str, Any], spec: 'ModelSpec', path: Path, data: Path
) -> tuple[str, float]:
    """Return the figure by which precisions are compared: its name, and its value in fp32.

    Raises:
        DataError: it is too low for a meaningful loss.
    """
    from mnv2_perception.evaluation.evaluate import HEADLINE

    # With boxes as labels, a segmentation model is measured by the objects in its masks.
    figure = next(name for name in (HEADLINE[spec.task], HEADLINE['detection']) if name in result)
    exact = result[figure] or 0.0  # None: there is nothing to find
    if exact < LEAST:
        raise DataError(
            f'{path}: its {figure} on {data} is {exact:.4f} in fp32, expected {LEAST} or more: '
            f'the model finds almost nothing there, so a loss in bf16 or int8 cannot be measured. '
            f'If the labels have other classes than the model, name them with --spec and --map; '
            f'see {command_name()} evaluate {path} {data}'
        )
    return figure, exact


def time_ways(
    files: Sequence[Path], precisions: Sequence[str], threads: int
) -> dict[tuple[Path, str], float]:
    """Return the time of one image in ms for each file in each precision."""
    from mnv2_perception.evaluation.benchmark import benchmark
    from mnv2_perception.scenes.street import draw_scene

    image = draw_scene(7, 0.0, 480, 640)[0]
    rows = benchmark(files, image, ['openvino'], precisions, threads=threads)['engines']
    return dict(zip(product(files, precisions), [row['ms'] for row in rows], strict=True))


def describe(
    found: 'Mapping[str, Verified]', lacks: Mapping[str, str], out: Path, int8: Path
) -> dict[str, Any]:
    """Return for each precision what was measured, or why not, and what `auto` will choose."""
    from mnv2_perception.engines.verified import int8_beside, MOST_LOST

    good = sorted(
        (name for name, each in found.items() if each.good),
        key=lambda name: found[name].speed, reverse=True,
    )
    facts: dict[str, Any] = {
        name: str(found[name]) if name in found else f'not measured: {lacks[name]}'
        for name in LACKS
    }
    if 'int8' in good and (copy := int8_beside(out.absolute())) != int8:
        facts['int8'] += f'; used if {int8.name} lies beside it as {copy.name}'
    facts['auto'] = f'{", else ".join(good)}, if the CPU supports it' if good else 'fp32'
    if lost := [name for name in found if name not in good]:
        facts['auto'] += f'; {" and ".join(lost)} would lose more than {MOST_LOST}'
    return facts
