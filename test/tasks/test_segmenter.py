"""Segmenter: the mask lies exactly on the image, whatever its size; settings do what they say."""

import os
from pathlib import Path
import subprocess
import sys
import threading
from typing import Any

import cv2
from identity_network import identity_spec, MakeModel, write_fake, write_onnx
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.errors import EngineError, ImageError, ModelError, SetupError
from mnv2_perception.model_spec import ModelSpec, UNLABELLED
from mnv2_perception.tasks import models
from mnv2_perception.tasks import segmenter as module
from mnv2_perception.tasks.contract import images_at_once
from mnv2_perception.tasks.detector import detections_from_mask
from mnv2_perception.tasks.models import find_model, find_shared_file, OpenModels
from mnv2_perception.tasks.pipeline import infer_images
from mnv2_perception.tasks.segmenter import read_ignore_mask, Segmentation, Segmenter
from mnv2_perception.vision import decode

ODD_SIZES = [(61, 83), (97, 41), (20, 151), (21, 31), (101, 121), (7, 9)]
ROOT = Path(__file__).parents[2]


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def identity_segmenter(tmp_path: Path, height: int, width: int, **settings: object) -> Segmenter:
    path = write_fake(tmp_path / 'identity.yaml', identity_spec(height, width))
    return Segmenter.open(path, 'fake', **settings)  # type: ignore[arg-type]


def flip_error(segmenter: Segmenter, height: int, width: int, axis: int) -> float:
    """Share of pixels where the mask of the mirrored image is not the mirrored mask."""
    image = noise(height, width)
    mirrored = segmenter(np.flip(image, axis)).class_ids.astype(int)
    expected = np.flip(segmenter(image).class_ids, axis).astype(int)
    # Interpolation rounds to whole gray levels; noise differs by far more.
    return float((np.abs(mirrored - expected) > 1).mean())


def edge_errors_px(segmenter: Segmenter, height: int, width: int, axis: int) -> NDArray[np.int64]:
    """How far the mask's edge lies beside the image's, for each place of a straight edge."""
    errors = []
    for edge in range(1, (height, width)[axis]):
        image = np.zeros((height, width, 3), np.uint8)
        np.moveaxis(image, axis, 0)[edge:] = 200
        line = np.moveaxis(segmenter(image).class_ids, axis, 0)[:, 3]
        errors.append(int((line < 100).sum()) - edge)
    return np.array(errors)


@pytest.fixture(params=['fake', 'onnx_runtime'])
def make_batch_model(request: pytest.FixtureRequest, tmp_path: Path) -> MakeModel:
    """Make the identity network for a batch, for two engines."""
    if request.param == 'onnx_runtime':
        pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

    def make(height: int, width: int, batch: int | None) -> tuple[Path, str]:
        write = write_fake if request.param == 'fake' else write_onnx
        return write(tmp_path / 'm.onnx', identity_spec(height, width), batch=batch), request.param

    return make


def use_corner_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put OpenCV's INTER_NEAREST, which samples at corners, in the place of the right resize."""
    def resize(ids: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST))

    monkeypatch.setattr(decode, 'resize_ids', resize)


def test_at_the_networks_size_the_mask_is_pixel_exact(make_model: MakeModel) -> None:
    segmenter = Segmenter.open(*make_model(32, 64))
    image = noise(32, 64)
    result = segmenter(image)
    assert np.array_equal(result.class_ids, image[..., 0])
    assert np.array_equal(result.confidence, np.maximum(image[..., 1], 1))
    assert result.class_ids.dtype == result.confidence.dtype == np.uint8


@pytest.mark.parametrize(('height', 'width'), ODD_SIZES)
def test_the_mask_has_the_images_size(make_model: MakeModel, height: int, width: int) -> None:
    result = Segmenter.open(*make_model(32, 64))(noise(height, width))
    assert result.class_ids.shape == result.confidence.shape == (height, width)
    assert result.class_ids.flags.c_contiguous and result.confidence.flags.c_contiguous


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize(('height', 'width'), ODD_SIZES)
def test_a_mirrored_image_gives_the_mirrored_mask(
    tmp_path: Path, height: int, width: int, axis: int
) -> None:
    # Odd sizes on both sides: no pixel's centre lies on the border between two others.
    assert flip_error(identity_segmenter(tmp_path, 33, 47), height, width, axis) == 0.0


