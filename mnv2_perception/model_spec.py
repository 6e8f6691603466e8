"""ModelSpec: what a model takes and gives, so that weights and preprocessing cannot disagree.

It travels inside the model: as JSON in the metadata of the ONNX file. For a file that somebody
else exported, a YAML file of the same name beside it (``model.yaml`` for ``model.onnx``) serves.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints, Literal

import yaml

from mnv2_perception.errors import ModelError

METADATA_KEY = 'mnv2_perception.model_spec'
UNLABELLED = 255  # mask id of "no class": ignored pixels, below min_confidence, own bumper

Task = Literal['segmentation', 'classification', 'detection']
Input = Literal['uint8_nhwc', 'float_nchw']
Output = Literal['ids_confidence', 'logits', 'probabilities', 'sigmoid', 'boxes']


@dataclass(frozen=True)
class ModelSpec:
    """What a model takes and gives.

    Attributes:
        name: short name for logs and reports.
        task: `segmentation`, `classification` or `detection`.
        height: input height, pixels.
        width: input width, pixels.
        classes: class names; the index is the class id, 0 to 254 (255 is "no class").
        colours: one (R, G, B) for each class, 0 to 255, for overlays.
        mean: per channel, in pixel units: tensor = (pixel - mean) / std.
        std: per channel, in pixel units.
        channel_order: order of the channels that the network takes; images are always RGB.
        input: `uint8_nhwc` (scaling is inside the graph) or `float_nchw` (scaled by us).
        output: `ids_confidence` (class ids and confidence, both uint8), `logits`,
            `probabilities` or `sigmoid` (one channel); of a detector `boxes`: boxes (1, K, 4)
            float32 as x1, y1, x2, y2 in 0..1 of the input, scores (1, K) float32 in 0..1 and
            class ids (1, K) int32, not yet suppressed.
        licence: of the weights, SPDX where there is one.
        description: data and figures in one line.
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
    licence: str = 'unknown'
    description: str = ''

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name in ('task', 'channel_order', 'input', 'output'):
            allowed = get_args(hints[name])
            if getattr(self, name) not in allowed:
                raise ModelError(
                    f'model spec {self.name!r}: {name} is {getattr(self, name)!r}, '
                    f'expected one of {", ".join(allowed)}'
                )
        if self.height <= 0 or self.width <= 0:
            raise ModelError(
                f'model spec {self.name!r}: height and width must be positive, '
                f'got {self.height} and {self.width}'
            )
        if not 1 <= len(self.classes) <= UNLABELLED:
            raise ModelError(
                f'model spec {self.name!r}: got {len(self.classes)} classes, expected 1 to '
                f'{UNLABELLED} (ids are one byte and {UNLABELLED} means "no class")'
            )
        if len(self.colours) != len(self.classes):
            raise ModelError(
                f'model spec {self.name!r}: got {len(self.colours)} colours for '
                f'{len(self.classes)} classes; give one (R, G, B) for each class'
            )
        for colour in self.colours:
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise ModelError(
                    f'model spec {self.name!r}: colour {colour} is no (R, G, B) of 0 to 255'
                )
        if (self.output == 'boxes') != (self.task == 'detection'):
            raise ModelError(
                f'model spec {self.name!r}: output {self.output} does not go with task '
                f'{self.task}; detection, and only that, gives boxes'
            )
        if self.output == 'sigmoid' and len(self.classes) != 2:
            raise ModelError(
                f'model spec {self.name!r}: got {len(self.classes)} classes for sigmoid, expected '
                f'two: the name of what lies below probability 0.5, then that of what lies above'
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ModelError(
                f'model spec {self.name!r}: mean and std take three numbers each, std positive; '
                f'got mean {self.mean} and std {self.std}'
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> 'ModelSpec':
        """Build a spec from plain values; `source` names them in errors.

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
        values = dict(values)
        try:
            values['classes'] = tuple(str(name) for name in values['classes'])
            colours = values.get('colours') or distinct_colours(len(values['classes']))
            values['colours'] = tuple(tuple(int(c) for c in colour) for colour in colours)
            for name in ('mean', 'std'):
                values[name] = tuple(float(value) for value in values[name])
            for name in ('height', 'width'):
                values[name] = int(values[name])
        except (TypeError, ValueError) as exc:
            raise ModelError(f'{source}: {exc}') from exc
        return cls(**values)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], model: Path) -> 'ModelSpec':
        """Read the spec from the model's metadata, or else from the YAML file beside it.

        Raises:
            ModelError: there is neither, or what is there is wrong.
        """
        if METADATA_KEY in metadata:
            try:
                values = json.loads(metadata[METADATA_KEY])
            except json.JSONDecodeError as exc:
                raise ModelError(f'{model}: metadata {METADATA_KEY} is no JSON: {exc}') from exc
            return cls.from_dict(values, f'{model}: metadata {METADATA_KEY}')
        beside = model.with_suffix('.yaml')
        if not beside.is_file():
            raise ModelError(
                f'{model.name} does not say how its input is scaled or what its classes are '
                f'(no metadata {METADATA_KEY}); write these facts to {beside}'
            )
        try:
            values = yaml.safe_load(beside.read_text(encoding='utf-8'))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise ModelError(f'{beside}: cannot be read: {exc}') from exc
        return cls.from_dict(values, str(beside))

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata entries that carry this spec."""
        return {METADATA_KEY: json.dumps(asdict(self))}


def distinct_colours(count: int) -> list[tuple[int, int, int]]:
    """Return `count` distinct (R, G, B) colours: the PASCAL VOC colour map from index 1 on."""
    colours = []
    for index in range(1, count + 1):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((colour[0], colour[1], colour[2]))
    return colours
