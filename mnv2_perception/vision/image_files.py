"""Check the bytes of JPEG and PNG files before they are decoded; store class ids as PNG."""

from collections.abc import Iterator
import struct

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import ImageError, quoted
from mnv2_perception.vision.png import check_size, plain_png, SIGNATURE

PNG, JPEG = SIGNATURE, b'\xff\xd8\xff'
MAX_PIXELS = 100_000_000  # for files, and for messages whose reader has no other limit
ORIENTATION = 0x0112  # EXIF's tag
MAX_SEGMENTS = 1024  # of a JPEG before its first scan
MAX_SCANS = 24  # of a JPEG; each covers the whole image. Encoders write up to 14
_KINDS = (
    (0, b'GIF8', 'a GIF'), (8, b'WEBP', 'a WebP'), (0, b'BM', 'a BMP'), (0, b'II*\0', 'a TIFF'),
    (0, b'MM\0*', 'a TIFF'), (0, b'v/1\x01', 'an OpenEXR image'), (4, b'ftyp', 'AVIF or HEIC'),
    (4, b'jP  ', 'a JPEG 2000'), (0, b'\xff\x4f\xff\x51', 'a JPEG 2000'),
    (0, b'#?RADIANCE', 'a Radiance HDR image'), (0, b'\0\0\0\x01', 'video (H.264 or H.265)'),
    (0, b'\0\0\x01', 'video (H.264 or H.265)'),
)


def kind_of(data: bytes) -> str:
    """Return the kind of a file in words, from its first bytes."""
    if not data:
        return 'nothing, cut short'
    for place, start, kind in _KINDS:
        if data.startswith(start, place):
            return kind
    if data[:1] == b'P' and data[1:2] in b'1234567f' and data[2:3].isspace():
        return 'a PNM'
    return f'an unknown kind of file (it begins {quoted(data[:8])})'


