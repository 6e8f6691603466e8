"""Folders of labelled images, and boxes in COCO's JSON."""

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mnv2_perception.data.coco import read_coco, write_coco
from mnv2_perception.data.folders import (
    hash_list,
    list_classified,
    list_pairs,
    read_folder,
    read_label,
    read_pair,
)
from mnv2_perception.data.from_masks import boxes_from_labels
from mnv2_perception.data.images import read_image
from mnv2_perception.errors import DataError

ELEVEN = [f'class_{index}' for index in range(11)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels').mkdir()
    for index, name in enumerate(('b.png', 'a.PNG')):
        image = np.full((4, 6, 3), (10, 20, 30 + index), np.uint8)  # BGR
        cv2.imwrite(str(tmp_path / 'images' / name), image)
        label = np.arange(24, dtype=np.uint8).reshape(4, 6)
        cv2.imwrite(str(tmp_path / 'labels' / f'{Path(name).stem}.png'), label)
    return tmp_path


def test_pairs_come_sorted_by_name(folder: Path) -> None:
    assert [(image.name, label.name) for image, label in list_pairs(folder)] == [
        ('a.PNG', 'a.png'), ('b.png', 'b.png')
    ]


def test_an_image_is_rgb_and_a_label_its_ids(folder: Path) -> None:
    image, label = read_pair(*list_pairs(folder)[1])
    assert image[0, 0].tolist() == [30, 20, 10]
    assert label.tolist() == np.arange(24).reshape(4, 6).tolist()


def test_ids_at_or_above_the_class_count_become_unlabelled(folder: Path) -> None:
    _, label = read_folder(folder, ELEVEN)[0]
    assert label.ravel().tolist() == [*range(11), *[255] * 13]


def test_a_folder_without_images_tells_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'no images; expected .*images/\*\.jpg'):
        list_pairs(tmp_path)


@pytest.mark.parametrize('suffix', ['webp', 'bmp', 'tif', 'JPG', 'Png'])
def test_images_of_every_common_suffix_count(folder: Path, suffix: str) -> None:
    cv2.imwrite(str(folder / f'images/c.{suffix.lower()}'), np.zeros((4, 6, 3), np.uint8))
    (folder / f'images/c.{suffix.lower()}').rename(folder / f'images/c.{suffix}')
    (folder / 'labels/b.png').rename(folder / 'labels/c.PNG')
    (folder / 'images/b.png').unlink()
    assert read_pair(*list_pairs(folder)[1])[0].shape == (4, 6, 3)


def test_files_that_are_left_out_are_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / 'images/notes.txt').write_text('')
    (folder / 'images/.DS_Store').write_text('')
    assert len(list_pairs(folder)) == 2
    assert '1 files are left out (notes.txt)' in caplog.text


def test_one_name_with_two_suffixes_is_refused(folder: Path) -> None:
    (folder / 'images/b.png').with_suffix('.jpg').write_bytes(b'')
    with pytest.raises(DataError, match='b exists with two suffixes'):
        list_pairs(folder)


