"""Which models a demo runs."""

from pathlib import Path
from typing import Any

from identity_network import identity_spec, write_fake
import pytest

pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from mnv2_perception.demo.models import choose_models, SHIPPED
from mnv2_perception.errors import ModelError, SetupError


def test_without_a_name_the_shipped_models_run() -> None:
    chosen = choose_models([], 'onnx_runtime', 1)
    assert {task: each.model for task, each in chosen.items()} == SHIPPED
    assert all(each.spec.task == task for task, each in chosen.items())
    assert [each.engine for each in chosen.values()] == ['onnx_runtime', 'auto', 'auto']


def test_a_given_model_takes_the_place_of_its_task_s() -> None:
    models = ['mobilenetv2_camvid_surface', 'unet_mobilenetv2_camvid_fast']
    chosen = choose_models(models, 'onnx_runtime', 1)
    assert {task: each.model for task, each in chosen.items()} == {
        **SHIPPED, 'classification': models[0], 'segmentation': models[1],
    }
    assert chosen['classification'].engine == 'onnx_runtime'
    assert chosen['detection'].engine == 'auto'


def test_two_models_for_one_task_are_refused() -> None:
    with pytest.raises(SetupError, match='both for segmentation; give one model for each task'):
        choose_models(['unet_mobilenetv2_camvid_fast', 'unet_mobilenetv2_ground_fast'], 'auto', 1)


def test_a_model_that_its_node_would_refuse_is_refused_at_once(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {'input': 'float_nchw', 'output': 'logits'}
    model = write_fake(tmp_path / 'm.yaml', identity_spec(32, 32, **wrong))
    with pytest.raises(ModelError):
        choose_models([str(model)], 'fake', 1)
