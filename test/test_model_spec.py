"""ModelSpec: travels inside the model, and refuses what cannot be true."""

from pathlib import Path
from typing import Any

from colour_vision import differences, margins, smallest
import numpy as np
import pytest
import yaml

from mnv2_perception.errors import ModelError
from mnv2_perception.model_spec import (
    BACKGROUND,
    default_colours,
    METADATA_KEY,
    ModelSpec,
    PALETTE,
    yaml_beside,
)
from mnv2_perception.tasks.onnx_spec import read_spec

PACKAGE = Path(__file__).parents[1] / 'mnv2_perception'
VALUES: dict[str, Any] = {
    'name': 'street', 'task': 'segmentation', 'height': 64, 'width': 96,
    'classes': ['road', 'sky'], 'colours': [[1, 2, 3], [4, 5, 6]],
    'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'channel_order': 'bgr',
    'input': 'float_nchw', 'output': 'logits', 'licence': 'CC0-1.0', 'description': 'äöü',
}
SPEC = ModelSpec.from_dict(VALUES, 'the test')


def test_a_spec_comes_back_from_its_metadata_unchanged() -> None:
    assert ModelSpec.from_metadata(SPEC.to_metadata(), Path('m.onnx')) == SPEC


def test_without_metadata_the_yaml_beside_the_model_serves(tmp_path: Path) -> None:
    (tmp_path / 'm.yaml').write_text(yaml.safe_dump(VALUES))
    assert ModelSpec.from_metadata({}, tmp_path / 'm.onnx') == SPEC


def test_metadata_goes_before_the_yaml(tmp_path: Path) -> None:
    (tmp_path / 'm.yaml').write_text('name: other')
    assert ModelSpec.from_metadata(SPEC.to_metadata(), tmp_path / 'm.onnx') == SPEC


def test_a_model_that_says_nothing_names_the_yaml_to_write(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf'no metadata {METADATA_KEY}.*m\.yaml'):
        ModelSpec.from_metadata({}, tmp_path / 'm.onnx')


@pytest.mark.parametrize('text', ['[1, 2', 'just text', '', '\xff'])
def test_a_damaged_yaml_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / 'm.yaml').write_text(text, encoding='latin-1')
    with pytest.raises(ModelError, match=r'm\.yaml'):
        ModelSpec.from_metadata({}, tmp_path / 'm.onnx')


@pytest.mark.parametrize('text', ['{', '[]', '"text"'])
def test_damaged_metadata_is_named(text: str) -> None:
    with pytest.raises(ModelError, match=rf'm\.onnx.*{METADATA_KEY}'):
        ModelSpec.from_metadata({METADATA_KEY: text}, Path('m.onnx'))


