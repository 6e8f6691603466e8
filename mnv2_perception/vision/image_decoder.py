"""JPEG and PNG to pixels: of bounded size, whole, and in silence."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import logging
import os
import re
import threading
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import ImageError
from mnv2_perception.vision.image_files import (
    check_jpeg,
    is_cut_short,
    JPEG,
    kind_of,
    MAX_PIXELS,
    PNG,
)
from mnv2_perception.vision.png import plain_png

logger = logging.getLogger(__name__)
_TELL_EVERY_S = 10.0
_NOISE = re.compile(
    rb'(Corrupt JPEG|Premature end|Invalid SOS|Inconsistent prog|Unknown Adobe|Unsupported marker|'
    rb'Warning: unknown JFIF|libpng |\[ ?(WARN|ERROR|INFO):).*'
)
_swapping = threading.Lock()
_told_s = float('-inf')


def decode(data: bytes, flags: int, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode a JPEG or PNG, its size read before, in OpenCV's channel order.

    What libjpeg complains of while it decodes is told in the log, once in ten seconds; PNGs are
    checked before.

    Args:
        data: the file.
        flags: OpenCV's, cv2.IMREAD_….
        max_pixels: largest height × width.

    Raises:
        ImageError: it is no JPEG or PNG, larger, damaged or cut short.
    """
    if data.startswith(PNG):
        data = plain_png(data, max_pixels)[1]
    elif not data.startswith(JPEG):
        raise ImageError(f'{kind_of(data)}, expected a JPEG or PNG')
    elif is_cut_short(data):
        raise ImageError('a JPEG that was cut short')
    else:
        check_jpeg(data, max_pixels)
    pixels: Any = None
    try:
        with _libraries_silenced():
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as exc:
        raise ImageError('OpenCV cannot decode it') from exc
    if pixels is None:
        raise ImageError('damaged')
    return np.asarray(pixels)


@contextmanager
def _libraries_silenced() -> Iterator[None]:
    """Keep what C libraries write to stderr in a block, and tell it in the log instead.

    libjpeg writes to the process's stderr itself, a line for each damaged image, and OpenCV lets
    nobody stop it. Whatever else comes meanwhile, from other threads, is passed on afterwards.
    """
    global _told_s
    with _swapping:
        try:
            stderr = os.dup(2)
        except OSError:  # it was closed
            yield
            return
        held = os.memfd_create('stderr')  # unlike a pipe, it is never full
        os.dup2(held, 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            text = b''
            if size := os.lseek(held, 0, os.SEEK_CUR):
                text = os.pread(held, size, 0)
            os.close(held)
            noise = [line for line in text.splitlines() if _NOISE.match(line)]
            others = [line + b'\n' for line in text.splitlines() if not _NOISE.match(line)]
            if others:
                with suppress(OSError):
                    os.write(stderr, b''.join(others))
            os.close(stderr)
    now_s = time.monotonic()
    if noise and now_s - _told_s > _TELL_EVERY_S:
        _told_s = now_s
        logger.warning(
            'decoded a damaged image (%s): part of it may be wrong; see what damages it: camera, '
            'cable or driver', noise[0][:100].decode('ascii', 'replace'),
        )
