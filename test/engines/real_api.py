"""Make type stubs of TensorRT and cuda-python releases, and check our code against them.

The wheels of the bindings can be imported beside empty libraries with the right names, and their
docstrings have all signatures. mypy then finds each name, argument and type in our code that a
release does not have.
"""

import ast
import ctypes
import os
from pathlib import Path
import re
import subprocess
import sys
import zipfile

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = tuple(
    ROOT / 'mnv2_perception/engines' / name
    for name in ('tensorrt.py', 'tensorrt_api.py', 'builders.py')
)

# Prints a module's functions, classes and their attributes as a stub. Cython keeps no types.
CYTHON_STUB = """
import importlib, inspect, sys
module = importlib.import_module(sys.argv[1])
print('from typing import Any')
for name, value in vars(module).items():
    if not name.isidentifier() or name.startswith('_') or name == 'Any':
        continue
    if inspect.isclass(value):
        print(f'class {name}:\\n    def __init__(self, *args: Any) -> None: ...')
        print('    def __int__(self) -> int: ...')
        for attribute in dir(value):
            if not attribute.startswith('_'):
                print(f'    {attribute}: Any')
    elif callable(value):
        names = ', '.join(inspect.signature(value).parameters)
        print(f'def {name}({names}) -> Any: ...')
    else:
        print(f'{name}: Any')
"""


def unpack_wheels(folder: Path, *requirements: str) -> Path:
    """Download wheels from PyPI and unpack them into one folder; skip the test if that fails."""
    for requirement in requirements:
        command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary=:all:',
                   '--disable-pip-version-check', '--retries=1', '--timeout=15', '-q', '-d',
                   str(folder / 'wheels'), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1]
            pytest.skip(f'pip cannot download {requirement} for this interpreter: {reason}')
    for wheel in (folder / 'wheels').glob('*.whl'):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def make_empty_libraries(folder: Path) -> None:
    """Compile the libraries that the bindings need; all their functions return null."""
    (bindings,) = map(str, folder.glob('tensorrt*_bindings/*.so'))
    try:
        symbols = run(['nm', '-D', '--undefined-only', bindings])
        needed = re.findall(r'\[(lib(?:nv|tensorrt)\S+)\]', run(['readelf', '-d', bindings]))
        # Symbols with a version are in system libraries; the others are Python's or NVIDIA's.
        python = ctypes.CDLL(None)
        missing = [name for name in re.findall(r'U (\w+)$', symbols, re.MULTILINE)
                   if not name.startswith(('Py', '_Py')) and not hasattr(python, name)]
        source = folder / 'empty.c'
        source.write_text('\n'.join(f'void *{name}(void) {{ return 0; }}' for name in missing))
        for library in needed:
            run(['gcc', '-shared', '-fPIC', f'-Wl,-soname,{library}', '-o',
                 str(folder / library), str(source)])
    except FileNotFoundError as exc:
        pytest.skip(f'needs gcc and binutils: {exc}')


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_tensorrt_stub(wheel: Path, stubs: Path) -> dict[str, bool]:
    """Write tensorrt.pyi from a bindings wheel; return which of our `has_...` are true for it."""
    make_empty_libraries(wheel)
    (bindings,) = wheel.glob('tensorrt*_bindings/*.so')
    module = bindings.parent.name, bindings.stem
    where = {'LD_LIBRARY_PATH': str(wheel), 'PYTHONPATH': str(wheel)}
    run([sys.executable, '-c', 'from mypy.stubgen import main; main()', '-q', '--inspect-mode',
         '-m', '.'.join(module), '-o', str(wheel / 'made')], **where)
    lines = (wheel / f'made/{"/".join(module)}.pyi').read_text().splitlines()
    stubs.mkdir(parents=True, exist_ok=True)
    (stubs / 'tensorrt.pyi').write_text(
        'import typing\nimport typing_extensions\n__version__: str\n'
        + '\n'.join(parseable(line) for line in lines)
    )
    guards = version_guards()
    code = f'import {module[0]} as trt; print([{", ".join(guards.values())}])'
    return dict(zip(guards, ast.literal_eval(run([sys.executable, '-c', code], **where)),
                    strict=True))


def parseable(line: str) -> str:
    """Return a line of a stub in a form that mypy understands."""
    if re.match(r'(bool|int|float|str):', line):
        return ''  # trt.bool, a DataType, would shadow the return type of functions
    if line == 'class Dims:':  # Python iterates over whatever has __getitem__
        return f'{line}\n    def __iter__(self) -> typing.Iterator[int]: ...'
    line = line.replace('typing.SupportsInt', 'int')  # what callbacks really get
    match = re.match(r'(\s*)def (\w+)\(', line)
    if match is None:
        return line
    try:
        ast.parse(line.strip())
    except SyntaxError:  # the signature has C++ types: allow any arguments
        return f'{match[1]}def {match[2]}(self, *args: Incomplete) -> Incomplete: ...'
    return line


def version_guards() -> dict[str, str]:
    """Return name and condition of each `has_... = hasattr(trt...)` in our code."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            match node:
                case ast.Assign([ast.Name(name)], value) if name.startswith('has_'):
                    found[name] = ast.unparse(value)
    return found


def write_cuda_stub(wheel: Path, module: str, stubs: Path) -> None:
    """Write cuda/bindings/runtime.pyi from a cuda-python wheel of the old or new layout."""
    folder = stubs / 'cuda/bindings'
    folder.mkdir(parents=True, exist_ok=True)
    for package in (folder, folder.parent):
        (package / '__init__.pyi').touch()
    text = run([sys.executable, '-c', CYTHON_STUB, module], PYTHONPATH=str(wheel))
    for file in (folder / 'runtime.pyi', folder.parent / 'cudart.pyi'):
        file.write_text(text)


def disagreements(
    stubs: Path, cache: Path, guards: dict[str, bool], sources: tuple[Path, ...] = SOURCES
) -> list[str]:
    """Return the errors that mypy finds in our code with the stubs of a release."""
    flags = [f'--always-{str(holds).lower()}={name}' for name, holds in guards.items()]
    command = [
        sys.executable, '-m', 'mypy', '--config-file=', '--check-untyped-defs',
        '--follow-imports=silent', '--ignore-missing-imports', '--no-error-summary',
        f'--cache-dir={cache}', *flags, *map(str, sources),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, 'MYPYPATH': str(stubs)},
    )
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines()
            if ': error:' in line and '.pyi:' not in line]  # stubs are not perfect
