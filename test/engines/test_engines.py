"""The contract of every engine: checked inputs, owned outputs, no runtime before it is opened.

TensorRT runs on a pretended GPU here; ONNX Runtime's GPU providers where they are.
"""

from concurrent.futures import ThreadPoolExecutor
import ctypes
from importlib.util import find_spec
import json
import logging
import os
from pathlib import Path
import platform
import re
import subprocess
import sys
import time
import zipfile

from identity_network import (
    identity_spec,
    MakeModel,
    write_fake,
    write_onnx,
    write_program,
)
import numpy as np
from numpy.typing import NDArray
from onnx_graphs import write_convolutions
from pretend_gpu import GPU, install, VERSION
import pytest

from mnv2_perception import engines
from mnv2_perception.engines import Engine, ENGINES, open_engine, openvino, plans, registry
from mnv2_perception.engines.onnx_runtime import has_provider, PROVIDERS
from mnv2_perception.engines.plans import Plan, PlanKey
from mnv2_perception.engines.registry import REGISTRY
from mnv2_perception.errors import EngineError, TensorError
from mnv2_perception.scenes.street import draw_scene
from mnv2_perception.tasks.models import find_model
from mnv2_perception.tasks.segmenter import Segmenter

HEIGHT, WIDTH = 5, 7


def write_plan(model: Path, height: int, width: int, engine: str) -> Path:
    """Write a plan of the identity network for the pretended GPU."""
    spec = identity_spec(height, width).to_metadata()
    version, gpu = (f'RTX {VERSION}', 'SM86 SM89') if engine == plans.RTX else (VERSION, GPU)
    shapes = (f'image 1x{height}x{width}x3',)
    key = PlanKey(plans.sha256(model), version, gpu, 'fp16', shapes)
    path = model.with_suffix('.plan')
    blob = json.dumps({'size': [height, width]}).encode()
    plans.write_plan(path, Plan(key, spec, spec, '2026-01-01T00:00:00+00:00', blob))
    return path


def is_here(name: str) -> bool:
    """Tell whether an engine can be tried: of ONNX Runtime's GPU providers only what is there."""
    on_gpu = name in PROVIDERS and not PROVIDERS[name].startswith('CPU')
    return not on_gpu or (find_spec('onnxruntime') is not None and has_provider(name))


TRIED = [name for name in ENGINES if is_here(name)]


@pytest.mark.parametrize('name', [name for name in PROVIDERS if name != 'onnx_runtime'])
def test_a_gpu_provider_is_tried_as_the_others_are(name: str) -> None:
    if name not in TRIED:
        pytest.skip(f'this ONNX Runtime has no {PROVIDERS[name]}')
    assert has_provider(name)