def test_a_picture_that_was_cut_short_is_refused(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for name in ('b.jpg', 'b.png'):
        whole = cv2.imencode(Path(name).suffix, noise)[1].tobytes()
        (folder / 'images' / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf'{name}: was cut short'):
            read_image(folder / 'images' / name)


def test_a_picture_is_turned_as_its_exif_says_and_so_must_its_label_be(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, 8:] = 255
    stored = cv2.imencode('.jpg', np.rot90(upright))[1].tobytes()  # 6: turn clockwise to view
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    (folder / 'images/b.png').unlink()
    (folder / 'images/b.jpg').write_bytes(stored[:2] + segment + stored[2:])
    cv2.imwrite(str(folder / 'labels/b.png'), np.zeros((8, 16), np.uint8))
    image, _ = read_pair(*list_pairs(folder)[1])
    assert image.shape == (8, 16, 3) and image[:, 9:].min() > 200 > 50 > image[:, :7].max()
    assert 'viewers rotate some of its pictures by their EXIF orientation' in caplog.text
    cv2.imwrite(str(folder / 'labels/b.png'), np.zeros((16, 8), np.uint8))
    with pytest.raises(DataError, match=r'b.png: is \(16, 8\).*EXIF orientation, so its label'):
        read_pair(*list_pairs(folder)[1])
    boxes = coco(images=[{'id': 20, 'file_name': 'b.jpg', 'height': 16, 'width': 8}])
    with pytest.raises(DataError, match='EXIF orientation, so its boxes must be rotated too'):
        read_coco(write_json(folder / 'coco.json', boxes))


def test_what_is_unlabelled_absent_or_unknown_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level('INFO')
    read_folder(folder, ELEVEN)
    assert 'the ids 11, 12, 13' in caplog.text and 'not among the 11 classes' in caplog.text
    assert '54.2 % unlabelled' in caplog.text  # 13 of 24 ids
    caplog.clear()
    read_folder(folder, [f'class_{index}' for index in range(26)])
    assert 'no pixel of class_24, class_25' in caplog.text


def test_labels_in_black_and_white_are_refused_with_the_cure(folder: Path) -> None:
    for name in ('a', 'b'):
        black_and_white = np.where(np.arange(24).reshape(4, 6) > 9, 255, 0).astype(np.uint8)
        cv2.imwrite(str(folder / f'labels/{name}.png'), black_and_white)
    with pytest.raises(DataError, match='write 1 instead of 255 for class_1'):
        read_folder(folder, ELEVEN)


def test_labels_of_other_classes_alone_are_refused_before_training(folder: Path) -> None:
    for name in ('a', 'b'):
        cv2.imwrite(str(folder / f'labels/{name}.png'), np.full((4, 6), 40, np.uint8))
    with pytest.raises(DataError, match='no pixel has an id below 11'):
        read_folder(folder, ELEVEN)


def test_a_missing_label_is_named_and_counted(folder: Path) -> None:
    (folder / 'labels/b.png').unlink()
    with pytest.raises(DataError, match=r'1 of 2 labels are missing, the first is b\.png'):
        list_pairs(folder)


@pytest.mark.parametrize('name', ['B.png', 'b_mask.png'])
def test_a_label_of_nearly_the_same_name_is_named(folder: Path, name: str) -> None:
    (folder / 'labels/b.png').rename(folder / 'labels' / name)
    with pytest.raises(DataError, match=rf'first is b\.png; {name} exists; .* the same name'):
        list_pairs(folder)


def test_labels_without_an_image_are_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / 'images/b.png').unlink()
    list_pairs(folder)
    list_pairs(folder)
    assert caplog.text.count('labels: 1 of 2 are left out, because no image has their name') == 1


@pytest.mark.parametrize(
    ('label', 'told'),
    [
        (np.full((4, 6, 3), (1, 2, 3), np.uint8), 'PNG of colours.*map each colour to its id'),
        (np.full((4, 6), 256, np.uint16), 'the largest is 256'),
        (np.zeros((5, 6), np.uint8), r'is \(5, 6\), but its image is \(4, 6\)'),
    ],
    ids=['colours', '16 bits', 'another size'],
)
def test_a_label_that_is_none_is_refused(folder: Path, label: np.ndarray, told: str) -> None:
    cv2.imwrite(str(folder / 'labels/a.png'), label)
    with pytest.raises(DataError, match=told):
        read_folder(folder, ELEVEN)


@pytest.mark.parametrize('suffix', ['.jpg', '.bmp'])
def test_a_label_of_another_suffix_is_told_as_what_it_is(folder: Path, suffix: str) -> None:
    label = folder / 'labels/a.png'
    label.rename(label.with_suffix(suffix))
    with pytest.raises(DataError, match=rf'1 of 2 labels.*a\{suffix} exists, but a label'):
        list_pairs(folder)


@pytest.mark.parametrize(('content', 'told'), [
    ('version https://git-lfs.github.com/spec/v1\noid sha256:aa\n', 'a Git LFS pointer.*lfs'),
    ('\n<!DOCTYPE html><html>', 'a web page, not the file itself; download that by its raw link'),
])
def test_what_lies_in_a_file_s_place_is_named(folder: Path, content: str, told: str) -> None:
    file = folder / 'there.png'
    file.write_text(content)
    for read in (read_image, read_label, read_coco):
        with pytest.raises(DataError, match=f'there.png: {told}'):
            read(file)


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / 'images/b.png').write_bytes(b'no picture')
    with pytest.raises(DataError, match=r'images/b\.png: is not a readable image'):
        read_folder(folder, ELEVEN)