@pytest.mark.parametrize('name', ['name', 'task', 'height', 'width', 'classes', 'mean', 'std'])
def test_a_missing_fact_is_named(name: str) -> None:
    values = {key: value for key, value in VALUES.items() if key != name}
    with pytest.raises(ModelError, match=f'm.yaml: {name} missing'):
        ModelSpec.from_dict(values, 'm.yaml')


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'hight': 3}, 'unknown hight; known are .*height'),
        ({'task': 'segment'}, "task is 'segment', expected one of segmentation"),
        ({'input': 'uint8'}, "input is 'uint8'"),
        ({'output': 'argmax'}, "output is 'argmax'"),
        ({'output': 'boxes'}, 'output boxes does not fit task segmentation'),
        ({'task': 'detection'}, 'output logits does not fit task detection'),
        ({'channel_order': 'gbr'}, "channel_order is 'gbr'"),
        ({'height': 0}, 'must be positive, got 0 and 96'),
        ({'height': 'tall'}, 'm.yaml: .*tall'),
        ({'height': float('inf')}, 'm.yaml: .*infinity'),
        ({'height': 100000, 'width': 100000}, '10000 megapixels, expected at most 16'),
        ({'classes': []}, 'got 0 classes'),
        ({'classes': 'road'}, "classes is 'road', expected a list"),
        ({'classes': [str(i) for i in range(256)], 'colours': None}, 'got 256 classes'),
        ({'colours': [[1, 2, 3]]}, 'got 1 colours for 2 classes'),
        ({'colours': [[1, 2, 3], [4, 5]]}, r'colour \(4, 5\) is not \(R, G, B\)'),
        ({'colours': [[1, 2, 3], [4, 5, 256]]}, '256'),
        ({'mean': [1.0]}, 'mean and std take three'),
        ({'std': [1.0, 0.0, 1.0]}, 'std positive'),
        ({'mean': 127.5}, 'm.yaml'),
        ({'output': 'sigmoid', 'classes': ['road'], 'colours': None}, 'got 1 classes for sigmoid'),
        ({'output': 'sigmoid', 'background': True}, 'got 2 classes for sigmoid'),
        ({'task': 'classification', 'output': 'ids'}, "output is 'ids', but .* needs scores"),
        ({'output_layout': 'chw'}, "output_layout is 'chw', expected one of nchw, nhwc"),
        ({'fit': 'pad'}, "fit is 'pad', expected one of stretch, crop, letterbox"),
        ({'crop_ratio': 0.875}, "crop_ratio is 0.875 and fit is 'stretch'.*fit: crop"),
        ({'crop_ratio': 0.0}, 'crop_ratio is 0 .*above 0 and at most 1'),
        ({'crop_ratio': 'most'}, 'm.yaml: .*most'),
        ({'fit': 'letterbox', 'pad': 256}, r'pad is \(256, 256, 256\), expected one number'),
        ({'fit': 'letterbox', 'pad': [1, 2]}, r'pad is \(1, 2\), expected one number or'),
        ({'pad': 0}, r"pad is \(0, 0, 0\), but fit is 'stretch'; expected fit: letterbox"),
        ({'fit': 'crop'}, "fit is 'crop', but segmentation looks at the whole image"),
        ({'background': 'none'}, "background is 'none', expected true or false"),
        ({'classes': [True, 'sky']}, 'm.yaml: the name of class 0 is read as True.*in quotes'),
        ({'classes': ['road', 8]}, 'the name of class 1 is read as 8'),
        ({'classes': ['road', None]}, 'the name of class 1 is read as None'),
        ({'classes': ['road', ' ']}, "the name of class 1 is ' '"),
        ({'classes': ['road', 'sky\n[ERROR] forged']}, r"class 1 is 'sky\\n\[ERROR\] forged'"),
        ({'classes': {1: 'road', 2: 'sky'}}, r'mapping of \[1, 2\].*the ids 0 to 1 to names'),
        ({'classes': {'road': 0, 'sky': 1}}, r"mapping of \['road', 'sky'\]"),
        ({'classes': ['road', 'road']}, 'classes has road twice'),
        ({'name': 'street\n[ERROR] forged'}, r'name is .*expected one printable line'),
        ({'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]},
         r'm.yaml: .*pixels from 0 to 1.*mean \[123.675, 116.28, 103.53\], std \[58.395'),
        ({'std': [0.229, 0.224, 0.225]}, r': std given for pixels from 0 to 1: .*: mean '
         r'\[123.675, 116.28, 103.53\], std \[58.395, 57.12, 57.375\]'),
        ({'mean': [0.485, 0.456, 0.406]}, r': mean given for pixels from 0 to 1: .*: mean '
         r'\[123.675, 116.28, 103.53\], std \[58.395, 57.12, 57.375\]'),
        ({'mean': [0.5] * 3, 'std': [1.0] * 3},
         r': mean and std given.*: mean \[127.5, 127.5, 127.5\], std \[255.0, 255.0, 255.0\]'),
        ({'mean': [127.0] * 3, 'std': [0.0078431] * 3},
         r': std given as a factor.*mean \[127.0, .*std \[127.501, 127.501'),
        ({'mean': '???', 'std': '???'}, r'm.yaml: mean, std still \?\?\?; fill it in'),
    ],
)
def test_what_cannot_be_true_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        ModelSpec.from_dict({**VALUES, **change}, 'm.yaml')


