"""NVIDIA's own parser and builder, without a GPU: TensorRT for RTX (`make test-rtx`).

What they refuse is a failed test. Nothing is run: that needs a GPU.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from onnx_graphs import node, write_graph
from pretend_gpu import Cuda, install_cuda
import pytest

onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
for package in ('tensorrt_rtx_bindings', 'onnxruntime_ep_nv_tensorrt_rtx'):
    if find_spec(package) is None:
        pytest.skip(f'no {package}: run make test-rtx', allow_module_level=True)

from mnv2_perception.cli import main as cli
from mnv2_perception.engines import open_engine, plans, tensorrt_api
from mnv2_perception.engines.build import build_plan, Options
from mnv2_perception.engines.builders import RTX_GPUS, RtxBuilder
from mnv2_perception.engines.graph import fix_batch, precision_of, read_onnx
from mnv2_perception.engines.plans import Plan
from mnv2_perception.engines.quantize import calibrate, grouped_layers, insert_qdq, name_layers
from mnv2_perception.errors import EngineError

pytestmark = pytest.mark.train
MODELS = sorted((Path(__file__).parents[2] / 'mnv2_perception/models').glob('*.onnx'))
DETECTORS = 'ssdlite_mobilenetv2_camvid', 'ssdlite_mobilenetv2_ground'  # hold their batch of 1
# Bytes that a plan may hold besides weights: in int8 the sources of kernels, 0.14 MB each.
BESIDE_WEIGHTS = {'fp32': 2e6, 'fp16': 4e6, 'int8': 8e6}
Network = tuple[list[str], list[str], int]


def build(model: Path, folder: Path, options: Options) -> tuple[Plan, Network]:
    """Return a model's plan, and what NVIDIA's parser makes of it: its ends and its layers."""
    builder = RtxBuilder(model)
    plan = build_plan(model, options, folder, builder)
    trt = tensorrt_api.import_rtx()
    proto = read_onnx(model)
    fix_batch(proto, options.batch, model)
    # What gives a network owns it: it must live as long.
    owner = trt.Builder(tensorrt_api.trt_logger(trt))
    network = builder.parse(owner, proto, plan.key)
    takes = [network.get_input(index) for index in range(network.num_inputs)]
    gives = [network.get_output(index) for index in range(network.num_outputs)]
    return plan, ([tell(each) for each in takes], [tell(each) for each in gives],
                  network.num_layers)


def tell(tensor: Any) -> str:
    return f'{tensor.name} {tuple(tensor.shape)} {tensor.dtype.name}'


def expected(model: Path, batch: int) -> tuple[list[str], list[str]]:
    """Return the ends that an ONNX file announces, as `tell` does."""
    proto = onnx.load(str(model))

    def tell(value: Any) -> str:
        tensor = value.type.tensor_type
        sides = (batch, *(side.dim_value for side in tensor.shape.dim[1:]))
        name = onnx.TensorProto.DataType.Name(tensor.elem_type)
        return f'{value.name} {sides} {"HALF" if name == "FLOAT16" else name}'

    constants = {tensor.name for tensor in proto.graph.initializer}
    return ([tell(each) for each in proto.graph.input if each.name not in constants],
            [tell(each) for each in proto.graph.output])


@pytest.fixture(scope='module')
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Return what gives a shipped model in int8: all layers, its ranges from one image.

    One that is shipped in int8 is given as it is.
    """
    folder = tmp_path_factory.mktemp('int8')

    def make(model: Path) -> Path:
        if precision_of(read_onnx(model)) == 'int8':
            return model
        out = folder / f'{model.stem}_int8.onnx'
        if not out.exists():
            proto = read_onnx(model)
            layers = name_layers(proto, model)
            sides = [side.dim_value for side in proto.graph.input[0].type.tensor_type.shape.dim]
            image = np.random.default_rng(0).integers(0, 256, sides, np.uint8)
            ranges = calibrate(proto, [image], folder, lambda *_: None)
            onnx.save(insert_qdq(proto, layers, ranges), str(out))
        return out

    return make


# The shipped models


@pytest.mark.parametrize(('model', 'precision'), [
    pytest.param(model, precision, id=f'{model.stem}-{precision}')
    for model in MODELS for precision in plans.PRECISIONS
    if precision == 'int8' or not model.stem.endswith('_int8')
])
def test_a_shipped_model_is_built_and_keeps_its_ends(
    model: Path, precision: str, quantised: Callable[[Path], Path], tmp_path: Path
) -> None:
    file = quantised(model) if precision == 'int8' else model
    for batch in (1,) if model.stem.removesuffix('_int8') in DETECTORS else (1, 3):
        plan, (takes, gives, layers) = build(file, tmp_path, Options(precision, batch=batch))
        assert (takes, gives) == expected(model, batch)
        assert takes[0].endswith('UINT8')
        assert plan.key.precision == precision
        nodes = len(read_onnx(file).graph.node)
        assert 0.5 * nodes < layers < (2.2 if precision == 'int8' else 1.5) * nodes
        weights = model.stat().st_size * (0.5 if precision == 'fp16' else 1.0)
        if model.stem.endswith('_int8'):
            weights *= 4.0  # as many in the plan as of the fp32 model, beside its kernels
        assert len(plan.blob) < weights + BESIDE_WEIGHTS[precision]


