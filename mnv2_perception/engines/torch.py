"""Engine for torch: for machines that have torch and a GPU, but no TensorRT.

It opens .pt2 files, which `mnv2 export RUN/best.pt model.pt2` writes. On a GPU the network runs
channels last, as one CUDA graph; in fp16, scaling and decoding stay fp32.
https://docs.pytorch.org/docs/stable/export.html
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from mnv2_perception.engines.base import check_precision, Engine, Opening, Tensors, TensorSpec
from mnv2_perception.engines.pt2 import checked_program
from mnv2_perception.errors import EngineError, not_loaded

WARM_UP = 3  # runs before the capture, https://docs.pytorch.org/docs/stable/notes/cuda.html


class TorchEngine(Engine):
    """An exported program in torch.

    Args:
        model: path of the .pt2 file.
        how: `precision` is fp32 or fp16 on a GPU, fp32 on a CPU; auto is fp32, because fp16 was
            slower for the wider of two networks (benchmark/gpu.py). `threads` of 0 changes
            nothing; torch has one number of threads for the whole process.

    Raises:
        EngineError: torch is not installed, the file is missing or was not written by
            `mnv2 export`, or the precision is not available.

    Attributes:
        graph: on a GPU, the CUDA graph of one inference, so that a benchmark can replay it alone.
    """

    name = 'torch'
    graph: Any = None

    def __init__(self, model: Path, how: Opening) -> None:
        if not model.is_file():
            raise EngineError(f'{model}: no such model file')
        if not is_zipfile(model):
            raise EngineError(f'{model}: is not a .pt2 file; engine torch opens those of `mnv2 '
                              f'export`')
        try:
            import torch
        except ImportError as exc:
            raise EngineError(
                f'{model}: needs torch {not_loaded(exc, "pip install torch")}'
            ) from exc
        self.on_gpu = torch.cuda.is_available()
        known = ('fp32', 'fp16') if self.on_gpu else ('fp32',)
        self.precision = check_precision(self.name, how.precision, known)
        checked, facts = checked_program(model)
        try:
            program = torch.export.load(checked)
        except Exception as exc:  # errors of zip and schema have no common base
            raise EngineError(
                f'{model}: torch refuses it: {exc}; expected a .pt2 file of `mnv2 export`'
            ) from exc
        self.model = model.name
        self.metadata = facts['metadata']
        nodes = {node.name: node.meta.get('val') for node in program.graph.nodes}
        signature = program.graph_signature
        self.inputs = tuple(
            _tensor_spec(name, nodes[node])
            for name, node in zip(facts['inputs'], signature.user_inputs, strict=True)
        )
        self.outputs = tuple(
            _tensor_spec(name, nodes[node])
            for name, node in zip(facts['outputs'], signature.user_outputs, strict=True)
        )
        if how.threads:
            torch.set_num_threads(how.threads)
        if self.on_gpu:  # also moves the devices that the program asserts of its tensors
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, 'cuda')
        network = program.module().to(memory_format=torch.channels_last)
        if self.on_gpu:
            try:
                self.graph, self._run = _capture(network.cuda(), self.inputs, self.precision)
            except RuntimeError as exc:  # also torch.cuda.OutOfMemoryError
                raise EngineError(f'{model}: torch cannot run it on this GPU: {exc}') from exc
            return

        def run(*arrays: Any) -> Any:
            with torch.inference_mode():
                return network(*map(torch.from_numpy, arrays))

        self._run = run

    def _infer(self, tensors: Tensors) -> Tensors:
        # from_numpy warns of read-only arrays, although nothing is written here.
        arrays = [np.require(tensors[spec.name], requirements='W') for spec in self.inputs]
        try:
            results = self._run(*arrays)
        except RuntimeError as exc:
            raise EngineError(f'{self.model}: torch failed: {exc}') from exc
        return {
            spec.name: result.cpu().contiguous().numpy()
            for spec, result in zip(self.outputs, results, strict=True)
        }

    def _release(self) -> None:
        del self._run
        self.graph = None


def _capture(
    network: Any, inputs: tuple[TensorSpec, ...], precision: str
) -> tuple[Any, Callable[..., tuple[Any, ...]]]:
    """Record one inference as a CUDA graph; return it, and a function that runs it on inputs."""
    import torch

    halved = precision == 'fp16'
    if halved:
        halve_weights(network)
    held = [
        torch.zeros(spec.shape, dtype=getattr(torch, str(spec.dtype)), device='cuda')
        for spec in inputs
    ]
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.autocast('cuda', torch.float16, enabled=halved):
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                network(*held)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            results: tuple[Any, ...] = network(*held)

    def run(*arrays: Any) -> tuple[Any, ...]:
        for tensor, array in zip(held, arrays, strict=True):
            tensor.copy_(torch.from_numpy(array))
        graph.replay()
        return results

    return graph, run


def halve_weights(network: Any) -> None:
    """Store a program's weights in fp16: autocast would convert them again in every replay.

    Values beyond fp16's range become its largest: a channel that is never active may have such
    weights.
    """
    import torch

    most = torch.finfo(torch.float16).max
    aten = torch.ops.aten
    for node in list(network.graph.nodes):
        if node.target in (aten.conv2d.default, aten.linear.default):
            for argument in node.args[1:3]:
                if argument is not None:
                    weight = network.get_parameter(argument.target)
                    weight.data = weight.data.clamp(-most, most).half()
        elif node.target is aten._assert_tensor_metadata.default:
            network.graph.erase_node(node)  # it asserts the precision of the export
    network.recompile()


def _tensor_spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), np.dtype(str(tensor.dtype).split('.')[1]))
