"""What every engine is: named tensors in, named tensors out, checked once."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
import ctypes
from dataclasses import dataclass
import os
from pathlib import Path
import sys
import threading
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import EngineError, TensorError

PRECISIONS = ('fp32', 'bf16', 'fp16', 'int8')

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of an input or output; None is a side of any length."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        sides = ', '.join('any' if side is None else str(side) for side in self.shape)
        return f'{self.name!r} ({sides}) {self.dtype}'

    def fits(self, array: NDArray[Any]) -> bool:
        """Tell whether an array has this shape and dtype."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(
                side is None or side == got
                for side, got in zip(self.shape, array.shape, strict=True)
            )
        )


@dataclass(frozen=True)
class Opening:
    """How a model is to be opened; an engine takes of it what it has.

    Attributes:
        engine: the name it was asked for by: one class may have several.
        threads: CPU threads for one inference; 0 leaves it to the runtime.
        build: build what the engine needs and does not find; takes minutes.
        precision: of the arithmetic, or `auto`.
        at_once: inferences that it is to take at once, each asked for by a thread of its own; they
            share `threads`, of which there are as many at least.
    """

    engine: str
    threads: int = 0
    build: bool = False
    precision: str = 'auto'
    at_once: int = 1


class Engine(ABC):
    """An opened model.

    Args:
        model: path of the model file.
        how: to open it.

    Attributes:
        name: the runtime, for logs and reports.
        model: name of the model file, for errors.
        inputs: what `infer` takes.
        outputs: what `infer` returns.
        metadata: the model's own key-value pairs.
        precision: of the arithmetic on what the file holds in float, one of PRECISIONS; `int8`
            of a TensorRT plan, and where the int8 file beside the model was taken.
        on_gpu: whether it computes on an NVIDIA GPU.
        at_once: how many threads may be in `infer` at once and gain by it; 1 where an engine has
            no use for more, whatever it was asked for.
        closed: whether it has been released.
    """

    name: str
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    precision = 'fp32'
    on_gpu = False
    at_once = 1
    closed = False
    _users = 1
    _counting = threading.Lock()  # of all engines: it is held for no time

    @abstractmethod
    def __init__(self, model: Path, how: Opening) -> None: ...

    @classmethod
    def lacks(cls, model: Path, how: Opening) -> str:
        """Return what keeps `auto` from trying it, empty where nothing is known to."""
        return ''

    def infer(self, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run the model once.

        Args:
            tensors: one C-contiguous array for each input; only read, and only until return.

        Returns:
            One array for each output, owned by the caller.

        Raises:
            TensorError: a name, shape or dtype is not what the model takes.
            EngineError: the engine is closed, or the runtime failed.
        """
        if self.closed:
            raise EngineError(f'{self.model}: the engine is closed; open it again')
        expected = {spec.name for spec in self.inputs}
        if set(tensors) != expected:
            raise TensorError(
                f'{self.model}: got inputs {sorted(tensors)}, expected {sorted(expected)}'
            )
        for spec in self.inputs:
            array = tensors[spec.name]
            if not spec.fits(array):
                raise TensorError(
                    f'{self.model}: input {spec} got {array.shape} {array.dtype}; '
                    f'resize and scale the image as the ModelSpec says, or export again'
                )
        return self._infer(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        )

    @abstractmethod
    def _infer(self, tensors: Tensors) -> Tensors:
        """Run the model on checked, contiguous tensors."""

    def share(self) -> bool:
        """Let one more user close the engine before it is released; False where it is closed."""
        with self._counting:
            if not self.closed:
                self._users += 1
            return not self.closed

    def close(self) -> None:
        """Release what the engine holds once each user has closed it; more calls do nothing."""
        with self._counting:
            self._users -= 1
            last = self._users <= 0 and not self.closed
            self.closed = self.closed or last
        if last:
            self._release()
            give_back_memory()

    @abstractmethod
    def _release(self) -> None:
        """Release what the runtime holds."""

    def __enter__(self) -> 'Engine':
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def give_back_memory() -> None:
    """Give the system what the heap holds free: glibc would keep much of a closed model."""
    if sys.platform == 'linux' and (libc := ctypes.CDLL(None)) and hasattr(libc, 'malloc_trim'):
        libc.malloc_trim(0)


def check_precision(engine: str, precision: str, known: tuple[str, ...]) -> str:
    """Return the precision that an engine is to compute in.

    Args:
        engine: its name, for errors.
        precision: `auto`, or one of `known`.
        known: those that it has, the default first.

    Raises:
        EngineError: it has no such precision.
    """
    if precision not in ('auto', *known):
        raise EngineError(
            f'precision {precision!r}: {engine} computes in {" or ".join(known)}; expected one of '
            f'these or auto, or choose another engine'
        )
    return known[0] if precision == 'auto' else precision