def test_the_hash_of_a_list_changes_with_names_and_contents(folder: Path) -> None:
    pairs = list_pairs(folder)
    before = hash_list(pairs)
    assert before == hash_list(list_pairs(folder))
    assert hash_list(pairs[:1]) != before
    assert hash_list(pairs[::-1]) != before
    cv2.imwrite(str(pairs[0][1]), np.zeros((4, 6), np.uint8))
    assert hash_list(pairs) != before


def coco(**changes: Any) -> dict[str, Any]:
    """A file with two images and the categories 7 (car) and 3 (dog)."""
    return {
        'images': [{'id': 20, 'file_name': 'b.png'}, {'id': 10, 'file_name': 'a.PNG'}],
        'categories': [{'id': 7, 'name': 'car'}, {'id': 3, 'name': 'dog'}],
        'annotations': [
            {'id': 1, 'image_id': 20, 'category_id': 7, 'bbox': [1, 2, 3, 1.5], 'iscrowd': 0},
            {'id': 2, 'image_id': 20, 'category_id': 3, 'bbox': [0, 0, 2, 2]},
            {'id': 3, 'image_id': 20, 'category_id': 3, 'bbox': [0, 0, 6, 4], 'iscrowd': 1},
            {'id': 4, 'image_id': 20, 'category_id': 3, 'bbox': [0, 0, 0, 4]},
        ],
        **changes,
    }


def write_json(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_boxes_are_read_from_coco(folder: Path) -> None:
    classes, samples = read_coco(write_json(folder / 'coco.json', coco()))
    assert classes == ('dog', 'car')
    paths = [folder / 'images/b.png', folder / 'images/a.PNG']
    assert [sample.image for sample in samples] == paths
    assert samples[0].boxes.tolist() == [[1, 2, 4, 3.5], [0, 0, 2, 2]]
    assert samples[0].class_ids.tolist() == [1, 0]
    assert samples[0].ignored.tolist() == [[0, 0, 6, 4]]  # a crowd
    assert samples[0].ignored_ids.tolist() == [0]
    assert samples[1].boxes.shape == samples[1].ignored.shape == (0, 4)


def test_boxes_that_end_outside_their_image_are_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [{'id': 20, 'file_name': 'b.png', 'height': 4, 'width': 6}]
    for bbox, told in (([2, 1, 4, 3], False), ([2, 1, 6, 4], True)):
        boxes = [{'id': 1, 'image_id': 20, 'category_id': 7, 'bbox': bbox}]
        values = coco(images=images, annotations=boxes)
        read_coco(write_json(folder / 'coco.json', values))
        assert ('boxes of 1 of 1 images end outside of their image' in caplog.text) == told


def test_a_folder_in_the_place_of_a_coco_file_is_told_with_the_cure(folder: Path) -> None:
    with pytest.raises(DataError, match="is a folder, expected COCO's JSON in a file"):
        read_coco(folder)


def test_images_may_lie_beside_the_file(folder: Path) -> None:
    _, samples = read_coco(write_json(folder / 'images/coco.json', coco()))
    assert samples[0].image == folder / 'images/b.png'


@pytest.mark.parametrize(
    ('values', 'told'),
    [
        ([], 'is not a COCO JSON'),
        ({'images': []}, "KeyError: 'categories'"),
        (coco(images=[]), 'KeyError: 20'),
        (coco(images=[], annotations=[]), '0 images and 2 categories'),
        (coco(annotations=[{'image_id': 20, 'category_id': 7}]), "KeyError: 'bbox'"),
        (coco(annotations=[{'image_id': 20, 'category_id': 7, 'bbox': [1, 2, 3]}]),
         r'b\.png has a box \[1.0, 2.0, 3.0\] of category 7'),
        (coco(annotations=[{'image_id': 20, 'category_id': 5, 'bbox': [1, 2, 3, 4]}]),
         r'of category 5; expected .* \[3, 7\]'),
        (coco(annotations=[{'image_id': 20, 'category_id': 7, 'bbox': [1, 2, math.nan, 3]}]),
         r'b\.png has a box \[1.0, 2.0, nan, 3.0\]'),
        (coco(annotations=[{'image_id': 20, 'category_id': 7, 'bbox': [0.1, 0.2, 0.5, 0.8]}]),
         'all its boxes lie within the first pixel of an image.* multiply them by width and '
         'height'),
        (coco(categories=[{'id': 3, 'name': 'dog'}, {'id': 7, 'name': 'dog'}]),
         'calls several categories dog; .* its own name'),
        (coco(images=[{'id': 20, 'file_name': 'c.png'}]), r'image c\.png is neither in'),
        (coco(images=[{'id': 20, 'file_name': 'c' * 300}]), r'image c+ is neither in'),
    ],
)
def test_a_file_that_is_no_coco_is_refused(folder: Path, values: Any, told: str) -> None:
    with pytest.raises(DataError, match=rf'coco\.json: .*{told}'):
        read_coco(write_json(folder / 'coco.json', values))


def test_boxes_of_an_image_of_another_size_are_refused_by_name(folder: Path) -> None:
    images = [{**image, 'height': 4, 'width': 6} for image in coco()['images']]
    read_coco(write_json(folder / 'coco.json', coco(images=images)))
    images[1] |= {'height': 480, 'width': 640}  # a.PNG was resized, its boxes were not
    with pytest.raises(DataError, match=r'of a\.PNG of 480 × 640 .*the file is 4 × 6; resize'):
        read_coco(write_json(folder / 'coco.json', coco(images=images)))


@pytest.mark.parametrize('text', [None, '{', '\xff'])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None) -> None:
    if text:
        (tmp_path / 'coco.json').write_text(text, encoding='latin-1')
    with pytest.raises(DataError, match=r'coco\.json: '):
        read_coco(tmp_path / 'coco.json')


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """One mask with a car of 12 pixels, a splinter of another and a dog."""
    label = np.zeros((10, 20), np.uint8)
    label[2:5, 3:7] = 5
    label[8, 1:3] = 5
    label[4:10, 12:18] = 2
    for name, picture in (('images', np.zeros((10, 20, 3), np.uint8)), ('labels', label)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / 'a.png'), picture)
    return tmp_path


