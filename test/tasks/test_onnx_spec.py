"""What an ONNX file says of itself, read without a runtime: the same, in no time, or refused."""

from pathlib import Path
import time

from identity_network import identity_spec, write_onnx
import numpy as np
from onnx_graphs import write_mean_colour
import pytest

from mnv2_perception.engines import open_engine
from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.models import shared_folders
from mnv2_perception.tasks.onnx_spec import read_spec

SHIPPED = sorted(
    path for folder in shared_folders('models')[:1] for path in folder.glob('*.onnx')
)


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_it_reads_of_a_shipped_model_what_the_runtime_reads(path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    with open_engine(path, 'onnx_runtime', 1) as engine:
        expected = ModelSpec.from_metadata(engine.metadata, path)
    begin_s = time.perf_counter()
    assert read_spec(path) == expected
    assert time.perf_counter() - begin_s < 0.5  # a runtime takes longer, the more so on a GPU


def test_a_foreign_model_s_spec_is_the_yaml_beside_it(tmp_path: Path) -> None:
    path = write_mean_colour(tmp_path / 'foreign.onnx')
    spec = read_spec(path)
    assert spec and spec.task == 'classification'
    path.with_suffix('.yaml').unlink()
    with pytest.raises(ModelError, match='does not say how its input is scaled'):
        read_spec(path)


@pytest.mark.parametrize('name', ['model.plan', 'model.pt2', 'model.yaml'])
def test_of_other_files_only_a_runtime_can_tell(tmp_path: Path, name: str) -> None:
    assert read_spec(tmp_path / name) is None


def test_damaged_files_are_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    spec = identity_spec(8, 8, classes=['a', 'b'])
    whole = write_onnx(tmp_path / 'whole.onnx', spec).read_bytes()
    assert read_spec(tmp_path / 'whole.onnx') == spec
    rng = np.random.default_rng(0)
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [b'', b'\xff' * 100, b'\x72\x7f', b'no model at all', b'\x00' * 50_000]
    for _ in range(500):
        changed = bytearray(whole)
        changed[int(rng.integers(len(whole)))] = int(rng.integers(256))
        damaged.append(bytes(changed))
    path, refused = tmp_path / 'damaged.onnx', 0
    for data in damaged:
        path.write_bytes(data)
        try:
            read_spec(path)
        except ModelError:
            refused += 1
    assert refused > 0.7 * len(damaged)
