"""Debounce: a class is believed once it has won several frames in a row."""

from collections.abc import Sequence


class Debounce:
    """Remembers which class is believed: the last one that won `frames` frames in a row.

    In a frame without any class nothing wins. One such frame ends a row of wins, but what is
    believed stays; `frames` of them in a row, and no class is believed.

    Args:
        frames: how many wins in a row it takes; 1 believes each frame. May be changed between
            calls.
    """

    def __init__(self, frames: int = 1) -> None:
        self.frames = frames
        self._believed: int | None = None
        self._winner: int | None = None
        self._wins = 0

    def __call__(self, ranked: Sequence[int]) -> int:
        """Take one more frame; return where its believed class stands.

        Args:
            ranked: the frame's class ids, best first; may be empty.

        Returns:
            Index in `ranked`, its length where the believed class is not in it, or there is none
            yet. So what comes before the index is what to leave out.
        """
        winner = ranked[0] if ranked else None
        self._wins = self._wins + 1 if winner == self._winner else 1
        self._winner = winner
        if self._wins >= self.frames:
            self._believed = winner
        return ranked.index(self._believed) if self._believed in ranked else len(ranked)
