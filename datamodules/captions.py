"""Captions: prompts of a class, the search for a class in captions, rewriting (EDA) and tokens."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES, SimpleTokenizer

# --- prompts --------------------------------------------------------------------------------------------------------


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 class names of CLIP's authors; two of them, missile and sunglasses, stand for two classes each."""
    return tuple(IMAGENET_CLASSNAMES)


def imagenet_templates() -> tuple[str, ...]:
    """The 80 prompts of CLIP's authors, with ``{}`` where the class name goes."""
    return tuple(template('{}') for template in OPENAI_IMAGENET_TEMPLATES)


def prompts(name: str, templates: Sequence[str]) -> list[str]:
    """The prompts of one class, as in ``a photo of a banana.``; a name may hold braces of its own."""
    return [template.replace('{}', name) for template in templates]


# --- which captions name a class ------------------------------------------------------------------------------------


def class_pattern(name: str) -> str:
    """A regular expression (RE2) for captions that name a class, in the singular or plural, in any case.

    What stands in brackets is left out, ``a / b`` means either, and the words of a name may be joined by
    spaces, hyphens or underscores. A word ends where letters and digits do, so ``suit`` is not in ``suitcase``;
    a longer name around it does not matter, so ``dog`` is in ``hot dog``.

    Args:
        name: Name of the class, such as ``ice cream`` or ``kite (bird of prey)``.

    Raises:
        ValueError: If the name holds no word.
    """
    forms = '|'.join(map(_any_number, spoken_forms(name)))
    if not forms:
        raise ValueError(f'class name {name!r} has no word that a caption could contain.')
    return rf'(?i)(?:^|[^\pL\pN])(?:{forms})(?:$|[^\pL\pN])'


def spoken_forms(name: str) -> list[list[str]]:
    """Words of each form of a name in the singular; see :func:`class_pattern`."""
    forms = re.sub(r'\([^)]*\)', ' ', name).split(' / ')
    return [[word for word in re.split(r'[\s_-]+', form) if word] for form in forms if form.strip(' _-')]


def _any_number(words: list[str]) -> str:
    """Pattern of a name in the singular and in the plural: dog and dogs, box and boxes, berry and berries."""
    *first, last = [re.escape(word) for word in words]
    ending = r'(?:s|es)?'
    if re.search(r'[^aeiou\W]y$', last, re.IGNORECASE):
        last, ending = last[:-1], r'(?:y|ys|ies)'
    return r'[\s_-]+'.join([*first, last + ending])


def mentions(captions: pa.Array | pa.ChunkedArray, name: str) -> np.ndarray:
    """Which captions name a class, see :func:`class_pattern`: bool (N,), a second for three million captions."""
    return np.asarray(pc.match_substring_regex(captions, class_pattern(name)))


# --- EDA ------------------------------------------------------------------------------------------------------------

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
    """Random numbers from a key of integers: SplitMix64, as :func:`datamodules.randomness.mix`, for one caption.

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
        ValueError: If ``alpha`` is out of range, no operation is named, or none can be done without WordNet.
    """

    def __init__(
        self,
        alpha: float = 0.1,
        operations: Sequence[Operation] = ('synonym', 'insertion', 'swap', 'deletion'),
        refresh: Literal['per_epoch', 'once'] = 'per_epoch',
        letters_only: bool = False,
    ) -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f'alpha must be a share of words in (0, 1], got {alpha}.')
        if not operations or not set(operations) <= set(get_args(Operation)):
            raise ValueError(f'operations must be some of {", ".join(get_args(Operation))}, got {list(operations)}.')
        self.operations = tuple(op for op in operations if wordnet_installed() or op not in NEED_WORDNET)
        if not self.operations:
            raise ValueError(
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


# --- tokens ---------------------------------------------------------------------------------------------------------


@cache
def _byte_pairs() -> SimpleTokenizer:
    """open_clip's tokenizer; reading its table takes a quarter of a second."""
    return SimpleTokenizer()


class WordTokenizer:
    """CLIP's byte-pair tokens of a caption, put together from words seen before.

    Equal to ``open_clip.SimpleTokenizer`` for every caption, and many times as fast for rewritten ones: no token
    spans a space, so the tokens of a caption are those of its words, and words repeat.

    Args:
        context_length: Tokens T of a caption, start and end included, at least 2.

    Attributes:
        truncated: Captions that had more tokens than T, counted since the object was made, in this process.
    """

    _MOST_WORDS = 1 << 20  # remembered, some 200 MB; scraped text holds more "words" than any machine memory

    def __init__(self, context_length: int = 77) -> None:
        if context_length < 2:
            raise ValueError(f'context_length must leave room for start and end, at least 2, got {context_length}.')
        self.context_length = context_length
        self.truncated = 0
        self._tokenizer = copy.copy(_byte_pairs())
        self._clean: Callable[[str], str] = self._tokenizer.clean_fn
        self._tokenizer.clean_fn = str  # words are clean already, and cleaning twice is not cleaning once
        self._ids: dict[str, list[int]] = {}

    def __call__(self, caption: str) -> np.ndarray:
        """Tokens of one caption: start, words, end, zeros; int64 (T,). The last token of a cut caption is the end."""
        ids = [self._tokenizer.sot_token_id]
        for word in self._words(caption):
            ids += self._ids.get(word) or self._new(word)
        if len(ids) >= self.context_length:
            self.truncated += 1
            del ids[self.context_length - 1 :]
        ids.append(self._tokenizer.eot_token_id)
        tokens = np.zeros(self.context_length, np.int64)
        tokens[: len(ids)] = ids
        return tokens

    def _words(self, caption: str) -> list[str]:
        """Words after open_clip's cleaning, which leaves printable ASCII without an entity as it is, in lower case."""
        if not caption.isascii() or not caption.isprintable() or '&' in caption:
            caption = self._clean(caption)
        return caption.lower().split()

    def _new(self, word: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(word)
        if len(self._ids) < self._MOST_WORDS:
            self._ids[word] = ids
        return ids
