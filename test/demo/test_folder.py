"""The folder of the demo's results."""

from pathlib import Path

import pytest

from mnv2_perception.demo.folder import clear, LOGS
from mnv2_perception.errors import BagError, SetupError
from mnv2_perception.scenes.bag import draw_bag


def test_a_folder_is_made_and_cleared_of_an_earlier_demo(tmp_path: Path) -> None:
    out = tmp_path / 'new/demo'
    clear(out, None)
    (out / 'frame_00.png').touch()
    (out / 'recording').mkdir()
    clear(out, None)
    assert {path.name for path in out.iterdir()} == LOGS


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'thesis.txt').write_text('mine', encoding='utf-8')
    (tmp_path / 'summary.json').write_text('{}', encoding='utf-8')
    with pytest.raises(SetupError, match=r'thesis\.txt'):
        clear(tmp_path, None)
    assert (tmp_path / 'summary.json').exists()


def test_a_bag_among_the_results_is_not_removed_but_refused(tmp_path: Path) -> None:
    draw_bag(tmp_path / 'drawn_street', duration_s=0.2, height=64, width=64)
    with pytest.raises(BagError, match='choose another --out'):
        clear(tmp_path, tmp_path / 'drawn_street')
    assert list((tmp_path / 'drawn_street').glob('*.mcap'))


@pytest.mark.parametrize('name', ['recording', 'drawn_street', 'frame_01.png', 'perception.log'])
def test_a_folder_that_only_has_such_names_is_left_alone(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    if mine.suffix:
        mine.write_text('mine', encoding='utf-8')
    else:
        draw_bag(mine, duration_s=0.2, height=64, width=64)
    with pytest.raises(SetupError, match=f'contains {name}, which is not from a demo'):
        clear(tmp_path, None)
    assert mine.exists() and {path.name for path in tmp_path.iterdir()} == {name}
