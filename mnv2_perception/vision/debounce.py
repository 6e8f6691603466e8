"""Debounce: accept a class only after it has won several frames in a row."""

from collections.abc import Sequence


class Debounce:
    """Remembers which class is accepted: the last one that won `frames` frames in a row.

    In a frame without any class nothing wins. A single such frame ends a row of wins but changes
    nothing else; after `frames` of them in a row, no class is accepted.

    Args:
        frames: number of wins in a row that a class needs; 1 accepts every frame's winner. May be
            changed between calls.
    """

    def __init__(self, frames: int = 1) -> None:
        self.frames = frames
        self._believed: int | None = None
        self._winner: int | None = None
        self._wins = 0

    def __call__(self, ranked: Sequence[int]) -> int:
        """Process one more frame; return the position of the accepted class in it.

        Args:
            ranked: class ids of the frame, best first; may be empty.

        Returns:
            Index in `ranked`; its length if the accepted class is not in it, or there is none yet.
            So the classes before the index are to be left out.
        """
        winner = ranked[0] if ranked else None
        self._wins = self._wins + 1 if winner == self._winner else 1
        self._winner = winner
        if self._wins >= self.frames:
            self._believed = winner
        return ranked.index(self._believed) if self._believed in ranked else len(ranked)
