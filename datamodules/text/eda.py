"""Easy data augmentation (EDA, Wei & Zou, 2019): rewrite captions by small random edits, with WordNet synonyms."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Literal, get_args

from datamodules.text.caption_views import CaptionViews
from datamodules.usage_error import UsageError, check_number

Operation = Literal['synonym', 'insertion', 'swap', 'deletion']
NEED_WORDNET: tuple[Operation, ...] = ('synonym', 'insertion')
_MASK = (1 << 64) - 1
_INSERTION_TRIES, _SWAP_TRIES = 10, 3  # words looked up, and second positions drawn, before EDA's code gives up

# Articles, determiners and quantities; pronouns; auxiliary verbs; prepositions and conjunctions; adverbs.
_STOP_WORD_LIST = """
a an the this that these those each every either neither some any no all both few many much more most other another
such same own only
i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we us our ours
ourselves they them their theirs themselves who whom whose which what
am is are was were be been being do does did doing done have has had having can could may might must shall should will
would
of in on at by for with without from to into onto off out over under up down about above below across after against
along among around as before behind beside between beyond during inside near outside past per since through toward
towards until upon via within and or but nor so yet if because while although though than then
not very too also just here there when where why how again once now s t
"""
_STOP_WORDS = frozenset(_STOP_WORD_LIST.split())  # never replaced by synonyms


class Draws:
    """SplitMix64 random numbers for one caption, keyed by integers as in :func:`datamodules.rows.draws.bits`.

    Uses plain integers, because a tensor or a ``random.Random`` would cost more than rewriting the caption.
    """

    __slots__ = ('state',)

    def __init__(self, *key: int) -> None:
        self.state = 0
        for part in key:
            self.state = _mix(self.state ^ part)

    def next_bits(self) -> int:
        """Draws 64 bits."""
        value = _mix(self.state)
        self.state += 1
        return value

    def below(self, limit: int) -> int:
        """Draws an integer in [0, limit)."""
        return self.next_bits() * limit >> 64

    def uniform(self) -> float:
        """Draws a number in [0, 1)."""
        return (self.next_bits() >> 11) * 2.0**-53

    def shuffle(self, items: list[str]) -> list[str]:
        """Shuffles the items in place and returns them."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
        return items


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return x ^ x >> 31


Edit = Callable[[list[str], float, Draws], list[str]]  # words, alpha, random numbers -> words; may change the list