def test_without_colours_each_class_gets_its_own() -> None:
    spec = ModelSpec.from_dict(
        {**VALUES, 'classes': [str(i) for i in range(255)], 'colours': None}, 'm.yaml'
    )
    assert len(set(spec.colours)) == 255


def test_a_classification_may_have_more_classes_than_a_mask_has_ids() -> None:
    spec = ModelSpec.from_dict(
        {**VALUES, 'task': 'classification', 'classes': [str(i) for i in range(1000)],
         'colours': None, 'background': True}, 'm.yaml'
    )
    assert spec.channels == 1001
    assert len(set(spec.colours)) == 1000
    assert ModelSpec.from_metadata(spec.to_metadata(), Path('m.onnx')) == spec


def test_texts_that_yaml_reads_as_numbers_or_nothing_are_texts() -> None:
    values = {**VALUES, 'name': 7, 'output_name': 495, 'licence': None}
    spec = ModelSpec.from_dict(values, 'm.yaml')
    assert (spec.name, spec.output_name, spec.licence) == ('7', '495', '')


def test_class_names_may_lie_in_a_file_beside_the_yaml(tmp_path: Path) -> None:
    (tmp_path / 'names.txt').write_text('road, paved\r\n sky\n\n')
    (tmp_path / 'm.yaml').write_text(yaml.safe_dump({**VALUES, 'classes': 'names.txt'}))
    assert ModelSpec.from_yaml(tmp_path / 'm.yaml').classes == ('road, paved', 'sky')
    (tmp_path / 'names.txt').unlink()
    with pytest.raises(ModelError, match=r'm\.yaml: cannot be read: .*names\.txt'):
        ModelSpec.from_yaml(tmp_path / 'm.yaml')


def test_class_names_by_id_come_in_the_order_of_their_ids() -> None:
    for classes in ({1: 'sky', 0: 'road'}, {'1': 'sky', '0': 'road'}):
        assert ModelSpec.from_dict({**VALUES, 'classes': classes}, 'm').classes == ('road', 'sky')


def test_a_classification_may_give_two_classes_one_name_as_imagenet_does() -> None:
    values = {**VALUES, 'task': 'classification', 'classes': ['crane', 'crane']}
    assert ModelSpec.from_dict(values, 'm').classes == ('crane', 'crane')


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    text = yaml.safe_dump({**VALUES, 'classes': 'names.txt'})
    (tmp_path / 'm.yaml').write_text(text, encoding='utf-8-sig')
    (tmp_path / 'names.txt').write_text('road\nsky', encoding='utf-8-sig')
    assert ModelSpec.from_yaml(tmp_path / 'm.yaml').classes == ('road', 'sky')


def test_a_yml_beside_the_model_serves_too(tmp_path: Path) -> None:
    (tmp_path / 'm.yml').write_text(yaml.safe_dump(VALUES))
    assert ModelSpec.from_metadata({}, tmp_path / 'm.onnx') == SPEC


@pytest.mark.parametrize('names', ['{tmp}/names.txt', '../names.txt', 'sub/names.txt'])
def test_class_names_are_read_from_the_same_folder_only(tmp_path: Path, names: str) -> None:
    (tmp_path / 'model/sub').mkdir(parents=True)
    for place in ('names.txt', 'model/sub/names.txt'):
        (tmp_path / place).write_text('road\nsky\n')
    values = {**VALUES, 'classes': names.format(tmp=tmp_path)}
    (tmp_path / 'model/m.yaml').write_text(yaml.safe_dump(values))
    with pytest.raises(ModelError, match=r'm\.yaml: classes is .* text file in the same folder'):
        ModelSpec.from_yaml(tmp_path / 'model/m.yaml')


