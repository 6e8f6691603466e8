"""What a model was measured to lose in lower precision; `precision: auto` decides by it.

It is part of the metadata of the ONNX file, where `mnv2 verify` writes it. The int8 version of a
model is a second file, MODEL_int8.onnx beside MODEL.onnx, identified by its sha256.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
import hashlib
import json
import logging
from pathlib import Path

import yaml

from mnv2_perception.engines.graph import read_onnx
from mnv2_perception.engines.plans import sha256
from mnv2_perception.errors import command_name, EngineError, ModelError, quoted
from mnv2_perception.model_spec import read_plain_yaml, yaml_beside

METADATA_KEY = 'mnv2_perception.verified'
logger = logging.getLogger(__name__)
MOST_LOST = 0.005  # largest loss of the task's figure (0 to 1) that `auto` accepts
# Number of labelled images from which on a loss is known about as finely as MOST_LOST. Its
# standard deviation over sets of 100, drawn from ground/val with replacement: 0.006 mIoU for the
# fast segmenter in int8 (0.015 for sets of 10; a class that few images show moves the mean), 0.006
# top1 for the classifier in bf16 (0.017; one of 100 images is 0.01), 0.002 AP for the detector in
# int8 (0.008).
ENOUGH_IMAGES = 100


@dataclass(frozen=True)
class Verified:
    """A model's accuracy in one precision beside that in fp32, on the same data.

    Attributes:
        figure: name of the figure, such as `miou`.
        fp32: the figure in fp32, 0 to 1.
        value: the figure in this precision.
        images: number of images that it was measured on.
        data: name of the data.
        sha256: of the file that was measured, hexadecimal; empty: the model itself.
        speed: speed relative to fp32 in OpenVINO, on the machine that measured; 0: not measured.
        yaml_sha256: digest of the YAML beside the model by which it was measured, see
            `yaml_digest`; empty: it was measured by its own metadata.
    """

    figure: str
    fp32: float
    value: float
    images: int
    data: str
    sha256: str = ''
    speed: float = 0.0
    yaml_sha256: str = ''

    def __post_init__(self) -> None:
        for name in ('fp32', 'value', 'speed'):  # the metadata of a file may contain anything
            if not isinstance(value := getattr(self, name), int | float):
                raise TypeError(f'{name} is {quoted(value)}, expected a number')

    @property
    def good(self) -> bool:
        """Whether the loss is so small that `auto` may use the precision."""
        return self.fp32 - self.value <= MOST_LOST

    def __str__(self) -> str:
        speed = f', × {self.speed:.1f} as fast' if self.speed else ''
        return (
            f'{self.figure} {self.value:.4f}, in fp32 {self.fp32:.4f}, '
            f'on {self.images} images of {self.data}{speed}'
        )


def int8_beside(model: Path) -> Path:
    """Return the path of a model's int8 file, which may not exist.

    It is beside the model; for a link without one, beside the target of the link.
    """
    beside = model.with_name(f'{model.stem}_int8.onnx')
    if model.is_symlink() and not beside.exists():
        return int8_beside(model.resolve())
    return beside


def verified_int8(model: Path, found: Verified | None) -> Path:
    """Return the path of a model's int8 file after checking it.

    Args:
        model: path of the model.
        found: what the model's metadata say of its int8 file; None if nothing.

    Raises:
        EngineError: the file is missing, was not verified, or is not the one that was measured.
    """
    file = int8_beside(model)
    verify = f'{command_name()} verify {model} DATA'
    if not file.is_file():
        raise EngineError(
            f'{model}: has no {file.name} beside it; make it: {command_name()} quantize {model} '
            f'--calibrate IMAGES --out {file}, then {verify}'
        )
    if found is None:
        raise EngineError(f'{model}: was not verified with {file.name} beside it; run {verify}')
    if (digest := sha256(file)) != found.sha256:
        raise EngineError(
            f'{file}: is not the int8 file that {model.name} was verified with: its sha256 is '
            f'{digest}, expected {found.sha256}; make it again from this model, then {verify}'
        )
    return file


def yaml_digest(model: Path) -> str:
    """Return the sha256 of the YAML beside a model; empty if there is none.

    If the YAML names a file of class names, it is the sha256 of both files' digests.
    """
    digests = [sha256(file) for file in _yaml_files(model)]
    both = ''.join(digests)
    return hashlib.sha256(both.encode()).hexdigest() if len(digests) > 1 else both


def _yaml_files(model: Path) -> list[Path]:
    """Return the YAML beside a model and the file of class names that it names, if they exist."""
    beside = yaml_beside(model)
    files = [beside]
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, ModelError):  # ModelSpec reports it
        values = yaml.safe_load(read_plain_yaml(beside))
        if isinstance(values, dict) and isinstance(names := values.get('classes'), str):
            files.append(beside.parent / Path(names).name)
    return [file for file in files if file.is_file()]


def read_verified(metadata: Mapping[str, str], model: Path) -> dict[str, Verified]:
    """Return what was measured, by precision; empty if nothing was.

    Measurements by another YAML than the one beside the model now do not count, which is logged.

    Args:
        metadata: metadata of the model.
        model: path of the model.

    Raises:
        EngineError: the entry is not as `write_verified` writes it.
    """
    try:
        found = json.loads(metadata.get(METADATA_KEY, '{}'))
        measured = {str(precision): Verified(**facts) for precision, facts in found.items()}
    except (ValueError, TypeError, AttributeError) as exc:
        raise EngineError(
            f'{model}: metadata {METADATA_KEY} cannot be used: {exc}; run `mnv2 verify` again'
        ) from exc
    digest = yaml_digest(model)
    still = {
        name: each for name, each in measured.items() if each.yaml_sha256 in ('', digest)
    }
    if len(still) < len(measured):
        _tell_changed(model)
    return still


@cache
def _tell_changed(model: Path) -> None:
    logger.warning(
        '%s: the measurements in bf16 and int8 are ignored, because %s has changed since; run %s '
        'verify %s DATA', model,
        ' or '.join(file.name for file in _yaml_files(model)) or yaml_beside(model).name,
        command_name(), model,
    )


def write_verified(
    model: Path, out: Path, found: Mapping[str, Verified], spec: Mapping[str, str] = {}
) -> None:
    """Write a copy of an ONNX file with measurements in its metadata; it may replace the file.

    If `out` is a link, its target is replaced.

    Args:
        model: path of the file.
        out: path of the copy.
        found: measurements by precision.
        spec: metadata entries to add if the file does not have them, such as its ModelSpec.

    Raises:
        EngineError: onnx is not installed.
        ModelError: the file is not an ONNX model, or `out` cannot be written.
    """
    proto = read_onnx(model)
    kept = [pair for pair in proto.metadata_props if pair.key != METADATA_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    text = json.dumps({precision: asdict(facts) for precision, facts in found.items()})
    added = {key: value for key, value in spec.items() if key not in {pair.key for pair in kept}}
    for key, value in {**added, METADATA_KEY: text}.items():
        proto.metadata_props.add(key=key, value=value)
    out = out.resolve()
    partial = out.with_suffix('.partial')
    try:
        partial.write_bytes(proto.SerializeToString())
        partial.replace(out)
    except OSError as exc:
        raise ModelError(f'{out}: cannot be written: {exc.strerror}') from exc
    finally:
        partial.unlink(missing_ok=True)
