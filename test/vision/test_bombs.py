"""What claims to be huge is refused before it takes memory or time; what is damaged, in silence.

Each bomb is decoded in a process of its own, whose peak of memory and whose stderr are its own.
"""

import json
import logging
import os
from pathlib import Path
import struct
import subprocess
import sys
import threading
from types import SimpleNamespace
import zlib

import cv2
import numpy as np
import pytest

from mnv2_perception.errors import ImageError
from mnv2_perception.vision import image_decoder
from mnv2_perception.vision.encodings import image_from_compressed_msg, image_from_fields
from mnv2_perception.vision.image_files import check_file, encoded_size, ids_from_png

LIMIT = 16_000_000  # the nodes' default
GROWTH_MB, TIME_S = 300.0, 0.2


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', crc)


def png(height: int, width: int, *chunks: bytes, colour_type: int = 2, depth: int = 8) -> bytes:
    header = struct.pack('>IIBBBBB', width, height, depth, colour_type, 0, 0, 0)
    return b''.join([
        b'\x89PNG\r\n\x1a\n', chunk(b'IHDR', header), *chunks, chunk(b'IEND', b'')
    ])


def deflated(megabytes: int) -> bytes:
    deflater = zlib.compressobj(9)
    zeros = bytes(1_000_000)
    return b''.join([*(deflater.compress(zeros) for _ in range(megabytes)), deflater.flush()])


def jpeg(height: int, width: int, claimed: tuple[int, int], *, progressive: bool = False) -> bytes:
    """Make a gray JPEG and write another size into its header."""
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    data = cv2.imencode('.jpg', np.full((height, width), 99, np.uint8), options)[1].tobytes()
    marker = b'\xff\xc2' if progressive else b'\xff\xc0'
    place = data.index(marker) + 5
    return data[:place] + struct.pack('>HH', *claimed) + data[place + 4:]


def jpeg_of_many_scans() -> bytes:
    data = jpeg(4000, 4000, (4000, 4000), progressive=True)
    last = data.rindex(b'\xff\xda')
    return data[:-2] + 500 * data[last:-2] + data[-2:]


def jpeg_behind_padding() -> bytes:
    data = jpeg(8, 8, (8, 8))
    return data[:2] + 5_000_000 * b'\xff' + data[2:]


def jpeg_whose_size_hides() -> bytes:
    """libjpeg passes over FF 00 and reads on at once; who takes it for a segment misses the size.
    """
    decoy = b'\xff\xc0' + struct.pack('>HBHHB', 11, 8, 8, 8, 1) + b'\1\x11\0'
    data = jpeg(8, 8, (16000, 65000))
    place = data.index(b'\xff\xc0')
    real = data[place:]
    return data[:2] + b'\xff\0' + struct.pack('>H', 2 + len(data[2:])) + data[2:-2] + decoy + real


HUGE = deflated(300)
BOMBS = {
    'jpeg of 1040 megapixels': (jpeg(8, 8, (16000, 65000)), 'a size of 16000 × 65000'),
    'jpeg below the limit': (jpeg(8, 8, (4000, 4000)), 'cannot hold 4000 × 4000'),
    'progressive jpeg': (jpeg(8, 8, (65000, 65000), progressive=True), 'a size of'),
    'jpeg of many scans': (jpeg_of_many_scans(), 'scans, expected at most'),
    'jpeg behind padding': (jpeg_behind_padding(), 'tells no size'),
    'jpeg whose size hides': (jpeg_whose_size_hides(), 'tells no size'),
    'png of 1040 megapixels': (png(16000, 65000, chunk(b'IDAT', HUGE)), 'a size of'),
    'png below the limit': (png(4000, 4000, chunk(b'IDAT', b'x')), '1 bytes cannot hold'),
    'png of too many pixels': (png(600, 800, chunk(b'IDAT', HUGE)), 'no image of its size'),
    'png of many parts': (png(8, 8, 300_000 * chunk(b'IDAT', b'')), 'too many parts'),
    'png with a text': (
        png(8, 8, chunk(b'zTXt', b'a\0\0' + HUGE), chunk(b'iCCP', b'a\0\0' + HUGE)),
        'no image of its size',
    ),
    'gif': (b'GIF89a' + b'\xff' * 100, 'a GIF, expected a JPEG or PNG'),
    'webp': (b'RIFF\xff\0\0\0WEBPVP8L' + b'\xff' * 99, 'a WebP'),
    'tiff': (b'II*\0' + b'\xff' * 99, 'a TIFF'),
    'exr': (b'v/1\x01' + b'\xff' * 99, 'an OpenEXR'),
    'bmp': (b'BM' + b'\xff' * 99, 'a BMP'),
    'video': (b'\0\0\0\1\x67' + b'\xff' * 99, 'video'),
    'other': (b'\x1b]0;owned\x07', r"begins b'\\x1b\]0;owne'"),
}


