"""Easy data augmentation (EDA, Wei & Zou, 2019): captions rewritten by small random edits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Literal, get_args

from datamodules.usage_error import UsageError

Operation = Literal['synonym', 'insertion', 'swap', 'deletion']
NEED_WORDNET: tuple[Operation, ...] = ('synonym', 'insertion')
_MASK = (1 << 64) - 1
_INSERTION_TRIES, _SWAP_TRIES = 10, 3  # words looked up, and second places drawn, before EDA's code gives up

# Articles, determiners and quantities; pronouns; auxiliary verbs; prepositions and conjunctions; adverbs.
_WITHOUT_MEANING = """
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
_STOP_WORDS = frozenset(_WITHOUT_MEANING.split())  # words that no synonym replaces


class Draws:
    """Random numbers from a key of integers: SplitMix64, as :func:`datamodules.rows.draws.mix`, for one caption.

    In plain integers, because a tensor or a ``random.Random`` costs more than rewriting the caption does.
    """

    __slots__ = ('state',)

    def __init__(self, *key: int) -> None:
        self.state = 0
        for part in key:
            self.state = _mix(self.state ^ part)

    def word(self) -> int:
        """The next 64 random bits."""
        value = _mix(self.state)
        self.state += 1
        return value

    def below(self, limit: int) -> int:
        """An integer in [0, limit)."""
        return self.word() * limit >> 64

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return (self.word() >> 11) * 2.0**-53

    def shuffle(self, items: list[str]) -> list[str]:
        """The items in random order, in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
        return items


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return x ^ x >> 31


Edit = Callable[[list[str], float, Draws], list[str]]  # words, alpha, randomness -> words; may change its argument


class EDA:
    """Easy data augmentation (Wei & Zou, 2019) as SafeCLIP uses it: one of four small edits, each as likely.

    - ``synonym``: n words that carry meaning are replaced, wherever they stand, by a synonym each.
    - ``insertion``: n times a synonym of one of the words goes in at a random place.
    - ``swap``: n times two words change places.
    - ``deletion``: every word goes with probability alpha; if none is left, one of them stays.

    n is alpha times the number of words, rounded down, at least 1. Before that the caption is put into lower
    case, apostrophes are dropped, and whatever is neither letter nor digit separates words. The released code
    drops digits and letters outside a-z as well, so that "2 dogs" becomes "dogs"; ``letters_only`` does that.

    Synonyms are WordNet's, sorted, so that no hash seed decides which is drawn. Where the corpus is not
    installed (it is never downloaded), only ``swap`` and ``deletion`` take part: see ``operations`` of the
    object. All ranks of a run need the same.

    Args:
        alpha: Strength, the share of words that change, in (0, 1].
        operations: Edits to choose from.
        refresh: ``per_epoch``: new edits in every epoch. ``once``: those of epoch 0 throughout, as released.
        letters_only: Keep nothing but a-z, as released.

    Raises:
        UsageError: If ``alpha`` is out of range, no operation is named, or none can be done without WordNet.
    """

    def __init__(
        self,
        alpha: float = 0.1,
        operations: Sequence[Operation] = ('synonym', 'insertion', 'swap', 'deletion'),
        refresh: Literal['per_epoch', 'once'] = 'per_epoch',
        letters_only: bool = False,
    ) -> None:
        if not 0 < alpha <= 1:
            raise UsageError(f'alpha must be a share of words in (0, 1], got {alpha}.')
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
            caption: Any text; without a single word in it, it is returned as it is.
            key: Seed, epoch, row and view; the result depends on nothing else.
        """
        words = self._word.findall(caption.lower().replace("'", '').replace('\u2019', ''))
        if not words:
            return caption
        draws = Draws(*key) if self.refresh == 'per_epoch' else Draws(key[0], 0, *key[2:])
        edit = self._edits[draws.below(len(self._edits))]
        return ' '.join(edit(words, self.alpha, draws))


def _count(words: list[str], alpha: float) -> int:
    return max(1, int(alpha * len(words)))


def _replace_by_synonyms(words: list[str], alpha: float, draws: Draws) -> list[str]:
    wanted = _count(words, alpha)
    for word in draws.shuffle([word for word in dict.fromkeys(words) if word not in _STOP_WORDS]):
        if wanted and (others := synonyms(word)):
            synonym = others[draws.below(len(others))]
            words = [synonym if old == word else old for old in words]
            wanted -= 1
    return words


def _insert_synonyms(words: list[str], alpha: float, draws: Draws) -> list[str]:
    for _ in range(_count(words, alpha)):
        for _ in range(_INSERTION_TRIES):
            if others := synonyms(words[draws.below(len(words))]):
                words.insert(draws.below(len(words)), others[0])  # the first, and never at the end: as released
                break
    return words


def _swap(words: list[str], alpha: float, draws: Draws) -> list[str]:
    for _ in range(_count(words, alpha)):
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
    """Whether nltk and its WordNet corpus are on this machine."""
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        return False
    return True


@lru_cache(maxsize=1 << 17)
def synonyms(word: str) -> tuple[str, ...]:
    """Words and phrases, a-z and spaces, that share a WordNet sense with a word: sorted, without the word itself."""
    from nltk.corpus import wordnet

    lemmas = (lemma.name().lower() for sense in wordnet.synsets(word) for lemma in sense.lemmas())
    phrases = {' '.join(re.findall('[a-z]+', lemma.replace("'", ''))) for lemma in lemmas}
    return tuple(sorted(phrases - {word, ''}))
