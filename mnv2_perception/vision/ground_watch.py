"""GroundWatch: check by the ground in masks whether measurements can be right."""

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.vision.camera import Floats
from mnv2_perception.vision.costmap import TRAVERSABLE

_MASKS = 10  # in a row
_STEP = 8  # rows and columns are sampled in this step
_LEAST = 20  # number of points; fewer pixels of ground mean nothing
_NEAREST = 0.25  # fraction of the ground that is used: slopes and stairs begin farther away
_OFF_M, _SLOPE = 0.5, 0.4  # no ground before a robot is that far above or below, and that steep


class _Place(NamedTuple):
    """Where the nearest ground of a mask was measured, and whether none can lie there."""

    height_m: float
    away_m: float
    is_off: bool


class GroundWatch:
    """Notices ground that was measured where it cannot be, and measurements without any value.

    Wrong frames, poses and units move everything, and nothing else reports them.
    """

    def __init__(self) -> None:
        self._latest: deque[_Place | None] = deque(maxlen=_MASKS)

    def take(
        self, points: Floats, ids: NDArray[np.uint8], roles: NDArray[np.uint8],
        lowest_m: float = 0.0,
    ) -> None:
        """Evaluate the measurements of a mask.

        Args:
            points: (H, W, 3) in the base frame, NaN where nothing was measured.
            ids: (H, W) class ids of the same pixels.
            roles: (256,) role of each id.
            lowest_m: lowest height of the ground, 0 or less: the base frame may lie above it.
        """
        some, ids = points[::_STEP, ::_STEP], ids[::_STEP, ::_STEP]
        measured = np.isfinite(some).all(axis=-1)
        if not measured.any():
            if not np.isfinite(points).any():  # a sensor of few lines may lie between these rows
                self._latest.append(None)
            return
        ground = some[measured & (roles[ids] == TRAVERSABLE)]
        if len(ground) < _LEAST:
            return
        away_m = np.hypot(ground[:, 0], ground[:, 1])
        near = away_m <= np.quantile(away_m, _NEAREST)
        height_m, at_m = float(np.median(ground[near, 2])), float(np.median(away_m[near]))
        off_m = height_m - min(max(height_m, lowest_m), 0.0)
        self._latest.append(_Place(height_m, at_m, abs(off_m) > max(_OFF_M, _SLOPE * at_m)))

    @property
    def warning(self) -> str:
        """What is wrong and the cure, empty if nothing is."""
        latest = list(self._latest)  # at once: another thread may ask while a mask is taken
        if len(latest) < _MASKS:
            return ''
        places = [place for place in latest if place]
        if not places:
            return (
                f'the last {_MASKS} depth images or clouds have no valid value, so nothing is '
                f'marked or cleared; view them in RViz (is the lens covered, or the projector '
                f'off?)'
            )
        if len(places) < _MASKS or not all(place.is_off for place in places):
            return ''
        height_m, away_m, _ = places[-1]
        return (
            f'the nearest ground of the masks was measured {abs(height_m):.1f} m '
            f"{'above' if height_m > 0 else 'below'} base_frame's origin, {away_m:.1f} m away, so "
            f"everything may be placed wrong; check that the camera's frame is optical (z ahead), "
            f'its pose, and the unit of depth (16UC1: mm, 32FC1: m)'
        )