def measured(path: Path) -> dict[str, object]:
    code = (
        'import json, resource, sys, time\n'
        'from types import SimpleNamespace\n'
        'from mnv2_perception.errors import ImageError\n'
        'from mnv2_perception.vision.encodings import image_from_compressed_msg as decode\n'
        'def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000\n'
        'msg = SimpleNamespace(format="jpeg", data=open(sys.argv[1], "rb").read())\n'
        'before, begin, said = peak(), time.process_time(), ""\n'
        'try:\n'
        f'    decode(msg, {LIMIT})\n'
        'except ImageError as exc:\n'
        '    said = str(exc)\n'
        'print(json.dumps([said, peak() - before, time.process_time() - begin]))\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(path)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2], timeout=120,
    )
    said, growth_mb, time_s = json.loads(done.stdout)
    return {'said': said, 'growth_mb': growth_mb, 'time_s': time_s, 'stderr': done.stderr}


@pytest.mark.parametrize('name', list(BOMBS))
def test_a_bomb_is_refused_at_once_with_the_reason(name: str, tmp_path: Path) -> None:
    data, told = BOMBS[name]
    (tmp_path / 'bomb').write_bytes(data)
    got = measured(tmp_path / 'bomb')
    assert pytest.approx(0.0, abs=GROWTH_MB) == got['growth_mb']
    assert pytest.approx(0.0, abs=TIME_S) == got['time_s']
    assert got['stderr'] == ''
    with pytest.raises(ImageError, match=told):
        raise ImageError(got['said'])


def test_an_image_at_the_limit_is_decoded_and_one_above_refused_raw_and_compressed() -> None:
    image = np.full((40, 50, 3), 77, np.uint8)
    for suffix in ('.jpg', '.png'):
        data = cv2.imencode(suffix, image)[1].tobytes()
        msg = SimpleNamespace(format=suffix[1:], data=data)
        assert image_from_compressed_msg(msg, 2000).shape == (40, 50, 3)
        with pytest.raises(ImageError, match=r'40 × 50.*expected at most 0\.001999 .*max_image'):
            image_from_compressed_msg(msg, 1999)
    raw = SimpleNamespace(
        height=40, width=50, encoding='rgb8', is_bigendian=0, step=150, data=image.tobytes()
    )
    assert image_from_fields(raw, 2000).shape == (40, 50, 3)
    with pytest.raises(ImageError, match='expected at most'):
        image_from_fields(raw, 1999)


@pytest.mark.parametrize('interlaced', [False, True])
@pytest.mark.parametrize(('dtype', 'channels'), [
    (np.uint8, 1), (np.uint8, 3), (np.uint8, 4), (np.uint16, 1), (np.uint16, 3), (np.uint16, 4),
])
def test_a_good_png_gives_what_opencv_decodes(
    dtype: type, channels: int, interlaced: bool
) -> None:
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, np.iinfo(dtype).max, (33, 21, channels), dtype).squeeze()
    data = cv2.imencode('.png', pixels)[1].tobytes()
    if interlaced:
        rows = pixels[..., [2, 1, 0, 3][:channels]] if channels > 1 else pixels[..., None]
        stored = rows.astype(np.dtype(dtype).newbyteorder('>'))
        parts = [
            b'\0' + line.tobytes()
            for column, row, columns, rows_apart in (
                (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                (1, 0, 2, 2), (0, 1, 1, 2),
            )
            for line in stored[row::rows_apart, column::columns]
        ]
        header = bytearray(data[16:29])
        header[12] = 1
        data = b''.join([
            data[:8], chunk(b'IHDR', bytes(header)),
            chunk(b'IDAT', zlib.compress(b''.join(parts))), chunk(b'IEND', b''),
        ])
    got = image_decoder.decode(data, cv2.IMREAD_UNCHANGED)
    assert np.array_equal(got, pixels) and got.dtype == dtype


def damaged(suffix: str, count: int) -> list[bytes]:
    rng = np.random.default_rng(5)
    image = cv2.blur(rng.integers(0, 255, (60, 80, 3), np.uint8), (9, 9))
    found = []
    for _ in range(count):
        data = bytearray(cv2.imencode(suffix, image)[1].tobytes())
        for place in rng.integers(30, len(data) - 12, 3):
            data[place] ^= int(rng.integers(1, 256))
        found.append(bytes(data))
    return found


def test_300_damaged_pngs_are_refused_and_write_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    refused = 0
    for data in damaged('.png', 300):
        with pytest.raises(ImageError, match='PNG'):
            image_from_compressed_msg(SimpleNamespace(format='png', data=data))
        refused += 1
    assert refused == 300
    assert capfd.readouterr().err == '' and caplog.records == []


def test_what_libjpeg_writes_becomes_one_line_of_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_decoder._libraries_silenced, '_told_s', float('-inf'))
    decoded = 0
    with caplog.at_level(logging.WARNING):
        for data in damaged('.jpg', 300):
            try:
                image_from_compressed_msg(SimpleNamespace(format='jpeg', data=data))
                decoded += 1
            except ImageError:
                pass
    assert decoded > 100  # libjpeg makes something of them, and some may be as good as whole
    assert capfd.readouterr().err == ''
    line, = caplog.messages
    assert line.startswith('decoded a damaged image (Corrupt JPEG data')