@pytest.fixture(params=TRIED)
def make_model(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeModel:
    """Make the identity network for each engine."""
    name = request.param
    if name in PROVIDERS:
        pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    elif name in ('tensorrt', plans.RTX):
        install(monkeypatch).cuda.compute = (8, 6) if name == plans.RTX else (8, 7)
    elif name != 'fake':
        pytest.importorskip(name, reason=f'no {name}: run make setup-train')

    def make(height: int, width: int, **changes: object) -> tuple[Path, str]:
        spec = identity_spec(height, width, **changes)
        if name == 'fake':
            return write_fake(tmp_path / 'identity.fake.yaml', spec), name
        if name == 'torch':
            return write_program(tmp_path / 'identity.pt2', spec), name
        model = write_onnx(tmp_path / 'identity.onnx', spec)
        if name in ('tensorrt', plans.RTX):
            return write_plan(model, height, width, name), name
        return model, name

    return make


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make OpenVINO look as if it were not installed."""
    monkeypatch.setattr(openvino, 'find_spec', lambda name: None)


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
    assert np.array_equal(outputs['confidence'], np.maximum(image[..., 1], 1))


@pytest.mark.parametrize('name', ['auto', 'onnx_runtime', 'openvino', 'tensorrt', 'torch'])
def test_a_git_lfs_pointer_is_named_before_any_runtime_sees_it(tmp_path: Path, name: str) -> None:
    model = tmp_path / 'unet.onnx'
    model.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 4\n')
    with pytest.raises(EngineError, match=r"unet\.onnx: a Git LFS pointer.*'git lfs pull'"):
        open_engine(model, name)


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


def test_it_takes_as_many_inferences_at_once_as_it_says(make_model: MakeModel) -> None:
    images = [noise(seed) for seed in range(24)]
    engine = open_engine(*make_model(HEIGHT, WIDTH), threads=3, at_once=3)
    with engine, ThreadPoolExecutor(engine.at_once) as pool:
        found = list(pool.map(lambda image: engine.infer({'image': image}), images))
    for image, outputs in zip(images, found, strict=True):
        assert np.array_equal(outputs['class_ids'], image[..., 0])
        assert np.array_equal(outputs['confidence'], np.maximum(image[..., 1], 1))


def test_cpu_runtimes_take_several_inferences_at_once_and_no_more_than_threads(
    make_model: MakeModel
) -> None:
    model, name = make_model(HEIGHT, WIDTH)
    several = name in ('openvino', 'onnx_runtime', 'fake')
    for threads, at_once in ((3, 2), (2, 2), (1, 1)):
        with open_engine(model, name, threads, at_once=2) as engine:
            assert engine.at_once == (at_once if several else 1)
    with open_engine(model, name, threads=3) as engine:
        assert engine.at_once == 1


@pytest.mark.parametrize('name', ['onnx_runtime', 'openvino'])
def test_results_do_not_depend_on_how_many_inferences_run_at_once(name: str) -> None:
    pytest.importorskip(name.replace('_', ''), reason=f'no {name}: run make setup-train')
    model = find_model('mobilenetv2_camvid_surface')
    with (
        open_engine(model, name, threads=2) as alone,
        open_engine(model, name, threads=2, at_once=2) as several,
        open_engine(model, name, threads=3, at_once=2) as mixed,
    ):
        taken = alone.inputs[0]
        rng = np.random.default_rng(0)
        images = [
            rng.integers(0, 256, [side or 1 for side in taken.shape]).astype(taken.dtype)
            for _ in range(8)
        ]
        expected = [alone.infer({taken.name: image}) for image in images]
        for engine in (several, mixed):
            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(lambda x, e=engine: e.infer({taken.name: x}), images))
            for these, those in zip(found, expected, strict=True):
                assert all(np.array_equal(these[key], those[key]) for key in those)


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


def test_each_engine_is_a_row_of_the_registry_and_a_class_of_its_file() -> None:
    assert len({info.name for info in REGISTRY}) == len(REGISTRY)
    for info in REGISTRY:
        cls = info.load()
        assert issubclass(cls, Engine)
        assert cls.__module__ == f'mnv2_perception.engines.{info.module}'
    package = Path(__file__).parents[2] / 'mnv2_perception'
    naming = {
        path.stem for path in package.rglob('*.py')
        if "'onnx_runtime_tensorrt'" in path.read_text(encoding='utf-8')
    }
    assert naming == {'registry', 'onnx_runtime'}


def test_a_row_and_a_class_are_a_new_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = registry.EngineInfo('invented', 'fake', 'FakeEngine', suffix='.fake')
    rows = (*REGISTRY, row)
    monkeypatch.setattr(registry, 'REGISTRY', rows)
    monkeypatch.setattr(engines, 'REGISTRY', rows)
    model = write_fake(tmp_path / 'm.fake', identity_spec(HEIGHT, WIDTH))
    for engine in (open_engine(model), open_engine(model, 'invented')):
        assert np.array_equal(engine.infer({'image': noise(0)})['class_ids'], noise(0)[..., 0])


def test_an_unknown_engine_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"'tpu'.*auto, tensorrt, .*openvino, .*fake"):
        open_engine(tmp_path / 'model.onnx', 'tpu')


@pytest.mark.parametrize(
    ('name', 'module'),
    [('onnx_runtime', 'onnxruntime'), ('openvino', 'openvino'), ('torch', 'torch')],
)
def test_a_missing_runtime_names_its_install(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with zipfile.ZipFile(tmp_path / 'model', 'w'):  # as far as torch is asked for
        pass
    with pytest.raises(EngineError, match=f'pip install {module}'):
        open_engine(tmp_path / 'model', name)


def test_the_fake_engine_takes_as_long_as_it_is_told(tmp_path: Path) -> None:
    engine = open_engine(write_fake(tmp_path / 'm.yaml', identity_spec(4, 4), 50.0), 'fake')
    start_s = time.perf_counter()
    engine.infer({'image': np.zeros((1, 4, 4, 3), np.uint8)})
    assert time.perf_counter() - start_s >= 0.05


@pytest.mark.parametrize('name', ['auto', 'openvino', 'onnx_runtime', 'torch'])
def test_a_checkpoint_names_the_command_that_makes_a_model_of_it(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / 'best.pt').write_bytes(b'PK')
    with pytest.raises(EngineError, match=r'is a checkpoint, .*: mnv2 export .*best\.pt model'):
        open_engine(tmp_path / 'best.pt', name)


@pytest.mark.parametrize('name', ['auto', 'openvino', 'onnx_runtime', 'torch'])
def test_a_yaml_given_for_a_model_names_what_to_give(name: str, tmp_path: Path) -> None:
    (tmp_path / 'model.yaml').write_text('name: model', encoding='utf-8')
    with pytest.raises(EngineError, match=r'is a YAML, .* such as an \.onnx; name that'):
        open_engine(tmp_path / 'model.yaml', name)


def test_runtimes_report_to_nobody(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / 'model.onnx', identity_spec(HEIGHT, WIDTH))
    names = [name for name in ('onnx_runtime', 'openvino') if find_spec(name.replace('_', ''))]
    code = (
        'from pathlib import Path\n'
        'from mnv2_perception.engines import open_engine\n'
        f'for name in {names!r}:\n'
        f'    open_engine(Path({str(model)!r}), name).close()\n'
    )
    home = tmp_path / 'home'
    home.mkdir()
    told = ('ORT_DISABLE_TELEMETRY', 'CI', 'TF_BUILD', 'JENKINS_URL', 'XDG_CACHE_HOME')
    environment = {key: value for key, value in os.environ.items() if key not in told}
    subprocess.run(
        [sys.executable, '-c', code], env=environment | {'HOME': str(home)}, check=True, timeout=60
    )
    # Both keep an identity in the user's home, which goes with each report.
    assert not [path for path in home.rglob('*') if path.is_file()]


def test_importing_engines_loads_no_runtime() -> None:
    code = (
        'import sys, mnv2_perception.engines, mnv2_perception.tasks.models\n'
        "print([name for name in ('onnxruntime', 'torch', 'tensorrt', 'openvino') "
        'if name in sys.modules])'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.strip() == '[]'


def test_ctrl_c_is_heard_after_openvino_engines_close_in_the_order_they_opened(
    tmp_path: Path
) -> None:
    pytest.importorskip('openvino', reason='no openvino: run make setup-train')
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(HEIGHT, WIDTH))
    code = (
        'import pathlib, signal, sys\n'
        'from mnv2_perception.engines import open_engine\n'
        # A shell that started the tests in the background has it ignored.
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        "engines = [open_engine(pathlib.Path(sys.argv[1]), 'openvino') for _ in range(2)]\n"
        'for engine in engines:\n'
        '    engine.close()\n'
        'try:\n'
        '    signal.raise_signal(signal.SIGINT)\n'
        'except KeyboardInterrupt:\n'
        "    print('heard')\n"
    )
    result = subprocess.run(
        [sys.executable, '-c', code, str(model)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.strip() == 'heard'


@pytest.mark.parametrize('threads', [-1, 257])
def test_an_impossible_number_of_threads_is_refused(threads: int, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r'0 .*to 256'):
        open_engine(tmp_path / 'model.onnx', threads=threads)


@pytest.mark.parametrize('name', ['onnx_runtime_cuda', 'onnx_runtime_tensorrt'])
def test_a_missing_provider_names_its_install(name: str, tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    if has_provider(name):
        pytest.skip('it is there')
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(HEIGHT, WIDTH))
    with pytest.raises(EngineError, match=f'{PROVIDERS[name]}; .*pip install onnxruntime-gpu'):
        open_engine(model, name)


def test_a_zip_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    pytest.importorskip('torch', reason='no torch: run make setup-train')
    path = tmp_path / 'model.pt2'
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('readme', 'nothing')
    with pytest.raises(EngineError, match=r'model\.pt2: has a record .readme.*mnv2 export'):
        open_engine(path)


# Precision


def test_openvino_computes_in_fp32_unless_told(tmp_path: Path) -> None:
    pytest.importorskip('openvino', reason='no openvino: run make setup-train')
    model = write_convolutions(tmp_path / 'm.onnx')
    assert open_engine(model, 'openvino').precision == 'fp32'
    try:
        assert open_engine(model, 'openvino', precision='bf16').precision == 'bf16'
    except EngineError as exc:
        assert 'this CPU has no hardware support for bf16' in str(exc)


@pytest.mark.parametrize(
    ('name', 'precision'),
    [('openvino', 'fp16'), ('onnx_runtime', 'bf16'), ('torch', 'bf16'), ('openvino', 'f32')],
)
def test_a_precision_that_an_engine_lacks_is_refused(
    name: str, precision: str, make_program_or_onnx: dict[str, Path]
) -> None:
    with pytest.raises(EngineError, match=f"'{precision}': {name} computes in .*fp32"):
        open_engine(make_program_or_onnx[name], name, precision=precision)


@pytest.fixture
def make_program_or_onnx(tmp_path: Path) -> dict[str, Path]:
    """Files of the identity network by engine."""
    for name in ('openvino', 'torch', 'onnxruntime'):
        pytest.importorskip(name, reason=f'no {name}: run make setup-train')
    spec = identity_spec(HEIGHT, WIDTH)
    model = write_onnx(tmp_path / 'm.onnx', spec)
    return {
        'openvino': model, 'onnx_runtime': model, 'torch': write_program(tmp_path / 'm.pt2', spec)
    }


def test_a_plan_of_another_precision_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(HEIGHT, WIDTH))
    plan = write_plan(model, HEIGHT, WIDTH, 'tensorrt')
    assert open_engine(plan, precision='fp16').precision == 'fp16'
    with pytest.raises(EngineError, match='plan is fp16, got precision fp32'):
        open_engine(plan, precision='fp32')


@pytest.mark.parametrize('name', ['onnx_runtime', 'openvino'])
def test_idle_threads_leave_the_cpu_to_the_other_models(name: str) -> None:
    pytest.importorskip(name.replace('_', ''), reason=f'no {name}: run make setup-train')
    model = find_model('mobilenetv2_camvid_surface')
    with open_engine(model, name, threads=4) as engine:
        taken = engine.inputs[0]
        image = np.zeros([side or 1 for side in taken.shape], taken.dtype)
        idle_s = []
        for _ in range(10):
            engine.infer({taken.name: image})
            cpu_s = time.process_time()
            time.sleep(0.02)
            idle_s.append(time.process_time() - cpu_s)
    assert np.median(idle_s) < 0.005  # threads that spin while they wait take 0.02 and more


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_onnx_runtime_holds_an_inference_once() -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    script = (
        'import pathlib, re, sys\n'
        'import numpy, onnxruntime\n'
        'from mnv2_perception.engines import open_engine\n'
        'def held_mb():\n'
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmRSS:\\s*(\\d+)', status)[1]) / 1024\n"
        'before = held_mb()\n'
        "with open_engine(pathlib.Path(sys.argv[1]), 'onnx_runtime') as engine:\n"
        '    for _ in range(3):\n'
        "        engine.infer({'image': numpy.zeros(engine.inputs[0].shape, numpy.uint8)})\n"
        '    print(held_mb() - before)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script, str(find_model('unet_mobilenetv2_ground'))],
        capture_output=True, text=True, check=True,
    )
    assert float(done.stdout) < 165.0  # 130 MB; 207 with what a memory pattern adds


@pytest.mark.parametrize(('precision', 'agreement'), [('fp32', 0.999), ('bf16', 0.97)])
def test_openvino_gives_what_onnx_runtime_gives(precision: str, agreement: float) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    pytest.importorskip('openvino', reason='no openvino: run make setup-train')
    model = find_model('unet_mobilenetv2_camvid')
    image, _ = draw_scene(7, 0.0, 240, 320)
    expected = Segmenter.open(model, 'onnx_runtime')(image)
    try:
        found = Segmenter.open(model, 'openvino', precision=precision)(image)
    except EngineError as exc:
        pytest.skip(str(exc))
    assert (found.class_ids == expected.class_ids).mean() >= agreement
    difference = found.confidence.astype(int) - expected.confidence
    assert np.abs(difference).mean() <= (1.0 - agreement) * 255


# auto


def test_auto_takes_openvino_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip('openvino', reason='no openvino: run make setup-train')
    if has_provider('onnx_runtime_cuda'):
        pytest.skip('this machine has something better')
    caplog.set_level(logging.INFO, 'mnv2_perception')
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(HEIGHT, WIDTH))
    assert open_engine(model).name == 'openvino'
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith('m.onnx: engine openvino in fp32: no TensorRT plan of it in ')


def test_auto_without_openvino_names_its_install(
    no_openvino: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    if has_provider('onnx_runtime_cuda'):
        pytest.skip('this machine has something better')
    caplog.set_level(logging.INFO, 'mnv2_perception')
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(HEIGHT, WIDTH))
    assert open_engine(model).name == 'onnx_runtime'
    assert 'engine onnx_runtime in fp32' in caplog.text and 'pip install openvino' in caplog.text


def test_a_precision_that_only_a_missing_runtime_has_names_its_install(
    no_openvino: None, tmp_path: Path
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    if has_provider('onnx_runtime_cuda'):
        pytest.skip('this machine has something better')
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(HEIGHT, WIDTH))
    with pytest.raises(EngineError, match=r"'int8': onnx_runtime .*pip install openvino"):
        open_engine(model, precision='int8')


def test_auto_goes_on_where_an_engine_refuses_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    if has_provider('onnx_runtime_cuda'):
        pytest.skip('this machine has something better')
    monkeypatch.setattr(openvino, 'find_spec', lambda name: 'there')
    monkeypatch.setitem(sys.modules, 'openvino', None)
    caplog.set_level(logging.INFO, 'mnv2_perception')
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(HEIGHT, WIDTH))
    assert open_engine(model).name == 'onnx_runtime'
    assert [record.levelname for record in caplog.records] == ['WARNING', 'INFO']
    assert 'openvino refuses it' in caplog.text


def test_auto_opens_a_program_with_torch(tmp_path: Path) -> None:
    pytest.importorskip('torch', reason='no torch: run make setup-train')
    path = write_program(tmp_path / 'm.pt2', identity_spec(HEIGHT, WIDTH))
    assert open_engine(path).name == 'torch'


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of glibc alone')
def test_the_last_user_s_close_gives_back_what_the_heap_holds_free(tmp_path: Path) -> None:
    path = write_fake(tmp_path / 'm.yaml', identity_spec(8, 8))
    engine = open_engine(path, 'fake')
    assert engine.share()
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]

    def held_mb() -> float:
        figures = re.search(r'RssAnon:\s+(\d+)', Path('/proc/self/status').read_text())
        assert figures
        return int(figures[1]) / 1024

    # Less than glibc maps on their own; the last keeps it from giving back the others.
    blocks = [libc.malloc(60_000) for _ in range(3000)]
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    for block in blocks[:-1]:
        libc.free(block)
    full_mb = held_mb()
    engine.close()
    assert held_mb() > full_mb - 20
    engine.close()
    assert held_mb() < full_mb - 100
    libc.free(blocks[-1])
