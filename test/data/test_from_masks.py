"""Windows of labelled images, labelled by what fills their middle."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mnv2_perception.data.folders import list_classified
from mnv2_perception.data.from_masks import write_patches
from mnv2_perception.data.images import read_image
from mnv2_perception.errors import DataError

GROUPS = {'floor': [3, 4], 'wall': [1]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One image of 40×80: floor on the left (two classes of it), wall on the right."""
    for name in ('images', 'labels'):
        (tmp_path / name).mkdir()
    label = np.full((40, 80), 1, np.uint8)
    label[:, :40] = 3
    label[::2, :40] = 4
    image = np.repeat(label[..., None], 3, 2) * 20
    cv2.imwrite(str(tmp_path / 'images/a.png'), image)
    cv2.imwrite(str(tmp_path / 'labels/a.png'), label)
    return tmp_path


def test_a_window_is_labelled_by_the_class_that_fills_most_of_its_middle(
    folder: Path, tmp_path: Path
) -> None:
    counts = write_patches(folder, tmp_path / 'out', GROUPS, (20, 40), top=20, step=20)
    assert counts == {'floor': 2, 'wall': 1}  # the middle one is half and half: the first named
    found = list_classified(tmp_path / 'out/labels.tsv', list(GROUPS))
    assert [(path.name, label) for path, label in found] == [
        ('a_20_0.png', 0), ('a_20_20.png', 0), ('a_20_40.png', 1)
    ]
    whole = read_image(folder / 'images/a.png')
    assert np.array_equal(read_image(found[2][0]), whole[20:40, 40:80])


def test_no_more_windows_of_a_class_are_written_than_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    counts = write_patches(
        folder, tmp_path / 'out', GROUPS, (20, 40), top=0, step=10, per_class=2
    )
    assert counts == {'floor': 2, 'wall': 2}
    assert len(list((tmp_path / 'out/images').iterdir())) == 4


def test_windows_that_show_none_of_the_classes_are_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='shows any of sky'):
        write_patches(folder, tmp_path / 'out', {'sky': [0]}, (20, 40), top=0, step=20)


def test_an_existing_set_is_not_mixed_with_another(folder: Path, tmp_path: Path) -> None:
    write_patches(folder, tmp_path / 'out', GROUPS, (20, 40), top=0, step=20)
    with pytest.raises(DataError, match=r'labels\.tsv exists'):
        write_patches(folder, tmp_path / 'out', GROUPS, (20, 40), top=0, step=20)


def test_the_images_that_windows_are_cut_from_stay_as_they_are(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob('*.*')}
    with pytest.raises(DataError, match='images exists; choose another --out'):
        write_patches(folder, folder, GROUPS, (20, 40), top=0, step=20)
    assert {path: path.read_bytes() for path in folder.rglob('*.*')} == before
