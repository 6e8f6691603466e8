"""Damage bytes, text and messages with a seeded generator, and guard the code that reads them.

`FUZZ_COUNT` is the number of inputs per test, `FUZZ_SEED` the first seed: `make fuzz`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import resource
import time
from typing import Any

import numpy as np

from mnv2_perception.errors import PerceptionError

SEED = int(os.environ.get('FUZZ_SEED', '0'))
LONGEST_S = 2.0  # CPU time for one input
MOST_MB = 300  # for one input

_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF)
_WORDS = (0, 1, 2, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_FLOATS = (
    0.0, -0.0, 1.0, -1.0, 1e-300, 1e-7, 0.5, 1e4, 6e4, 1e9, 1e30, 1e300,
    float('nan'), float('inf'), float('-inf'),
)
HOSTILE = (
    '', ' ', 'x' * 5000, 'a\nb', '\x1b[31m', 'ü€𝄞', '%s%n', '../..', '/', 'NaN', '0', '255',
    'rgb8', 'bgr8', 'mono8', 'mono16', '16UC1', '32FC1', '8UC3', 'nv12', 'nv24', 'bayer_rggb8',
    'bgra16', 'yuv422', 'jpeg', 'png', 'rgb8; png compressed ', 'rgb8; jpeg compressed bgr8',
    '16UC1; compressedDepth', 'bayer_gbrg16; png compressed ', 'plumb_bob', 'equidistant',
    'rational_polynomial', 'x', 'y', 'z', 'road', 'sky', 'base_link',
)
_RANGES = {
    **{f'uint{bits}': (0, 2**bits - 1) for bits in (8, 16, 32)},
    **{f'int{bits}': (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32)},
}


def count(short: int, share: float = 1.0) -> int:
    """Return the number of inputs: few in `make test`, a share of FUZZ_COUNT in `make fuzz`."""
    if 'FUZZ_COUNT' not in os.environ:
        return short
    return max(1, round(share * int(os.environ['FUZZ_COUNT'])))


def generators(inputs: int) -> Iterator[tuple[int, np.random.Generator]]:
    """Yield a seed and its generator for each input, so that a single input can be reproduced."""
    for seed in range(SEED, SEED + inputs):
        yield seed, np.random.default_rng(seed)


def pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def damage(rng: np.random.Generator, data: bytes) -> bytes:
    """Flip, overwrite, cut, repeat or insert a few bytes."""
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4, 16]))):
        place = int(rng.integers(len(changed) + 1))
        if rng.random() < 0.4:  # the beginning, where headers are
            place = min(place, int(rng.integers(64)))
        length = int(rng.choice([1, 2, 4, 16, 256]))
        kind = rng.integers(7)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[place:place + length] = bytes([pick(rng, _BYTES)]) * length
        elif kind == 2:
            order = pick(rng, ['little', 'big'])
            changed[place:place + 4] = pick(rng, _WORDS).to_bytes(4, order)
        elif kind == 3:
            del changed[place:]
        elif kind == 4:
            del changed[place:place + length]
        elif kind == 5:
            changed[place:place] = changed[place:place + length] * int(rng.integers(1, 5))
        else:
            changed[place:place] = rng.bytes(length)
    return bytes(changed)


def damage_text(rng: np.random.Generator, text: str) -> str:
    """Replace values by hostile ones, repeat or remove lines, or damage bytes of a text."""
    if rng.random() < 0.3:
        return damage(rng, text.encode()).decode(errors='replace')
    lines = text.split('\n')
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(lines)))
        kind = rng.integers(4)
        if kind == 0:
            lines[place:place + 1] = []
        elif kind == 1:
            lines.insert(place, pick(rng, lines or ['']))
        elif lines and place < len(lines):
            head, colon, _ = lines[place].partition(':')
            lines[place] = head + colon + ' ' + pick(rng, _YAML)
        lines = lines or ['']
    return '\n'.join(lines)


_YAML = (
    'null', 'true', 'yes', '0', '-1', '1e999', '.nan', '.inf', '99999999999999999999', '""', '[]',
    '{}', '[[[[]]]]', '{a: {b: c}}', '[1, [2, x]]', '&a [*a]', '*a', '!!python/object:os.system',
    '!!binary aGk=', '2026-11-26', '"\\0"', '"\\uD800"', '0x10', '1_000', "'", '- ', '? ', '|',
    '/etc/passwd', '../../x', '~', 'x' * 3000,
)


def mutate(rng: np.random.Generator, msg: Any) -> None:
    """Change a few fields of a ROS message in place, to values that their types allow."""
    for _ in range(int(rng.choice([1, 1, 2, 3, 6]))):
        target, kinds = msg, msg.get_fields_and_field_types()
        while True:
            name = pick(rng, list(kinds))
            value = getattr(target, name)
            if not hasattr(value, 'get_fields_and_field_types'):
                break
            target, kinds = value, value.get_fields_and_field_types()
        setattr(target, name, _other(rng, value, kinds[name]))


def _other(rng: np.random.Generator, value: Any, kind: str) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        least, most = _RANGES[kind]
        values = [*_WORDS, value + 1, value - 1, value * 2, value // 2, -1, -(2**31)]
        return pick(rng, [each for each in values if least <= each <= most])
    if isinstance(value, float):
        return pick(rng, [*_FLOATS, -value, value * 1000, value / 1000])
    if isinstance(value, str):
        return pick(rng, [*HOSTILE, value + 'x', value[:-1]])
    if kind == 'sequence<uint8>':
        return damage(rng, bytes(value))
    items = list(value)
    place = int(rng.integers(len(items) + 1))
    if '[' in kind or rng.random() < 0.7:  # keep the length; '[': an array, whose length is fixed
        for index in [place % len(items)] if items else []:
            if hasattr(items[index], 'get_fields_and_field_types'):
                mutate(rng, items[index])
            else:
                element = kind.removeprefix('sequence<').partition('[')[0].rstrip('>')
                items[index] = _other(rng, items[index], element)
        return items
    if rng.random() < 0.5:
        return items[:place]
    return items[:place] + items * int(rng.integers(1, 4))


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Check that a block raises nothing but PerceptionError and needs limited time and memory."""
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak memory
    before_mb = _megabytes('VmHWM')
    data = resource.getrlimit(resource.RLIMIT_DATA)
    most = int((_megabytes('VmData') + 4 * MOST_MB) * 2**20)
    begin_s = time.process_time()
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (most, data[1]))
        yield
    except PerceptionError:
        pass
    except Exception as exc:
        raise AssertionError(f'{what}: {type(exc).__name__} came out: {exc!s:.300}') from exc
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, data)
    took_s, took_mb = time.process_time() - begin_s, _megabytes('VmHWM') - before_mb
    assert took_s < LONGEST_S, f'{what}: took {took_s:.1f} s'
    assert took_mb < MOST_MB, f'{what}: took {took_mb:.0f} MB'


def _megabytes(name: str) -> float:
    status = Path('/proc/self/status').read_text()
    return float(status.split(f'{name}:')[1].split()[0]) / 1024


def survivors(read: Callable[[], object], what: str) -> bool:
    """Read an input inside `bounded`; return whether it was accepted."""
    with bounded(what):
        read()
        return True
    return False


def check_share(refused: int, inputs: int) -> None:
    """Check that some inputs were refused and some accepted, if there were enough of them."""
    assert inputs < 50 or 0 < refused < inputs, (refused, inputs)
