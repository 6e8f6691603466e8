"""Read and write protobuf messages without a library; an ONNX file is one.

https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator
import mmap
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


class Field(NamedTuple):
    """A field of a message: its number, where it begins, and where its content starts and ends."""

    number: int
    begin: int
    start: int
    end: int


def fields(data: bytes | mmap.mmap) -> Iterator[Field]:
    """Yield the fields of a message.

    Raises:
        ValueError: the data is not a message, or is cut short.
    """
    place = 0
    while place < len(data):
        begin = place
        key, place = _varint(data, place)
        number, wire_type = divmod(key, 8)
        start = place
        if wire_type == VARINT:
            _, place = _varint(data, place)
        elif wire_type == BYTES:
            length, start = _varint(data, place)
            place = start + length
        elif wire_type in (FIXED64, FIXED32):
            place += 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f'wire type {wire_type} at byte {begin}')
        if place > len(data):
            raise ValueError('it is cut short')
        yield Field(number, begin, start, place)


def bytes_field(number: int, content: bytes) -> bytes:
    """Encode a field of bytes, such as a text or an inner message, with its key and length."""
    length, head = len(content), bytearray([number * 8 + BYTES])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + content


def _varint(data: bytes | mmap.mmap, place: int) -> tuple[int, int]:
    """Return a variable-length integer, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError('it is cut short')
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError('a number is too long')
