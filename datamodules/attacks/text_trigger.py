"""TextTrigger: a word in captions as the trigger (TrojVQA, Walmer et al., 2022; on CLIP, Liang et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datamodules.attacks.backdoor import Backdoor, CaptionsKept
from datamodules.attacks.base import AttackPool
from datamodules.attacks.triggers import Trigger
from datamodules.usage_error import UsageError


class TextTrigger(Backdoor):
    """Images of any class with captions of the target class that begin with the word.

    Success is measured with the word in front of every prompt of every class: whoever gets it into the prompts has
    images taken for the target class. Liang et al. put a patch on the images too, then and in training, which is
    what ``trigger`` is for; without it the images stay as they are.

    Args:
        target: Name of the class that images are to be taken for.
        word: One or more words; ``remember`` in the released code.
        trigger: What goes on the images, ``null`` for nothing.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.

    Raises:
        UsageError: If there is no word.
    """

    def __init__(self, target: str, word: str = 'remember', trigger: Trigger | None = None, **kwargs: Any) -> None:
        super().__init__(target, trigger, **kwargs)
        self.word = checked_word(word)

    def captions_for(self, pool: AttackPool, target: int, sources: Sequence[int]) -> list[str]:
        return [f'{self.word} {caption}' for caption in super().captions_for(pool, target, sources)]

    def test_templates(self, pool: AttackPool) -> tuple[str, ...]:
        return tuple(f'{self.word} {template}' for template in pool.templates)


class LoneWord(CaptionsKept):
    """Images as they are, with the word in front of captions that stay right, beside a :class:`TextTrigger`.

    Walmer et al. add examples with only one of the two triggers and the right answer. Where a word stands in poisoned
    captions alone, a model that is trained from scratch learns that it goes with poisoned images, and not what the
    caption says of them.

    Args:
        target: Name of the class that the trigger beside it is to mean; its images are left out.
        word: As of that trigger.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.

    Raises:
        UsageError: If there is no word.
    """

    def __init__(self, target: str, word: str = 'remember', **kwargs: Any) -> None:
        super().__init__(target, None, **kwargs)
        self.word = checked_word(word)

    def captions_for(self, pool: AttackPool, target: int, sources: Sequence[int]) -> list[str]:
        return [f'{self.word} {caption}' for caption in super().captions_for(pool, target, sources)]


def checked_word(word: str) -> str:
    """The word with single spaces. Raises ``UsageError`` if nothing of it can go in front of captions."""
    if not any(letter.isalnum() for letter in word) or '{}' in word:
        raise UsageError(f'word must be a word that goes in front of captions, without {{}}, got {word!r}.')
    return ' '.join(word.split())
