"""Check that the inputs and outputs of a graph are those that its ModelSpec describes."""

import numpy as np

from mnv2_perception.engines import Engine, TensorSpec
from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec


def images_at_once(engine: Engine) -> int | None:
    """Return how many images one inference takes; None: any number."""
    first = {spec.shape[0] if spec.shape else 1 for spec in (*engine.inputs, *engine.outputs)}
    return first.pop() if len(first) == 1 else 1  # one by one if outputs have another first side


def check_input(engine: Engine, spec: ModelSpec) -> None:
    """Raise ModelError unless the graph takes the input that the spec describes."""
    if len(engine.inputs) != 1:
        raise ModelError(f'{engine.model}: has {len(engine.inputs)} inputs, expected one image')
    found = engine.inputs[0]
    kind, layout = spec.input.split('_')
    size, batch = (spec.height, spec.width), images_at_once(engine)
    shape = (batch or 1, 3, *size) if layout == 'nchw' else (batch or 1, *size, 3)
    fits = found.dtype.kind == 'f' if kind == 'float' else found.dtype == np.uint8
    if not fits or not found.fits(np.empty(shape, found.dtype)):
        raise ModelError(
            f'{engine.model}: takes {found}, but its spec says {spec.input} of height '
            f'{spec.height} and width {spec.width}; correct the spec or export again'
        )


def check_model(engine: Engine, spec: ModelSpec) -> None:
    """Raise ModelError unless the graph has the input and outputs that the spec describes."""
    check_input(engine, spec)
    batch = images_at_once(engine)
    if spec.output == 'boxes':
        check_boxes(engine, spec, batch)
        return
    for out in find_outputs(engine, spec):
        if out.shape:  # otherwise the graph does not even fix the number of axes
            check_output(engine, out, spec, batch)


def find_outputs(engine: Engine, spec: ModelSpec) -> list[TensorSpec]:
    """Return the outputs of the graph that the spec describes.

    Raises:
        ModelError: there are too few or too many of them.
    """
    found = [out for out in engine.outputs if spec.output_name in ('', out.name)]
    count = {'ids_confidence': 2, 'boxes': 3}.get(spec.output, 1)
    if len(found) != count:
        names = ', '.join(out.name for out in engine.outputs)
        raise ModelError(
            f'{engine.model}: gives {len(engine.outputs)} outputs ({names}), but its spec says '
            f'{spec.output}, which is {count}'
            + (f', named {spec.output_name}' if spec.output_name else '')
            + '; correct the spec (output_name says which one to use) or export again'
        )
    return found


def check_output(
    engine: Engine, out: TensorSpec, spec: ModelSpec, batch: int | None
) -> None:
    """Raise ModelError unless an output, as declared or as computed, is as the spec says."""
    channels, sides, images = spec.channels, out.shape[1:], batch or 'N'
    dtype, fits = {
        'ids_confidence': ('uint8', out.dtype == np.uint8),
        'ids': ('integers', out.dtype.kind in 'iub'),
    }.get(spec.output, ('float', out.dtype.kind == 'f'))
    if spec.task == 'classification':
        expected = f'({images}, {channels})'  # or with further sides of 1, as pooling leaves them
        told = [side for side in sides if side not in (1, None)]
        fits = fits and len(sides) > 0
        fits = fits and (told or [channels]) == [channels]
        fits = fits and (bool(told) or None in sides or channels == 1)
    elif spec.output == 'ids_confidence' or (channels == 1 and len(sides) == 2):
        expected = f'({images}, H, W)'
        fits = fits and len(sides) == 2
    else:
        first = spec.output_layout == 'nchw'
        inner = f'{channels}, H, W' if first else f'H, W, {channels}'
        expected = f'({images}, {inner})'
        fits = fits and len(sides) == 3 and sides[0 if first else 2] in (None, channels)
    if not fits or out.shape[0] not in (None, batch):
        raise ModelError(
            f'{engine.model}: gives {out}, but {spec.output} of {len(spec.classes)} classes'
            f'{" and a background" if spec.background else ""} is {expected} {dtype}'
            f'{f" in {spec.output_layout}" if len(sides) == 3 else ""}; '
            f'correct the spec or export again'
        )


def check_boxes(engine: Engine, spec: ModelSpec, batch: int | None) -> None:
    """Raise ModelError unless the outputs are a detector's, with a fixed number of boxes."""
    boxes, scores, class_ids = find_outputs(engine, spec)
    count = boxes.shape[1] if len(boxes.shape) == 3 else None
    images = batch or 'N'
    for out, shape, kind, expected in (
        (boxes, (batch, count, 4), 'f', f'({images}, K, 4) float'),
        (scores, (batch, count), 'f', f'({images}, K) float'),
        (class_ids, (batch, count), 'i', f'({images}, K) int'),
    ):
        if count is None or out.shape != shape or out.dtype.kind != kind:
            raise ModelError(
                f'{engine.model}: gives {out}, but output boxes means {expected} with one fixed '
                f'K, in the order boxes, scores, class ids; correct the spec or export again'
            )
