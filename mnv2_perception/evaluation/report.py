"""Write an evaluation as files: figures, confusion matrix, the worst images with their labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.coco import read_coco
from mnv2_perception.data.files import replacing
from mnv2_perception.data.folders import read_pair
from mnv2_perception.data.images import is_bag, read_image, write_image
from mnv2_perception.engines import Engine
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.boxes import compared, object_finder, relabelled, SHOWN_SCORE
from mnv2_perception.evaluation.mapping import ClassMap, map_classes
from mnv2_perception.evaluation.pictures import draw_confusion, draw_masks, legible, side_by_side
from mnv2_perception.model_spec import default_colours, ModelSpec, UNLABELLED
from mnv2_perception.tasks.detector import Detections, Detector
from mnv2_perception.tasks.segmenter import Segmenter
from mnv2_perception.vision.overlay import Colours, draw_boxes, draw_caption

RESULTS, CONFUSION, WORST = 'results.json', 'confusion.png', 'worst'
Picture = NDArray[np.uint8]


def write_report(
    folder: Path,
    engine: Engine,
    spec: ModelSpec,
    data: Path,
    result: Mapping[str, Any],
    maps: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> None:
    """Write the result of `evaluate_model` for the same arguments, with pictures.

    `results.json` has the figures, `confusion.png` the confusion matrix, and `worst/` the images
    listed in `worst`, the worst first (not for a bag). Files of an earlier report are replaced.

    Raises:
        DataError: the folder cannot be written.
    """
    of_bag = is_bag(data)  # its worst frames are listed by their stamps, not drawn
    try:
        (folder if of_bag else folder / WORST).mkdir(parents=True, exist_ok=True)
        for old in (folder / WORST).glob('[0-9][0-9]_*.png'):
            old.unlink()
        with replacing(folder / RESULTS) as partial:
            partial.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    except OSError as exc:
        raise DataError(f'{folder}: cannot be written: {exc.strerror}') from exc
    if table := result.get('confusion'):
        write_image(folder / CONFUSION, draw_confusion(table, f'{spec.name} on {data.name}'))
    draw = {'classification': _classified, 'segmentation': _masks, 'detection': _boxes}[spec.task]
    if data.suffix == '.json':
        draw = _boxes
    if of_bag:
        return
    pictures = draw(engine, spec, data, result['worst'], maps, labels)
    for number, (path, picture) in enumerate(pictures, start=1):
        write_image(folder / WORST / f'{number:02}_{path.stem}.png', picture)


Worst = Sequence[Mapping[str, Any]]
Pictures = Iterator[tuple[Path, Picture]]


def _masks(
    engine: Engine, spec: ModelSpec, data: Path, worst: Worst, maps: Sequence[str],
    labels: Sequence[str],
) -> Pictures:
    segmenter = Segmenter(engine, spec)
    classes = map_classes(labels or spec.classes, spec.classes, maps)
    tables = [np.minimum(table, UNLABELLED).astype(np.uint8) for table in classes.tables()]
    for each in worst:
        path = Path(each['image'])
        image, label = read_pair(path, Path(each['label']))
        found = segmenter(image).class_ids
        yield path, draw_masks(
            image, tables[0][label], tables[1][found], classes.rows, _colours(classes, spec),
            f'{path.stem}, mIoU {each["miou"]:.3f}',
        )


def _classified(
    _engine: Engine, _spec: ModelSpec, _data: Path, worst: Worst, _maps: Sequence[str],
    _labels: Sequence[str],
) -> Pictures:
    for each in worst:
        path = Path(each['image'])
        caption = f'{each["label"]}, predicted {each["said"]} ({each["confidence"]:.2f})'
        yield path, draw_caption(legible(read_image(path)), caption)


def _boxes(
    engine: Engine, spec: ModelSpec, data: Path, worst: Worst, maps: Sequence[str],
    _labels: Sequence[str],
) -> Pictures:
    names, samples = read_coco(data)
    classes = compared(names, spec.classes, data, maps)
    find: Callable[[Picture], Detections] = (
        Detector(engine, spec, SHOWN_SCORE) if spec.task == 'detection'
        else object_finder(Segmenter(engine, spec), classes)
    )
    by_path = {str(sample.image): sample for sample in samples}
    colours = _colours(classes, spec)
    for each in worst:
        path = Path(each['image'])
        image = read_image(path)
        sample, (boxes, scores, ids) = relabelled(by_path[str(path)], find(image), classes)
        shown = scores >= SHOWN_SCORE
        panels = [
            draw_boxes(
                legible(image), found * (legible(image).shape[1] / image.shape[1]), sure, known,
                classes.names, colours,
            )
            for found, sure, known in (
                (sample.boxes, np.ones(len(sample.boxes), np.float32), sample.class_ids),
                (boxes[shown], scores[shown], ids[shown]),
            )
        ]
        yield path, draw_caption(
            side_by_side(panels), f'{path.stem}, {each["wrong"]} wrong: label, model'
        )


def _colours(classes: ClassMap, spec: ModelSpec) -> Colours:
    """Return the model's colours for the compared classes; defaults where it has no such class."""
    known = dict(zip(spec.classes, spec.colours, strict=True))
    others = default_colours(classes.rows)
    return [known.get(name, other) for name, other in zip(classes.rows, others, strict=True)]
