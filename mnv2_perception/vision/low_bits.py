"""Cameras of 10 or 12 bits that fill the lower bits of 16: their images look nearly black."""

import logging
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)
_IMAGES = 5  # of a topic that are looked at: the first may be dark until the exposure has settled
_BRIGHTEST = 16  # of 255: 4095 of 65535


class LowBits:
    """Tells in the log, once of each topic, that its 16-bit images use the lower 12 bits alone.

    They are not scaled by it: 16 bits scale by type, or each dark image would be another.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}  # dark images, by topic
        self._lock = threading.Lock()

    def look(self, topic: str, msg: Any, image: NDArray[np.uint8]) -> None:
        """Look at an image, if it is one of the first.

        Args:
            topic: that it came on.
            msg: a sensor_msgs/Image or CompressedImage.
            image: (H, W, 3) uint8 RGB, what was made of it.
        """
        encoding = getattr(msg, 'encoding', None) or msg.format.partition(';')[0]
        if not encoding.endswith('16'):
            return
        with self._lock:
            seen = self._seen.get(topic, 0)
            if seen >= _IMAGES:
                return
            brightest = int(image.max())
            if not brightest:  # its cap is on
                return
            self._seen[topic] = seen + 1 if brightest <= _BRIGHTEST else _IMAGES
            if brightest > _BRIGHTEST or seen + 1 < _IMAGES:
                return
        logger.warning(
            '%s: the first %d images (%s) are nearly black, at most %d of 255: 16 bits scale by '
            'their type, and values of %d and less seem to be 12 bits or fewer; unless it is dark '
            'there, let the driver shift them up to the highest bits, or publish 8 bits',
            topic, _IMAGES, encoding, brightest, 257 * brightest,
        )
