"""`mnv2 run|evaluate`: run a model on a picture, or measure it on labelled ones."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mnv2_perception.cli.options import (
    add_command,
    add_force,
    add_label_classes,
    add_model_options,
    check_output,
    check_rosbags,
    FRACTION,
    label_classes,
    MIN_SCORE_HELP,
    table,
    TOPIC_HELP,
)
from mnv2_perception.errors import command_name, ImageError

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands


def add(commands: 'Commands') -> None:
    """Add the commands."""
    run = add_command(
        commands, 'run', run_command,
        'Run a model on one picture.',
        'Segmentation and detection write an overlay; classification prints the five most likely '
        'classes.',
    )
    run.add_argument('image', type=Path, help='a picture file')
    run.add_argument(
        '--out', type=Path, default=Path('overlay.png'), metavar='FILE',
        help='the overlay to write (default: %(default)s)',
    )
    run.add_argument(
        '--mask', type=Path, metavar='FILE',
        help='segmentation: also write the class ids to this PNG file',
    )
    run.add_argument(
        '--min-confidence', type=FRACTION, default=0.0,
        help='pixels with a lower confidence get no class, and classes with a lower probability '
        'are not printed, 0 to 1 (default: %(default)s)',
    )
    run.add_argument('--min-score', type=FRACTION, default=0.3, help=MIN_SCORE_HELP)
    add_model_options(run, optional=True)
    add_force(run)

    evaluate = add_command(
        commands, 'evaluate', evaluate_command, 'Measure accuracy on labelled images.'
    )
    add_model_options(evaluate, optional=False)
    evaluate.add_argument(
        'data', type=Path,
        help='segmentation: a folder with images/*.jpg and labels/*.png, or a bag with images and '
        'labels; classification: a folder with CLASS/*.jpg, or a TSV file of images and labels; '
        "detection: a JSON file of boxes in COCO's format, which also measures the objects in the "
        'masks of a segmentation model',
    )
    evaluate.add_argument(
        '--by-prefix', default='', metavar='END',
        help="also measure groups of files separately, by the part of their names before END: "
        "with '_', hall_0012.jpg and hall_0013.jpg form one group",
    )
    add_label_classes(evaluate)
    evaluate.add_argument(
        '--labels', default='', metavar='TOPIC',
        help='topic of the labels in a bag (default: the topic that looks like labels)',
    )
    evaluate.add_argument('--topic', default='', help=TOPIC_HELP)
    evaluate.add_argument(
        '--out', type=Path, metavar='FOLDER',
        help='folder for results.json, confusion.png and the worst pictures with their labels '
        '(for a bag, the worst pictures are only listed)',
    )
    evaluate.add_argument(
        '--json', action='store_true',
        help='print the result as JSON, with confusion matrix and calibration',
    )
    add_force(evaluate)


def run_command(arguments: argparse.Namespace) -> None:
    """Segment or classify one picture, or detect the objects in it."""
    from mnv2_perception.data.images import check_format, read_image, write_image
    from mnv2_perception.tasks.classifier import Classifier
    from mnv2_perception.tasks.detector import Detector
    from mnv2_perception.tasks.models import opening
    from mnv2_perception.tasks.segmenter import Segmenter
    from mnv2_perception.vision.overlay import blend_mask, draw_boxes, draw_legend

    out, mask = arguments.out, arguments.mask
    if arguments.image.is_dir():
        raise ImageError(
            f'{arguments.image}: is a folder, expected one picture; to run on all of it: '
            f'{command_name()} bag run {arguments.image} --model {arguments.model} --out '
            f'results.mcap'
        )
    if not arguments.image.is_file():
        raise ImageError(f'{arguments.image}: no such file')
    check_format(out)
    if mask:  # class ids need a lossless format
        check_output(mask, arguments.force, [arguments.image, out], ['.png'])
    image = read_image(arguments.image)
    with opening(
        arguments.model, arguments.engine, arguments.threads, precision=arguments.precision
    ) as (engine, spec):
        if mask and spec.task != 'segmentation':
            raise ImageError(
                f'{mask}: {spec.name} is for {spec.task} and makes no masks; leave out --mask'
            )
        if spec.task == 'classification':
            classifier = Classifier(engine, spec, min_confidence=arguments.min_confidence)
            classified = classifier(image)
            for class_id, score in zip(classified.class_ids, classified.scores, strict=True):
                print(f'{score:.3f}  {spec.classes[class_id]}')
            return
        check_output(out, arguments.force, [arguments.image])
        if spec.task == 'detection':
            found = Detector(engine, spec, arguments.min_score)(image)
            overlay = draw_boxes(
                image, found.boxes, found.scores, found.class_ids, spec.classes, spec.colours
            )
            write_image(out, overlay)
            print(out)
            return
        result = Segmenter(engine, spec, arguments.min_confidence)(image)
    overlay = draw_legend(
        blend_mask(image, result.class_ids, spec.colours), spec.classes, spec.colours
    )
    write_image(out, overlay)
    print(out)
    if mask:
        write_image(mask, result.class_ids)
        print(mask)


def evaluate_command(arguments: argparse.Namespace) -> None:
    """Measure a model's accuracy with the metrics of its task."""
    from mnv2_perception.data.images import is_bag
    from mnv2_perception.evaluation.evaluate import evaluate_model, WIDE
    from mnv2_perception.tasks.models import opening

    out, labels = arguments.out, label_classes(arguments)
    if is_bag(arguments.data):
        check_rosbags()
    if out:
        prepare_report(out, arguments.force)
    with opening(
        arguments.model, arguments.engine, arguments.threads, precision=arguments.precision
    ) as (engine, spec):
        result = evaluate_model(
            engine, spec, arguments.data, arguments.by_prefix, arguments.map, labels,
            (arguments.labels, arguments.topic),
        )
        if out:
            from mnv2_perception.evaluation.report import write_report

            write_report(out, engine, spec, arguments.data, result, arguments.map, labels)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    shown = {name: value for name, value in result.items() if name not in WIDE}
    for each in (shown, *shown.get('by_prefix', {}).values()):
        each.pop('boundary_per_class', None)
    for name, classes in result.get('left_out', {}).items():
        shown[f'left_out.{name}'] = ', '.join(classes) or 'nothing'
    print(table(shown))
    if out:
        print(out)


def prepare_report(out: Path, force: bool) -> None:
    """Create the folder of a report before the work begins.

    Raises:
        SetupError: it cannot be created, or has a report that must not be replaced.
    """
    from mnv2_perception.data.files import make_folder
    from mnv2_perception.evaluation.report import CONFUSION, RESULTS

    make_folder(out)
    for name in (RESULTS, CONFUSION):
        check_output(out / name, force)
