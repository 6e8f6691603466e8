"""Folders of labelled images."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mnv2_perception.dataset import hash_list, list_pairs, read_folder, read_pair
from mnv2_perception.errors import DataError


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
    _, label = read_folder(folder, 11)[0]
    assert label.ravel().tolist() == [*range(11), *[255] * 13]


def test_a_folder_without_images_tells_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'no images; expected .*images/\*\.jpg'):
        list_pairs(tmp_path)


def test_a_missing_label_is_named_and_counted(folder: Path) -> None:
    (folder / 'labels/b.png').unlink()
    with pytest.raises(DataError, match=r'1 of 2 labels are missing, the first is b\.png'):
        list_pairs(folder)


@pytest.mark.parametrize(
    ('label', 'told'),
    [
        (np.zeros((4, 6, 3), np.uint8), 'one 8-bit channel'),
        (np.zeros((4, 6), np.uint16), 'uint16'),
        (np.zeros((5, 6), np.uint8), r'is \(5, 6\), its image is \(4, 6\)'),
    ],
    ids=['colours', '16 bits', 'another size'],
)
def test_a_label_that_is_none_is_refused(folder: Path, label: np.ndarray, told: str) -> None:
    cv2.imwrite(str(folder / 'labels/a.png'), label)
    with pytest.raises(DataError, match=told):
        read_folder(folder, 11)


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / 'images/b.png').write_bytes(b'no picture')
    with pytest.raises(DataError, match=r'images/b\.png: is no readable image'):
        read_folder(folder, 11)


def test_the_hash_of_a_list_changes_with_names_and_contents(folder: Path) -> None:
    pairs = list_pairs(folder)
    before = hash_list(pairs)
    assert before == hash_list(list_pairs(folder))
    assert hash_list(pairs[:1]) != before
    assert hash_list(pairs[::-1]) != before
    cv2.imwrite(str(pairs[0][1]), np.zeros((4, 6), np.uint8))
    assert hash_list(pairs) != before
