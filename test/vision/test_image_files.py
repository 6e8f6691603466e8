"""Class ids in PNGs of every kind, and what the header of a file tells."""

import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.errors import ImageError
from mnv2_perception.vision.image_files import encoded_size, ids_from_png, is_cut_short


def png(ids: NDArray[np.uint8], bits: int, palette: bool = False) -> bytes:
    """Write ids as they are: gray or indices of a palette, of 1, 2, 4 or 8 bits."""
    height, width = ids.shape
    planes = (ids[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1)
    colours = np.random.default_rng(1).integers(0, 255, (2**bits, 3), np.uint8)

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', crc)

    return b''.join([
        b'\x89PNG\r\n\x1a\n',
        chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, 3 if palette else 0, 0, 0, 0)),
        chunk(b'PLTE', colours.tobytes()) + chunk(b'tRNS', b'\0\x80') if palette else b'',
        chunk(b'IDAT', zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))),
        chunk(b'IEND', b''),
    ])


@pytest.mark.parametrize('palette', [False, True], ids=['gray', 'palette'])
@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_ids_of_every_depth_are_the_stored_numbers(bits: int, palette: bool) -> None:
    ids = (np.arange(7 * 300) % 2**bits).reshape(7, 300).astype(np.uint8)
    assert np.array_equal(ids_from_png(png(ids, bits, palette)), ids)


@pytest.mark.parametrize('shape', [(5, 6), (5, 6, 3), (5, 6, 4)], ids=['gray', 'equal', 'alpha'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_gray_in_any_form_is_read(shape: tuple[int, ...], dtype: type) -> None:
    ids = np.arange(30, dtype=dtype).reshape(5, 6)
    pixels = ids if len(shape) == 2 else np.repeat(ids[..., None], shape[2], axis=2)
    data = cv2.imencode('.png', pixels)[1].tobytes()
    assert np.array_equal(ids_from_png(data), ids)


@pytest.mark.parametrize(
    ('data', 'told'),
    [
        (cv2.imencode('.jpg', np.zeros((5, 6), np.uint8))[1].tobytes(), 'got JPEG, which blends'),
        (b'', 'got no PNG'),
        (png(np.zeros((5, 6), np.uint8), 8)[:-20], 'cut short'),
        (cv2.imencode('.png', np.full((5, 6, 3), (1, 2, 3), np.uint8))[1].tobytes(), 'of colours'),
        (cv2.imencode('.png', np.full((5, 6), 300, np.uint16))[1].tobytes(), 'largest is 300'),
    ],
)
def test_what_holds_no_ids_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(ImageError, match=told):
        ids_from_png(data)


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_the_size_stands_in_the_header(suffix: str) -> None:
    data = cv2.imencode(suffix, np.zeros((31, 47, 3), np.uint8))[1].tobytes()
    assert encoded_size(data) == (31, 47)
    assert encoded_size(data[:20]) is None
    assert not is_cut_short(data) and is_cut_short(data[:-13])
