"""Engines for ONNX Runtime: on the CPU, or on an NVIDIA GPU by its CUDA and TensorRT providers."""

from pathlib import Path
from typing import Any

import numpy as np

from mnv2_perception.engines.base import (
    check_precision,
    cores,
    Engine,
    Opening,
    Tensors,
    TensorSpec,
)
from mnv2_perception.errors import EngineError, not_loaded

DTYPES = {
    'tensor(float)': 'float32',
    'tensor(double)': 'float64',
    **{f'tensor({name})': name for name in (
        'float16', 'bool', 'uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'uint64', 'int64'
    )},
}
# Execution provider of each engine, https://onnxruntime.ai/docs/execution-providers
PROVIDERS = {
    'onnx_runtime': 'CPUExecutionProvider',
    'onnx_runtime_cuda': 'CUDAExecutionProvider',
    'onnx_runtime_tensorrt': 'TensorrtExecutionProvider',
}


class OnnxRuntimeEngine(Engine):
    """A model in ONNX Runtime.

    Args:
        model: path of the .onnx file.
        how: `engine` is a name in PROVIDERS, `precision` fp32 or auto, which is the same;
            `threads` of 0 uses one per core.

    Raises:
        EngineError: onnxruntime or its provider is not installed or finds no GPU, the precision is
            not fp32, or the file is missing or not an ONNX model.
    """

    def __init__(self, model: Path, how: Opening) -> None:
        self.name = name = how.engine
        self.precision = check_precision(name, how.precision, ('fp32',))
        try:
            import onnxruntime
        except ImportError as exc:
            raise EngineError(
                f'{model}: needs ONNX Runtime {not_loaded(exc, "pip install onnxruntime")}'
            ) from exc
        if not model.is_file():
            raise EngineError(f'{model}: no such model file')
        provider = PROVIDERS[name]
        self.on_gpu = provider != PROVIDERS['onnx_runtime']
        if provider not in onnxruntime.get_available_providers():
            raise EngineError(
                f'{model}: this ONNX Runtime has no {provider}; '
                f'pip uninstall onnxruntime, then pip install onnxruntime-gpu'
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = how.threads
        if how.at_once > 1 and not self.on_gpu:
            self.at_once = how.at_once
            # The pool starts one thread less than this: with the callers these are `threads`.
            options.intra_op_num_threads = (how.threads or cores()) - how.at_once + 1
        options.log_severity_level = 3
        # Otherwise it keeps one block for a whole inference beside what the first one allocated:
        # 77 MB for unet_mobilenetv2_ground, without being faster.
        options.enable_mem_pattern = self.on_gpu
        # Otherwise its idle threads spin and slow down the other models of the process.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=[provider]
            )
        except Exception as exc:  # its exceptions have no common base but Exception
            raise EngineError(f'{model}: ONNX Runtime refuses it: {exc}') from exc
        if provider not in self._session.get_providers():  # it falls back silently
            raise EngineError(
                f'{model}: ONNX Runtime could not start its {provider}; check the GPU, its driver '
                f'and the CUDA libraries that this onnxruntime-gpu needs'
            )
        self.model = model.name
        self.inputs = tuple(_tensor_spec(model, arg) for arg in self._session.get_inputs())
        self.outputs = tuple(_tensor_spec(model, arg) for arg in self._session.get_outputs())
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    @classmethod
    def lacks(cls, model: Path, how: Opening) -> str:
        return '' if has_provider(how.engine) else 'no CUDA in ONNX Runtime'

    def _infer(self, tensors: Tensors) -> Tensors:
        names = [spec.name for spec in self.outputs]
        try:
            arrays = self._session.run(names, tensors)
        except Exception as exc:  # its exceptions have no common base but Exception
            raise EngineError(f'{self.model}: ONNX Runtime failed: {exc}') from exc
        return dict(zip(names, arrays, strict=True))

    def _release(self) -> None:
        del self._session


def has_provider(name: str) -> bool:
    """Tell whether an ONNX Runtime is installed that has the provider of an engine."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return PROVIDERS[name] in onnxruntime.get_available_providers()


def _tensor_spec(model: Path, arg: Any) -> TensorSpec:
    if arg.type not in DTYPES:
        raise EngineError(
            f'{model}: tensor {arg.name!r} is {arg.type}; known are {", ".join(DTYPES)}'
        )
    shape = tuple(side if isinstance(side, int) else None for side in arg.shape)
    return TensorSpec(arg.name, shape, np.dtype(DTYPES[arg.type]))