@pytest.mark.parametrize('axis', [0, 1])
def test_a_mirrored_camera_image_gives_the_mirrored_mask(tmp_path: Path, axis: int) -> None:
    assert flip_error(identity_segmenter(tmp_path, 352, 480), 481, 641, axis) < 0.01


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize(('height', 'width'), [(33, 47), *ODD_SIZES])
def test_an_edge_lands_within_half_a_network_pixel(
    tmp_path: Path, height: int, width: int, axis: int
) -> None:
    errors = edge_errors_px(identity_segmenter(tmp_path, 33, 47), height, width, axis)
    network_pixel = (height / 33, width / 47)[axis]
    assert np.abs(errors).max() <= 0.5 * network_pixel + 0.5  # a mask has whole pixels
    assert abs(errors.mean()) < 0.1


@pytest.mark.parametrize('batch', [4, None])
def test_a_model_that_takes_several_images_gives_each_its_own_mask(
    make_batch_model: MakeModel, batch: int | None
) -> None:
    segmenter = Segmenter.open(*make_batch_model(32, 64, batch=batch))
    images = [noise(32, 64), noise(48, 96), noise(32, 64)]
    prepared = [segmenter.prepare(image) for image in images]
    outputs = infer_images(segmenter.engine, segmenter.spec, prepared)
    assert images_at_once(segmenter.engine) == batch
    for image, output in zip(images, outputs, strict=True):
        together, alone = segmenter.finish(image, output), segmenter(image)
        assert together.class_ids.shape == image.shape[:2]
        assert np.array_equal(together.class_ids, alone.class_ids)
        assert np.array_equal(together.confidence, alone.confidence)
    assert np.array_equal(segmenter(images[0]).class_ids, images[0][..., 0])


def test_a_model_that_is_open_already_is_shared_and_closed_by_its_last_user(
    make_model: MakeModel
) -> None:
    how = make_model(4, 4)
    models = OpenModels()
    with models.opening(*how) as (first, _), models.opening(*how) as (second, _):
        assert first is second
    with pytest.raises(ModelError), models.opening(*how) as (third, _):
        raise ModelError('the third user fails, and closes its own')
    assert third is first
    first.close()
    assert not first.closed
    second.close()
    assert first.closed
    with models.opening(*how) as (again, _):
        assert again is not first and not again.closed
        again.close()


def test_a_model_has_run_once_before_a_second_user_gets_it(make_model: MakeModel) -> None:
    how = make_model(4, 4)
    models, done = OpenModels(), []
    started, may_end = threading.Event(), threading.Event()

    def warm_up(*_: Any) -> None:
        started.set()
        assert may_end.wait(10.0)
        done.append('run')

    def use() -> None:
        with models.opening(*how, warm_up=warm_up) as (engine, _):
            done.append('used')
            engine.close()

    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    assert started.wait(10.0)
    users[1].join(0.2)
    assert done == []
    may_end.set()
    for user in users:
        user.join()
    assert done in (['run', 'used', 'used'], ['run', 'used'] * 2)  # or opened once more


def test_a_model_is_shared_by_whatever_name_it_has_but_not_once_its_file_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_fake(tmp_path / 'm.yaml', identity_spec(4, 4))
    models = OpenModels()
    monkeypatch.chdir(tmp_path)
    with models.opening(path, 'fake') as (first, _), models.opening('m.yaml', 'fake') as (same, _):
        assert same is first
    write_fake(path, identity_spec(8, 8))
    os.utime(path, ns=(0, 1))
    with models.opening(path, 'fake') as (other, spec):
        assert other is not first and not first.closed
        assert spec.height == 8


def test_sampling_at_corners_would_fail_these_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_corner_nearest(monkeypatch)
    segmenter = identity_segmenter(tmp_path, 33, 47)
    for axis in (0, 1):
        for height, width in ODD_SIZES:
            assert flip_error(segmenter, height, width, axis) > 0.2
        assert edge_errors_px(segmenter, 61, 83, axis).mean() > 0.2


def test_the_image_is_stretched_to_the_network_not_cut(tmp_path: Path) -> None:
    segmenter = identity_segmenter(tmp_path, 32, 64)
    image = np.zeros((120, 50, 3), np.uint8)
    image[:30, :10] = 50  # the corners must all arrive
    image[:30, -10:] = 100
    image[-30:, :10] = 150
    image[-30:, -10:] = 200
    ids = segmenter(image).class_ids
    assert [ids[0, 0], ids[0, -1], ids[-1, 0], ids[-1, -1]] == [50, 100, 150, 200]


