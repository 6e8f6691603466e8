"""ament's linters, where a distro has them; `make check` (ruff, mypy) is stricter in most."""

from importlib.util import find_spec
from pathlib import Path
import shutil

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ['benchmark', 'launch', 'mnv2_perception', 'setup.py', 'test']
# ament's own, and Google's style, which `Args:` follows, where ament's is numpy's; single words
# that keep their own capitals.
PEP257_IGNORED = [
    'D100', 'D101', 'D102', 'D103', 'D104', 'D105', 'D106', 'D107', 'D200', 'D203', 'D212', 'D213',
    'D401', 'D402', 'D403', 'D404', 'D406', 'D407', 'D413', 'D417',
]


def needs(package: str) -> None:
    if not find_spec(package):
        pytest.skip(f'no {package}: it comes with a ROS distro (apt install ros-$ROS_DISTRO-'
                    f'{package.replace("_", "-")})')


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_ament_copyright() -> None:
    needs('ament_copyright')
    from ament_copyright.main import main

    # LICENSE and CONTRIBUTING.md are what it looks for. It knows no other notice in a source file
    # than the licence's header, twelve lines for each: REUSE.toml states them once for all.
    built = ['build', 'install', 'tools']
    sources = [str(path) for folder in [*SOURCES, *built] for path in Path(folder).rglob('*.py')]
    assert main(argv=['.', '--exclude', *sources]) == 0


def test_ament_flake8() -> None:
    needs('ament_flake8')
    from ament_flake8.main import main_with_errors

    _, errors = main_with_errors(argv=['--config', 'setup.cfg', *SOURCES])
    assert errors == []


def test_ament_pep257() -> None:
    needs('ament_pep257')
    from ament_pep257.main import main

    assert main(argv=['--ignore', *PEP257_IGNORED, '--', *SOURCES]) == 0


def test_ament_xmllint() -> None:
    needs('ament_xmllint')
    if not shutil.which('xmllint'):
        pytest.skip('no xmllint: apt install libxml2-utils')
    from ament_xmllint.main import main

    assert main(argv=['package.xml']) == 0  # fetches the schema that the file names


def test_each_file_has_its_copyright_and_licence() -> None:
    pytest.importorskip('reuse', reason='no reuse: pip install reuse')
    from reuse.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(['--root', str(ROOT), 'lint', '--quiet'])
    assert ended.value.code == 0