class EDA(CaptionViews):
    """Easy data augmentation (EDA, Wei & Zou, 2019) of captions as in SafeCLIP: one of four small random edits.

    Each edit is equally likely:

    - ``synonym`` replaces n different words other than stop words, at all their positions, by a synonym each.
    - ``insertion`` inserts a synonym of a random word at a random position, n times.
    - ``swap`` swaps two words, n times.
    - ``deletion`` deletes each word with probability alpha, but always keeps one.

    n is alpha times the number of words, rounded down, at least 1. First, the caption is lower-cased, apostrophes are
    dropped, and it is split at everything that is neither a letter nor a digit. SafeCLIP's released code also drops
    digits and letters outside a-z, so that "2 dogs" becomes "dogs"; ``letters_only`` does the same.

    Synonyms come from WordNet and are sorted, so that Python's hash seed does not decide which one is drawn. WordNet
    is never downloaded. If it is not installed, only ``swap`` and ``deletion`` are used, and the attribute
    ``operations`` lists them. Install it on all machines of a run or on none.

    Args:
        alpha: Share of the words that change, in (0, 1].
        operations: Edits to choose from: ``synonym``, ``insertion``, ``swap``, ``deletion``. The first two need
            WordNet and are left out where it is not installed.
        refresh: ``per_epoch`` draws new edits in every epoch. ``once`` keeps those of epoch 0, as in SafeCLIP's
            released code.
        letters_only: Drop everything but the letters a-z, as in SafeCLIP's released code.

    Raises:
        UsageError: If ``alpha`` is out of range, no operation is given, or all given operations need WordNet and it
            is not installed.

    Example:
        >>> eda = EDA(alpha=0.3, operations=['swap', 'deletion'])
        >>> eda('A dog runs on the beach.', key=(0, 0, 4, 0))  # seed, epoch, row, view
        'dog a runs on the beach'
        >>> eda('A dog runs on the beach.', key=(0, 0, 9, 0))
        'runs on the beach'
    """

    def __init__(
        self,
        alpha: float = 0.1,
        operations: Sequence[Operation] = ('synonym', 'insertion', 'swap', 'deletion'),
        refresh: Literal['per_epoch', 'once'] = 'per_epoch',
        letters_only: bool = False,
    ) -> None:
        check_number('data.caption_views.alpha', alpha, '(0, 1]')
        if not operations or not set(operations) <= set(get_args(Operation)):
            raise UsageError(f'operations must be some of {", ".join(get_args(Operation))}, got {list(operations)}.')
        self.operations = tuple(op for op in operations if wordnet_installed() or op not in NEED_WORDNET)
        if not self.operations:
            raise UsageError(
                f'operations {list(operations)} need the WordNet corpus: install it with `pip install nltk` and '
                f'`python -m nltk.downloader wordnet`, or add swap or deletion.'
            )
        self.alpha, self.refresh, self.letters_only = alpha, refresh, letters_only
        self._edits: list[Edit] = [_EDITS[operation] for operation in self.operations]
        self._word = re.compile(r'[a-z]+' if letters_only else r'[^\W_]+')

    def __call__(self, caption: str, *, key: tuple[int, ...]) -> str:
        """Rewrites a caption.

        Args:
            caption: Any text. A caption without words is returned unchanged.
            key: Seed, epoch, row and view. The result depends only on these and the caption.
        """
        words = self._word.findall(caption.lower().replace("'", '').replace('\u2019', ''))
        if not words:
            return caption
        draws = Draws(*key) if self.refresh == 'per_epoch' else Draws(key[0], 0, *key[2:])
        edit = self._edits[draws.below(len(self._edits))]
        return ' '.join(edit(words, self.alpha, draws))


def _count_edits(words: list[str], alpha: float) -> int:
    return max(1, int(alpha * len(words)))


def _replace_by_synonyms(words: list[str], alpha: float, draws: Draws) -> list[str]:
    remaining = _count_edits(words, alpha)
    for word in draws.shuffle([word for word in dict.fromkeys(words) if word not in _STOP_WORDS]):
        if remaining and (choices := synonyms(word)):
            synonym = choices[draws.below(len(choices))]
            words = [synonym if old == word else old for old in words]
            remaining -= 1
    return words


def _insert_synonyms(words: list[str], alpha: float, draws: Draws) -> list[str]:
    for _ in range(_count_edits(words, alpha)):
        for _ in range(_INSERTION_TRIES):
            if choices := synonyms(words[draws.below(len(words))]):
                words.insert(draws.below(len(words)), choices[0])  # the first, and never at the end, as in EDA's code
                break
    return words


def _swap(words: list[str], alpha: float, draws: Draws) -> list[str]:
    for _ in range(_count_edits(words, alpha)):
        first = draws.below(len(words))
        for _ in range(_SWAP_TRIES):
            if (second := draws.below(len(words))) != first:
                words[first], words[second] = words[second], words[first]
                break
    return words


def _delete(words: list[str], alpha: float, draws: Draws) -> list[str]:
    if len(words) == 1:
        return words
    return [word for word in words if draws.uniform() >= alpha] or [words[draws.below(len(words))]]


_EDITS: dict[Operation, Edit] = {
    'synonym': _replace_by_synonyms,
    'insertion': _insert_synonyms,
    'swap': _swap,
    'deletion': _delete,
}


@cache
def wordnet_installed() -> bool:
    """Tells whether nltk and its WordNet corpus are installed."""
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        return False
    return True


@lru_cache(maxsize=1 << 17)
def synonyms(word: str) -> tuple[str, ...]:
    """Looks up the words and phrases (a-z and spaces) that share a WordNet sense with a word, sorted."""
    from nltk.corpus import wordnet

    lemmas = (lemma.name().lower() for sense in wordnet.synsets(word) for lemma in sense.lemmas())
    phrases = {' '.join(re.findall('[a-z]+', lemma.replace("'", ''))) for lemma in lemmas}
    return tuple(sorted(phrases - {word, ''}))