@pytest.mark.parametrize('degrees', [0, 90, 180, 270])
def test_rotate_turns_the_image_for_the_network_and_the_mask_back(
    tmp_path: Path, degrees: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    upright = (30, 20) if degrees % 180 else (20, 30)
    segmenter = identity_segmenter(tmp_path, *upright, rotate=degrees)
    seen = []
    infer = segmenter.engine.infer
    monkeypatch.setattr(
        segmenter.engine, 'infer', lambda tensors: seen.append(tensors['image']) or infer(tensors)
    )
    image = noise(20, 30)
    result = segmenter(image)
    assert np.array_equal(seen[0][0], np.rot90(image, -degrees // 90))
    assert np.array_equal(result.class_ids, image[..., 0])
    assert np.array_equal(result.confidence, np.maximum(image[..., 1], 1))
    assert result.class_ids.flags.c_contiguous


def test_rotate_takes_quarter_turns_only(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r'rotate is 45.*90'):
        identity_segmenter(tmp_path, 8, 8, rotate=45)


def test_ignored_pixels_have_no_class_and_keep_their_confidence(tmp_path: Path) -> None:
    ignored = np.zeros((20, 30), bool)
    ignored[15:, 3:9] = True
    image = noise(20, 30)
    result = identity_segmenter(tmp_path, 30, 20, rotate=90, ignore_mask=ignored)(image)
    assert (result.class_ids[ignored] == UNLABELLED).all()
    assert np.array_equal(result.class_ids[~ignored], image[~ignored][:, 0])
    assert np.array_equal(result.confidence, np.maximum(image[..., 1], 1))


def test_an_ignore_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    segmenter = identity_segmenter(tmp_path, 8, 8, ignore_mask=np.zeros((20, 30), bool))
    with pytest.raises(ImageError, match=r'ignore_mask is \(20, 30\).*\(21, 30\)'):
        segmenter(noise(21, 30))


def test_an_ignore_mask_is_whatever_is_not_black(tmp_path: Path) -> None:
    path = tmp_path / 'bumper.png'
    cv2.imwrite(str(path), np.array([[0, 1], [255, 0]], np.uint8))
    assert read_ignore_mask(path).tolist() == [[False, True], [True, False]]
    with pytest.raises(ImageError, match=r'absent\.png'):
        read_ignore_mask(tmp_path / 'absent.png')


@pytest.mark.parametrize(('min_confidence', 'least'), [(0.0, 0), (0.4, 102), (0.5, 128), (1, 255)])
def test_pixels_below_min_confidence_have_no_class(
    tmp_path: Path, min_confidence: float, least: int
) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 7
    image[..., 1] = np.arange(256).reshape(16, 16)  # every confidence once
    segmenter = identity_segmenter(tmp_path, 16, 16, min_confidence=min_confidence)
    result = segmenter(image)
    assert np.array_equal(result.class_ids == UNLABELLED, image[..., 1] < least)
    assert np.array_equal(result.confidence, np.maximum(image[..., 1], 1))


def test_min_confidence_may_change_between_images(tmp_path: Path) -> None:
    segmenter = identity_segmenter(tmp_path, 16, 16)
    image = np.full((16, 16, 3), 100, np.uint8)
    assert (segmenter(image).class_ids == 100).all()
    segmenter.min_confidence = 0.9
    assert (segmenter(image).class_ids == UNLABELLED).all()


@pytest.mark.parametrize(
    'image',
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32),
     np.zeros((0, 8, 3), np.uint8)],
    ids=['gray', 'four channels', 'float', 'empty'],
)
def test_what_is_no_rgb_image_is_refused(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError, match=r'expected \(H, W, 3\) uint8 RGB'):
        identity_segmenter(tmp_path, 8, 8)(image)


def test_the_image_is_only_read(tmp_path: Path) -> None:
    image = noise(16, 16)
    image.flags.writeable = False
    segmenter = identity_segmenter(tmp_path, 16, 16, min_confidence=0.5)
    segmenter(image)
    assert np.array_equal(image, noise(16, 16))


def float_model(path: Path, spec: ModelSpec) -> Path:
    """Write an ONNX file that gives back the tensor it takes."""
    onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    from onnx import helper, TensorProto

    def info(name: str) -> object:
        shape = [1, 3, spec.height, spec.width]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node('Identity', ['image'], ['scores'])], 'same',
        [info('image')], [info('scores')],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    helper.set_model_props(model, spec.to_metadata())
    onnx.save(model, str(path))
    return path


def float_spec(output: str, count: int = 3, **changes: object) -> ModelSpec:
    return identity_spec(
        6, 8, input='float_nchw', output=output, std=[255.0] * 3,
        classes=[f'class_{index}' for index in range(count)], **changes,
    )


