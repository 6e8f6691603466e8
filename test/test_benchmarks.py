"""The commands behind the figures in the documentation still start."""

from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]


SCRIPTS = [
    path for path in sorted((ROOT / 'benchmark').glob('*.py'))
    if path.stem != 'tutorial_node'  # what node.py starts
]


@pytest.mark.train
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_takes(script: Path) -> None:
    for module in ('onnx', 'openvino', 'torch', 'rclpy'):
        pytest.importorskip(module, reason=f'no {module}: run make setup-train')
    done = subprocess.run(
        [sys.executable, str(script), '--help'], capture_output=True, text=True, check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert 'usage: ' in done.stdout
