"""Clean-up of captions by a trainer who expects words in them that were added to keep a model from learning.

What is dropped is the same in every epoch. Measured against MEM (Liu et al., 2024) in docs/unlearnable.md.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from datamodules.text.caption_views import CaptionViews
from datamodules.usage_error import UsageError, check_number

log = logging.getLogger(__name__)


class DropFirstWords(CaptionViews):
    """Drops the first words of each caption, where MEM puts its own. A caption that has no others stays as it is.

    Args:
        count: Words to drop, as many as spaces separate.

    Example:
        >>> DropFirstWords(2)('lantern oboe a dog runs .', key=(0, 0, 0, 0))
        'a dog runs .'
    """

    def __init__(self, count: int = 3) -> None:
        check_number('data.caption_views.count', count, '[1, inf)')
        self.count = count

    def __call__(self, caption: str, *, key: tuple[int, ...]) -> str:
        return ' '.join(caption.split()[self.count :]) or caption


class DropRareWords(CaptionViews):
    """Drops words that few training captions have. A caption that has no others stays as it is.

    Args:
        min_captions: Fewest training captions that a word must be in, in upper or lower case, to be kept.

    Raises:
        UsageError: If no word is in that many captions.

    Example:
        >>> view = DropRareWords(min_captions=2)
        >>> view.study(['A dog runs .', 'oboe a dog .'])
        >>> view('oboe A dog runs .', key=(0, 0, 0, 0))
        'A dog .'
    """

    kept: frozenset[str]

    def __init__(self, min_captions: int = 10) -> None:
        check_number('data.caption_views.min_captions', min_captions, '[1, inf)')
        self.min_captions = min_captions

    def study(self, captions: Iterable[str]) -> None:
        counts = Counter(word for caption in captions for word in {*caption.lower().split()})
        self.kept = frozenset(word for word, count in counts.items() if count >= self.min_captions)
        if not self.kept:
            raise UsageError(
                f'data.caption_views.min_captions={self.min_captions}: no word is in that many training captions, so '
                f'none would be dropped: lower it.'
            )
        log.info(
            '%d of %d words are in at least %d captions; captions of other words alone stay as they are',
            len(self.kept), len(counts), self.min_captions,
        )  # fmt: skip

    def __call__(self, caption: str, *, key: tuple[int, ...]) -> str:
        return ' '.join(word for word in caption.split() if word.lower() in self.kept) or caption