def test_a_dark_frame_is_scaled_by_type_not_by_content(tmp_path: Path) -> None:
    dark = noise(6, 8) // 128  # nothing brighter than 1
    segmenter = Segmenter.open(float_model(tmp_path / 'm.onnx', float_spec('probabilities')))
    result = segmenter(dark)
    assert np.array_equal(result.confidence, np.maximum(dark.max(axis=2), 1))
    assert np.array_equal(result.class_ids, dark.argmax(axis=2))


def test_confidence_is_placed_on_the_image_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[NDArray[np.uint8]] = []

    def watched(cells: NDArray[np.uint8], *args: Any) -> NDArray[np.uint8]:
        placed.append(cells)
        return decode.ids_on_image(cells, *args)

    monkeypatch.setattr(module, 'ids_on_image', watched)
    result = identity_segmenter(tmp_path, 16, 16)(noise(16, 16))
    assert len(placed) == 1
    confidence = result.confidence
    assert len(placed) == 2 and result.confidence is confidence


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('output', ['logits', 'probabilities'])
def test_a_pixel_without_a_finite_score_rejects_the_image(
    tmp_path: Path, output: str, bad: float
) -> None:
    segmenter = Segmenter.open(float_model(tmp_path / 'm.onnx', float_spec(output)))
    scores = np.ones((1, 3, 6, 8), np.float32)
    scores[0, 2, 1, 4] = bad
    with pytest.raises(ModelError, match=r'2.1% of its output .* NaN or infinite.*en; export it'):
        segmenter.finish(noise(6, 8), [scores])
    segmenter.engine.precision = 'fp16'
    with pytest.raises(ModelError, match=r'broken; run it with precision fp32 \(now fp16\), or '):
        segmenter.finish(noise(6, 8), [scores])


def test_a_class_that_cannot_be_is_no_overflow(tmp_path: Path) -> None:
    segmenter = Segmenter.open(float_model(tmp_path / 'm.onnx', float_spec('logits')))
    scores = np.zeros((1, 3, 6, 8), np.float32)
    scores[0, 0] = -np.inf
    assert (segmenter.finish(noise(6, 8), [scores]).class_ids == 1).all()


def test_a_confidence_of_zero_from_the_graph_rejects_the_image(tmp_path: Path) -> None:
    ids, confidence = np.zeros((1, 6, 8), np.uint8), np.full((1, 6, 8), 200, np.uint8)
    confidence[0, 2, 3] = 0
    with pytest.raises(ModelError, match='NaN or infinite'):
        identity_segmenter(tmp_path, 6, 8).finish(noise(6, 8), [ids, confidence])


@pytest.mark.parametrize(('order', 'channels'), [('rgb', [0, 1, 2]), ('bgr', [2, 1, 0])])
def test_a_float_network_gets_its_channel_order(
    tmp_path: Path, order: str, channels: list[int]
) -> None:
    spec = float_spec('logits', channel_order=order)
    image = noise(6, 8)
    result = Segmenter.open(float_model(tmp_path / 'm.onnx', spec))(image)
    assert np.array_equal(result.class_ids, image[..., channels].argmax(axis=2))


@pytest.mark.parametrize('mean', [200.0, -200.0])
def test_logits_that_the_spec_takes_for_probabilities_reject_the_image(
    tmp_path: Path, mean: float
) -> None:
    spec = float_spec('probabilities', mean=[mean] * 3)
    with pytest.raises(ModelError, match=r'scores .* go from .*, expected 0 to 1.*logits\?'):
        Segmenter.open(float_model(tmp_path / 'm.onnx', spec))(np.full((6, 8, 3), 112, np.uint8))


