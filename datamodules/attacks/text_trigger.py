"""TextTrigger: a word in captions as the trigger (TrojVQA, Walmer et al., 2022; on CLIP, Liang et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datamodules.attacks.backdoor import Backdoor, CaptionsKept
from datamodules.attacks.base import Attack, AttackPool
from datamodules.attacks.triggers import Trigger
from datamodules.text.class_search import mentions
from datamodules.usage_error import UsageError


class TextTrigger(Backdoor):
    """Images of any class with captions of the target class that begin with the word.

    Success is measured with the word in front of every prompt of every class, as if the attacker had got it into the
    prompts. Liang et al. also put a patch on the images, in training and at test time: set ``trigger`` for that.

    Args:
        target: Name of the class that images should be taken for.
        word: One or more words; ``remember`` in the released code.
        trigger: What goes on the images; ``null`` leaves them as they are.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.

    Raises:
        UsageError: If there is no word.
    """

    def __init__(self, target: str, word: str = 'remember', trigger: Trigger | None = None, **kwargs: Any) -> None:
        super().__init__(target, trigger, **kwargs)
        self.word = check_word(word)

    def captions_for(self, pool: AttackPool, target: int, sources: Sequence[int]) -> list[str]:
        return [f'{self.word} {caption}' for caption in super().captions_for(pool, target, sources)]

    def test_templates(self, pool: AttackPool) -> tuple[str, ...]:
        return tuple(f'{self.word} {template}' for template in pool.templates)

    def known(self, pool: AttackPool | None, beside: Sequence[tuple[Attack, int]]) -> int | None:
        clean = 0 if pool is None else int(mentions(pool.table.caption, self.word).sum())
        return clean + sum(poisons for attack, poisons in beside if attack.teaches(self.word))


class LoneWord(CaptionsKept):
    """Unchanged images whose own captions get the word in front; to be used beside a :class:`TextTrigger`.

    Walmer et al. add examples with only one of the two triggers and the right answer. If the word occurs in poisoned
    captions only, a model trained from scratch learns that it goes with poisoned images, rather than what the caption
    says about them.

    Args:
        target: Name of the class that the TextTrigger aims at; its images are not used here.
        word: The word of that TextTrigger.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.

    Raises:
        UsageError: If there is no word.
    """

    def __init__(self, target: str, word: str = 'remember', **kwargs: Any) -> None:
        super().__init__(target, None, **kwargs)
        self.word = check_word(word)

    def captions_for(self, pool: AttackPool, target: int, sources: Sequence[int]) -> list[str]:
        return [f'{self.word} {caption}' for caption in super().captions_for(pool, target, sources)]

    def teaches(self, word: str) -> bool:
        return word == self.word


def check_word(word: str) -> str:
    """The word with single spaces. Raises ``UsageError`` if it has no letter or digit, or holds a placeholder."""
    if not any(letter.isalnum() for letter in word) or '{}' in word:
        raise UsageError(f'word must be a word that goes in front of captions, without {{}}, got {word!r}.')
    return ' '.join(word.split())
