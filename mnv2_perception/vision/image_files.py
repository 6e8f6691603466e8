"""What the bytes of a JPEG or PNG say before they are decoded, and class ids stored as PNG."""

from collections.abc import Iterator
import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import ImageError

PNG, JPEG = b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff'
GRAY, COLOURS, PALETTE = 0, 2, 3  # PNG's colour types; 4 and 6 have alpha besides
ORIENTATION = 0x0112  # EXIF's tag


def encoded_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width of a JPEG or PNG from its header, None where it does not tell."""
    if data.startswith(PNG) and data[12:16] == b'IHDR' and len(data) >= 24:
        width, height = struct.unpack('>II', data[16:24])
        return height, width
    for marker, segment in jpeg_segments(data):
        # A frame header; C4, C8 and CC are tables and an extension that nobody uses.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(segment) >= 5:
            height, width = struct.unpack('>HH', segment[1:5])
            return height, width
    return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of a JPEG's segments up to its first scan; none of other data."""
    place = 2 if data.startswith(JPEG) else len(data)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == 0xDA:  # the scan
            return
        length = int.from_bytes(data[place + 2:place + 4], 'big')
        yield marker, data[place + 4:place + 2 + length]
        place += 2 + max(length, 2)


def is_cut_short(data: bytes) -> bool:
    """Return whether the end of a JPEG or PNG is missing: decoders fill it with gray."""
    if data.startswith(JPEG):  # the end comes after the last scan; EXIF may hold a whole JPEG
        return data.rfind(b'\xff\xd9') < data.rfind(b'\xff\xda') or b'\xff\xda' not in data
    return data.startswith(PNG) and b'IEND' not in data[-64:]


def exif_orientation(data: bytes) -> int:
    """Return how a JPEG is to be turned for viewing, 1 to 8 as EXIF numbers it; 1: as stored."""
    for marker, segment in jpeg_segments(data):
        if marker == 0xE1 and segment.startswith(b'Exif\0\0'):
            tiff = segment[6:]
            order = '>' if tiff.startswith(b'MM') else '<'
            try:
                start, = struct.unpack_from(f'{order}I', tiff, 4)
                count, = struct.unpack_from(f'{order}H', tiff, start)
                for index in range(count):
                    tag, _, _, value = struct.unpack_from(
                        f'{order}HHIH', tiff, start + 2 + 12 * index
                    )
                    if tag == ORIENTATION:
                        return value if 1 <= value <= 8 else 1
            except struct.error:
                return 1
    return 1


def ids_from_png(data: bytes) -> NDArray[np.uint8]:
    """Read class ids from a PNG: gray of 1 to 16 bits, or the indices of a palette.

    OpenCV would stretch fewer than 8 bits to 0..255 and turn a palette's indices into its
    colours, so a palette is told to it as gray, and what it stretched is divided again. Colours
    whose channels are equal count as gray. Alpha is dropped.

    Returns:
        (H, W) uint8, owned by the caller.

    Raises:
        ImageError: no PNG (JPEG blends neighbouring ids), damaged, coloured, or ids above 255.
    """
    if not data.startswith(PNG):
        what = 'JPEG, which blends neighbouring ids' if data.startswith(JPEG) else 'no PNG'
        raise ImageError(f'class ids: got {what}; expected a PNG of ids, gray or palette')
    pixels = None
    if not is_cut_short(data) and len(data) > 33:
        depth, colour_type = data[24], data[25]
        try:
            gray = np.frombuffer(_without_palette(data), np.uint8)
            pixels = cv2.imdecode(gray, cv2.IMREAD_UNCHANGED)
        except cv2.error as exc:
            raise ImageError('class ids: OpenCV cannot decode the PNG; write it anew') from exc
    if pixels is None:
        raise ImageError('class ids: a damaged PNG, or one that was cut short; write it anew')
    if pixels.ndim == 3:
        planes = pixels[..., :3]
        if not (planes == planes[..., :1]).all():
            raise ImageError(
                'class ids: got a PNG of colours, expected gray or a palette whose values are '
                'ids; map each colour to its id and write one channel'
            )
        pixels = planes[..., 0]
    if pixels.max() > 255:
        raise ImageError(
            f'class ids: the largest is {pixels.max()}, expected 0 to 255; write 8 bits'
        )
    ids = np.ascontiguousarray(pixels, np.uint8)
    if depth < 8 and colour_type in (GRAY, PALETTE):
        ids //= np.uint8(255 // (2**depth - 1))
    return ids


def _without_palette(data: bytes) -> bytes:
    """Return a PNG without all that is not its pixels; a palette's indices as gray."""
    parts, place = [PNG], len(PNG)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place:place + 4], 'big')
        kind, content = data[place + 4:place + 8], data[place + 8:place + 8 + length]
        if kind == b'IHDR' and content[9:10] == bytes([PALETTE]):
            content = content[:9] + bytes([GRAY]) + content[10:]
        if kind in (b'IHDR', b'IDAT', b'IEND'):
            crc = data[place + 8 + length:place + 12 + length]
            if kind == b'IHDR':
                crc = struct.pack('>I', zlib.crc32(kind + content))
            parts.append(struct.pack('>I', length) + kind + content + crc)
        place += 12 + length
    return b''.join(parts)
