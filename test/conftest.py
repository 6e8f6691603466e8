"""Fixtures for all tests: the identity network for each engine, and the real data."""

import os
from pathlib import Path
from typing import Any

from identity_network import identity_spec, MakeModel, write_fake, write_onnx
import pytest

# torch's threads wait actively: beside other processes, each thread slows small networks down.
os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.fixture(params=['fake', 'onnx_runtime'])
def make_model(request: pytest.FixtureRequest, tmp_path: Path) -> MakeModel:
    """Return a function that makes the identity network for an engine; runs once per engine."""
    if request.param == 'onnx_runtime':
        pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

    def make(height: int, width: int, **changes: Any) -> tuple[Path, str]:
        spec = identity_spec(height, width, **changes)
        if request.param == 'fake':
            return write_fake(tmp_path / 'identity.fake.yaml', spec), 'fake'
        return write_onnx(tmp_path / 'identity.onnx', spec), 'onnx_runtime'

    return make


@pytest.fixture(scope='session')
def mnv2_data() -> Path:
    """Folder of the real data."""
    if 'MNV2_DATA' not in os.environ:
        pytest.skip('MNV2_DATA is not set to the folder of the real data')
    return Path(os.environ['MNV2_DATA'])
