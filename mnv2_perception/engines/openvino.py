"""Engine for OpenVINO on the CPU."""

from contextlib import suppress
import hashlib
from importlib.util import find_spec
import json
import logging
from pathlib import Path
from queue import SimpleQueue
import threading
from typing import Any, ClassVar

import numpy as np

from mnv2_perception.engines import openvino_passes
from mnv2_perception.engines.base import check_precision, Engine, Opening, Tensors, TensorSpec
from mnv2_perception.engines.plans import cache_folder, sha256, write_whole
from mnv2_perception.engines.verified import int8_beside, read_verified, verified_int8
from mnv2_perception.errors import EngineError, not_loaded

HINTS = {'fp32': 'f32', 'bf16': 'bf16'}
# CPU flags of int8 instructions. Other CPUs are slow at int8, and sums may overflow.
VNNI = {'avx512_vnni', 'avx_vnni', 'amx_int8'}
DIGEST_BYTES = 32
KEPT = 16  # number of compiled models; those of replaced models are useless

logger = logging.getLogger(__name__)


class OpenVINOEngine(Engine):
    """A model in OpenVINO, on the CPU.

    Args:
        model: path of the .onnx file.
        how: `precision` is fp32, or, if the CPU has it, bf16 or int8. int8 is the file beside the
            model, with its float parts in bf16 if the model was verified in that too, otherwise in
            fp32. auto is the faster of int8 and bf16 that the CPU has and the model was verified
            in, see `verified`, otherwise fp32. By default OpenVINO would silently use bf16.
            `threads` of 0 uses one per core.

    Raises:
        EngineError: openvino is not installed, the file is missing or not an ONNX model, the CPU
            does not compute in the precision, or the int8 file is missing or another one.
    """

    name = 'openvino'
    # One for the life of the process. Each Core's CPU plugin gives the thread a signal stack and
    # unmaps it with its last model; of two that close in the order in which they were opened, the
    # second one restores the first one's unmapped stack, and the next signal, such as Ctrl-C,
    # kills the process.
    # https://github.com/openvinotoolkit/openvino/pull/11894
    _core: ClassVar[Any] = None

    def __init__(self, model: Path, how: Opening) -> None:
        check_precision(self.name, how.precision, (*HINTS, 'int8'))
        try:
            import openvino
        except ImportError as exc:
            raise EngineError(
                f'{model}: needs OpenVINO {not_loaded(exc, "pip install openvino")}'
            ) from exc
        if not model.is_file():
            raise EngineError(f'{model}: no such model file')
        try:
            if OpenVINOEngine._core is None:
                OpenVINOEngine._core = openvino.Core()
            network = self._core.read_model(str(model))
            # This is where its ONNX reader puts the file's key-value pairs.
            facts = network.get_rt_info()
            pairs = facts['framework'].items() if 'framework' in facts else ()
            self.metadata = {key: str(getattr(value, 'value', value)) for key, value in pairs}
            self.precision, of_floats, file = self._choose(model, how.precision)
            config = {
                'INFERENCE_PRECISION_HINT': HINTS[of_floats],
                'INFERENCE_NUM_THREADS': how.threads,
                **({'NUM_STREAMS': how.at_once} if how.at_once > 1
                   else {'PERFORMANCE_HINT': 'LATENCY'}),
                # Two processes would pin their threads to the same cores.
                'ENABLE_CPU_PINNING': False,
            }
            if file == model:
                openvino_passes.rewrite(network, of_floats)
                compiled = self._core.compile_model(network, 'CPU', config)
            else:
                compiled = self._compile_once(file, of_floats, config)
        except RuntimeError as exc:
            raise EngineError(f'{model}: OpenVINO refuses it: {exc}') from exc
        given = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
        if given != HINTS[of_floats]:
            raise EngineError(
                f'{model}: this CPU has no hardware support for {self.precision}, so OpenVINO '
                f'would use {given}; set precision to fp32'
            )
        self.at_once = how.at_once
        self._requests: SimpleQueue[Any] = SimpleQueue()  # those that are not in use
        for _ in range(self.at_once):
            self._requests.put(compiled.create_infer_request())
        self.model = file.name
        self.inputs = tuple(_tensor_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_tensor_spec(port) for port in compiled.outputs)

    @classmethod
    def lacks(cls, model: Path, how: Opening) -> str:
        if find_spec('openvino') is None:
            return 'OpenVINO is not installed (pip install openvino)'
        return ''

    def _choose(self, model: Path, asked: str) -> tuple[str, str, Path]:
        """Return the precision, the precision of the file's float parts, and the file.

        Raises:
            EngineError: int8 is requested but not available.
        """
        if asked in HINTS:
            return asked, asked, model
        found = read_verified(self.metadata, model)
        native = self.native()
        # If bf16 was not measured, it was not used in the int8 file either.
        of_floats = 'bf16' if native['bf16'] and 'bf16' in found else 'fp32'
        if asked == 'int8':
            if not native['int8']:
                raise EngineError(
                    f'{model}: this CPU has no hardware support for int8 (VNNI, AMX); set '
                    f'precision to fp32'
                )
            return 'int8', of_floats, verified_int8(model, found.get('int8'))
        names = sorted(
            (name for name, each in found.items() if each.good and native.get(name)),
            key=lambda name: found[name].speed, reverse=True,
        )
        if native['int8'] and 'int8' not in found and int8_beside(model).is_file():
            names.insert(0, 'int8')  # so that the log says why not
        for name in names:
            file = model
            if name == 'int8':
                try:
                    file = verified_int8(model, found.get(name))
                except EngineError as exc:
                    wrong = name in found and int8_beside(model).is_file()
                    logger.log(logging.WARNING if wrong else logging.INFO, 'no int8: %s', exc)
                    continue
            logger.info(
                '%s: runs in %s: %s; precision fp32 gives the exact '
                'results', file.name, name, found[name]
            )
            return name, of_floats, file
        return 'fp32', 'fp32', model

    def native(self) -> dict[str, bool]:
        """Return for bf16 and int8 whether the CPU has instructions for it."""
        capabilities = self._capabilities()
        return {'bf16': 'BF16' in capabilities, 'int8': 'VNNI' in capabilities}

    def _capabilities(self) -> list[str]:
        """Return the CPU's capabilities; VNNI stands for int8."""
        found = list(self._core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES'))
        return [*found, 'VNNI'] if cpu_flags() & VNNI else found

    def _compile_once(self, file: Path, of_floats: str, config: dict[str, Any]) -> Any:
        """Return a compiled model, from the cache folder if it is there, otherwise stored there.

        OpenVINO compiles an int8 model for half a second, every time.
        """
        key = json.dumps([
            sha256(file), config, self._capabilities(),
            self._core.get_property('CPU', 'FULL_DEVICE_NAME'),
            self._core.get_versions('CPU')['CPU'].build_number, openvino_passes.VERSION,
        ])
        digest = hashlib.sha256(key.encode()).hexdigest()
        path = cache_folder().with_name('openvino') / f'{file.stem}-{digest[:16]}.blob'
        try:
            kept = path.read_bytes()
            # OpenVINO would load damaged weights without complaint.
            if hashlib.sha256(kept[DIGEST_BYTES:]).digest() == kept[:DIGEST_BYTES]:
                return self._core.import_model(kept[DIGEST_BYTES:], 'CPU', config)
            logger.warning('%s: is damaged; making it again', path)
        except FileNotFoundError:
            pass
        except (OSError, RuntimeError) as exc:
            logger.warning('%s: cannot be used; making it again: %s', path, exc)
        network = self._core.read_model(str(file))
        openvino_passes.rewrite(network, of_floats)
        compiled = self._core.compile_model(network, 'CPU', config)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            blob = compiled.export_model().getvalue()
            # Nodes that start together each store one, under a unique name until it is written.
            own = path.with_name(f'{path.stem}.{threading.get_native_id()}')
            write_whole(own, hashlib.sha256(blob).digest() + blob)
            own.replace(path)
            drop_oldest(path.parent)
        except (OSError, RuntimeError) as exc:
            logger.info(
                '%s: cannot be stored, so the model is compiled at each start: %s; set '
                'XDG_CACHE_HOME to another folder', path, exc,
            )
        return compiled

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


def drop_oldest(folder: Path) -> None:
    """Delete all but the newest KEPT files of a folder."""
    with suppress(OSError):  # another process may delete them, too
        for path in sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime)[:-KEPT]:
            path.unlink()


def cpu_flags() -> set[str]:
    """Return the CPU's feature flags, as Linux names them on x86; empty elsewhere."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return set()
    found = (line.partition(':')[2] for line in lines if line.startswith('flags'))
    return set(next(found, '').split())


def _tensor_spec(port: Any) -> TensorSpec:
    # A port may have several names; that of its node is the one in the ONNX file.
    name = port.node.get_friendly_name().removesuffix('/sink_port_0')
    if port.partial_shape.rank.is_dynamic:
        shape: tuple[int | None, ...] = ()
    else:
        shape = tuple(
            None if side.is_dynamic else side.get_length() for side in port.partial_shape
        )
    return TensorSpec(name, shape, np.dtype(port.element_type.to_dtype()))