def test_a_yaml_that_would_grow_or_is_huge_is_refused_at_once(tmp_path: Path) -> None:
    bomb = 'a0: &a0 [x, x, x, x, x, x, x, x, x]\n' + ''.join(
        f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 9)
    )
    for text, told in ((bomb + 'classes: *a8\n', 'alias'), ('#' * 2_000_000, 'larger than')):
        (tmp_path / 'm.yaml').write_text(text)
        with pytest.raises(ModelError, match=told):
            ModelSpec.from_yaml(tmp_path / 'm.yaml')


def test_default_colours_are_told_apart_with_any_colour_vision() -> None:
    # CIEDE2000 in the eyes that see it least; Okabe and Ito's eight reach 10.9.
    least = {'8': 19.0, '12': 12.5, '16': 11.0, '24': 8.5, '32': 7.0, 'neighbours': 24.0}
    measured = margins(PALETTE, BACKGROUND)
    assert {name: value for name, value in measured.items() if value < least[name]} == {}
    assert max(BACKGROUND) < 96 and len(set(BACKGROUND)) == 1  # dark gray


def test_beyond_the_palette_neighbours_are_still_told_apart() -> None:
    many = default_colours([str(number) for number in range(150)])
    assert min(np.diag(differences(many, many), 1)) > 8.0


def test_road_and_vegetation_of_another_s_model_differ() -> None:
    cityscapes = [
        'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign',
        'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train',
        'motorcycle', 'bicycle',
    ]
    assert smallest(default_colours(cityscapes)) > 8.5
    colours = dict(zip(cityscapes, default_colours(cityscapes), strict=True))
    assert smallest([colours['road'], colours['vegetation']]) > 19.0


@pytest.mark.parametrize(
    'model', sorted((PACKAGE / 'models').glob('*.onnx')), ids=lambda path: path.stem
)
def test_a_shipped_model_s_own_colours_are_told_apart_with_any_colour_vision(
    model: Path
) -> None:
    spec = read_spec(model)
    assert spec
    if spec.task != 'classification':  # whose colours are nowhere seen
        assert smallest(spec.colours) > 15.0


@pytest.mark.parametrize('name', ['background', 'Unlabelled', 'void'])
def test_a_class_that_is_none_is_dark_gray_and_takes_no_other_s_colour(name: str) -> None:
    assert default_colours(['cat', name, 'dog']) == [PALETTE[0], BACKGROUND, PALETTE[1]]
    assert default_colours([name, 'none', 'dog']) == [BACKGROUND, *PALETTE[:2]]


def test_the_spec_that_a_detector_starts_from_has_classes_of_camvid() -> None:
    folder = Path(__file__).parents[1] / 'mnv2_perception/training'
    specs = [
        ModelSpec.from_dict(yaml.safe_load((folder / name).read_text()), name)
        for name in ('camvid_boxes.yaml', 'camvid.yaml')
    ]
    assert (specs[0].task, specs[0].output) == ('detection', 'boxes')
    assert set(specs[0].classes) < set(specs[1].classes)
    assert (specs[0].height % 32, specs[0].width % 32) == (0, 0)


def test_the_spec_that_training_starts_from_is_camvids() -> None:
    path = Path(__file__).parents[1] / 'mnv2_perception/training/camvid.yaml'
    spec = ModelSpec.from_yaml(path)
    assert (len(spec.classes), spec.classes[3], spec.licence) == (11, 'road', 'CC-BY-NC-4.0')
    assert (spec.height % 32, spec.width % 32) == (0, 0)


def test_of_no_yaml_beside_a_model_the_one_to_write_is_named(tmp_path: Path) -> None:
    assert yaml_beside(tmp_path / 'net.onnx') == tmp_path / 'net.yaml'
    (tmp_path / 'net.yml').touch()
    assert yaml_beside(tmp_path / 'net.onnx') == tmp_path / 'net.yml'
    (tmp_path / 'net.yaml').touch()
    assert yaml_beside(tmp_path / 'net.onnx') == tmp_path / 'net.yaml'