def test_boxes_are_made_of_masks(masks: Path) -> None:
    (sample,) = boxes_from_labels(masks, [2, 5], min_area=10)
    assert sample.boxes.tolist() == [[12, 4, 18, 10], [3, 2, 7, 5]]
    assert sample.class_ids.tolist() == [0, 1]
    assert sample.ignored.tolist() == [[1, 8, 3, 9]] and sample.ignored_ids.tolist() == [1]


def test_boxes_that_are_written_are_read_again(masks: Path, tmp_path: Path) -> None:
    samples = boxes_from_labels(masks, [2, 5], min_area=10)
    (tmp_path / 'elsewhere').mkdir()
    path = tmp_path / 'elsewhere/coco.json'
    write_coco(path, ['dog', 'car'], samples)
    classes, (found,) = read_coco(path)
    assert classes == ('dog', 'car')
    assert found.image.samefile(samples[0].image)
    for name in ('boxes', 'class_ids', 'ignored', 'ignored_ids'):
        assert np.array_equal(getattr(found, name), getattr(samples[0], name))


def test_a_file_that_cannot_be_written_is_named(masks: Path) -> None:
    with pytest.raises(DataError, match=r'absent/coco\.json: cannot be written'):
        write_coco(masks / 'absent/coco.json', ['dog'], boxes_from_labels(masks, [2]))


# Classification

CLASSES = ['crane', 'otter, sea otter', 'crane', '0']


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    images(tmp_path, '0/b.JPG', '0/a.png', 'otter, sea otter/c.jpeg', '.cache/d.jpg', 'e.jpg',
           '0/notes.txt')
    assert list_classified(tmp_path, CLASSES) == [
        (tmp_path / '0/a.png', 3), (tmp_path / '0/b.JPG', 3),
        (tmp_path / 'otter, sea otter/c.jpeg', 1),
    ]


