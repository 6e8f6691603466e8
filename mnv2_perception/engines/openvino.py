"""OpenVINO on the CPU."""

from importlib.util import find_spec
import logging
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np

from mnv2_perception.engines.base import check_precision, Engine, Opening, Tensors, TensorSpec
from mnv2_perception.engines.verified import read_verified
from mnv2_perception.errors import EngineError

HINTS = {'fp32': 'f32', 'bf16': 'bf16'}

logger = logging.getLogger(__name__)


class OpenVINOEngine(Engine):
    """A model in OpenVINO, on the CPU.

    Args:
        model: path of the .onnx file.
        how: `precision` is fp32, or bf16 where the CPU has it; auto is bf16 there if the model was
            verified in it, see `verified`, else fp32. Left to itself OpenVINO would take the
            shorter one without a word. 0 `threads` use one for each core.

    Raises:
        EngineError: openvino is not installed, the file is missing or no ONNX model, or the CPU
            does not compute in the precision.
    """

    name = 'openvino'
    # One for the life of the process. Each Core's CPU plugin gives the thread a signal stack and
    # unmaps it with its last model; of two that close in the order they were opened, the second
    # puts the first one's unmapped stack back, and the next signal, say Ctrl-C, kills the process.
    # https://github.com/openvinotoolkit/openvino/pull/11894
    _core: ClassVar[Any] = None

    def __init__(self, model: Path, how: Opening) -> None:
        check_precision(self.name, how.precision, tuple(HINTS))
        try:
            import openvino
        except ImportError as exc:
            raise EngineError(
                f'{model}: OpenVINO is not installed; pip install openvino'
            ) from exc
        if not model.is_file():
            raise EngineError(f'{model}: no such model file')
        try:
            if OpenVINOEngine._core is None:
                OpenVINOEngine._core = openvino.Core()
            network = self._core.read_model(str(model))
            # Where its ONNX reader leaves the file's key-value pairs.
            facts = network.get_rt_info()
            pairs = facts['framework'].items() if 'framework' in facts else ()
            self.metadata = {key: str(getattr(value, 'value', value)) for key, value in pairs}
            self.precision = how.precision
            if how.precision == 'auto':
                self.precision = self._fastest_verified(model)
            compiled = self._core.compile_model(network, 'CPU', {
                'INFERENCE_PRECISION_HINT': HINTS[self.precision],
                'INFERENCE_NUM_THREADS': how.threads,
                **({'NUM_STREAMS': how.at_once} if how.at_once > 1
                   else {'PERFORMANCE_HINT': 'LATENCY'}),
                # Two processes would pin their threads to the same cores.
                'ENABLE_CPU_PINNING': False,
            })
        except RuntimeError as exc:
            raise EngineError(f'{model}: OpenVINO refuses it: {exc}') from exc
        given = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
        if given != HINTS[self.precision]:
            raise EngineError(
                f'{model}: this CPU does not compute in {self.precision}, OpenVINO would take '
                f'{given}; expected precision fp32'
            )
        self.at_once = how.at_once
        self._requests: SimpleQueue[Any] = SimpleQueue()  # those that nobody uses
        for _ in range(self.at_once):
            self._requests.put(compiled.create_infer_request())
        self.model = model.name
        self.inputs = tuple(_tensor_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_tensor_spec(port) for port in compiled.outputs)

    @classmethod
    def lacks(cls, model: Path, how: Opening) -> str:
        if find_spec('openvino') is None:
            return 'OpenVINO is not installed (pip install openvino)'
        return ''

    def _fastest_verified(self, model: Path) -> str:
        found = read_verified(self.metadata, str(model)).get('bf16')
        if found is None or not found.good:
            return 'fp32'
        if 'BF16' not in self._capabilities():
            return 'fp32'
        logger.info('%s: in bf16: %s; precision fp32 is the exact one', model.name, found)
        return 'bf16'

    def _capabilities(self) -> list[str]:
        """Return what the CPU computes in by itself."""
        return list(self._core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES'))

    def _infer(self, tensors: Tensors) -> Tensors:
        arrays = [tensors[spec.name] for spec in self.inputs]
        request = self._requests.get()
        try:
            results = request.infer(arrays, share_inputs=True)
        except RuntimeError as exc:
            raise EngineError(f'{self.model}: OpenVINO failed: {exc}') from exc
        finally:
            self._requests.put(request)
        return {spec.name: results[index] for index, spec in enumerate(self.outputs)}

    def _release(self) -> None:
        del self._requests


def _tensor_spec(port: Any) -> TensorSpec:
    # A port may have several names; its node's is that of the ONNX file.
    name = port.node.get_friendly_name().removesuffix('/sink_port_0')
    if port.partial_shape.rank.is_dynamic:
        shape: tuple[int | None, ...] = ()
    else:
        shape = tuple(
            None if side.is_dynamic else side.get_length() for side in port.partial_shape
        )
    return TensorSpec(name, shape, np.dtype(port.element_type.to_dtype()))
