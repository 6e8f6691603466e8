"""Simulate a camera on the drawn street's colours: lens, exposure and noise."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.scenes.canvas import Bytes, Canvas


@lru_cache(maxsize=4)
def _vignette(height: int, width: int) -> NDArray[np.float32]:
    """Return the squared distance from the centre, (height, width, 1), 1 in the corners."""
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    squared: NDArray[np.float32] = (u * u + v * v) / np.float32(2)
    return squared


@lru_cache(maxsize=4)
def _sensor_noise(height: int, width: int) -> NDArray[np.float32]:
    """Return white noise, (height + 64, width + 64, 3), from which each frame takes a crop."""
    return np.random.default_rng(13).standard_normal((height + 64, width + 64, 3),
                                                     dtype=np.float32)


def expose(canvas: Canvas) -> Bytes:
    """Return the colours as a camera sees them: lens blur, vignetting, exposure, noise."""
    drive, h, w = canvas.drive, canvas.height, canvas.width
    tone = np.arange(256)[:, None] / 255
    curve = 255 * (tone * np.array(drive.gain)) ** drive.gamma
    image = cv2.LUT(np.ascontiguousarray(canvas.pixels[..., :3]),
                    np.clip(curve, 0, 255).astype(np.uint8)[None])
    image = cv2.GaussianBlur(image, (3, 3), drive.blur)
    rng = np.random.default_rng((drive.seed, 14, round(canvas.time_s * 1000)))
    dv, du = rng.integers(0, 64, 2)
    noisy = image * (1 - np.float32(drive.vignette) * _vignette(h, w))
    noisy += _sensor_noise(h, w)[dv:dv + h, du:du + w] * np.float32(drive.noise)
    exposed: Bytes = np.clip(noisy + np.float32(0.5), 0, 255).astype(np.uint8)
    return exposed
