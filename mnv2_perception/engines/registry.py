"""The registry of engines: a new engine is one row here, and one file in this folder."""

from importlib import import_module
from typing import NamedTuple

from mnv2_perception.engines.base import Engine
from mnv2_perception.errors import EngineError


class EngineInfo(NamedTuple):
    """Facts about an engine that are known before it is opened.

    Attributes:
        name: name in parameters and options.
        module: file of this folder that contains it. It is imported only when the engine is
            opened, because it may import its runtime: no engine needs that of another.
        class_name: name of its class in this file, an Engine.
        auto: whether `auto` tries it; the last of these must work everywhere.
        suffix: suffix of files that only this engine opens.
    """

    name: str
    module: str
    class_name: str
    auto: bool = False
    suffix: str = ''

    def load(self) -> type[Engine]:
        """Import and return its class."""
        loaded: type[Engine] = getattr(
            import_module(f'{__package__}.{self.module}'), self.class_name
        )
        return loaded


# In the order in which `auto` tries them.
REGISTRY = (
    EngineInfo('tensorrt', 'tensorrt', 'TensorRTEngine', auto=True, suffix='.plan'),
    EngineInfo('tensorrt_rtx', 'tensorrt', 'TensorRTEngine'),
    EngineInfo('onnx_runtime_cuda', 'onnx_runtime', 'OnnxRuntimeEngine', auto=True),
    EngineInfo('onnx_runtime_tensorrt', 'onnx_runtime', 'OnnxRuntimeEngine'),
    EngineInfo('openvino', 'openvino', 'OpenVINOEngine', auto=True),
    EngineInfo('onnx_runtime', 'onnx_runtime', 'OnnxRuntimeEngine', auto=True),
    EngineInfo('torch', 'torch', 'TorchEngine', suffix='.pt2'),
    EngineInfo('fake', 'fake', 'FakeEngine'),
)

ENGINES = tuple(info.name for info in REGISTRY)


def find_engine(name: str) -> EngineInfo:
    """Return the row of an engine.

    Raises:
        EngineError: there is no engine of this name.
    """
    for info in REGISTRY:
        if info.name == name:
            return info
    raise EngineError(f'engine {name!r} is unknown; known are auto, {", ".join(ENGINES)}')
