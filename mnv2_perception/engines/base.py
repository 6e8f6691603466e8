"""Engine: the interface of all runtimes. Named tensors in, named tensors out, checked once."""

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
    """Name, shape and dtype of an input or output; a side of None may have any length."""

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
    """Options for opening a model; an engine uses those that apply to it.

    Attributes:
        engine: name by which the engine was requested, because one class may have several names.
        threads: CPU threads for one inference; 0: the runtime decides.
        build: whether to build what the engine needs and does not find; takes minutes.
        precision: precision of the computation, or `auto`.
        at_once: number of inferences to run concurrently, each requested by its own thread; they
            share `threads`, of which there are at least as many.
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
        how: options for opening it.

    Attributes:
        name: name of the engine, for logs and reports.
        model: name of the model file, for errors.
        inputs: tensors that `infer` takes.
        outputs: tensors that `infer` returns.
        metadata: key-value pairs of the model file.
        precision: precision in which the float parts of the file are computed, one of PRECISIONS;
            `int8` for an int8 TensorRT plan, and if the int8 file beside the model is used.
        on_gpu: whether it computes on an NVIDIA GPU.
        at_once: number of threads that may usefully call `infer` at the same time; 1 if the engine
            does not profit from more, whatever was requested.
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
    _counting = threading.Lock()  # one lock for all engines: it is held only briefly

    @abstractmethod
    def __init__(self, model: Path, how: Opening) -> None: ...

    @classmethod
    def lacks(cls, model: Path, how: Opening) -> str:
        """Return why `auto` should not try this engine, empty if no reason is known."""
        return ''

    def infer(self, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run the model once.

        Args:
            tensors: one C-contiguous array per input; only read, and only until this returns.

        Returns:
            One array per output, owned by the caller.

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
        """Add a user, who must close the engine too; return False if it is closed already."""
        with self._counting:
            if not self.closed:
                self._users += 1
            return not self.closed

    def close(self) -> None:
        """Release the engine when its last user closes it; further calls do nothing."""
        with self._counting:
            self._users -= 1
            last = self._users <= 0 and not self.closed
            self.closed = self.closed or last
        if last:
            self._release()
            give_back_memory()

    @abstractmethod
    def _release(self) -> None:
        """Release the resources of the runtime."""

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
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def give_back_memory() -> None:
    """Return free heap memory to the system: glibc would keep much of a closed model's."""
    if sys.platform == 'linux' and (libc := ctypes.CDLL(None)) and hasattr(libc, 'malloc_trim'):
        libc.malloc_trim(0)


def check_precision(engine: str, precision: str, known: tuple[str, ...]) -> str:
    """Return the precision that an engine computes in.

    Args:
        engine: name of the engine, for errors.
        precision: `auto`, or one of `known`.
        known: precisions of the engine, the default first.

    Raises:
        EngineError: the engine does not have this precision.
    """
    if precision not in ('auto', *known):
        raise EngineError(
            f'precision {precision!r}: {engine} computes in {" or ".join(known)}; expected one of '
            f'these or auto, or choose another engine'
        )
    return known[0] if precision == 'auto' else precision
