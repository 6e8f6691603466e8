"""`mnv2 fetch|train|export`: from published weights to a model file."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
import errno
import importlib
from pathlib import Path
import sys
import tempfile
from typing import get_args, get_type_hints, TYPE_CHECKING

from mnv2_perception.cli.options import add_command, add_force, check_output, Number, PAIRS_HELP
from mnv2_perception.errors import command_name, not_loaded, SetupError

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands
    from mnv2_perception.model_spec import ModelSpec
    from mnv2_perception.training.recipe import Recipe

TASKS = (
    ('segmentation', 'Train a UNet for segmentation.', PAIRS_HELP, 'camvid.yaml'),
    ('classification', 'Train a classifier.',
     'folder with one folder of images per class, or a TSV file of images and labels',
     'camvid_surface.yaml'),
    ('detection', 'Train an SSDLite for detection.', "JSON file of boxes in COCO's format",
     'camvid_boxes.yaml'),
)
NO_MEMORY = ("can't allocate memory", 'out of memory')  # as torch says it, on CPU and GPU
WEIGHTS_HELP = (
    'weights to start from: a name that `mnv2 fetch` lists (mobilenet_v2), a shipped model, a '
    "file of torchvision's ImageNet weights (.pth), a checkpoint (.pt) or an exported model "
    '(.onnx) of this package; layers of the head are used if they fit (default: random weights)'
)


def add(commands: 'Commands') -> None:
    """Add the commands."""
    fetch = add_command(
        commands, 'fetch', fetch_command,
        'Download published ImageNet weights, for `train --weights`.',
        'Prints the path of the file.',
    )
    fetch.add_argument(
        'name', nargs='?', help='name of the weights (default: list the known names)'
    )
    fetch.add_argument(
        '--cache', type=Path, metavar='FOLDER',
        help='folder to keep them in (default: mnv2_perception in $XDG_CACHE_HOME or ~/.cache)',
    )

    train = commands.add_parser(
        'train', help='Train a network.',
        description='Train a network. Needs torch: `make setup-train`.',
    )
    tasks = train.add_subparsers(metavar='TASK', required=True)
    for task, about, data_help, spec in TASKS:
        sub = add_command(tasks, task, train_command, about)
        sub.set_defaults(task=task)
        sub.add_argument('data', type=Path, help=data_help)
        sub.add_argument(
            '--out', type=Path, required=True, metavar='FOLDER',
            help='folder for checkpoints, log and curves',
        )
        sub.add_argument(
            '--val', type=Path, metavar='DATA',
            help='validation data, in the same form (default: none; the last epoch is kept)',
        )
        sub.add_argument('--weights', nargs='?', const='', help=WEIGHTS_HELP)
        sub.add_argument(
            '--spec', type=Path, default=Path(__file__).parents[1] / 'training' / spec,
            help="YAML file with classes, colours, input size and licence (default: CamVid's)",
        )
        sub.add_argument(
            '--resume', action='store_true',
            help='continue an interrupted run, or extend a finished one with more --epochs',
        )
        sub.add_argument(
            '--workers', type=Number(int, 0, 256), default=0,
            help='processes that load and augment images; 0: none but the main process '
            '(default: %(default)s)',
        )
        add_recipe_options(sub, task)

    export = add_command(
        commands, 'export', export_command, 'Export a checkpoint as a model file.',
        'The file contains scaling, network, decoding and ModelSpec.',
    )
    export.add_argument('checkpoint', type=Path, help='checkpoint of `mnv2 train` (.pt)')
    export.add_argument('model', type=Path, help='file to write: .onnx, or .pt2 for torch')
    add_force(export)


def add_recipe_options(parser: argparse.ArgumentParser, task: str) -> None:
    """Add an option for each field of a task's training recipe."""
    from mnv2_perception.training.recipe import RECIPES

    hints = get_type_hints(RECIPES[task])
    for item in fields(RECIPES[task]):
        kind, known = type(item.default), item.metadata
        default = item.default if item.default != '' else 'none'
        parser.add_argument(
            f'--{item.name.replace("_", "-")}', default=item.default,
            type=Number(kind, known['low'], known['high']) if kind in (int, float) else kind,
            choices=get_args(hints[item.name]) or None,
            # argparse formats it.
            help=f'{known["meaning"]} (default: {default})'.replace('%', '%%'),
        )


