"""What rewrites captions in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable


class CaptionViews(ABC):
    """Rewrites captions in training."""

    def study(self, captions: Iterable[str]) -> None:  # noqa: B027  most need not
        """Learns what it needs of all training captions, before it rewrites the first."""

    @abstractmethod
    def __call__(self, caption: str, *, key: tuple[int, ...]) -> str:
        """Rewrites a caption.

        Args:
            caption: Any text.
            key: Seed, epoch, row and view. The result depends only on these, the caption, and what was studied.
        """
