"""TensorRTEngine's wiring, on a pretended GPU; what needs a real one is marked gpu."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
import json
import logging
from pathlib import Path
import sys

from identity_network import identity_spec, write_onnx
import numpy as np
from numpy.typing import NDArray
from pretend_gpu import GPU, install, TensorRT, VERSION
import pytest

from mnv2_perception.engines import open_engine, plans, tensorrt_api
from mnv2_perception.engines.plans import Plan, PlanKey
from mnv2_perception.engines.verified import int8_beside
from mnv2_perception.errors import EngineError

HEIGHT, WIDTH = 5, 7
BLOB = json.dumps({'size': [HEIGHT, WIDTH]}).encode()


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRT:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return install(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_onnx(tmp_path / 'identity.onnx', identity_spec(HEIGHT, WIDTH))


def write(model: Path, blob: bytes = BLOB, **changes: object) -> Path:
    """Write a plan of the model to the cache folder; return its path."""
    values: dict[str, object] = {
        'onnx_sha256': plans.sha256(model), 'tensorrt': VERSION, 'gpu': GPU, 'precision': 'fp16',
        'shapes': (f'image 1x{HEIGHT}x{WIDTH}x3',), **changes,
    }
    key = PlanKey(**values)  # type: ignore[arg-type]
    spec = identity_spec(HEIGHT, WIDTH).to_metadata()
    plans.cache_folder().mkdir(parents=True, exist_ok=True)
    path = plans.cache_folder() / key.file_name(model)
    plans.write_plan(path, Plan(key, spec, spec, '2026-01-01T00:00:00+00:00', blob))
    return path


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)


def check_result(engine: object, seed: int) -> None:
    outputs = engine.infer({'image': noise(seed)})  # type: ignore[attr-defined]
    assert np.array_equal(outputs['class_ids'], noise(seed)[..., 0])
    assert np.array_equal(outputs['confidence'], np.maximum(noise(seed)[..., 1], 1))


# One inference


@pytest.mark.parametrize('integrated', [False, True], ids=['own memory', 'shared memory'])
def test_it_infers_and_gives_everything_back(
    integrated: bool, trt: TensorRT, model: Path
) -> None:
    write(model)
    trt.cuda.integrated = integrated
    with open_engine(model, 'tensorrt') as engine:
        assert [str(spec) for spec in engine.inputs] == ["'image' (1, 5, 7, 3) uint8"]
        assert engine.metadata == identity_spec(HEIGHT, WIDTH).to_metadata()
        for seed in range(3):
            check_result(engine, seed)
        assert ('cudaMemcpyAsync' in trt.cuda.called) is not integrated
    assert trt.cuda.alive == {}


def test_outputs_belong_to_the_caller(trt: TensorRT, model: Path) -> None:
    write(model)
    engine = open_engine(model, 'tensorrt')
    first = engine.infer({'image': noise(0)})['class_ids']
    check_result(engine, 1)
    engine.close()
    assert np.array_equal(first, noise(0)[..., 0])
    with pytest.raises(EngineError, match='closed'):
        engine.infer({'image': noise(0)})


def test_an_inference_replays_the_graph(trt: TensorRT, model: Path) -> None:
    write(model)
    engine = open_engine(model, 'tensorrt')
    trt.cuda.called.clear()
    check_result(engine, 0)
    assert trt.cuda.called == ['cudaGraphLaunch', 'cudaStreamSynchronize']


@pytest.mark.parametrize(
    'refuse',
    ['capture', 'cudaStreamBeginCapture', 'cudaStreamEndCapture', 'cudaGraphInstantiate'],
)
def test_without_a_graph_each_inference_is_queued(
    refuse: str, trt: TensorRT, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(model)
    trt.refuse, trt.cuda.failing = refuse, {refuse}
    engine = open_engine(model, 'tensorrt')
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert 'no CUDA graph' in caplog.text
    for seed in range(2):
        check_result(engine, seed)
    engine.close()
    assert trt.cuda.alive == {}


def test_a_refused_run_is_told_with_the_reason(trt: TensorRT, model: Path) -> None:
    write(model)
    trt.refuse = 'run'
    with pytest.raises(EngineError, match=r'identity\.onnx.*refuses to run: enqueue refused'):
        open_engine(model, 'tensorrt')
    assert trt.cuda.alive == {}


@pytest.mark.parametrize(
    'failing',
    ['cudaStreamCreateWithFlags', 'cudaDeviceGetAttribute', 'cudaHostAlloc', 'cudaMalloc',
     'cudaMemcpyAsync', 'cudaStreamSynchronize'],
)
def test_what_was_acquired_before_an_error_is_given_back(
    failing: str, trt: TensorRT, model: Path
) -> None:
    write(model)
    trt.cuda.failing = {failing}
    with pytest.raises(EngineError, match='CUDA error 700: as the test asked for'):
        open_engine(model, 'tensorrt')
    assert trt.cuda.alive == {}


def test_an_error_in_one_inference_is_told_and_the_next_may_work(
    trt: TensorRT, model: Path
) -> None:
    write(model)
    engine = open_engine(model, 'tensorrt')
    trt.cuda.failing = {'cudaGraphLaunch'}
    with pytest.raises(EngineError, match='CUDA error 700'):
        engine.infer({'image': noise(0)})
    trt.cuda.failing = set()
    check_result(engine, 1)


def test_an_error_while_closing_does_not_keep_the_rest(
    trt: TensorRT, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(model)
    engine = open_engine(model, 'tensorrt')
    trt.cuda.failing = {'cudaFree'}
    engine.close()
    assert len(trt.cuda.alive) == 3 and 'closing: CUDA error 700' in caplog.text


def test_threads_take_turns(trt: TensorRT, model: Path) -> None:
    write(model)
    engine = open_engine(model, 'tensorrt')
    with ThreadPoolExecutor(4) as pool:  # the pretended GPU fails where two meet
        for future in [pool.submit(check_result, engine, seed) for seed in range(40)]:
            future.result()
        pool.submit(engine.close).result()
    assert trt.cuda.alive == {}


# Which plan


def test_no_plan_names_the_exact_command(trt: TensorRT, model: Path) -> None:
    with pytest.raises(EngineError, match=f'no plan of it .* on Pretended.*; run: mnv2 build '
                                          f'{model}$'):
        open_engine(model, 'tensorrt')


@pytest.mark.parametrize(
    'changes', [{'tensorrt': '8.6.1'}, {'gpu': 'Orin 8.7 (8 SMs)'}, {'builder': 0}]
)
def test_a_plan_for_something_else_is_not_taken(
    changes: dict[str, object], trt: TensorRT, model: Path
) -> None:
    write(model, **changes)
    with pytest.raises(EngineError, match=r'no plan of it .*, only for TensorRT.*; run: mnv2 '):
        open_engine(model, 'tensorrt')


def test_a_plan_of_another_model_is_not_taken(trt: TensorRT, model: Path) -> None:
    write(model, onnx_sha256='0' * 64)
    with pytest.raises(EngineError, match='no plan of it'):
        open_engine(model, 'tensorrt')


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def foreign(path: Path) -> None:
    plan = plans.read_plan(path)
    plans.write_plan(path, Plan(plan.key, plan.metadata, plan.spec, plan.built, b'nonsense'))


@pytest.mark.parametrize(
    ('damage', 'told'),
    [(cut, 'is damaged'), (foreign, 'refuses it: magic tag does not match')],
)
def test_a_damaged_plan_is_refused_with_the_command(
    damage: Callable[[Path], None], told: str, trt: TensorRT, model: Path
) -> None:
    damage(write(model, precision='fp32', dla=1))
    with pytest.raises(EngineError, match=f'{told}.*; run: mnv2 build {model} --precision fp32 '
                                          f'--dla 1$'):
        open_engine(model, 'tensorrt')


@pytest.mark.parametrize('damage', [cut, foreign])
def test_a_damaged_plan_is_built_again_where_that_is_allowed(
    damage: Callable[[Path], None], trt: TensorRT, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(model, precision='fp32')
    damage(path)
    engine = open_engine(model, 'tensorrt', build=True)
    check_result(engine, 0)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and str(path) in warnings[0].getMessage()
    check_result(open_engine(model, 'tensorrt'), 1)


def test_the_newest_of_several_plans_is_taken(
    trt: TensorRT, model: Path
) -> None:
    write(model, precision='fp32')
    newest = write(model)
    facts = json.loads(newest.with_suffix('.json').read_text())
    newest.with_suffix('.json').write_text(json.dumps({**facts, 'built': '2026-02-02'}))
    path, _ = plans.choose_plan(model, plans.cache_folder(), VERSION, GPU)
    assert path == newest


def test_a_plan_opens_without_its_onnx_file(trt: TensorRT, model: Path) -> None:
    plan = write(model)
    model.unlink()
    for name in ('auto', 'tensorrt'):
        engine = open_engine(plan, name)
        check_result(engine, 0)
        assert engine.metadata == identity_spec(HEIGHT, WIDTH).to_metadata()


def test_an_int8_file_beside_the_model_is_none_of_its_business(
    trt: TensorRT, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(model)
    int8_beside(model).write_bytes(b'for CPUs')
    for precision in ('auto', 'fp16'):
        with open_engine(model, 'tensorrt', precision=precision) as engine:
            check_result(engine, 0)
            assert (engine.precision, engine.model) == ('fp16', model.name)
    with pytest.raises(EngineError, match='plan is fp16, got precision int8; run mnv2 build'):
        open_engine(model, 'tensorrt', precision='int8')
    assert 'int8' not in caplog.text


# TensorRT for RTX: the same class, another library


def write_rtx(model: Path) -> Path:
    return write(model, tensorrt=f'RTX {VERSION}', gpu='SM86 SM89')


@pytest.fixture
def rtx(trt: TensorRT) -> TensorRT:
    trt.cuda.compute = (8, 6)
    return trt


def test_each_library_takes_its_own_plan_of_a_model(rtx: TensorRT, model: Path) -> None:
    write(model, precision='fp32', gpu=GPU.replace('8.7', '8.6'))
    write_rtx(model)
    found = {}
    for name in ('tensorrt', 'tensorrt_rtx'):
        with open_engine(model, name) as engine:
            check_result(engine, 0)
            found[engine.name] = engine.precision
    assert found == {'tensorrt': 'fp32', 'tensorrt_rtx': 'fp16'}


@pytest.mark.parametrize('gpu', ['SM89', 'SM8', 'SM860'])
def test_a_plan_for_other_gpus_is_not_taken(gpu: str, rtx: TensorRT, model: Path) -> None:
    write(model, tensorrt=f'RTX {VERSION}', gpu=gpu)
    with pytest.raises(EngineError, match=f'on SM86, only for TensorRT RTX {VERSION} on {gpu}; '
                                          f'run: mnv2 build {model} --rtx --gpu SM86$'):
        open_engine(model, 'tensorrt_rtx')


@pytest.mark.parametrize(
    ('make', 'engine', 'told'),
    [
        (write_rtx, 'tensorrt', 'is a plan of TensorRT for RTX, engine tensorrt takes those of '
                                'TensorRT; open it with engine tensorrt_rtx,'),
        (write_rtx, 'auto', 'open it with engine tensorrt_rtx,'),
        (write, 'tensorrt_rtx', 'is a plan of TensorRT, .* open it with engine tensorrt,'),
    ],
)
def test_a_plan_of_the_other_library_is_refused_before_anything_is_loaded(
    make: Callable[[Path], Path], engine: str, told: str, model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    with pytest.raises(EngineError, match=told):
        open_engine(make(model), engine)


def test_auto_says_nothing_of_plans_of_tensorrt_for_rtx(
    trt: TensorRT, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    write_rtx(model)
    assert not open_engine(model).name.startswith('tensorrt')
    assert caplog.records == []


@pytest.mark.parametrize('missing', ['tensorrt_rtx_bindings', 'cuda.bindings'])
def test_a_missing_package_of_rtx_names_its_install(
    missing: str, trt: TensorRT, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    if missing.startswith('cuda'):
        monkeypatch.setitem(sys.modules, 'cuda', None)
    with pytest.raises(EngineError, match=r'TensorRT for RTX cannot be used.*pip install .*'
                                          r'tensorrt-rtx-cu13-bindings==.* onnxruntime-ep-nv-'):
        open_engine(model, 'tensorrt_rtx')


# auto


def test_auto_takes_tensorrt_where_there_is_a_plan(
    trt: TensorRT, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(model)
    assert open_engine(model).name == 'tensorrt'
    assert [record.getMessage() for record in caplog.records] == [
        'identity.onnx: engine tensorrt in fp16: it has a plan'
    ]


def test_auto_takes_another_where_there_is_no_plan(
    trt: TensorRT, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    caplog.set_level(logging.INFO)
    assert open_engine(model).name != 'tensorrt'
    assert len(caplog.records) == 1 and 'no TensorRT plan of it' in caplog.text


def test_auto_tells_why_a_plan_does_not_serve(
    trt: TensorRT, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    write(model, tensorrt='8.6.1')
    assert open_engine(model).name != 'tensorrt'
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert 'only for TensorRT 8.6.1' in caplog.text and 'mnv2 build' in caplog.text


# What a machine may lack


@pytest.mark.parametrize(
    ('missing', 'cure'),
    [('tensorrt', 'python3-libnvinfer'), ('cuda.bindings', 'pip install tensorrt cuda-python')],
)
def test_a_missing_package_names_its_install(
    missing: str, cure: str, trt: TensorRT, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EngineError, match=cure):
        open_engine(model, 'tensorrt')


def test_two_missing_packages_are_told_before_the_cure(
    trt: TensorRT, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('import_tensorrt', 'import_cudart'):
        monkeypatch.setattr(tensorrt_api, name, lambda: import_module('no_such_package'))
    with pytest.raises(EngineError) as caught:
        open_engine(model, 'tensorrt')
    assert str(caught.value).partition(';')[0].endswith(')')  # what `mnv2 benchmark` prints


def test_a_missing_gpu_is_told(trt: TensorRT, model: Path) -> None:
    trt.cuda.failing = {'cudaGetDeviceCount'}
    with pytest.raises(EngineError, match='no NVIDIA GPU can be used: CUDA error 700'):
        open_engine(model, 'tensorrt')


@pytest.mark.gpu
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_real_gpu_agrees_with_onnx_runtime(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('tensorrt', reason='needs TensorRT and an NVIDIA GPU')
    from mnv2_perception.engines.build import build_plan, Options
    from mnv2_perception.engines.builders import TensorRTBuilder
    from mnv2_perception.scenes.street import draw_scene
    from mnv2_perception.tasks.models import find_model

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    model, folder = find_model('unet_mobilenetv2_camvid'), plans.cache_folder()
    try:
        builder = TensorRTBuilder(model, folder)
    except EngineError as exc:
        pytest.skip(str(exc))
    build_plan(model, Options(precision), folder, builder)
    results = []
    for name in ('tensorrt', 'onnx_runtime'):
        with open_engine(model, name) as engine:
            _, height, width, _ = engine.inputs[0].shape
            assert height and width
            image, _ = draw_scene(1, 0.0, height, width)
            results.append(engine.infer({'image': image[None]})['class_ids'])
    assert (results[0] == results[1]).mean() > 0.99