def find_weights(name: str) -> Path:
    """Return the file that `--weights` names: a path, published weights, or a shipped model.

    Raises:
        SetupError: the name is empty (perhaps a command in $(…) failed), or the download failed.
        ModelError: there is nothing with this name.
    """
    from mnv2_perception.errors import ModelError
    from mnv2_perception.tasks.models import find_model
    from mnv2_perception.training.fetch import cache_folder, fetch, PUBLISHED

    if not name:
        raise SetupError(
            '--weights is empty; if its value comes from a command in $(...), that command '
            'failed: see its error above'
        )
    if Path(name).is_file():
        return Path(name)
    if name in PUBLISHED:
        return fetch(name, cache_folder())
    try:
        return find_model(name)
    except ModelError as exc:
        raise ModelError(
            f'--weights {name}: is not a file, not a name of `mnv2 fetch` '
            f'({", ".join(PUBLISHED)}) and not a shipped model ({exc})'
        ) from exc


def spec_of_start(weights: Path) -> 'ModelSpec | None':
    """Return the spec of the model or checkpoint that training starts from.

    None for published weights.
    """
    from mnv2_perception.errors import ModelError
    from mnv2_perception.nets.checkpoint import load_checkpoint
    from mnv2_perception.tasks.onnx_spec import read_spec

    try:
        return read_spec(weights) if weights.suffix == '.onnx' else load_checkpoint(weights).spec
    except ModelError:  # from another program: it has no spec
        return None


def licence_of_start(start: 'ModelSpec', spec: 'ModelSpec') -> str:
    """Return which terms of the initial model's licence the spec does not state; empty if none."""
    if (start.licence, start.attribution) in (
        (spec.licence, spec.attribution), (spec.licence, '')
    ):
        return ''
    names = f', with the attribution "{start.attribution}"' if start.attribution else ''
    return (
        f'says licence {spec.licence}, but the run starts from {start.name}, whose licence is '
        f'{start.licence}{names}; write that into the file, unless you know better'
    )


def classes_of_start(start: 'ModelSpec', spec: 'ModelSpec') -> str:
    """Return how the classes of an adopted head differ from the spec's; otherwise empty.

    A head is adopted if it has the same number of classes.
    """
    alike = start.task == spec.task and len(start.classes) == len(spec.classes)
    if not alike or start.classes == spec.classes:
        return ''
    return (
        f'has the classes {", ".join(spec.classes)}, but the head of {start.name}, which the run '
        f'starts from, has {", ".join(start.classes)}: each class starts from the one at its '
        f'position; if both have the same names, use the same order'
    )


def fetch_command(arguments: argparse.Namespace) -> None:
    """Print the path of published weights, or the list of them; progress goes to stderr."""
    from mnv2_perception.training.fetch import cache_folder, fetch, list_published

    if arguments.name is None:
        print(list_published())
        return

    def show(done: int, total: int) -> None:
        whole = f' of {total / 1e6:.1f}' if total else ''
        end = '\n' if done == total else '\r'
        print(f'{arguments.name}: {done / 1e6:.1f}{whole} MB', end=end, file=sys.stderr)

    progress = show if sys.stderr.isatty() else None
    print(fetch(arguments.name, arguments.cache or cache_folder(), progress))


