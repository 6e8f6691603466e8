"""Warn of cameras whose 10 or 12 bits are the lower bits of 16: their images look almost black."""

import logging
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)
_IMAGES = 5  # per topic; the first ones may be dark until the exposure has settled
_BRIGHTEST = 16  # of 255: 4095 of 65535


class LowBits:
    """Warns, once per topic, that 16-bit images use only the lower 12 bits.

    The images are not scaled by it: 16 bits are scaled by type, or dark images would be changed.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}  # number of dark images by topic
        self._lock = threading.Lock()

    def look(self, topic: str, msg: Any, image: NDArray[np.uint8]) -> None:
        """Check an image if it is one of the first of its topic.

        Args:
            topic: topic that it came on.
            msg: a sensor_msgs/Image or CompressedImage.
            image: (H, W, 3) uint8 RGB, the decoded message.
        """
        encoding = getattr(msg, 'encoding', None) or msg.format.partition(';')[0]
        if not encoding.endswith('16'):
            return
        with self._lock:
            seen = self._seen.get(topic, 0)
            if seen >= _IMAGES:
                return
            brightest = int(image.max())
            if not brightest:  # the lens cap is on
                return
            self._seen[topic] = seen + 1 if brightest <= _BRIGHTEST else _IMAGES
            if brightest > _BRIGHTEST or seen + 1 < _IMAGES:
                return
        logger.warning(
            '%s: the first %d images (%s) are nearly black, at most %d of 255: 16-bit images are '
            'scaled by their type, and values up to %d look like 12 bits or fewer; unless the '
            'scene is dark, let the driver shift them to the highest bits, or publish 8 bits',
            topic, _IMAGES, encoding, brightest, 257 * brightest,
        )