@pytest.mark.parametrize(
    ('table', 'ids'),
    [
        ('a.jpg\t2\nsub/b.jpg\totter, sea otter\n', [2, 1]),
        ('a.jpg\t0\r\n\r\nsub/b.jpg\t1', [3, 1]),  # a name goes before an id
        ('label\tsource\tfile\n1\tx\ta.jpg\n2\ty\tsub/b.jpg\n', [1, 2]),
        ('index\twnid\tfile\tname\n0\tn1\ta.jpg\tcrane\n3\tn2\tsub/b.jpg\t"0\n', [0, 3]),
    ],
    ids=['names and ids', 'a class named 0', 'a header', 'an index'],
)
def test_a_table_names_files_and_labels(tmp_path: Path, table: str, ids: list[int]) -> None:
    images(tmp_path, 'a.jpg', 'sub/b.jpg')
    (tmp_path / 'labels.tsv').write_text(table)
    files = [tmp_path / 'a.jpg', tmp_path / 'sub/b.jpg']
    assert list_classified(tmp_path / 'labels.tsv', CLASSES) == list(zip(files, ids, strict=True))


@pytest.mark.parametrize(
    ('table', 'told'),
    [
        ('', 'lists no images'),
        ('a.jpg 1', ':1: got 1 columns, expected 2'),
        ('a.jpg\t1\nb.jpg\t1', r':2: no such file: .*b\.jpg'),
        (f'a.jpg\t1\n{"b" * 300}.jpg\t1', r':2: no such file'),
        ('a.jpg\t1\na\0.jpg\t1', r':2: no such file'),
        ('a.jpg\t4', ":1: the label is '4', not a class of the model .*an id of 0 to 3 or a name"),
        ('a.jpg\t-1', "the label is '-1', not a class"),
        ('a.jpg\tcrane', "'crane', the name of several classes: 0 and 2; expected an id"),
        ('file\tindex\na.jpg\tcrane', ":2: the index is 'crane'.*an id of 0 to 3$"),
        ('file\tclass\na.jpg\t1', 'expected `file` and `label` or `index`'),
    ],
)
def test_a_table_that_cannot_be_used_is_told_with_its_line(
    tmp_path: Path, table: str, told: str
) -> None:
    images(tmp_path, 'a.jpg')
    (tmp_path / 'labels.tsv').write_text(table)
    with pytest.raises(DataError, match=told):
        list_classified(tmp_path / 'labels.tsv', CLASSES)


def test_a_picture_in_two_classes_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = tmp_path / '0', tmp_path / 'otter, sea otter'
    for folder, name, content in (
        (first, 'a.jpg', b'one'), (first, 'b.jpg', b'two'), (first, 'b_again.jpg', b'two'),
        (other, 'c.jpg', b'six'), (other, 'd.jpg', b'seven'), (first, 'empty.jpg', b''),
        (first, 'of_one_end.jpg', b'1' + bytes(2000)),
        (other, 'of_one_end.jpg', b'2' + bytes(2000)),
    ):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    assert len(list_classified(tmp_path, CLASSES)) == 8 and not caplog.messages
    (other / 'of_both.jpg').write_bytes(b'two')
    for _ in range(2):
        assert len(list_classified(tmp_path, CLASSES)) == 9
    told, = caplog.messages
    assert told == (
        f'{tmp_path}: a picture is in two classes, byte for byte the same: {first}/b.jpg and '
        f'{other}/of_both.jpg (and 0 more); keep each in one class'
    )
    (tmp_path / 'list.tsv').write_text('0/a.jpg\t1\n0/b.jpg\t0\n0/a.jpg\t2\n')
    list_classified(tmp_path / 'list.tsv', CLASSES)
    assert f'{first}/a.jpg and {first}/a.jpg' in caplog.messages[1]


@pytest.mark.parametrize(
    ('names', 'told'),
    [
        (['labels/a.png', 'images/a.jpg'], r"/images: .*named as 'images', not a class .*'crane'"),
        (['crane/a.png'], "'crane', the name of several classes: 0 and 2"),
        (['a.jpg'], r'no images; expected .*/CLASS/\*\.jpg'),
    ],
    ids=['data for segmentation', 'two classes of one name', 'no folders'],
)
def test_folders_that_are_no_classes_are_told(
    tmp_path: Path, names: list[str], told: str
) -> None:
    images(tmp_path, *names)
    with pytest.raises(DataError, match=told):
        list_classified(tmp_path, CLASSES)


def test_a_source_that_does_not_exist_or_is_no_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='absent: does not exist; give a folder'):
        list_classified(tmp_path / 'absent', CLASSES)
    (tmp_path / 'picture.jpg').write_bytes(b'\xff\xd8\xff')
    with pytest.raises(DataError, match=r'picture\.jpg: is not a TSV file'):
        list_classified(tmp_path / 'picture.jpg', CLASSES)
