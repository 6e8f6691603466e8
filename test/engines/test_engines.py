"""The contract of every engine: checked inputs, owned outputs, no runtime before it is opened."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import subprocess
import sys
import time

from identity_network import identity_spec, MakeModel, write_fake
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.engines import Engine, ENGINES, open_engine
from mnv2_perception.errors import EngineError, TensorError

HEIGHT, WIDTH = 5, 7


@pytest.fixture
def engine(make_model: MakeModel) -> Engine:
    return open_engine(*make_model(HEIGHT, WIDTH))


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)


def test_it_gives_each_output_by_name(engine: Engine) -> None:
    image = noise(0)
    outputs = engine.infer({'image': image})
    assert list(outputs) == ['class_ids', 'confidence']
    assert np.array_equal(outputs['class_ids'], image[..., 0])
    assert np.array_equal(outputs['confidence'], image[..., 1])


def test_it_says_what_it_takes_and_gives(engine: Engine) -> None:
    assert [str(spec) for spec in engine.inputs] == ["'image' (1, 5, 7, 3) uint8"]
    assert [str(spec) for spec in engine.outputs] == [
        "'class_ids' (1, 5, 7) uint8", "'confidence' (1, 5, 7) uint8",
    ]
    assert engine.name in ENGINES
    assert engine.metadata == identity_spec(HEIGHT, WIDTH).to_metadata()


@pytest.mark.parametrize(
    ('tensors', 'told'),
    [
        ({'picture': noise(0)}, 'picture.*expected.*image'),
        ({}, 'expected.*image'),
        ({'image': noise(0), 'more': noise(0)}, 'more'),
        ({'image': noise(0)[:, :-1]}, r'\(1, 5, 7, 3\) uint8 got \(1, 4, 7, 3\)'),
        ({'image': noise(0)[0]}, r'got \(5, 7, 3\)'),
        ({'image': noise(0).astype(np.float32)}, 'float32'),
    ],
    ids=['wrong name', 'no input', 'one too many', 'wrong side', 'no batch axis', 'wrong dtype'],
)
def test_a_wrong_tensor_is_refused(
    engine: Engine, tensors: dict[str, NDArray[np.uint8]], told: str
) -> None:
    with pytest.raises(TensorError, match=told):
        engine.infer(tensors)


def test_a_tensor_that_is_not_contiguous_works(engine: Engine) -> None:
    image = noise(0)
    mirrored = engine.infer({'image': image[:, :, ::-1]})
    assert np.array_equal(mirrored['class_ids'], image[:, :, ::-1, 0])


def test_the_input_is_only_read(engine: Engine) -> None:
    image = noise(0)
    image.flags.writeable = False
    engine.infer({'image': image})
    assert np.array_equal(image, noise(0))


def test_outputs_belong_to_the_caller(engine: Engine) -> None:
    image = noise(1)
    first = engine.infer({'image': image})['class_ids']
    kept = first.copy()
    engine.infer({'image': noise(2)})
    image[:] = 0
    assert np.array_equal(first, kept)
    first[:] = 9
    assert np.array_equal(engine.infer({'image': noise(1)})['class_ids'], kept)


def test_closing_twice_is_harmless_and_use_after_it_is_told(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match='closed'):
        engine.infer({'image': noise(0)})


def test_what_it_holds_is_released_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    released = []
    release = engine._release
    monkeypatch.setattr(engine, '_release', lambda: released.append(release()))
    engine.close()
    engine.close()
    assert len(released) == 1


def test_with_closes_it(engine: Engine) -> None:
    with engine as opened:
        opened.infer({'image': noise(0)})
    with pytest.raises(EngineError, match='closed'):
        engine.infer({'image': noise(0)})


def test_two_engines_live_in_one_process(make_model: MakeModel, tmp_path: Path) -> None:
    model, name = make_model(HEIGHT, WIDTH)
    first, second = open_engine(model, name), open_engine(model, name)
    first.close()
    outputs = second.infer({'image': noise(3)})
    assert np.array_equal(outputs['class_ids'], noise(3)[..., 0])


def test_it_runs_in_another_thread_than_the_one_that_opened_it(engine: Engine) -> None:
    with ThreadPoolExecutor(1) as pool:
        outputs = pool.submit(engine.infer, {'image': noise(4)}).result()
    assert np.array_equal(outputs['class_ids'], noise(4)[..., 0])


@pytest.mark.parametrize('name', ENGINES)
def test_a_missing_model_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r'absent\.onnx'):
        open_engine(tmp_path / 'absent.onnx', name)


@pytest.mark.parametrize('content', [b'', b'no model', b'\x08\x07\x12\xff\xff', b'height: 3'])
@pytest.mark.parametrize('name', ENGINES)
def test_a_file_that_is_no_model_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'broken.onnx'
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r'broken\.onnx'):
        open_engine(path, name)


def test_an_unknown_engine_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"'tpu'.*auto, onnx_runtime, tensorrt, fake"):
        open_engine(tmp_path / 'model.onnx', 'tpu')


def test_a_missing_runtime_names_its_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(EngineError, match='pip install onnxruntime'):
        open_engine(tmp_path / 'model.onnx', 'onnx_runtime')


def test_the_fake_engine_takes_as_long_as_it_is_told(tmp_path: Path) -> None:
    engine = open_engine(write_fake(tmp_path / 'm.yaml', identity_spec(4, 4), 50.0), 'fake')
    start_s = time.perf_counter()
    engine.infer({'image': np.zeros((1, 4, 4, 3), np.uint8)})
    assert time.perf_counter() - start_s >= 0.05


def test_importing_engines_loads_no_runtime() -> None:
    code = (
        'import sys, mnv2_perception.engines, mnv2_perception.pipeline\n'
        "print([name for name in ('onnxruntime', 'torch', 'tensorrt', 'openvino') "
        'if name in sys.modules])'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.strip() == '[]'


@pytest.mark.parametrize('threads', [-1, 257])
def test_an_impossible_number_of_threads_is_refused(threads: int, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r'0 .*to 256'):
        open_engine(tmp_path / 'model.onnx', threads=threads)
