"""Options that several commands share: ranges of numbers, the choice of a model, output files."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
import importlib.util
import math
import os
from pathlib import Path
from typing import Any, TYPE_CHECKING

from mnv2_perception.engines import ENGINES, PRECISIONS
from mnv2_perception.errors import SetupError
from mnv2_perception.tasks.models import SEGMENTATION_MODEL

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

CAMVID = Path(__file__).parents[1] / 'training/camvid.yaml'
MODEL_HELP = 'path of a model, or name of a shipped model'
ENGINE_HELP = f'runtime: auto, {", ".join(ENGINES)} (default: auto)'
THREADS_HELP = 'CPU threads; 0: one per core (default: 0)'
PRECISION_HELP = (
    'precision of the computation; auto: the fastest one that the model was verified for, '
    'otherwise fp32 (default: auto)'
)
PAIRS_HELP = 'data folder with images/*.jpg and labels/*.png'
RECORDING_HELP = 'one or more bags, merged by time; or a folder of pictures; or a video file'
TOPIC_HELP = 'image topic of the bag (default: the topic that looks most like a camera)'
FPS_HELP = (
    'frames per second, of a folder of pictures or of a video that states a wrong rate '
    '(default: 10 for pictures, the stated rate for a video)'
)
MIN_CONFIDENCE_HELP = 'pixels with a lower confidence get no class, 0 to 1 (default: %(default)s)'
MIN_SCORE_HELP = 'boxes with a lower score are left out, 0 to 1 (default: %(default)s)'


@dataclass(frozen=True)
class Number:
    """The type of an option: a finite number within a range; otherwise argparse reports an error.

    Attributes:
        kind: int or float.
        low: smallest allowed value.
        high: largest allowed value.
        above: whether `low` itself is not allowed.
    """

    kind: type[int] | type[float]
    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __call__(self, text: str) -> int | float:
        """Parse the option's value.

        Raises:
            ArgumentTypeError: the text is no such number.
        """
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        inside = self.low <= value <= self.high and not (self.above and value == self.low)
        if not (inside and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f'got {text[:40]!r}, expected {self}')
        return value

    def __str__(self) -> str:
        kind = 'a whole number' if self.kind is int else 'a number'
        if self.low == -math.inf and self.high == math.inf:
            return kind
        if self.above:
            return f'{kind} above {self.low:g}' + (
                f', {self.high:g} at most' if self.high < math.inf else ''
            )
        if self.high == math.inf:
            return f'{kind} of {self.low:g} or more'
        return f'{kind} from {self.low:g} to {self.high:g}'


FRACTION = Number(float, 0.0, 1.0)
COUNT = Number(int, 0, 1_000_000_000)  # 0 means none, or no limit
AT_LEAST_ONE = Number(int, 1, 1_000_000_000)
THREADS = Number(int, 0, 256)
PIXELS = Number(int, 1, 16384)  # height or width


def add_command(
    commands: 'Commands', name: str, command: Callable[[argparse.Namespace], int | None],
    about: str, more: str = '',
) -> argparse.ArgumentParser:
    """Add a command and the function that it calls; return its parser.

    Args:
        commands: subcommands of the parent parser.
        name: name of the command.
        command: function that returns the exit code; None means 0.
        about: one line for the list of commands and for the command's own help.
        more: further text for the command's own help only.
    """
    parser = commands.add_parser(name, help=about, description=f'{about} {more}'.strip())
    parser.set_defaults(command=command)
    return parser


def add_model_options(
    parser: argparse.ArgumentParser, optional: bool, precision: bool = True
) -> None:
    """Add options for model, engine, threads, precision; `optional`: the model has a default."""
    if optional:
        parser.add_argument(
            '--model', default=SEGMENTATION_MODEL, help=f'{MODEL_HELP} (default: %(default)s)'
        )
    else:
        parser.add_argument('model', help=MODEL_HELP)
    parser.add_argument('--engine', default='auto', help=ENGINE_HELP)
    parser.add_argument('--threads', type=THREADS, default=0, help=THREADS_HELP)
    if precision:
        parser.add_argument(
            '--precision', default='auto', choices=('auto', *PRECISIONS), help=PRECISION_HELP
        )


def add_masks_spec(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the classes of masks."""
    parser.add_argument(
        '--spec', default=str(CAMVID), metavar='FILE|MODEL',
        help='YAML file or model that names the classes of the masks (default: CamVid)',
    )


def add_label_classes(parser: argparse.ArgumentParser) -> None:
    """Add options for the labels' classes, and for their relation to the model's."""
    parser.add_argument(
        '--spec', metavar='FILE|MODEL',
        help="YAML file or model that names the classes of the labels (default: the model's own)",
    )
    parser.add_argument(
        '--map', nargs='+', default=[], metavar='LABEL=CLASSES',
        help='compare a class of the labels with these classes of the model, such as '
        'floor=road,pavement. Other classes are compared by name. Classes left over on either '
        'side count as wrong and are not part of a mean',
    )


def label_classes(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the labels' classes as given by `--spec`; empty without this option."""
    return classes_of(arguments.spec) if arguments.spec is not None else ()


def classes_of(spec: str) -> tuple[str, ...]:
    """Return the classes of a YAML file, or of a model given by path or name."""
    from mnv2_perception.model_spec import ModelSpec
    from mnv2_perception.tasks.models import opening

    if Path(spec).suffix in ('.yaml', '.yml'):
        return ModelSpec.from_yaml(Path(spec)).classes
    with opening(spec) as (engine, known):
        engine.close()
    return known.classes


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the option that allows files to be replaced."""
    parser.add_argument('--force', action='store_true', help='replace existing output files')


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints JSON."""
    parser.add_argument('--json', action='store_true', help='print the result as JSON')


def check_output(
    path: Path, force: bool, inputs: Iterable[Path] = (), suffixes: Sequence[str] = ()
) -> None:
    """Check before the work begins that a file can be written and may be replaced.

    Args:
        path: path of the file.
        force: whether it may be replaced; never if the command reads it.
        inputs: other files that the command reads or writes.
        suffixes: allowed suffixes; empty for any.

    Raises:
        SetupError: it cannot be written, or must not be replaced.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise SetupError(f'{path}: expected a file name that ends in {" or ".join(suffixes)}')
    if not path.parent.is_dir():
        raise SetupError(f'{path}: its folder does not exist; create it first')
    if path.is_dir():
        raise SetupError(f'{path}: is a folder, expected a file; name a file in it')
    if path.resolve() in [each.resolve() for each in inputs]:
        raise SetupError(f'{path}: is named twice; give each output a file of its own')
    if path.is_file() and not force:
        raise SetupError(f'{path}: exists; choose another file, or replace it with --force')
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SetupError(f'{path}: cannot be written; choose another folder')


def check_rosbags() -> None:
    """Check that rosbags is installed; no distro packages it.

    Raises:
        SetupError: it is not.
    """
    if importlib.util.find_spec('rosbags') is None:
        raise SetupError('bags need rosbags: pip install rosbags, or run `make setup`')


def table(values: dict[str, Any]) -> str:
    """Return names and values in two columns; inner mappings appear as `outer.inner`."""
    rows = list(_flat(values))
    width = max(len(key) for key, _ in rows)
    return '\n'.join(
        f'{key:<{width}}  ' + (f'{value:.3f}' if isinstance(value, float) else str(value))
        for key, value in rows
    )


def _flat(values: dict[str, Any], outer: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{outer}{key}.')
        else:
            yield f'{outer}{key}', value