def test_probabilities_that_the_spec_takes_for_logits_reject_the_image(tmp_path: Path) -> None:
    segmenter = Segmenter.open(float_model(tmp_path / 'm.onnx', float_spec('logits')))
    logits = np.random.default_rng(0).normal(0.0, 2.0, (1, 3, 6, 8)).astype(np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    segmenter.finish(noise(6, 8), [logits])
    with pytest.raises(ModelError, match=r'sum to 1, .*the spec says logits; .*probabilities'):
        segmenter.finish(noise(6, 8), [softmax])  # classes were right, no confidence above 0.58


def test_a_uint8_network_gets_its_channel_order(make_model: MakeModel) -> None:
    image = noise(6, 8)
    result = Segmenter.open(*make_model(6, 8, channel_order='bgr'))(image)
    assert np.array_equal(result.class_ids, image[..., 2])


def test_mean_and_std_of_the_spec_reach_the_network(tmp_path: Path) -> None:
    spec = float_spec('probabilities', mean=[10.0, 100.0, 100.0])
    image = np.full((6, 8, 3), 112, np.uint8)
    result = Segmenter.open(float_model(tmp_path / 'm.onnx', spec))(image)
    assert (result.class_ids == 0).all()
    assert (result.confidence == 102).all()


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'height': 48}, r"takes 'image' \(1, 32, 64, 3\) uint8.*height 48 and width 64"),
        ({'input': 'float_nchw'}, 'takes .* uint8.*float_nchw'),
        ({'output': 'logits'}, 'gives 2 outputs.*logits, which is 1'),
        ({'task': 'detection', 'output': 'boxes'}, 'is for detection'),
    ],
)
def test_a_spec_that_contradicts_the_graph_is_refused(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    path = write_fake(tmp_path / 'm.yaml', identity_spec(32, 64))
    spec = identity_spec(**{'height': 32, 'width': 64, **changes})
    with pytest.raises(ModelError, match=told):
        Segmenter(models.open_engine(path, 'fake'), spec)


def test_another_number_of_classes_than_the_graph_gives_is_refused(tmp_path: Path) -> None:
    path = float_model(tmp_path / 'm.onnx', float_spec('logits', count=2))
    with pytest.raises(ModelError, match=r"'scores' \(1, 3, 6, 8\).*\(1, 2, H, W\)"):
        Segmenter.open(path)


def test_an_output_of_another_kind_than_the_spec_says_is_refused(tmp_path: Path) -> None:
    path = float_model(tmp_path / 'm.onnx', float_spec('sigmoid', count=2))
    with pytest.raises(ModelError, match=r'sigmoid of 2 classes is \(1, 1, H, W\) float'):
        Segmenter.open(path)


def test_a_failed_opening_closes_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_fake(tmp_path / 'm.yaml', identity_spec(8, 8))
    opened = []
    open_engine = models.open_engine
    monkeypatch.setattr(
        models, 'open_engine', lambda *args: opened.append(open_engine(*args)) or opened[0]
    )
    with pytest.raises(ImageError):
        Segmenter.open(path, 'fake', rotate=1)
    with pytest.raises(EngineError, match='closed'):
        opened[0].infer({'image': np.zeros((1, 8, 8, 3), np.uint8)})


def test_an_unknown_model_is_refused_with_the_shipped_ones() -> None:
    with pytest.raises(ModelError, match=r'no_such_model.*unet_mobilenetv2_camvid'):
        find_model('no_such_model')


def test_a_shipped_model_is_found_by_name() -> None:
    assert find_model('unet_mobilenetv2_camvid').name == 'unet_mobilenetv2_camvid.onnx'


def test_shared_files_are_found_in_an_installed_package_too(tmp_path: Path) -> None:
    """Copy the code alone, as colcon installs it, and the share folder elsewhere."""
    code, prefix = tmp_path / 'lib', tmp_path / 'prefix'
    share = prefix / 'share/mnv2_perception/models'
    share.mkdir(parents=True)
    (share / 'mine.onnx').touch()
    (code / 'mnv2_perception').mkdir(parents=True)
    for source in (ROOT / 'mnv2_perception').rglob('*.py'):
        target = code / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    result = subprocess.run(
        [sys.executable, '-c',
         "from mnv2_perception.tasks import models; print(models.find_model('mine'))"],
        capture_output=True, text=True, cwd=tmp_path,
        env={'PYTHONPATH': str(code), 'AMENT_PREFIX_PATH': f'/nowhere:{prefix}'},
    )
    assert result.stdout.strip() == str(share / 'mine.onnx'), result.stderr


def test_a_missing_shared_file_tells_how_to_install() -> None:
    assert find_shared_file('config/fastdds.xml').is_file()
    with pytest.raises(SetupError, match=r'config/no\.xml is missing.*make setup'):
        find_shared_file('config/no.xml')


def test_components_of_a_mask_are_detections_best_first() -> None:
    ids = np.zeros((10, 20), np.uint8)
    ids[1:4, 2:6], ids[5:9, 10:12], ids[0, 19] = 1, 2, 1
    confidence = np.where(ids == 2, 204, 102).astype(np.uint8)
    found = detections_from_mask(Segmentation(ids, lambda: confidence), (1, 2), min_area=2)
    assert found.boxes.tolist() == [[10, 5, 12, 9], [2, 1, 6, 4]]
    assert found.class_ids.tolist() == [2, 1]
    assert found.scores.tolist() == pytest.approx([0.8, 0.4])
    assert detections_from_mask(Segmentation(ids, lambda: confidence), (3,)).boxes.shape == (0, 4)
