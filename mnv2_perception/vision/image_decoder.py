"""Decode JPEG and PNG: only complete files of limited size, and without output on stderr."""

from contextlib import AbstractContextManager, nullcontext, suppress
import fcntl
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
_KEPT_BYTES = 100_000
_NOISE = re.compile(
    rb'(Corrupt JPEG|Premature end|Invalid SOS|Inconsistent prog|Unknown Adobe|Unsupported marker|'
    rb'Warning: unknown JFIF|libpng |\[ ?(WARN|ERROR|INFO):).*'
)


def decode(data: bytes, flags: int, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode a JPEG or PNG to OpenCV's channel order, after checking its size.

    Complaints of libjpeg while it decodes are logged, at most every ten seconds; PNGs are checked
    before.

    Args:
        data: content of the file.
        flags: flags of OpenCV, cv2.IMREAD_….
        max_pixels: largest allowed height × width.

    Raises:
        ImageError: it is not a JPEG or PNG, too large, damaged or cut short.
    """
    quiet: AbstractContextManager[None] = _libraries_silenced
    if data.startswith(PNG):
        data, quiet = plain_png(data, max_pixels)[1], nullcontext()
    elif not data.startswith(JPEG):
        raise ImageError(f'{kind_of(data)}, expected a JPEG or PNG')
    elif is_cut_short(data):
        raise ImageError('a JPEG that was cut short')
    else:
        check_jpeg(data, max_pixels)
    pixels: Any = None
    try:
        with quiet:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as exc:
        raise ImageError('OpenCV cannot decode it') from exc
    if pixels is None:
        raise ImageError('damaged')
    return np.asarray(pixels)


class _Quiet:
    """Captures what libjpeg writes to stderr during a block, and logs it instead.

    libjpeg writes a line per damaged image to the process's stderr itself, and OpenCV cannot stop
    that. Other output that comes meanwhile, from other threads, is passed on at the end of the
    block. Blocks of several threads may overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._stderr = self._held = -1
        self._read = 0
        self._told_s = float('-inf')

    def __enter__(self) -> None:
        with self._lock:
            self._blocks += 1
            if self._blocks == 1:
                with suppress(OSError):  # stderr was closed
                    held = self._file()
                    self._stderr = os.dup(2)
                    os.dup2(held, 2)

    def _file(self) -> int:
        """Return the file that captures the lines; unlike a pipe, it is never full."""
        if self._held < 0:
            self._held = os.memfd_create('stderr')
            fcntl.fcntl(self._held, fcntl.F_SETFL, os.O_APPEND)  # else threads overwrite lines
        return self._held

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
            if self._stderr < 0:
                return
            if not self._blocks:
                os.dup2(self._stderr, 2)
            size = os.fstat(self._held).st_size
            text = os.pread(self._held, size - self._read, self._read)
            if self._blocks:  # a line that somebody is still writing is left for later
                text = text[:text.rfind(b'\n') + 1]
            self._read += len(text)
            noise = [line for line in text.splitlines() if _NOISE.match(line)]
            if others := b''.join(
                line for line in text.splitlines(keepends=True) if not _NOISE.match(line)
            ):
                with suppress(OSError):
                    os.write(self._stderr, others)
            if not self._blocks:
                if size > _KEPT_BYTES:
                    os.ftruncate(self._held, 0)
                    self._read = 0
                os.close(self._stderr)
                self._stderr = -1
            now_s = time.monotonic()
            if not noise or now_s - self._told_s < _TELL_EVERY_S:
                return
            self._told_s = now_s
        logger.warning(
            'decoded a damaged image (%s): part of it may be wrong; check camera, cable and '
            'driver', noise[0][:100].decode('ascii', 'replace'),
        )


_libraries_silenced = _Quiet()
