"""Files that are written whole or not at all."""

from pathlib import Path
import stat

import pytest

from mnv2_perception.data.files import make_folder, replacing
from mnv2_perception.errors import SetupError


def test_a_file_is_replaced_when_all_is_written(tmp_path: Path) -> None:
    (tmp_path / 'file.txt').write_text('old', encoding='utf-8')
    (tmp_path / 'link.txt').symlink_to('file.txt')
    with replacing(tmp_path / 'link.txt') as partial:
        partial.write_text('new', encoding='utf-8')
        assert (tmp_path / 'file.txt').read_text(encoding='utf-8') == 'old'
    assert (tmp_path / 'file.txt').read_text(encoding='utf-8') == 'new'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file.txt', 'link.txt']


def test_a_file_stays_as_it_was_if_writing_fails(tmp_path: Path) -> None:
    (tmp_path / 'file.txt').write_text('old', encoding='utf-8')

    def write() -> None:
        with replacing(tmp_path / 'file.txt') as partial:
            partial.write_text('half', encoding='utf-8')
            raise ValueError('the disk is full')

    with pytest.raises(ValueError, match='full'):
        write()
    assert (tmp_path / 'file.txt').read_text(encoding='utf-8') == 'old'
    assert [path.name for path in tmp_path.iterdir()] == ['file.txt']


def test_a_device_is_written_to_and_stays_one() -> None:
    with replacing(Path('/dev/null')) as path:
        path.write_text('gone', encoding='utf-8')
    assert stat.S_ISCHR(Path('/dev/null').stat().st_mode)


@pytest.mark.parametrize('name', ['file', 'file/new', 'link'])
def test_a_file_in_the_place_of_a_folder_is_told_with_what_was_expected_and_the_cure(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / 'file').touch()
    (tmp_path / 'link').symlink_to('gone')
    with pytest.raises(SetupError) as told:
        make_folder(tmp_path / name)
    there = tmp_path / name.partition('/')[0]
    assert str(told.value) == (
        f'{tmp_path / name}: cannot be created: {there} is a file, expected a folder; choose '
        f'another --out, or move the file away'
    )
