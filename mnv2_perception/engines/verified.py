"""What a model was measured to lose in shorter arithmetic: what `precision: auto` goes by.

It travels in the metadata of the ONNX file, where `mnv2 verify` writes it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import json
from pathlib import Path

from mnv2_perception.engines.graph import read_onnx
from mnv2_perception.errors import EngineError, ModelError

METADATA_KEY = 'mnv2_perception.verified'
MOST_LOST = 0.005  # of the task's figure, 0 to 1, for what is taken without asking


@dataclass(frozen=True)
class Verified:
    """A model's figure in one precision beside that in fp32, on the same data.

    Attributes:
        figure: its name, such as `miou`.
        fp32: in fp32, 0 to 1.
        value: in the precision.
        images: how many they are measured on.
        data: name of the data.
    """

    figure: str
    fp32: float
    value: float
    images: int
    data: str

    @property
    def good(self) -> bool:
        """Whether so little is lost that `auto` may take the precision."""
        return self.fp32 - self.value <= MOST_LOST

    def __str__(self) -> str:
        return (
            f'{self.figure} {self.value:.4f}, in fp32 {self.fp32:.4f}, '
            f'on {self.images} images of {self.data}'
        )


def read_verified(metadata: Mapping[str, str], model: str) -> dict[str, Verified]:
    """Return what was measured, by precision; nothing where nothing was.

    Args:
        metadata: of the model.
        model: its name, for errors.

    Raises:
        EngineError: the entry is not as `write_verified` leaves it.
    """
    try:
        found = json.loads(metadata.get(METADATA_KEY, '{}'))
        return {str(precision): Verified(**facts) for precision, facts in found.items()}
    except (ValueError, TypeError, AttributeError) as exc:
        raise EngineError(
            f'{model}: metadata {METADATA_KEY} cannot be used: {exc}; run `mnv2 verify` again'
        ) from exc


def write_verified(model: Path, out: Path, found: Mapping[str, Verified]) -> None:
    """Write a copy of an ONNX file that carries what was measured; it may replace the file.

    Raises:
        EngineError: onnx is not installed.
        ModelError: the file is no ONNX model, or `out` cannot be written.
    """
    proto = read_onnx(model)
    kept = [pair for pair in proto.metadata_props if pair.key != METADATA_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    text = json.dumps({precision: asdict(facts) for precision, facts in found.items()})
    proto.metadata_props.add(key=METADATA_KEY, value=text)
    partial = out.with_suffix('.partial')
    try:
        partial.write_bytes(proto.SerializeToString())
        partial.replace(out)
    except OSError as exc:
        raise ModelError(f'{out}: cannot be written: {exc.strerror}') from exc
    finally:
        partial.unlink(missing_ok=True)
