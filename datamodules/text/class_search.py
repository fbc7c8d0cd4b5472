"""Find the captions that name each of many classes, reading the captions once instead of once for each class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.usage_error import UsageError

_WORD = re.compile(r'[^\W_]+')
_PART_ROWS = 1 << 16  # so that row numbers within a part fit into 16 bits
_COMMON = _PART_ROWS // 32  # occurrences in a part of a word that leaves too many captions to be worth its memory


def class_pattern(name: str) -> str:
    """Builds a regular expression (RE2) that matches captions naming a class, singular or plural, in any case.

    Text in brackets is dropped, ``a / b`` means either, and the words of a name may be joined by spaces, hyphens or
    underscores. Only whole words match, so ``suitcase`` does not name ``suit``. A longer name does, so ``hot dog``
    names ``dog``; where both are classes, :func:`without_longer_names` tells them apart.

    Args:
        name: Name of the class, such as ``ice cream`` or ``kite (bird of prey)``.

    Raises:
        UsageError: If the name contains no word.

    Example:
        >>> captions = pa.array(['two Ice-Creams', 'ice on cream'])
        >>> pc.match_substring_regex(captions, class_pattern('ice cream')).to_pylist()
        [True, False]
    """
    forms = '|'.join(map(_plural_pattern, spoken_forms(name)))
    if not forms:
        raise UsageError(f'class name {name!r} has no word that a caption could contain.')
    return rf'(?i)(^|[^\pL\pN])(?:{forms})($|[^\pL\pN])'


def spoken_forms(name: str) -> list[list[str]]:
    """Splits a class name at `` / `` into its alternatives, without text in brackets, and each into its words."""
    forms = re.sub(r'\([^)]*\)', ' ', name).split(' / ')
    return [[word for word in re.split(r'[\s_-]+', form) if word] for form in forms if form.strip(' _-')]


def _plural_pattern(words: list[str]) -> str:
    """Builds the pattern of a name in singular and plural: dog and dogs, box and boxes, berry and berries."""
    *first, last = [re.escape(word) for word in words]
    ending = r'(?:s|es)?'
    if re.search(r'[^aeiou\W]y$', last, re.IGNORECASE):
        last, ending = last[:-1], r'(?:y|ys|ies)'
    return r'[\s_-]+'.join([*first, last + ending])


def mentions(captions: pa.Array | pa.ChunkedArray, name: str) -> np.ndarray:
    """Tells which captions name a class, by :func:`class_pattern`: bool (N,), a second for three million captions.

    Example:
        >>> mentions(pa.array(['two dogs', 'a hot dog', 'dogma']), 'dog').tolist()
        [True, True, False]
    """
    return np.asarray(pc.match_substring_regex(captions, class_pattern(name)))


def without_longer_names(
    rows: np.ndarray, captions: pa.Array | pa.ChunkedArray, name: str, names: Iterable[str]
) -> np.ndarray:
    """Leaves out the captions that name a class only within the longer name of another.

    Args:
        rows: Rows whose captions name the class, int64.
        captions: The captions.
        name: Name of the class.
        names: Names of all classes.

    Example:
        >>> captions = pa.array(['a crocodile', 'a crocodile head', 'the head of a crocodile'])
        >>> without_longer_names(np.arange(3), captions, 'crocodile', ['crocodile', 'crocodile head']).tolist()
        [0, 2]
    """
    if not len(rows) or not (longer := _longer_names(name, names)):
        return rows
    rest = captions.take(pa.array(rows))
    for other in longer * 2:  # twice, since neighbors share the character between them
        rest = pc.replace_substring_regex(rest, class_pattern(other), r'\1\2')
    return rows[mentions(rest, name)]


@lru_cache(maxsize=4)
def _words_of(names: tuple[str, ...]) -> dict[str, frozenset[str]]:
    return {name: frozenset(_WORD.findall(name.lower())) for name in names}


def _longer_names(name: str, names: Iterable[str]) -> list[str]:
    """Returns the names that contain a name and are not contained in it, the longest first."""
    forms = _required_words(name)
    words = _words_of(tuple(names))
    likely = [o for o in words if o != name and any(all(group & words[o] for group in form) for form in forms)]
    return [
        other
        for other in sorted(likely, key=lambda other: (-len(other), other))
        if mentions(pa.array([other]), name)[0] and not mentions(pa.array([name]), other)[0]
    ]


class ClassSearch:
    """Finds the captions that name a class, as :func:`mentions` does, in a fraction of the time.

    An index of the words in class names leaves only a few captions to check for each class. Building it takes as long
    as ten to twenty searches without an index. Words that are common in the first captions are not in it: a class with
    no other word is searched for in all captions.

    Args:
        captions: The captions.
        names: Classes that will be searched for.
    """

    def __init__(self, captions: pa.Array | pa.ChunkedArray, names: Iterable[str]) -> None:
        self.captions = captions
        whole = pa.chunked_array([captions]) if isinstance(captions, pa.Array) else captions
        words = sorted(set().union(*map(_all_words, names)))
        occurrences = np.diff(_build_part(whole.slice(0, _PART_ROWS), words).first)
        rare = [word for word, count in zip(words, occurrences, strict=True) if count < _COMMON]
        self._word_number = {word: number for number, word in enumerate(rare)}
        self._parts = {
            start: _build_part(whole.slice(start, _PART_ROWS), rare) for start in range(0, len(whole), _PART_ROWS)
        }

    def __call__(self, name: str) -> np.ndarray:
        """Returns the rows whose caption names the class, ascending, int64."""
        forms = [[group for group in form if group <= self._word_number.keys()] for form in _required_words(name)]
        if not (forms and all(forms)):  # only common words or symbols, for example
            return np.flatnonzero(mentions(self.captions, name))
        candidates = [min((self._rows_with_any(group) for group in form), key=len) for form in forms]  # rarest words
        rows = np.unique(np.concatenate(candidates))
        return rows[mentions(self.captions.take(pa.array(rows)), name)] if len(rows) else rows

    def _rows_with_any(self, words: Iterable[str]) -> np.ndarray:
        """Returns the rows that contain one of the words, int64, one entry for each occurrence."""
        numbers = [self._word_number[word] for word in words]
        return np.concatenate(
            [
                start + part.rows[part.first[number] : part.first[number + 1]].astype(np.int64)
                for start, part in self._parts.items()
                for number in numbers
            ]
        )


class _Part(NamedTuple):
    """Index of a part of the captions: rows counted from the first of the part, ordered by word, uint16."""

    rows: np.ndarray
    first: np.ndarray  # start of each word in ``rows``, and the end of the last


def _build_part(part: pa.ChunkedArray, words: Sequence[str]) -> _Part:
    captions = part.combine_chunks()
    split = pc.split_pattern_regex(pc.utf8_lower(captions), pattern=r'[^\pL\pN]+')
    number = pc.index_in(split.flatten(), value_set=pa.array(words, pa.string()))
    row = np.repeat(np.arange(len(captions), dtype=np.uint16), pc.list_value_length(split))
    row, word = row[np.asarray(number.is_valid())], np.asarray(number.drop_null())
    order = np.argsort(word, kind='stable')
    return _Part(row[order], np.searchsorted(word[order], np.arange(len(words) + 1)))


def _required_words(name: str) -> list[list[set[str]]]:
    """Lists the words a caption must contain to name a class: for each form of the name, one word of each group."""
    forms = []
    for words in spoken_forms(name):
        pieces = [_WORD.findall(word.lower()) for word in words]
        groups = [{piece} for word in pieces for piece in word]
        if pieces[-1]:
            groups[-1] = _singular_and_plurals(pieces[-1][-1])
        forms.append(groups)
    return forms


def _all_words(name: str) -> set[str]:
    return {word for form in _required_words(name) for group in form for word in group}


def _singular_and_plurals(word: str) -> set[str]:
    """Returns a word with every plural that :func:`class_pattern` matches."""
    return {word, f'{word}s', f'{word}es'} | ({f'{word[:-1]}ies'} if word.endswith('y') else set())