def encoded_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width of an image file from its header, None if it does not tell.

    Known are JPEG, PNG, WebP, BMP and TIFF.
    """
    if data.startswith(PNG) and data[12:16] == b'IHDR' and len(data) >= 24:
        width, height = struct.unpack('>II', data[16:24])
        return height, width
    for marker, segment in jpeg_segments(data):
        # A frame header; C4, C8 and CC are tables and an unused extension.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(segment) >= 5:
            height, width = struct.unpack('>HH', segment[1:5])
            return height, width
    if data.startswith(b'BM') and len(data) >= 26:
        width, height = struct.unpack('<ii', data[18:26])
        return abs(height), abs(width)  # a negative height means rows from the top
    if data[8:12] == b'WEBP' and len(data) >= 30:
        return _webp_size(data)
    if data[:4] in (b'II*\0', b'MM\0*'):
        tags = tiff_tags(data)
        return (tags[257], tags[256]) if tags.keys() >= {256, 257} else None
    return None


def _webp_size(data: bytes) -> tuple[int, int]:
    if data[12:16] == b'VP8X':  # 24 bits each, minus one
        size = int.from_bytes(data[24:30], 'little')
        return 1 + (size >> 24), 1 + (size & 0xFFFFFF)
    if data[12:16] == b'VP8L':  # 14 bits each, minus one
        size = int.from_bytes(data[21:25], 'little')
        return 1 + (size >> 14 & 0x3FFF), 1 + (size & 0x3FFF)
    size = int.from_bytes(data[26:30], 'little')
    return size >> 16 & 0x3FFF, size & 0x3FFF


def check_file(data: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ImageError if an image file is cut short, or claims too many pixels or bytes."""
    if is_cut_short(data):
        raise ImageError('was cut short')
    place = len(PNG) if data.startswith(PNG) else len(data)
    while place + 12 <= len(data) and data[place + 4:place + 8] != b'IEND':
        length = int.from_bytes(data[place:place + 4], 'big')
        place += 12 + length
        if place > len(data):  # libpng would allocate this much before it notices
            raise ImageError(f'a part of it claims {length} bytes, the file has {len(data)}')
    if data.startswith(JPEG):
        check_jpeg(data, max_pixels)
    elif size := encoded_size(data):
        check_size(*size, max_pixels)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of a JPEG's segments up to its first scan; nothing for other data.

    It stops where libjpeg might continue at another position.
    """
    place = 2 if data.startswith(JPEG) else len(data)
    for _ in range(MAX_SEGMENTS):
        if place + 4 > len(data) or data[place] != 0xFF:
            return
        marker = data[place + 1]
        length = int.from_bytes(data[place + 2:place + 4], 'big')
        if marker == 0xFF:  # padding
            place += 1
            continue
        # The scan, markers without a length, and bytes that are no marker.
        if marker in (0x00, 0x01, 0xDA) or 0xD0 <= marker <= 0xD9 or length < 2:
            return
        yield marker, data[place + 4:place + 2 + length]
        place += 2 + length


def check_jpeg(data: bytes, max_pixels: int) -> None:
    """Raise ImageError unless a JPEG may be decoded.

    Each block of 8 × 8 pixels has at least one code of at least one bit: a shorter file cannot
    contain an image of the size that it claims.
    """
    size = encoded_size(data)
    if size is None:
        raise ImageError('a damaged JPEG: its header tells no size')
    height, width = size
    check_size(height, width, max_pixels)
    if 8 * len(data) < -(-height // 8) * -(-width // 8):
        raise ImageError(
            f'a damaged JPEG: {len(data)} bytes cannot hold {height} × {width} pixels'
        )
    begin = data.find(b'\xff\xda')
    scans = data.count(b'\xff\xda', begin, data.rfind(b'\xff\xd9'))
    if scans > MAX_SCANS:
        raise ImageError(f'a JPEG of {scans} scans, expected at most {MAX_SCANS}')


def is_cut_short(data: bytes) -> bool:
    """Tell whether the end of a JPEG or PNG is missing: decoders would fill it with gray."""
    if data.startswith(JPEG):  # the end comes after the last scan; EXIF may contain a whole JPEG
        return data.rfind(b'\xff\xd9') < data.rfind(b'\xff\xda') or b'\xff\xda' not in data
    return data.startswith(PNG) and b'IEND' not in data[-64:]


def exif_orientation(data: bytes) -> int:
    """Return the EXIF orientation of a JPEG, 1 to 8; 1: as stored."""
    for marker, segment in jpeg_segments(data):
        if marker == 0xE1 and segment.startswith(b'Exif\0\0'):
            value = tiff_tags(segment[6:]).get(ORIENTATION, 1)
            return value if 1 <= value <= 8 else 1
    return 1


def tiff_tags(data: bytes) -> dict[int, int]:
    """Read the numbers in a TIFF's first directory, such as EXIF's, by tag."""
    order, found = '>' if data.startswith(b'MM') else '<', {}
    try:
        start, = struct.unpack_from(f'{order}I', data, 4)
        count, = struct.unpack_from(f'{order}H', data, start)
        for index in range(count):
            place = start + 2 + 12 * index
            tag, kind = struct.unpack_from(f'{order}HH', data, place)
            found[tag], = struct.unpack_from(order + ('H' if kind == 3 else 'I'), data, place + 8)
    except struct.error:
        pass  # use what was read
    return found


def mask_to_png(ids: NDArray[np.uint8]) -> bytes:
    """Encode class ids (H, W) uint8 as a gray PNG.

    Raises:
        ImageError: the ids have another shape or dtype, or are empty.
    """
    if ids.ndim != 2 or ids.dtype != np.uint8 or not ids.size:
        raise ImageError(
            f'PNG of ids: got {ids.shape} {ids.dtype}, expected (height, width) uint8, not empty'
        )
    # No compression level: OpenCV's default is run lengths, in a sixth of the time of level 1.
    _, png = cv2.imencode('.png', ids)
    return png.tobytes()


def ids_from_png(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read class ids from a PNG: gray of 1 to 16 bits, or the indices of a palette.

    OpenCV would stretch fewer than 8 bits to 0..255 and replace palette indices by their colours.
    So it gets a palette as gray, and stretched values are divided again. Colours whose channels
    are equal count as gray. Alpha is dropped.

    Args:
        data: content of the file.
        max_pixels: largest allowed height × width.

    Returns:
        (H, W) uint8, owned by the caller.

    Raises:
        ImageError: not a PNG (JPEG blends neighbouring ids), damaged, coloured, too large, or ids
            above 255.
    """
    if not data.startswith(PNG):
        what = 'JPEG, which blends neighbouring ids' if data.startswith(JPEG) else 'no PNG'
        raise ImageError(f'class ids: got {what}; expected a PNG of ids, gray or palette')
    pixels = None
    try:
        header, plain = plain_png(data, max_pixels, palette_as_gray=True)
        pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    except ImageError as exc:
        raise ImageError(f'class ids: {exc}; write it anew') from exc
    except cv2.error as exc:
        raise ImageError('class ids: OpenCV cannot decode the PNG; write it anew') from exc
    if pixels is None:
        raise ImageError('class ids: OpenCV cannot decode the PNG; write it anew')
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
    if header.depth < 8:  # gray or palette
        ids //= np.uint8(255 // (2**header.depth - 1))
    return ids
