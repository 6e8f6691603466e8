"""`mnv2 benchmark`: the bare call, stages that add up, engines that are not there."""

import json
from pathlib import Path

from identity_network import identity_spec, write_fake
import numpy as np
from onnx_graphs import write_convolutions
import pytest

pytest.importorskip('onnx', reason='no onnx: run make setup-train')
pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from mnv2_perception.cli import main as cli
from mnv2_perception.engines import open_engine
from mnv2_perception.engines.graph import cut_network
from mnv2_perception.engines.quantize import quantize_model
from mnv2_perception.errors import EngineError, ModelError
from mnv2_perception.evaluation.benchmark import benchmark, benchmark_table, STAGES

pytestmark = pytest.mark.train

IMAGE = np.zeros((40, 60, 3), np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_convolutions(tmp_path / 'model.onnx')


def test_the_bare_call_is_the_network_without_scaling_and_decoding(model: Path) -> None:
    cut_network(model, model.with_name('bare.onnx'))
    bare = open_engine(model.with_name('bare.onnx'), 'onnx_runtime')
    assert [str(spec) for spec in (*bare.inputs, *bare.outputs)] == [
        "'scaled' (1, 3, 16, 24) float32", "'logits' (1, 3, 16, 24) float32",
    ]
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 24, 3), np.uint8)
    scaled = (image.transpose(0, 3, 1, 2).astype(np.float32) - 127.0) / 64.0
    logits = bare.infer({'scaled': scaled})['logits']
    whole = open_engine(model, 'onnx_runtime').infer({'image': image})
    assert np.array_equal(logits.argmax(1), whole['class_ids'])


def test_the_bare_call_of_an_int8_model_quantises(model: Path) -> None:
    int8 = model.with_name('int8.onnx')
    quantize_model(model, int8, [np.full((1, 16, 24, 3), 9, np.uint8)], 1e9)
    cut_network(int8, model.with_name('bare.onnx'))
    (taken,) = open_engine(model.with_name('bare.onnx'), 'onnx_runtime').inputs
    assert (taken.name, taken.dtype) == ('scaled', np.float32)


def test_a_graph_without_layers_has_no_bare_call(tmp_path: Path) -> None:
    from identity_network import write_onnx

    model = write_onnx(tmp_path / 'identity.onnx', identity_spec(8, 8))
    with pytest.raises(ModelError, match='no layer with weights'):
        cut_network(model, tmp_path / 'bare.onnx')
    result = benchmark([model], IMAGE, ['onnx_runtime'], runs=1)
    assert result['bare'] == [] and 'no layer' in result['not_run']['identity.onnx bare call']
    assert result['engines'][0]['to_bare'] is None
    assert 'bare call |' not in benchmark_table(result)


def test_stages_add_up(model: Path) -> None:
    result = benchmark([model], IMAGE, ['onnx_runtime'], runs=9, threads=1)
    (found,) = result['engines']
    assert (found['engine'], found['precision']) == ('onnx_runtime', 'fp32')
    total_ms = sum(found[f'{stage}_ms'] for stage in STAGES)
    assert total_ms == pytest.approx(found['ms'], rel=0.5)
    assert found['ms'] <= found['ms_p95']
    assert found['to_bare'] == pytest.approx(found['ms'] / result['bare'][0]['ms'])
    assert (result['runs'], result['threads'], result['image']) == (9, 1, [40, 60])


def test_each_model_is_compared_with_its_own_bare_call(model: Path) -> None:
    large = write_convolutions(model.with_name('large.onnx'), 160, 240)
    result = benchmark([model, large], IMAGE, ['onnx_runtime'], runs=5, threads=1)
    small_ms, large_ms = (each['ms'] for each in result['bare'])
    assert large_ms > 5 * small_ms  # a hundred times the pixels
    assert [each['to_bare'] for each in result['engines']] == pytest.approx([
        each['ms'] / bare_ms
        for each, bare_ms in zip(result['engines'], (small_ms, large_ms), strict=True)
    ])
    assert benchmark_table(result).count('| bare call of convolutions: ') == 2


def test_files_of_one_name_are_told_apart(model: Path) -> None:
    other = write_convolutions(model.with_name('other.onnx'))
    result = benchmark([model, other], IMAGE, ['onnx_runtime'], runs=1)
    for part in ('engines', 'bare'):
        found = {each['model'] for each in result[part]}
        assert found == {f'convolutions: {model}', f'convolutions: {other}'}


def test_a_stage_takes_its_own_time(tmp_path: Path) -> None:
    model = write_fake(tmp_path / 'slow.yaml', identity_spec(8, 8), latency_ms=30.0)
    (found,) = benchmark([model], IMAGE, ['fake'], runs=3)['engines']
    assert found['inference_ms'] >= 30.0
    assert found['preprocess_ms'] < 20.0 and found['decode_ms'] < 20.0


def test_what_does_not_open_is_told_and_the_rest_runs(model: Path) -> None:
    result = benchmark([model], IMAGE, ['torch', 'onnx_runtime'], ['auto', 'bf16'], runs=1)
    assert [each['engine'] for each in result['engines']] == ['onnx_runtime']
    assert set(result['not_run']) == {
        'model.onnx torch', 'model.onnx torch bf16', 'model.onnx onnx_runtime bf16'
    }
    assert result['not_run']['model.onnx torch'].startswith('is not a .pt2 file')


def test_nothing_that_opens_is_an_error(model: Path) -> None:
    with pytest.raises(EngineError, match=r'no engine opens .*model\.onnx torch: is not a \.pt2'):
        benchmark([model], IMAGE, ['torch'])


def test_the_command_prints_json_and_a_table(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ['benchmark', str(model), '--engine', 'onnx_runtime', '--runs', '2',
               '--height', '120', '--width', '160']
    assert cli.main([*options, '--json']) == 0
    assert json.loads(capsys.readouterr().out)['image'] == [120, 160]
    assert cli.main(options) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split('|')[1].strip() for row in rows if '|' in row] == [
        'model', '---', 'convolutions', 'bare call'
    ]