def train_command(arguments: argparse.Namespace) -> None:
    """Train a network, and measure the result if there are validation images."""
    from mnv2_perception.training.recipe import RECIPES

    try:
        task = importlib.import_module(f'mnv2_perception.training.{arguments.task}')
    except ImportError as exc:
        raise SetupError(
            'training needs torch, tqdm and matplotlib '
            + not_loaded(exc, 'run `make setup-train`')
        ) from exc
    from mnv2_perception.model_spec import ModelSpec

    spec = ModelSpec.from_yaml(arguments.spec)
    if spec.task != arguments.task:
        raise SetupError(
            f'{arguments.spec}: is for {spec.task}; give a --spec for {arguments.task}'
        )
    recipe_type = RECIPES[arguments.task]
    recipe = recipe_type(
        **{item.name: getattr(arguments, item.name) for item in fields(recipe_type)}
    )
    weights = None if arguments.weights is None else find_weights(arguments.weights)
    start = spec_of_start(weights) if weights else None
    for told in (licence_of_start(start, spec), classes_of_start(start, spec)) if start else ():
        if told:
            print(f'{arguments.spec}: {told}', file=sys.stderr)
    last = arguments.out / 'last.pt'
    with told_how_to_go_on(last, recipe):
        best = task.train(
            arguments.data, arguments.out, spec, recipe, weights, arguments.val,
            arguments.resume, arguments.workers,
        )
    if arguments.val:
        print(f'best on {arguments.val}: {best:.3f}')
    checkpoint = arguments.out / 'best.pt' if arguments.val else last
    if arguments.val:
        report_run(checkpoint, arguments.val, arguments.out)
    print(f'{command_name()} export {checkpoint} {spec.name}.onnx')


@contextmanager
def told_how_to_go_on(last: Path, recipe: 'Recipe') -> Iterator[None]:
    """Tell the user how to resume after Ctrl-C, a full disk or lack of memory ends a training.

    Args:
        last: checkpoint from which the run can be resumed, if an epoch is finished.
        recipe: hyperparameters of the run.

    Raises:
        SetupError: the disk is full, or there is not enough memory.
    """
    def how_on() -> str:
        if last.exists():
            return (
                f'{last} has the finished epochs: the same command with --resume continues from '
                f'there'
            )
        return 'no epoch was finished'

    try:
        yield
    except KeyboardInterrupt:
        print(f'\nstopped; {how_on()}', file=sys.stderr)
        raise
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SetupError(
            f'{last.parent}: cannot be written: {exc.strerror}; free some space; {how_on()}'
        ) from exc
    except (MemoryError, RuntimeError) as exc:
        told = str(exc)
        if not isinstance(exc, MemoryError) and not any(text in told for text in NO_MEMORY):
            raise
        crops = ' or smaller crops' if hasattr(recipe, 'crop_height') else ''
        raise SetupError(
            f'not enough memory: {told.splitlines()[0] if told else "nothing is left"}; give a '
            f'smaller --batch than {recipe.batch}{crops}, or smaller pictures'
        ) from exc


def report_run(checkpoint: Path, val: Path, out: Path) -> None:
    """Evaluate a run's best weights after export, like `mnv2 evaluate --out`.

    Problems are only printed: they do not affect the run.
    """
    from mnv2_perception.errors import PerceptionError

    try:
        from mnv2_perception.evaluation.evaluate import evaluate_model
        from mnv2_perception.evaluation.report import write_report
        from mnv2_perception.nets.export import export_model
        from mnv2_perception.tasks.models import opening

        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder, 'best.onnx')
            export_model(checkpoint, model)
            with opening(model) as (engine, spec):
                write_report(out, engine, spec, val, evaluate_model(engine, spec, val))
            engine.close()
    except (ImportError, PerceptionError) as exc:
        print(f'{out}: confusion matrix and worst pictures could not be made: '
              f'{exc}', file=sys.stderr)
        return
    print(f'{out}: results.json, confusion.png and the worst pictures in worst/')


def export_command(arguments: argparse.Namespace) -> None:
    """Write a checkpoint as ONNX, or as an exported program of torch."""
    try:
        from mnv2_perception.nets.export import export_model
    except ImportError as exc:
        raise SetupError(
            'export needs torch and onnx ' + not_loaded(exc, 'run `make setup-train`')
        ) from exc

    from mnv2_perception.engines.verified import int8_beside

    check_output(arguments.model, arguments.force, [arguments.checkpoint], ['.onnx', '.pt2'])
    print(f'{arguments.model}: {export_model(arguments.checkpoint, arguments.model)}')
    int8 = int8_beside(arguments.model)
    if arguments.model.suffix == '.onnx' and int8.is_file():
        print(
            f'{int8}: belongs to an earlier {arguments.model.name}; make it again: '
            f'{command_name()} quantize {arguments.model} --calibrate IMAGES '
            f'--force', file=sys.stderr,
        )
