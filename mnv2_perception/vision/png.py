"""Take untrusted PNGs apart, and put them together again from their pixels alone.

libpng trusts what a file says, inflates texts and profiles that nobody needs, and writes
complaints to stderr. It has nothing to complain about in the results of this module.
https://www.w3.org/TR/png-3/
"""

from collections.abc import Iterator, Sequence
import struct
from typing import NamedTuple
import zlib

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import ImageError

SIGNATURE = b'\x89PNG\r\n\x1a\n'
GRAY, PALETTE = 0, 3
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_WHOLE = ((0, 0, 1, 1),)  # first column, first row, step of columns, step of rows
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_DEFLATE_MOST = 1032  # most bytes that one compressed byte can become
_STORED = 65535  # most bytes of an uncompressed block


class PngHeader(NamedTuple):
    """The IHDR of a PNG."""

    width: int
    height: int
    depth: int
    colour_type: int
    compression: int
    filtering: int
    interlaced: int


def plain_png(
    data: bytes, max_pixels: int, palette_as_gray: bool = False
) -> tuple[PngHeader, bytes]:
    """Check a PNG completely; return its header, and a PNG that contains only its pixels.

    In the result, size, checksums, length and filters are right, and nothing is compressed. Of the
    other chunks only the EXIF orientation stays.

    Args:
        data: content of the file.
        max_pixels: largest allowed height × width.
        palette_as_gray: whether to return the indices of a palette as gray, not its colours.

    Raises:
        ImageError: it is damaged, cut short, or too large.
    """
    header: PngHeader | None = None
    palette = exif = b''
    parts: list[bytes] = []
    for kind, content in _chunks(data):
        if header is None:
            header = _header(kind, content, max_pixels)
        elif kind == b'IDAT':
            parts.append(content)
        elif kind == b'PLTE':
            palette = content
        elif kind == b'eXIf' and content[:4] in (b'II*\0', b'MM\0*'):
            exif = content
    if header is None:
        raise ImageError('a damaged PNG: it has no header')
    rows = _inflated(header, b''.join(parts))
    colour_type = header.colour_type
    if colour_type == PALETTE and palette_as_gray:
        colour_type = GRAY
    made = [SIGNATURE, _chunk(b'IHDR', struct.pack('>IIBBBBB', *header._replace(
        colour_type=colour_type
    )))]
    if colour_type == PALETTE:
        if not palette:
            raise ImageError('a damaged PNG: it has no palette')
        entries = 3 * 2**header.depth
        made.append(_chunk(b'PLTE', palette[:entries].ljust(entries, b'\0')))
    if exif:
        made.append(_chunk(b'eXIf', exif))
    made += [_chunk(b'IDAT', _stored(rows)), _chunk(b'IEND', b'')]
    return header, b''.join(made)


def indexed_png(
    ids: NDArray[np.uint8], colours: Sequence[Sequence[int]], transparent: bool = False
) -> bytes:
    """Encode ids (H, W) uint8 as a PNG with a palette, so that paint programs show their colours.

    OpenCV cannot write palettes; an RGB picture would take three times the bytes.

    Args:
        ids: ids of the pixels, not empty.
        colours: (R, G, B), 0 to 255, of the ids from 0 on; other ids are white.
        transparent: whether other ids are invisible.
    """
    height, width = ids.shape
    palette = bytes(value for colour in colours for value in colour).ljust(768, b'\xff')
    alpha = (b'\xff' * len(colours)).ljust(256, b'\0')
    rows = np.zeros((height, 1 + width), np.uint8)  # before each row, filter 0: none
    rows[:, 1:] = ids
    return b''.join([
        SIGNATURE, _chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, PALETTE, 0, 0, 0)),
        _chunk(b'PLTE', palette), _chunk(b'tRNS', alpha) if transparent else b'',
        # Level 9 would take ten times as long for a quarter less.
        _chunk(b'IDAT', zlib.compress(rows.tobytes(), 6)), _chunk(b'IEND', b''),
    ])


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of the chunks that are used, after checking their checksum."""
    place = len(SIGNATURE)
    for _ in range(4096 + len(data) // 1024):  # encoders write no smaller ones
        length = int.from_bytes(data[place:place + 4], 'big')
        kind, end = data[place + 4:place + 8], place + 8 + length
        if end + 4 > len(data):
            raise ImageError('a PNG that was cut short')
        if kind == b'IEND':
            return
        if kind in (b'IHDR', b'PLTE', b'IDAT', b'eXIf'):
            content = data[place + 8:end]
            if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(data[end:end + 4], 'big'):
                raise ImageError('a damaged PNG: a checksum is wrong')
            yield kind, content
        place = end + 4
    raise ImageError('a PNG of too many parts')


def _header(kind: bytes, content: bytes, max_pixels: int) -> PngHeader:
    if kind != b'IHDR' or len(content) != 13:
        raise ImageError('a damaged PNG: it has no header')
    header = PngHeader(*struct.unpack('>IIBBBBB', content))
    check_size(header.height, header.width, max_pixels)
    known = header.depth in _DEPTHS.get(header.colour_type, ())
    if not known or header.compression or header.filtering or header.interlaced > 1:
        raise ImageError('a damaged PNG: its header makes no sense')
    return header


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raise ImageError unless an image of this size may be decoded."""
    if min(height, width) < 1:
        raise ImageError(f'a size of {height} × {width}, expected at least one pixel')
    if height * width > max_pixels:
        raise ImageError(
            f'a size of {height} × {width}, {height * width / 1e6:.1f} megapixels, expected at '
            f'most {max_pixels / 1e6:g} (max_image_megapixels of a node)'
        )


def _inflated(header: PngHeader, compressed: bytes) -> bytes:
    """Return the decompressed rows, each after the byte of its filter."""
    passes = []
    for column, row, columns, rows in _ADAM7 if header.interlaced else _WHOLE:
        width = -(-(header.width - column) // columns)
        height = -(-(header.height - row) // rows)
        bits = width * header.depth * _CHANNELS[header.colour_type]
        if width > 0 and height > 0:
            passes.append((height, 1 + (bits + 7) // 8))
    expected = sum(height * length for height, length in passes)
    if len(compressed) < expected // _DEFLATE_MOST:
        raise ImageError(
            f'a damaged PNG: {len(compressed)} bytes cannot hold {header.height} × {header.width} '
            'pixels'
        )
    inflater = zlib.decompressobj()
    try:
        rows_of_all = inflater.decompress(compressed, expected)
        more = inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as exc:
        raise ImageError(f'a damaged PNG: {exc}') from exc
    start = 0
    for height, length in passes:
        end = start + height * length
        filters = rows_of_all[start:end:length]
        if len(filters) < height or max(filters) > 4:
            break
        start = end
    if len(rows_of_all) < expected or start < expected or more or not inflater.eof:
        raise ImageError('a damaged PNG: its pixels are no image of its size')
    return rows_of_all


def _stored(rows: bytes) -> bytes:
    """Wrap bytes in the zlib format without compressing them."""
    view = memoryview(rows)
    blocks: list[bytes | memoryview] = [b'\x78\x01']
    for start in range(0, len(rows), _STORED):
        block = view[start:start + _STORED]
        last = start + _STORED >= len(rows)
        blocks += [struct.pack('<BHH', last, len(block), len(block) ^ 0xFFFF), block]
    return b''.join([*blocks, struct.pack('>I', zlib.adler32(rows))])


def _chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(content, zlib.crc32(kind))
    return b''.join([struct.pack('>I', len(content)), kind, content, struct.pack('>I', crc)])
