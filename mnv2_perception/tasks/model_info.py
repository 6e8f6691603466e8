"""Find which facts a model lacks, to be used at all, or to be shown and shipped (`mnv2 info`)."""

from mnv2_perception.engines import Engine, TensorSpec
from mnv2_perception.model_spec import default_colours, ModelSpec, TO_FILL_IN

Fact = tuple[str, object, str]  # name, value, comment
Sides = tuple[int | None, ...]
UNSTATED = '', 'unknown'  # what stands for a licence that nobody stated


def licence_of(spec: ModelSpec) -> str:
    """Return the licence of a model's weights in words."""
    if spec.licence in UNSTATED:
        return 'not stated'
    commercial = '' if '-NC' not in spec.licence.upper() else ' (not for commercial use)'
    return spec.licence + commercial


def missing_facts(spec: ModelSpec) -> list[str]:
    """Return the names of the optional facts that a spec leaves out."""
    missing = []
    if spec.licence in UNSTATED:
        missing.append('licence')
    if 'BY' in spec.licence.upper().split('-') and not spec.attribution:
        missing.append('attribution')
    if not spec.description:
        missing.append('description')
    if spec.task != 'classification' and list(spec.colours) == default_colours(spec.classes):
        missing.append('colours')
    return missing


def draft_yaml(engine: Engine, name: str) -> tuple[str, list[str]]:
    """Draft the spec of a model that has none.

    Args:
        engine: the opened model.
        name: name for the spec.

    Returns:
        The YAML, with `???` for facts that the graph does not tell, and the names of these facts.
        The other facts follow from the shapes, and must be checked by a person.
    """
    taken = engine.inputs[0]
    layout, height, width = _image_sides(taken.shape)
    kind = 'float' if taken.dtype.kind == 'f' else 'uint8'
    facts: list[Fact] = [
        ('name', name, ''),
        *_output_facts(engine.outputs, height, width),
        ('height', height or TO_FILL_IN, '' if height else 'pixels; the graph does not fix it'),
        ('width', width or TO_FILL_IN, '' if width else 'pixels; the graph does not fix it'),
        ('input', f'{kind}_{layout}' if layout else TO_FILL_IN,
         '' if layout else f'{kind}_nchw or {kind}_nhwc'),
        ('channel_order', TO_FILL_IN, 'rgb or bgr'),
        ('mean', TO_FILL_IN, 'three numbers: tensor = (pixel - mean) / std, pixels 0 to 255'),
        ('std', TO_FILL_IN, 'three numbers'),
        ('licence', 'unknown', 'of the weights'),
    ]
    lines = [
        f'{key}: {value}' + (f'  # {comment}' if comment else '') for key, value, comment in facts
    ]
    return '\n'.join(lines), [key for key, value, _ in facts if value == TO_FILL_IN]


def _image_sides(shape: Sides) -> tuple[str, int | None, int | None]:
    """Return layout ('' if both or neither would fit), height and width of an image input."""
    if len(shape) == 4 and (shape[1] == 3) != (shape[3] == 3):
        return ('nchw', shape[2], shape[3]) if shape[1] == 3 else ('nhwc', shape[1], shape[2])
    return '', None, None


def _score_sides(shape: Sides, height: int | None, width: int | None) -> tuple[str, int | None]:
    """Return layout ('' if both or neither would fit) and channels of an output with four axes."""
    _, first, second, last = shape
    fits = [
        (layout, channels)
        for layout, channels, rows, columns in (
            ('nchw', first, second, last), ('nhwc', last, first, second)
        )
        if _same_aspect(rows, columns, height, width)
    ]
    return fits[0] if len(fits) == 1 else ('', None)


def _same_aspect(
    rows: int | None, columns: int | None, height: int | None, width: int | None
) -> bool:
    """Tell whether an output's height and width may be the image's, at some stride."""
    if rows and columns and height and width:
        return abs(rows * width - columns * height) <= max(height, width)  # strides round
    return rows is None and columns is None


def _output_facts(
    outputs: tuple[TensorSpec, ...], height: int | None, width: int | None
) -> list[Fact]:
    out = outputs[0]
    names = '[name, ...], or a text file with one name per line'
    if [(len(each.shape), str(each.dtype)) for each in outputs] == [(3, 'uint8')] * 2:
        return [
            ('task', 'segmentation', ''), ('output', 'ids_confidence', ''),
            ('classes', TO_FILL_IN, names),
        ]
    facts: list[Fact] = []
    if len(outputs) > 1:
        facts.append(('output_name', TO_FILL_IN, ' or '.join(each.name for each in outputs)))
    sides = [side for side in out.shape[1:] if side != 1]
    background: Fact = ('background', TO_FILL_IN, 'true if output 0 means none of the classes')
    if out.dtype.kind == 'f' and len(sides) == 1 and sides[0]:
        return [
            *facts, ('task', 'classification', ''),
            ('output', TO_FILL_IN, 'logits or probabilities'), background,
            ('classes', TO_FILL_IN, f'{names}; {sides[0]}, less one with a background'),
            ('fit', TO_FILL_IN, 'crop, as most networks are trained (crop_ratio: 0.875 for 224 of '
             '256), letterbox or stretch'),
        ]
    if len(out.shape) not in (3, 4) or (len(out.shape) == 3 and out.dtype.kind == 'f'):
        return [
            *facts, ('task', TO_FILL_IN, 'segmentation or classification'),
            ('output', TO_FILL_IN, 'logits, probabilities, sigmoid or ids'), background,
            ('classes', TO_FILL_IN, names),
        ]
    facts.append(('task', 'segmentation', ''))
    facts.append(('fit', 'stretch', 'or letterbox, with pad: the colour around the image'))
    layout, channels = '', None
    if len(out.shape) == 4:
        layout, channels = _score_sides(out.shape, height, width)
        facts.append(('output_layout', layout or TO_FILL_IN, '' if layout else 'nchw or nhwc'))
    if out.dtype.kind in 'iub':
        facts += [('output', 'ids', ''), background]
    elif channels == 1:
        facts.append(('output', 'sigmoid', 'the only one of one channel: 0 to 1'))
        names = '[below 0.5, above 0.5]'
    else:
        facts += [('output', TO_FILL_IN, 'logits or probabilities'), background]
        names += f'; {channels}, less one with a background' if channels else ''
    return [*facts, ('classes', TO_FILL_IN, names)]
