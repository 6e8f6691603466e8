"""`mnv2`: everything that needs no ROS graph, and the way to the nodes that do."""

import argparse
from collections.abc import Mapping
from dataclasses import fields
import importlib
import importlib.util
import json
import logging
import os
from pathlib import Path
import signal
import sys
from typing import Any, get_args, get_type_hints

import cv2

from mnv2_perception.engines import ENGINES, PRECISIONS
from mnv2_perception.engines.quantize import TOLERANCE
from mnv2_perception.errors import command_name, PerceptionError, SetupError

DEFAULT_MODEL = 'unet_mobilenetv2_camvid_fast'
MOST_ITEMS_SHOWN = 50
TASKS = (
    ('segmentation', 'Train a UNet.', 'holds images/*.jpg and labels/*.png', 'camvid.yaml'),
    ('classification', 'Train a classifier.', 'a folder for each class, or a TSV',
     'camvid_surface.yaml'),
    ('detection', 'Train an SSDLite.', "boxes in COCO's JSON", 'camvid_boxes.yaml'),
)
WEIGHTS_HELP = """what the network starts from: torchvision's ImageNet weights (.pth), a checkpoint
(.pt) or an exported model (.onnx) of the family; of its head, what fits"""
PRECISION_HELP = f'auto, {", ".join(PRECISIONS)}'
BAG_NODES = {'play': 'bag_player_node', 'record': 'bag_recorder_node'}


