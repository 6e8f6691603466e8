"""ModelSpec: a model's inputs and outputs, so that weights and preprocessing cannot disagree.

It is part of the model: JSON in the metadata of the ONNX file. For files from elsewhere, a YAML
file of the same name beside it (``model.yaml`` for ``model.onnx``) takes its place;
docs/foreign_models.md shows two.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints, Literal

import yaml

from mnv2_perception.errors import ModelError

METADATA_KEY = 'mnv2_perception.model_spec'
UNLABELLED = 255  # mask id of "no class": ignored pixels, below min_confidence, own bumper
PAD = (114, 114, 114)  # around letterboxed images, as in Ultralytics
MAX_PIXELS = 16_000_000  # of a network's input; none has more than a few million

Task = Literal['segmentation', 'classification', 'detection']
Input = Literal['uint8_nhwc', 'uint8_nchw', 'float_nchw', 'float_nhwc']
Output = Literal['ids_confidence', 'ids', 'logits', 'probabilities', 'sigmoid', 'boxes']
MAX_YAML_BYTES = 1_000_000
# For models without colours. Found by a search (test/colour_vision.py) so that people with any
# colour vision can tell them apart, best the first ones, and those of neighbouring ids.
PALETTE = tuple(
    (number >> 16, number >> 8 & 255, number & 255)
    for number in (
        0x96961e, 0xb42dff, 0xa52d00, 0xffa5b4, 0x690087, 0xb4f000, 0x4b8769, 0xd2b4ff,
        0x0000e1, 0xd2e196, 0x787896, 0x1eb478, 0x4b5a78, 0x78f0e1, 0x693c2d, 0xa587d2,
        0xd23c5a, 0x784bb4, 0xa5a5c3, 0x87780f, 0x2d3c5a, 0xb48796, 0xa5c34b, 0x69693c,
        0x00a5ff, 0xff8787, 0x8769b4, 0x96d2e1, 0xc3875a, 0x870000, 0x5ad2b4, 0x875a69,
    )
)
BACKGROUND = 72, 72, 72
BACKGROUND_NAMES = {'background', 'unlabelled', 'unlabeled', 'void', 'ignore', 'other', 'none'}
TO_FILL_IN = '???'  # stands in a drafted YAML for a fact that the graph does not tell


def yaml_beside(model: Path) -> Path:
    """Return the path of the YAML beside a model, which may not exist."""
    beside, other = model.with_suffix('.yaml'), model.with_suffix('.yml')
    return other if other.is_file() and not beside.is_file() else beside


@dataclass(frozen=True)
class ModelSpec:
    """The inputs and outputs of a model.

    The shapes of a graph tell neither how pixels are scaled, nor which axis holds the classes if
    two would fit. So nothing is guessed: the spec must fit the graph, or the model is refused.

    Attributes:
        name: short name for logs and reports.
        task: `segmentation`, `classification` or `detection`.
        height: input height, pixels; a graph that takes any size is run at this one.
        width: input width, pixels.
        classes: class names; the index is the class id. A mask's ids are bytes, 0 to 254 (255 is
            "no class"); a classification may have more. In a YAML file also the name of a text
            file beside it, one class per line.
        colours: one (R, G, B) per class, 0 to 255, for overlays.
        mean: per channel, in pixel units: tensor = (pixel - mean) / std.
        std: per channel, in pixel units.
        channel_order: order of the network's input channels; images are always RGB.
        input: `float_nchw` or `float_nhwc` (scaled by us; float16 too), `uint8_nhwc` or
            `uint8_nchw` (scaling is inside the graph).
        output: `logits`; `probabilities`; `sigmoid`, one channel of probabilities, 0 to 1;
            `ids_confidence`, class ids and confidence × 255, both uint8, where a confidence of 0
            stands for NaN; `ids`, class ids alone, of any integer type, whose confidence is 255,
            or 0 if an id is not a class. For detectors `boxes`, before NMS: boxes (1, K, 4)
            float32 as x1, y1, x2, y2 in 0..1 of the input, scores (1, K) float32 in 0..1 and class
            ids (1, K) int32.
        output_layout: position of the channels in an output with four axes: (1, C, H, W) or
            (1, H, W, C), at any stride of the input.
        output_name: name of the output to use, if there are several (auxiliary heads).
        background: whether the network's output 0 means "none of the classes" and is not in
            `classes`: output 1 is class id 0. Such pixels get id 255; a classification leaves it
            out, so its scores sum to one minus that of the background.
        fit: `stretch` the whole image to height × width; `letterbox` it: resized with its aspect
            ratio, in the middle of `pad`; or `crop`: its largest centred part of that aspect
            ratio, as classifiers are trained; only for classification.
        crop_ratio: fraction of that part's sides that `crop` keeps, such as 0.875 for a network
            that sees the middle 224 × 224 of images whose short side is 256.
        pad: (R, G, B), 0 to 255, around a letterboxed image. In a YAML file also one number for
            all three.
        licence: licence of the weights, as SPDX identifier if there is one.
        attribution: whom the licence requires to name: authors and data, in one line.
        description: data and accuracy in one line.
    """

    name: str
    task: Task
    height: int
    width: int
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: Literal['rgb', 'bgr'] = 'rgb'
    input: Input = 'uint8_nhwc'
    output: Output = 'ids_confidence'
    output_layout: Literal['nchw', 'nhwc'] = 'nchw'
    output_name: str = ''
    background: bool = False
    fit: Literal['stretch', 'crop', 'letterbox'] = 'stretch'
    crop_ratio: float = 1.0
    pad: tuple[int, int, int] = PAD
    licence: str = 'unknown'
    attribution: str = ''
    description: str = ''

    def __post_init__(self) -> None:
        wrong = next(chain(
            self._wrong_values(), self._wrong_fit(), self._wrong_classes(), self._wrong_scaling()
        ), None)
        if wrong is not None:
            raise ModelError(f'model spec {self.name!r}: {wrong}')

    def _wrong_values(self) -> Iterator[str]:
        """Yield errors of values that must be one of several words, and of the size."""
        hints = get_type_hints(type(self))
        for name in ('task', 'channel_order', 'input', 'output', 'output_layout', 'fit'):
            allowed = get_args(hints[name])
            if getattr(self, name) not in allowed:
                yield (
                    f'{name} is {getattr(self, name)!r}, expected one of {", ".join(allowed)}'
                )
        if self.height <= 0 or self.width <= 0:
            yield f'height and width must be positive, got {self.height} and {self.width}'
        if self.height * self.width > MAX_PIXELS:
            yield (
                f'height {self.height} and width {self.width} are '
                f'{self.height * self.width / 1e6:.0f} megapixels, expected at most '
                f'{MAX_PIXELS / 1e6:g}; correct the spec'
            )

    def _wrong_fit(self) -> Iterator[str]:
        """Yield errors of values that do not fit the task, and of how an image is fitted."""
        if not self.classes:
            yield 'got 0 classes, expected at least one'
        if self.task == 'segmentation' and len(self.classes) > UNLABELLED:
            yield (
                f'got {len(self.classes)} classes, expected 1 to {UNLABELLED} (a mask has bytes '
                f'and {UNLABELLED} means "no class")'
            )
        if self.task == 'classification' and self.output in ('ids', 'ids_confidence'):
            yield (
                f'output is {self.output!r}, but a classification needs scores: logits, '
                f'probabilities or sigmoid'
            )
        if self.task != 'classification' and self.fit == 'crop':
            yield (
                f"fit is 'crop', but {self.task} looks at the whole image; expected 'stretch' or "
                f"'letterbox'"
            )
        if not 0.0 < self.crop_ratio <= 1.0 or (self.crop_ratio < 1.0 and self.fit != 'crop'):
            yield (
                f'crop_ratio is {self.crop_ratio:g} and fit is {self.fit!r}, expected a ratio '
                f'above 0 and at most 1, and fit: crop if it is below 1'
            )
        if len(self.pad) != 3 or not all(0 <= value <= 255 for value in self.pad):
            yield f'pad is {self.pad}, expected one number or (R, G, B), 0 to 255'
        if self.pad != PAD and self.fit != 'letterbox':
            yield (
                f'pad is {self.pad}, but fit is {self.fit!r}; expected fit: letterbox, or no pad'
            )

    def _wrong_classes(self) -> Iterator[str]:
        """Yield errors of the classes, and of how the network outputs them."""
        background: object = self.background  # a YAML may contain anything
        if not isinstance(background, bool):
            yield f'background is {background!r}, expected true or false'
        if len(self.colours) != len(self.classes):
            yield (
                f'got {len(self.colours)} colours for {len(self.classes)} classes; give one '
                f'(R, G, B) for each class'
            )
        for colour in self.colours:
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                yield f'colour {colour} is not (R, G, B) with values from 0 to 255'
        if (self.output == 'boxes') != (self.task == 'detection'):
            yield (
                f'output {self.output} does not fit task {self.task}; expected output boxes for '
                f'detection, and for no other task'
            )
        if self.output == 'boxes' and self.background:
            yield 'background is true, but boxes have no background class; expected false'
        if self.output == 'sigmoid' and len(self.classes) + self.background != 2:
            yield (
                f'got {len(self.classes)} classes for sigmoid, expected two: the class below '
                f'probability 0.5, then the class above it (with background: true only the latter)'
            )
        if self.task != 'classification' and len(set(self.classes)) < len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            yield (
                f'classes has {", ".join(twice)} twice; give each class its own name, because '
                f'parameters refer to classes by name'
            )

    def _wrong_scaling(self) -> Iterator[str]:
        """Yield errors of mean and std; a wrong unit shows in their size."""
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            yield (
                f'mean and std take three numbers each, std positive; got mean {self.mean} and '
                f'std {self.std}'
            )
        small_mean = 0.0 < max(self.mean) <= 1.0  # in pixel units no picture is so dark
        if small_mean or max(self.std) < 1.0:  # in pixel units it would amplify noise
            small_std = max(self.std) < 1.0 or (small_mean and max(self.std) == 1.0)
            small = ' and '.join(['mean'] * small_mean + ['std'] * small_std)
            mean = [round(255 * each, 3) if small_mean else each for each in self.mean]
            std = [round(255 * each, 3) if small_std else each for each in self.std]
            what = 'for pixels from 0 to 1'
            if not small_mean and max(self.std) < 0.05:
                std, what = [round(1 / each, 3) for each in self.std], 'as a factor'
            yield (
                f'{small} given {what}: mean {self.mean}, std {self.std}; expected for pixels '
                f'from 0 to 255: mean {mean}, std {std}'
            )

    @property
    def channels(self) -> int:
        """Number of channels of the network's output."""
        if self.output in ('ids_confidence', 'ids', 'sigmoid'):
            return 1
        return len(self.classes) + self.background

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> 'ModelSpec':
        """Build a spec from plain values; `source` names their origin in errors.

        Raises:
            ModelError: a fact is missing, unknown or wrong.
        """
        if not isinstance(values, Mapping):
            raise ModelError(f'{source}: expected names and values, got {type(values).__name__}')
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ModelError(
                f'{source}: unknown {", ".join(unknown)}; known are {", ".join(sorted(known))}'
            )
        required = {'name', 'task', 'height', 'width', 'classes', 'mean', 'std'}
        if missing := sorted(required - set(values)):
            raise ModelError(f'{source}: {", ".join(missing)} missing; add it')
        if open_facts := [name for name, value in values.items() if value == TO_FILL_IN]:
            raise ModelError(f'{source}: {", ".join(open_facts)} still {TO_FILL_IN}; fill it in')
        values = dict(values)
        try:
            values['classes'] = class_names(values['classes'])
            colours = values.get('colours') or default_colours(values['classes'])
            values['colours'] = tuple(tuple(int(c) for c in colour) for colour in colours)
            for name in ('mean', 'std'):
                values[name] = tuple(float(value) for value in values[name])
            for name in ('height', 'width'):
                values[name] = int(values[name])
            if 'crop_ratio' in values:
                values['crop_ratio'] = float(values['crop_ratio'])
            if 'pad' in values:
                one = not isinstance(values['pad'], (list, tuple))
                values['pad'] = tuple(map(int, [values['pad']] * 3 if one else values['pad']))
            texts = {'name', 'output_name', 'licence', 'attribution', 'description'}
            for name in texts & set(values):
                # YAML reads 495, a name that exporters give, as a number, and nothing as None.
                values[name] = '' if values[name] is None else str(values[name])
                if not values[name].isprintable():  # it could forge lines of logs
                    raise ValueError(f'{name} is {values[name]!r}, expected one printable line')
            return cls(**values)
        except (TypeError, ValueError, OverflowError, ModelError) as exc:
            raise ModelError(f'{source}: {exc}') from exc

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], model: Path) -> 'ModelSpec':
        """Read the spec from the model's metadata, otherwise from the YAML file beside it.

        Raises:
            ModelError: there is neither, or the content is wrong.
        """
        if METADATA_KEY in metadata:
            try:
                values = json.loads(metadata[METADATA_KEY])
            except json.JSONDecodeError as exc:
                raise ModelError(f'{model}: metadata {METADATA_KEY} is not valid JSON: '
                                 f'{exc}') from exc
            return cls.from_dict(values, f'{model}: metadata {METADATA_KEY}')
        beside = yaml_beside(model)
        if not beside.is_file():
            raise ModelError(
                f'{model.name} does not say how its input is scaled or what its classes are '
                f'(no metadata {METADATA_KEY}); write these facts to {beside}, '
                f'`mnv2 info {model}` drafts it'
            )
        return cls.from_yaml(beside)

    @classmethod
    def from_yaml(cls, path: Path) -> 'ModelSpec':
        """Read a spec from a YAML file.

        Raises:
            ModelError: the file, or the file of class names, cannot be read, or see `from_dict`.
        """
        try:
            values = yaml.safe_load(read_plain_yaml(path))
            names = values.get('classes') if isinstance(values, dict) else None
            if isinstance(names, str) and names != TO_FILL_IN:
                if Path(names).name != names:
                    raise ModelError(
                        f'{path}: classes is {names!r}, expected a list of names, or the name of '
                        f'a text file in the same folder, one class per line'
                    )
                lines = read_short_text(path.parent / names).splitlines()
                values['classes'] = [line.strip() for line in lines if line.strip()]
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise ModelError(f'{path}: cannot be read: {exc}') from exc
        return cls.from_dict(values, str(path))

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata entries that hold this spec."""
        return {METADATA_KEY: json.dumps(asdict(self))}


def read_short_text(path: Path) -> str:
    """Return the text of a file, without a byte order mark.

    Raises:
        ModelError: it is too long to be written by a person.
    """
    with path.open('rb') as file:
        text = file.read(MAX_YAML_BYTES + 1)
    if len(text) > MAX_YAML_BYTES:
        raise ModelError(f'{path}: is larger than {MAX_YAML_BYTES} bytes; expected a short text')
    return text.decode('utf-8-sig')


def read_plain_yaml(path: Path) -> str:
    """Return the text of a YAML file without aliases: nested ones can expand to gigabytes.

    Raises:
        ModelError: it is too long to be written by a person, or has aliases.
    """
    text = read_short_text(path)
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ModelError(f'{path}: has an alias (*name); write each value out')
    return text


def class_names(given: Any) -> tuple[str, ...]:
    """Return class names in the order of their ids.

    Args:
        given: a list of names, or a mapping from all ids, beginning with 0, to names.

    Raises:
        ValueError: it is neither, or YAML reads a name as something else.
    """
    if isinstance(given, Mapping):
        by_id = {int(key): name for key, name in given.items() if str(key).isdecimal()}
        if sorted(by_id) != list(range(len(given))):
            raise ValueError(
                f'classes is a mapping of {list(given)[:20]}, expected a list of names, or a '
                f'mapping of the ids 0 to {len(given) - 1} to names'
            )
        given = [by_id[class_id] for class_id in range(len(given))]
    if not isinstance(given, (list, tuple)):
        raise ValueError(f'classes is {given!r}, expected a list of names')
    for class_id, name in enumerate(given):
        if not isinstance(name, str):
            raise ValueError(
                f'the name of class {class_id} is read as {name!r}: YAML takes yes, no, on, off, '
                f'null and numbers for values; put the name in quotes'
            )
        if not name.strip() or not name.isprintable():
            raise ValueError(
                f'the name of class {class_id} is {name!r}, expected one printable line'
            )
    return tuple(name.strip() for name in given)


def default_colours(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return a distinct (R, G, B) for each class: those of PALETTE, then shades of them.

    Beyond its length, people can only tell those of neighbouring ids apart. A class named
    background, or similarly, gets BACKGROUND.
    """
    ground = next((name for name in classes if name.lower() in BACKGROUND_NAMES), None)
    colours: list[tuple[int, int, int]] = []
    for name in classes:
        if name == ground and BACKGROUND not in colours:
            colours.append(BACKGROUND)
            continue
        turn, index = divmod(len(colours) - (BACKGROUND in colours), len(PALETTE))
        shade = 1.0 - 0.65 * (turn * 0.618034 % 1.0)  # each round has another shade
        red, green, blue = (round(value * shade) for value in PALETTE[index])
        colours.append((red, green, blue))
    return colours