def test_an_int8_plan_of_depthwise_layers_is_not_padded(
    quantised: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = next(path for path in MODELS if path.stem == 'unet_mobilenetv2_ground_fast')
    file = quantised(model)
    assert len(grouped_layers(read_onnx(file))) > 10
    plan, _ = build(file, tmp_path / 'mended', Options())
    assert plan.key.precision == 'int8'
    # This is what it mends: each channel of theirs becomes 32 x 32.
    monkeypatch.setattr('mnv2_perception.engines.builders.grouped_layers', lambda proto: [])
    padded, _ = build(file, tmp_path / 'padded', Options())
    assert len(padded.blob) > 4 * len(plan.blob)


def swap(proto: Any, kind: str, other: str) -> None:
    """Make another operator of the first one of a kind, keeping what it takes and gives."""
    first = next(each for each in proto.graph.node if each.op_type == kind)
    first.op_type = other
    del first.attribute[:]


def shift(proto: Any, kind: str, zero_point: int) -> None:
    """Give the first operator of a kind another zero point, as asymmetric int8 has."""
    first = next(each for each in proto.graph.node if each.op_type == kind)
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(np.int8(zero_point), 'shifted')
    )
    first.input[2] = 'shifted'


@pytest.mark.parametrize(
    ('precision', 'break_it'),
    [
        ('fp32', lambda proto: swap(proto, 'Exp', 'Bernoulli')),  # ONNX has it, TensorRT not
        ('fp16', lambda proto: swap(proto, 'Exp', 'Bernoulli')),
        ('int8', lambda proto: shift(proto, 'QuantizeLinear', 3)),
    ],
)
def test_a_graph_with_one_operator_broken_is_refused(
    precision: str, break_it: Callable[[Any], None], quantised: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    model = next(path for path in MODELS if path.stem == 'unet_mobilenetv2_ground_fast')
    proto = onnx.load(str(quantised(model) if precision == 'int8' else model))
    break_it(proto)
    path = tmp_path / 'broken.onnx'
    onnx.save(proto, str(path))
    with pytest.raises(EngineError, match=r'broken\.onnx: (TensorRT cannot read it|cannot be)'):
        build(path, tmp_path, Options(precision))
    assert not list(tmp_path.glob('*.plan'))


# What others export: docs/foreign_models.md

SIZE, CLASSES, STRIDE = (32, 48), 5, 4
SCORES = (1, CLASSES, SIZE[0] // STRIDE, SIZE[1] // STRIDE)
SPEC: dict[str, Any] = {
    'task': 'segmentation', 'height': SIZE[0], 'width': SIZE[1],
    'classes': [f'class_{index}' for index in range(CLASSES)],
}


def constant(name: str, value: Any) -> Any:
    tensor = onnx.numpy_helper.from_array(value)
    return onnx.helper.make_node('Constant', [], [name], value=tensor)


def network(channels: int = CLASSES, dtype: type = np.float32, takes: str = 'image') -> list[Any]:
    """Return the nodes of a network with a convolution in groups; it gives `scores`."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    make = onnx.helper.make_node
    return [
        constant('w1', weight(8, 3, 3, 3)), constant('w2', weight(8, 1, 3, 3)),
        constant('w3', weight(channels, 8, 1, 1)), constant('b3', weight(channels)),
        make('Conv', [takes, 'w1'], ['a'], pads=[1] * 4, strides=[2, 2]), node('Relu', 'a', 'b'),
        make('Conv', ['b', 'w2'], ['c'], pads=[1] * 4, strides=[2, 2], group=8),
        node('HardSwish', 'c', 'd'), make('Conv', ['d', 'w3', 'b3'], ['scores']),
    ]


def from_bytes(perm: list[int] | None) -> list[Any]:
    """Return the nodes that scale a uint8 image, and transpose it where it is NHWC."""
    last = 'half' if perm else 'image_float'
    return [
        node('Cast', 'image', 'float', to='float32'), constant('scale', np.float32(1 / 127.5)),
        onnx.helper.make_node('Mul', ['float', 'scale'], [last]),
        *([node('Transpose', 'half', 'image_float', perm=perm)] if perm else []),
    ]


def ids(dtype: str) -> list[Any]:
    """Return the nodes that make class ids of scores; TensorRT makes uint8 of float only."""
    return [
        node('ArgMax', 'scores', 'long', axis=1, keepdims=0),
        node('Cast', 'long', 'between', to='float32'), node('Cast', 'between', 'ids', to=dtype),
    ]


NCHW, NHWC = (1, 3, *SIZE), (1, *SIZE, 3)
TO_PLANES = [0, 3, 1, 2]
Form = tuple[Callable[[], list[Any]], Any, dict[str, Any], dict[str, Any]]
FORMS: dict[str, Form] = {
    'float32 NCHW, logits at a stride': (
        network, ('float32', NCHW), {'scores': ('float32', SCORES)},
        {'input': 'float_nchw', 'output': 'logits'},
    ),
    'float16 NCHW': (
        lambda: network(dtype=np.float16), ('float16', NCHW), {'scores': ('float16', SCORES)},
        {'input': 'float_nchw', 'output': 'logits'},
    ),
    'float32 NHWC, scores NHWC': (
        lambda: [node('Transpose', 'image', 'planes', perm=TO_PLANES), *network(takes='planes'),
                 node('Transpose', 'scores', 'last', perm=[0, 2, 3, 1])],
        ('float32', NHWC), {'last': ('float32', (1, *SCORES[2:], CLASSES))},
        {'input': 'float_nhwc', 'output': 'logits', 'output_layout': 'nhwc'},
    ),
    'uint8 NHWC, probabilities': (
        lambda: [*from_bytes(TO_PLANES), *network(takes='image_float'),
                 node('Softmax', 'scores', 'shares', axis=1)],
        ('uint8', NHWC), {'shares': ('float32', SCORES)},
        {'input': 'uint8_nhwc', 'output': 'probabilities'},
    ),
    'uint8 NCHW, sigmoid': (
        lambda: [*from_bytes(None), *network(1, takes='image_float'),
                 node('Sigmoid', 'scores', 'share')],
        ('uint8', NCHW), {'share': ('float32', (1, 1, *SCORES[2:]))},
        {'input': 'uint8_nchw', 'output': 'sigmoid', 'classes': ['floor', 'rest']},
    ),
    **{
        f'ids in {dtype}': (
            lambda dtype=dtype: [*network(), *ids(dtype)], ('float32', NCHW),
            {'ids': (dtype, (1, *SCORES[2:]))}, {'input': 'float_nchw', 'output': 'ids'},
        ) for dtype in ('uint8', 'int32', 'int64')
    },
    'two heads': (
        lambda: [*network(), node('GlobalAveragePool', 'c', 'aside')], ('float32', NCHW),
        {'aside': ('float32', (1, 8, 1, 1)), 'scores': ('float32', SCORES)},
        {'input': 'float_nchw', 'output': 'logits', 'output_name': 'scores'},
    ),
    'an open batch': (
        network, ('float32', ('n', *NCHW[1:])), {'scores': ('float32', ('n', *SCORES[1:]))},
        {'input': 'float_nchw', 'output': 'logits'},
    ),
    'a classifier': (
        lambda: [*network(), node('GlobalAveragePool', 'scores', 'mean'),
                 node('Flatten', 'mean', 'classes')],
        ('float32', NCHW), {'classes': ('float32', (1, CLASSES))},
        {'input': 'float_nchw', 'output': 'logits', 'task': 'classification'},
    ),
}  # fmt: skip


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('form', FORMS)
def test_what_others_export_is_built_and_keeps_its_ends(
    form: str, precision: str, tmp_path: Path
) -> None:
    make, takes, gives, spec = FORMS[form]
    model = write_graph(tmp_path / 'foreign.onnx', make(), takes, gives, **SPEC | spec)
    batch = 4 if form == 'an open batch' else 1
    plan, (inputs, outputs, _) = build(model, tmp_path, Options(precision, batch=batch))
    assert (inputs, outputs) == expected(model, batch)
    assert 1000 < len(plan.blob) < BESIDE_WEIGHTS[precision]


def test_published_models_are_built(mnv2_data: Path, tmp_path: Path) -> None:
    for name, task, side, classes in (
        ('deeplabv3_mobilenetv2_pascal_513_fp32', 'segmentation', 513, 20),
        ('mobilenetv2_1.0_224_imagenet', 'classification', 224, 1000),
    ):
        model = tmp_path / f'{name}.onnx'
        model.symlink_to(mnv2_data / f'weights/{name}.onnx')
        values = {
            'name': 'foreign', 'task': task, 'height': side, 'width': side, 'background': True,
            'classes': [f'class_{index}' for index in range(classes)], 'mean': [127.5] * 3,
            'std': [127.5] * 3, 'input': 'float_nchw', 'output': 'logits',
        }
        model.with_suffix('.yaml').write_text(str(values))  # YAML takes Python's braces
        for precision in ('fp32', 'fp16'):
            plan, (takes, gives, _) = build(model, tmp_path, Options(precision))
            assert takes == expected(model, 1)[0] and gives[0].endswith('FLOAT')
            assert len(plan.blob) < model.stat().st_size + BESIDE_WEIGHTS[precision]


# mnv2 build --rtx, engine: tensorrt_rtx


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model, beside an empty cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    make, takes, gives, spec = FORMS['float32 NCHW, logits at a stride']
    return write_graph(tmp_path / 'foreign.onnx', make(), takes, gives, **SPEC | spec)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """A pretended SM87 behind the real library, which sees that there is none."""
    if Path('/dev/nvidia0').exists():
        pytest.skip('shows what happens without a GPU, and there is one')
    return install_cuda(monkeypatch)


def test_the_known_gpus_are_the_library_s() -> None:
    members = set(tensorrt_api.import_rtx().ComputeCapability.__members__)
    assert members == {'NONE', 'CURRENT', *RTX_GPUS}


def test_the_command_builds_for_the_gpus_it_is_given(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs = []
    for words, gpus in (([], 'SM80 SM86 SM89 SM120 SM121'),
                        (['--gpu', 'SM75', 'SM86', '--precision', 'fp32'], 'SM75 SM86')):
        assert cli.main(['build', str(model), '--rtx', *words]) == 0
        path = Path(capsys.readouterr().out.strip())
        plan = plans.read_plan(path)
        assert (plan.key.gpu, plan.key.engine) == (gpus, 'tensorrt_rtx')
        assert plan.key.tensorrt == f'RTX {tensorrt_api.import_rtx().__version__}'
        blobs.append(plan.blob)
    assert blobs[0] != blobs[1]


@pytest.mark.parametrize(
    ('words', 'told'),
    [(['--rtx', '--dla', '0'], '--rtx cannot be combined'), (
        ['--gpu', 'SM86'], '--gpu is for --rtx'
    ),
     (['--rtx', '--timing-cache', 'x'], '--rtx cannot be combined')],
)
def test_options_that_contradict_each_other_are_refused(
    words: list[str], told: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(['build', str(model), *words]) == 1
    assert told in capsys.readouterr().err


def test_a_plan_that_is_there_is_taken_and_a_damaged_one_built_again(
    model: Path, tmp_path: Path
) -> None:
    first, again = (build(model, tmp_path, Options())[0] for _ in range(2))
    assert first.built == again.built
    path = tmp_path / first.key.file_name(model)
    plans.write_plan(path, Plan(first.key, {}, first.spec, first.built, b'nonsense' * 100))
    assert build(model, tmp_path, Options())[0].blob == first.blob == path.read_bytes()


def test_a_gpu_that_the_plan_is_not_for_is_told(model: Path, gpu: Cuda) -> None:
    gpu.compute = (7, 5)
    with pytest.raises(EngineError, match=f'no plan of it for TensorRT RTX .* on SM75; run: mnv2 '
                                          f'build {model} --rtx --gpu SM75$'):
        open_engine(model, 'tensorrt_rtx')
    build(model, plans.cache_folder(), Options())
    with pytest.raises(EngineError, match=r'on SM75, only for TensorRT RTX .* on SM80 SM86 SM89'):
        open_engine(model, 'tensorrt_rtx')


@pytest.mark.usefixtures('gpu')
@pytest.mark.parametrize('build', [False, True])
def test_a_gpu_that_the_library_does_not_know_is_told(build: bool, model: Path) -> None:
    with pytest.raises(EngineError, match=r'supports SM75, .*, got SM87; use engine tensorrt'):
        open_engine(model, 'tensorrt_rtx', build=build)


def test_a_missing_plan_is_built_for_this_gpu(model: Path, gpu: Cuda) -> None:
    gpu.compute = (8, 9)
    with pytest.raises(EngineError, match=r'refuses the plan it built: .*CUDA driver'):
        open_engine(model, 'tensorrt_rtx', build=True)
    ((_, key),) = plans.plans_of(model, plans.cache_folder())
    assert (key.gpu, key.precision) == ('SM89', 'fp16')


def test_the_library_s_own_refusal_is_told(model: Path, gpu: Cuda) -> None:
    gpu.compute = (8, 6)
    plan, _ = build(model, plans.cache_folder(), Options())
    path = plans.cache_folder() / plan.key.file_name(model)
    for file, told in ((model, f'; run: mnv2 build {model} --rtx --gpu SM86 --precision fp16$'),
                       (path, '; build it again from its ONNX file$')):
        # There is no driver: this is as far as a plan goes without a GPU.
        with pytest.raises(EngineError, match=f'on SM86 refuses it: .*CUDA driver.*{told}'):
            open_engine(file, 'tensorrt_rtx')
    assert gpu.alive == {}