def main(args: list[str] | None = None) -> int:
    """Run a command; return the exit code: 0, 1 after an error that was told, 2 for usage."""
    args = sys.argv[1:] if args is None else args
    try:
        if len(args) >= 2 and args[0] == 'bag' and args[1] in BAG_NODES:
            run_node(BAG_NODES[args[1]], args[2:])
        arguments = build_parser().parse_args(args)
        arguments.command(arguments)
    except PerceptionError as exc:
        print(f'error: {exc}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def run_node(name: str, args: list[str]) -> None:
    """Become a node's process, so that signals reach it as if it had been started itself.

    Raises:
        SetupError: rclpy is missing.
    """
    check_rosbags()
    if importlib.util.find_spec('rclpy') is None:
        raise SetupError('this needs ROS 2: run `make setup`, or source a ROS distro')
    os.execv(sys.executable, [sys.executable, '-m', f'mnv2_perception.nodes.{name}', *args])


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=command_name(), description='Camera perception with the MobileNetV2 family.'
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    def add(name: str, command: Any, description: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=description, description=description)
        sub.set_defaults(command=command)
        return sub

    demo = add('demo', demo_command, 'Replay a bag through the live nodes and report.')
    demo.add_argument('--bag', type=Path, help='the bag (default: one that is drawn)')
    demo.add_argument('--topic', default='', help='image topic (default: the first)')
    demo.add_argument('--out', type=Path, default=Path('out/demo'), help='(%(default)s)')
    for option, value, meaning in (
        ('height', 1.5, 'metres above flat ground'),
        ('pitch', 0.0, 'radians, positive looks down'),
        ('fov', 0.9, 'horizontal field of view, radians, where the bag has no camera_info'),
    ):
        demo.add_argument(
            f'--camera-{option}', type=float, default=value, metavar=option.upper(),
            help=f"of the bag's camera, for the grid: {meaning} (%(default)s)",
        )
    add_model_options(demo, option=True)

    info = add('info', info_command, 'Say what a model takes, gives and lacks.')
    info.add_argument('model', help='path, or name of a shipped model')
    info.add_argument('--json', action='store_true')

    run = add(
        'run', run_command,
        'Segment one picture or find the objects in it and write the overlay, or classify it and '
        'print the five likeliest.',
    )
    run.add_argument('image', type=Path, help='a picture file')
    run.add_argument('--out', type=Path, default=Path('overlay.png'), help='(%(default)s)')
    run.add_argument('--mask', type=Path, help="also write a segmentation's class ids, as PNG")
    run.add_argument(
        '--min-confidence', type=float, default=0.0, help='of pixels, 0 to 1 (%(default)s)'
    )
    run.add_argument(
        '--min-score', type=float, default=0.3, help='of boxes, 0 to 1 (%(default)s)'
    )
    add_model_options(run, option=True)
    run.add_argument('--precision', default='auto', help=PRECISION_HELP)

    evaluate = add('evaluate', evaluate_command, 'Measure accuracy on labelled images.')
    add_model_options(evaluate, option=False)
    evaluate.add_argument('--precision', default='auto', help=PRECISION_HELP)
    evaluate.add_argument(
        'data', type=Path,
        help='segmentation: holds images/*.jpg and labels/*.png; classification: holds '
        "CLASS/*.jpg, or a TSV file of images and labels; detection: boxes in COCO's JSON, which "
        "also measures the objects in a segmentation's masks",
    )
    evaluate.add_argument('--json', action='store_true')

    boxes = add('boxes', boxes_command, "Write the boxes around masks' objects as COCO JSON.")
    boxes.add_argument('folder', type=Path, help='holds images/*.jpg and labels/*.png')
    boxes.add_argument('--classes', nargs='+', required=True, help='names of those to look for')
    boxes.add_argument('--out', type=Path, required=True, help='the .json file to write')
    boxes.add_argument(
        '--spec', type=Path, default=Path(__file__).parents[1] / 'training/camvid.yaml',
        help="YAML whose classes are the masks' (default: CamVid)",
    )
    boxes.add_argument(
        '--min-area', type=int, default=40,
        help='pixels; smaller ones are marked to be ignored (%(default)s)',
    )

    patches = add('patches', patches_command, 'Cut windows, labelled by masks, for a classifier.')
    patches.add_argument('folder', type=Path, help='holds images/*.jpg and labels/*.png')
    patches.add_argument(
        '--groups', nargs='+', required=True, metavar='CLASS=NAME,NAME',
        help='classes of the windows, and the classes of the masks that each is made of',
    )
    patches.add_argument('--out', type=Path, required=True, help='folder for labels.tsv, images/')
    patches.add_argument(
        '--spec', type=Path, default=Path(__file__).parents[1] / 'training/camvid.yaml',
        help="YAML whose classes are the masks' (default: CamVid)",
    )
    patches.add_argument('--height', type=int, default=192, help='of a window (%(default)s)')
    patches.add_argument('--width', type=int, default=256, help='of a window (%(default)s)')
    patches.add_argument('--top', type=int, default=48, help='row of the first (%(default)s)')
    patches.add_argument('--step', type=int, default=56, help='pixels between (%(default)s)')
    patches.add_argument('--per-class', type=int, default=0, help='at most; 0 keeps all')

    bag = add('bag', None, 'Play, record or draw bags, without `ros2 bag`.')
    bag_commands = bag.add_subparsers(metavar='COMMAND', required=True)
    for name, what in (('play', 'Play a bag with /clock.'), ('record', 'Record topics.')):
        bag_commands.add_parser(name, help=what)  # main() hands these over whole
    draw = bag_commands.add_parser('draw', help='Draw a drive through a street, with labels.')
    draw.set_defaults(command=draw_command)
    draw.add_argument('out', type=Path, help="the new bag's folder")
    draw.add_argument('--seed', type=int, default=7, help='one seed is one drive (%(default)s)')
    draw.add_argument('--seconds', type=float, default=6.0, help='(%(default)s)')
    draw.add_argument('--rate-hz', type=float, default=15.0, help='(%(default)s)')
    draw.add_argument('--height', type=int, default=360, help='(%(default)s)')
    draw.add_argument('--width', type=int, default=480, help='(%(default)s)')

    build = add('build', build_command, 'Build the TensorRT plan of a model.')
    build.add_argument('model', help='path, or name of a shipped model')
    build.add_argument(
        '--precision', choices=('fp32', 'fp16', 'int8'),
        help='(default: fp16, or what the file holds)',
    )
    build.add_argument('--dla', type=int, metavar='N', help='DLA core; fp16 only; untested')
    build.add_argument(
        '--batch', type=int, default=1,
        help='images in one inference, such as one of each camera (%(default)s)',
    )
    build.add_argument(
        '--cache', type=Path, help='folder of the plans (default: where the nodes look)'
    )
    build.add_argument(
        '--timing-cache', type=Path, help='file of kernel timings (default: in the folder)'
    )

    quantize = add('quantize', quantize_command, 'Write a model in int8, for every runtime.')
    quantize.add_argument('model', help='path, or name of a shipped model, in fp32')
    quantize.add_argument(
        '--calibrate', type=Path, required=True, metavar='IMAGES|BAG',
        help='folder of images, or bag, like what it will see; not those it is measured on',
    )
    quantize.add_argument(
        '--labels', type=Path, metavar='DATA',
        help='measure on them before and after, as `evaluate` does',
    )
    quantize.add_argument('--out', type=Path, help='(default: MODEL_int8.onnx)')
    quantize.add_argument(
        '--images', type=int, default=100, help='how many to calibrate with (%(default)s)'
    )
    quantize.add_argument(
        '--tolerance', type=float, default=TOLERANCE,
        help='error that leaves no more layers in float (%(default)s)',
    )
    quantize.add_argument('--json', action='store_true')

    benchmark = add(
        'benchmark', benchmark_command, 'Time models in every engine, all taking turns.'
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
    benchmark.add_argument('--height', type=int, default=480, help='of that (%(default)s)')
    benchmark.add_argument('--width', type=int, default=640, help='of that (%(default)s)')
    benchmark.add_argument('--runs', type=int, default=50, help='(%(default)s)')
    benchmark.add_argument('--threads', type=int, default=0, help='0: one for each core')
    benchmark.add_argument('--json', action='store_true')

    fetch = add('fetch', fetch_command, 'Fetch published ImageNet weights, for --weights.')
    fetch.add_argument('name', nargs='?', help='(default: list the names)')
    fetch.add_argument('--cache', type=Path, help='folder (default: that of $XDG_CACHE_HOME)')

    train = add('train', None, 'Train a network.')
    tasks = train.add_subparsers(metavar='TASK', required=True)
    for task, help_text, data_help, spec in TASKS:
        sub = tasks.add_parser(task, help=help_text, description=help_text)
        sub.set_defaults(command=train_command, task=task)
        sub.add_argument('data', type=Path, help=data_help)
        sub.add_argument('--out', type=Path, required=True, help='folder of the run')
        sub.add_argument('--val', type=Path, help='the same, to measure on only')
        sub.add_argument('--weights', type=Path, help=WEIGHTS_HELP)
        sub.add_argument(
            '--spec', type=Path, default=Path(__file__).parents[1] / 'training' / spec,
            help='YAML with classes, colours, size, licence (default: CamVid)',
        )
        sub.add_argument('--resume', action='store_true', help='go on with a broken-off run')
        sub.add_argument(
            '--workers', type=int, default=0, help='processes that read and augment (%(default)s)'
        )
        add_recipe_options(sub, task)

    export = add('export', export_command, 'Write a checkpoint as a model with its ModelSpec.')
    export.add_argument('checkpoint', type=Path)
    export.add_argument('model', type=Path, help='the .onnx file to write, or .pt2 for torch')
    return parser


def add_model_options(parser: argparse.ArgumentParser, option: bool) -> None:
    """Add the choice of model, engine and threads; `option` makes the model optional."""
    if option:
        parser.add_argument('--model', default=DEFAULT_MODEL, help='path or name (%(default)s)')
    else:
        parser.add_argument('model', help='path, or name of a shipped model')
    parser.add_argument('--engine', default='auto', help=f'auto, {", ".join(ENGINES)}')
    parser.add_argument('--threads', type=int, default=0, help='0: one for each core')


def add_recipe_options(parser: argparse.ArgumentParser, task: str) -> None:
    """Add an option for each field of a task's training recipe."""
    from mnv2_perception.training.recipe import RECIPES

    hints = get_type_hints(RECIPES[task])
    for item in fields(RECIPES[task]):
        parser.add_argument(
            f'--{item.name.replace("_", "-")}', type=type(item.default), default=item.default,
            choices=get_args(hints[item.name]) or None, help='(%(default)s)',
        )


def check_rosbags() -> None:
    """Raise SetupError unless rosbags is installed; no distro packages it."""
    if importlib.util.find_spec('rosbags') is None:
        raise SetupError('bags need rosbags: pip install rosbags, or run `make setup`')


def table(values: Mapping[str, Any]) -> str:
    """Return names and values in two columns; inner mappings as `outer.inner`."""
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        inner = value.items() if isinstance(value, Mapping) else [('', value)]
        rows += [(f'{key}.{name}' if name else key, item) for name, item in inner]
    width = max(len(key) for key, _ in rows)
    return '\n'.join(
        f'{key:<{width}}  ' + (f'{value:.3f}' if isinstance(value, float) else str(value))
        for key, value in rows
    )


def demo_command(arguments: argparse.Namespace) -> None:
    """Run the demo and print its table."""
    check_rosbags()
    from mnv2_perception.demo.run import AssumedCamera, run_demo

    summary = run_demo(
        arguments.out, arguments.bag, arguments.topic, arguments.model, arguments.engine,
        arguments.threads,
        AssumedCamera(arguments.camera_height, arguments.camera_pitch, arguments.camera_fov),
    )
    print(table(summary))
    pictures = sorted(arguments.out.glob('frame_*.png'))
    print(
        f'\n{arguments.out}: summary.json, masks.mcap, {len(pictures)} pictures '
        f'({pictures[0].name} …)'
    )


def info_command(arguments: argparse.Namespace) -> None:
    """Print a model's tensors and ModelSpec, and what is missing; draft a spec where it has none.

    Raises:
        ModelError: the model has no spec, or one that contradicts it.
    """
    from dataclasses import asdict

    from mnv2_perception.engines import open_engine
    from mnv2_perception.errors import ModelError
    from mnv2_perception.model_spec import METADATA_KEY, ModelSpec, TO_FILL_IN
    from mnv2_perception.tasks.contract import check_model
    from mnv2_perception.tasks.model_info import draft_yaml, missing_facts
    from mnv2_perception.tasks.models import find_model

    path = find_model(arguments.model)
    with open_engine(path) as engine:
        facts: dict[str, Any] = {
            'file': str(path),
            'takes': [str(tensor) for tensor in engine.inputs],
            'gives': [str(tensor) for tensor in engine.outputs],
        }
        try:
            spec = ModelSpec.from_metadata(engine.metadata, path)
            check_model(engine, spec)
        except ModelError:
            beside, draft = path.with_suffix('.yaml'), ''
            if METADATA_KEY not in engine.metadata and not beside.exists():
                draft, facts['lacks'] = draft_yaml(engine, path.stem)
            print_facts(facts, arguments.json)
            if draft and not arguments.json:
                print(f'\n# {beside.name}: fill in each {TO_FILL_IN}\n{draft}')
            raise
    print_facts({**facts, **asdict(spec), 'lacks': missing_facts(spec)}, arguments.json)


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print what `mnv2 info` found."""
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


def run_command(arguments: argparse.Namespace) -> None:
    """Segment or classify one picture, or find the objects in it."""
    from mnv2_perception.errors import ImageError
    from mnv2_perception.tasks.classifier import Classifier
    from mnv2_perception.tasks.detector import Detector
    from mnv2_perception.tasks.models import opening
    from mnv2_perception.tasks.segmenter import Segmenter
    from mnv2_perception.vision.overlay import blend_mask, draw_boxes, draw_legend

    if not arguments.image.is_file():
        raise ImageError(f'{arguments.image}: there is no such file')
    if arguments.mask and arguments.mask.suffix.lower() != '.png':
        raise ImageError(f'{arguments.mask}: class ids need a lossless file; end it in .png')
    picture = cv2.imread(str(arguments.image), cv2.IMREAD_COLOR)
    if picture is None:
        raise ImageError(f'{arguments.image}: is no readable picture')
    image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    with opening(
        arguments.model, arguments.engine, arguments.threads, precision=arguments.precision
    ) as (engine, spec):
        if arguments.mask and spec.task != 'segmentation':
            raise ImageError(
                f'{arguments.mask}: {spec.name} is for {spec.task} and makes no mask; '
                f'leave out --mask'
            )
        if spec.task == 'classification':
            classifier = Classifier(engine, spec, min_confidence=arguments.min_confidence)
            classified = classifier(image)
            for class_id, score in zip(classified.class_ids, classified.scores, strict=True):
                print(f'{score:.3f}  {spec.classes[class_id]}')
            return
        if spec.task == 'detection':
            found = Detector(engine, spec, arguments.min_score)(image)
            overlay = draw_boxes(
                image, found.boxes, found.scores, found.class_ids, spec.classes, spec.colours
            )
            write_picture(arguments.out, cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
            return
        result = Segmenter(engine, spec, arguments.min_confidence)(image)
    overlay = draw_legend(
        blend_mask(image, result.class_ids, spec.colours), spec.classes, spec.colours
    )
    write_picture(arguments.out, cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
    if arguments.mask:
        write_picture(arguments.mask, result.class_ids)


def write_picture(path: Path, picture: Any) -> None:
    """Write a picture file and say so.

    Raises:
        ImageError: the folder is missing, or OpenCV does not know the file's ending.
    """
    from mnv2_perception.errors import ImageError

    try:
        written = cv2.imwrite(str(path), picture)
    except cv2.error as exc:
        raise ImageError(f'{path}: OpenCV cannot write it ({exc.err}); end it in .png') from exc
    if not written:
        raise ImageError(f'{path}: cannot be written; does its folder exist?')
    print(path)


def evaluate_command(arguments: argparse.Namespace) -> None:
    """Measure accuracy, of what the model is for."""
    from mnv2_perception.evaluation.evaluate import evaluate_model
    from mnv2_perception.tasks.models import opening

    with opening(
        arguments.model, arguments.engine, arguments.threads, precision=arguments.precision
    ) as (engine, spec):
        result = evaluate_model(engine, spec, arguments.data)
    print(json.dumps(result, indent=2) if arguments.json else table(result))


def boxes_command(arguments: argparse.Namespace) -> None:
    """Write boxes around the objects of masks."""
    from mnv2_perception.data.coco import write_coco
    from mnv2_perception.data.from_masks import boxes_from_labels
    from mnv2_perception.errors import DataError
    from mnv2_perception.model_spec import ModelSpec

    names = ModelSpec.from_yaml(arguments.spec).classes
    if unknown := [name for name in arguments.classes if name not in names]:
        raise DataError(
            f'{arguments.spec} has no class {", ".join(unknown)}; it has {", ".join(names)}; '
            f"give --spec with the masks' classes"
        )
    class_ids = [names.index(name) for name in arguments.classes]
    samples = boxes_from_labels(arguments.folder, class_ids, arguments.min_area)
    write_coco(arguments.out, arguments.classes, samples)
    count, ignored = (sum(map(len, boxes)) for boxes in (
        [sample.boxes for sample in samples], [sample.ignored for sample in samples]
    ))
    print(f'{arguments.out}: {count} boxes in {len(samples)} images, {ignored} more to ignore')


def patches_command(arguments: argparse.Namespace) -> None:
    """Cut labelled windows out of labelled images."""
    from mnv2_perception.data.from_masks import write_patches
    from mnv2_perception.errors import DataError
    from mnv2_perception.model_spec import ModelSpec

    names = ModelSpec.from_yaml(arguments.spec).classes
    groups = {}
    for group in arguments.groups:
        name, equals, parts = group.partition('=')
        if not equals:
            raise DataError(f'--groups {group}: expected CLASS=NAME,NAME such as wall=door,fence')
        for part in parts.split(','):
            if part not in names:
                raise DataError(
                    f'--groups {group}: {arguments.spec} has no class {part!r}; it has '
                    f"{', '.join(names)}; give --spec with the masks' classes"
                )
        groups[name] = [names.index(part) for part in parts.split(',')]
    counts = write_patches(
        arguments.folder, arguments.out, groups, (arguments.height, arguments.width),
        arguments.top, arguments.step, arguments.per_class,
    )
    listed = ', '.join(f'{count} {name}' for name, count in counts.items())
    print(f'{arguments.out}/labels.tsv: {listed}')


def draw_command(arguments: argparse.Namespace) -> None:
    """Draw a bag."""
    check_rosbags()
    from mnv2_perception.scenes.bag import draw_bag

    draw_bag(
        arguments.out, arguments.seed, arguments.seconds, arguments.rate_hz, arguments.height,
        arguments.width,
    )
    print(arguments.out)


def build_command(arguments: argparse.Namespace) -> None:
    """Build a TensorRT plan and print its path; progress goes to stderr."""
    from mnv2_perception.engines import plans
    from mnv2_perception.engines.build import build_plan, Options, TensorRTBuilder
    from mnv2_perception.tasks.models import find_model

    logging.basicConfig(level=logging.INFO, format='%(message)s')
    # TensorRT comes back to Python when it is done, minutes later; nothing is left half-written.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    model = find_model(arguments.model)
    folder = (arguments.cache or plans.cache_folder()).absolute()
    plan = build_plan(
        model, Options(arguments.precision or '', arguments.dla, arguments.batch), folder,
        TensorRTBuilder(model, folder, arguments.timing_cache),
    )
    print(folder / plan.key.file_name(model))


def quantize_command(arguments: argparse.Namespace) -> None:
    """Write a model in int8; progress goes to stderr."""
    from mnv2_perception.data.images import spread_images
    from mnv2_perception.engines.quantize import quantize_model
    from mnv2_perception.evaluation.evaluate import evaluate_model, HEADLINE
    from mnv2_perception.tasks.models import find_model, opening
    from mnv2_perception.tasks.pipeline import input_tensor
    from mnv2_perception.vision.preprocess import fit_image

    path = find_model(arguments.model)
    out = arguments.out or Path(f'{path.stem}_int8.onnx')

    def show(what: str, done: int, of: int) -> None:
        print(f'{what}: {done} of {of}', end='\n' if done == of else '\r', file=sys.stderr)

    def quiet(*_: object) -> None:
        """Say nothing."""

    with opening(path, 'onnx_runtime') as (engine, spec):
        dtype = engine.inputs[0].dtype
    engine.close()
    tensors = [
        input_tensor(fit_image(image, spec.height, spec.width, spec.fit), spec, dtype)
        for image in spread_images(arguments.calibrate, arguments.images)
    ]
    done = quantize_model(
        path, out, tensors, arguments.tolerance, show if sys.stderr.isatty() else quiet
    )
    facts: dict[str, Any] = {
        'file': str(out), 'images': len(tensors), 'layers_int8': done.layers,
        'layers_float': done.kept, 'error': done.error, 'error_all_int8': done.error_of_all,
    }
    if arguments.labels:
        for name, model in (('before', path), ('after', out)):
            with opening(model) as (engine, spec):
                result = evaluate_model(engine, spec, arguments.labels)
            engine.close()
            facts[name] = {
                key: value for key, value in result.items() if key in HEADLINE.values()
            }
    print(json.dumps(facts, indent=2) if arguments.json else table(facts))


def benchmark_command(arguments: argparse.Namespace) -> None:
    """Time models in every engine."""
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


def fetch_command(arguments: argparse.Namespace) -> None:
    """Print the path of published weights, or what there is; progress goes to stderr."""
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
    """Train a network."""
    from mnv2_perception.training.recipe import RECIPES

    try:
        task = importlib.import_module(f'mnv2_perception.training.{arguments.task}')
    except ImportError as exc:
        raise SetupError(
            f'training needs torch, tqdm and matplotlib ({exc}): run `make setup-train`'
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
    best = task.train(
        arguments.data, arguments.out, spec, recipe, arguments.weights, arguments.val,
        arguments.resume, arguments.workers,
    )
    if arguments.val:
        print(f'best on {arguments.val}: {best:.3f}')
    checkpoint = arguments.out / ('best.pt' if arguments.val else 'last.pt')
    print(f'{command_name()} export {checkpoint} {spec.name}.onnx')


def export_command(arguments: argparse.Namespace) -> None:
    """Write a checkpoint as ONNX, or as torch's exported program."""
    try:
        from mnv2_perception.nets.export import export_model
    except ImportError as exc:
        raise SetupError(f'export needs torch and onnx ({exc}): run `make setup-train`') from exc

    print(f'{arguments.model}: {export_model(arguments.checkpoint, arguments.model)}')