def test_what_others_write_meanwhile_comes_through(capfd: pytest.CaptureFixture[str]) -> None:
    with image_decoder._libraries_silenced:
        os.write(2, b'Corrupt JPEG data: noise\n')
        os.write(2, b'a line of another thread\n')
    os.write(2, b'after\n')
    assert capfd.readouterr().err == 'a line of another thread\nafter\n'


def test_blocks_of_several_threads_overlap_and_lose_no_line(
    capfd: pytest.CaptureFixture[str]
) -> None:
    inside = threading.Barrier(4)  # who waited for another's block would never get there

    def decode(number: int) -> None:
        for each in range(50):
            with image_decoder._libraries_silenced:
                inside.wait(20.0)
                os.write(2, b'Corrupt JPEG data: noise\n')
                os.write(2, f'line {number} {each}\n'.encode())

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with image_decoder._libraries_silenced:
        pass  # brings what was under way when the last block ended
    os.write(2, b'after\n')
    *lines, last = capfd.readouterr().err.splitlines()
    assert last == 'after'
    assert sorted(lines) == sorted(f'line {i} {each}' for i in range(4) for each in range(50))


def test_a_long_format_is_cut_and_cannot_forge_a_line_of_the_log() -> None:
    msg = SimpleNamespace(format='x\n[ERROR] forged' + 'y' * 2_000_000, data=b'')
    with pytest.raises(ImageError, match=r"format 'x\\n\[ERROR\] forgedy+' …, 0 bytes") as caught:
        image_from_compressed_msg(msg)
    assert len(str(caught.value)) < 400 and '\n' not in str(caught.value)


def test_labels_have_the_same_limit() -> None:
    data = png(20000, 20000, chunk(b'IDAT', b''), colour_type=0)
    with pytest.raises(ImageError, match=r'20000 × 20000, 400\.0 megapixels'):
        ids_from_png(data)


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.bmp', '.tif'])
def test_the_size_of_every_file_is_known_before_it_is_decoded(suffix: str) -> None:
    data = cv2.imencode(suffix, np.zeros((31, 47, 3), np.uint8))[1].tobytes()
    assert encoded_size(data) == (31, 47)
    check_file(data, 31 * 47)
    with pytest.raises(ImageError, match='31 × 47'):
        check_file(data, 31 * 47 - 1)


def test_a_png_whose_part_claims_more_bytes_than_the_file_has_is_refused() -> None:
    data = bytearray(cv2.imencode('.png', np.zeros((24, 32), np.uint8))[1].tobytes())
    check_file(bytes(data))
    data[data.index(b'IDAT') - 4] = 0x40  # libpng would take a gigabyte for it
    with pytest.raises(ImageError, match='a part of it claims 10737'):
        check_file(bytes(data))


def test_what_is_held_does_not_grow(capfd: pytest.CaptureFixture[str]) -> None:
    quiet = image_decoder._libraries_silenced
    for _ in range(300):
        with quiet:
            os.write(2, b'Corrupt JPEG data: ' + b'noise' * 200 + b'\n')
    with quiet:
        os.write(2, b'a line\n')
    assert os.fstat(quiet._held).st_size < 102_000
    assert capfd.readouterr().err == 'a line\n'


def test_a_process_without_stderr_decodes_too(tmp_path: Path) -> None:
    data = cv2.imencode('.jpg', np.full((8, 8, 3), 99, np.uint8))[1].tobytes()
    (tmp_path / 'good.jpg').write_bytes(data)
    code = (
        'import os, sys\n'
        'from types import SimpleNamespace\n'
        'from mnv2_perception.vision.encodings import image_from_compressed_msg as decode\n'
        'os.close(2)\n'
        'msg = SimpleNamespace(format="jpeg", data=open(sys.argv[1], "rb").read())\n'
        'decode(msg)\n'
        'before = set(os.listdir("/proc/self/fd"))\n'
        'print(decode(msg).shape, set(os.listdir("/proc/self/fd")) == before)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'good.jpg')], capture_output=True, text=True,
        check=True, cwd=Path(__file__).parents[2],
    )
    assert done.stdout == '(8, 8, 3) True\n'
