"""Which captions name which of many classes: captions are read once, not once for each class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.usage_error import UsageError

_ROWS_AT_ONCE = 1 << 16  # so that 16 bits number them


def class_pattern(name: str) -> str:
    """A regular expression (RE2) for captions that name a class, in the singular or plural, in any case.

    What stands in brackets is left out, ``a / b`` means either, and the words of a name may be joined by
    spaces, hyphens or underscores. A word ends where letters and digits do, so ``suit`` is not in ``suitcase``;
    a longer name around it does not matter, so ``dog`` is in ``hot dog``.

    Args:
        name: Name of the class, such as ``ice cream`` or ``kite (bird of prey)``.

    Raises:
        UsageError: If the name holds no word.
    """
    forms = '|'.join(map(_any_number, spoken_forms(name)))
    if not forms:
        raise UsageError(f'class name {name!r} has no word that a caption could contain.')
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


class ClassSearch:
    """Finds captions that name a class, as :func:`mentions` does, in a fraction of the time.

    An index of the words that occur in class names leaves a few captions to look at for each class. It takes as long
    as ten to twenty searches without it.

    Args:
        captions: The captions.
        names: Classes that will be asked for.
    """

    def __init__(self, captions: pa.Array | pa.ChunkedArray, names: Iterable[str]) -> None:
        self.captions = captions
        self._place = {word: place for place, word in enumerate(sorted(set().union(*map(_words, names))))}
        whole = pa.chunked_array([captions]) if isinstance(captions, pa.Array) else captions
        self._parts = {
            start: self._index(whole.slice(start, _ROWS_AT_ONCE).combine_chunks())
            for start in range(0, len(whole), _ROWS_AT_ONCE)
        }

    def __call__(self, name: str) -> np.ndarray:
        """Rows whose caption names the class, ascending, int64."""
        forms = _keys(name)
        if not (forms and all(forms) and _words(name) <= self._place.keys()):  # nothing to look up: signs alone, say
            return np.flatnonzero(mentions(self.captions, name))
        found = [min((self._with_any(group) for group in form), key=len) for form in forms]  # the rarest word of each
        rows = np.unique(np.concatenate(found))
        return rows[mentions(self.captions.take(pa.array(rows)), name)] if len(rows) else rows

    def _with_any(self, words: Iterable[str]) -> np.ndarray:
        """Rows that hold one of some words, int64; as often as they do."""
        places = [self._place[word] for word in words]
        return np.concatenate(
            [
                start + part.rows[part.first[place] : part.first[place + 1]].astype(np.int64)
                for start, part in self._parts.items()
                for place in places
            ]
        )

    def _index(self, captions: pa.Array) -> _Part:
        split = pc.split_pattern_regex(pc.utf8_lower(captions), pattern=r'[^\pL\pN]+')
        found = pc.index_in(split.flatten(), value_set=pa.array(list(self._place), pa.string()))
        row = np.repeat(np.arange(len(captions), dtype=np.uint16), pc.list_value_length(split))
        row, word = row[np.asarray(found.is_valid())], np.asarray(found.drop_null())
        order = np.argsort(word, kind='stable')
        return _Part(row[order], np.searchsorted(word[order], np.arange(len(self._place) + 1)))


class _Part(NamedTuple):
    """An index of some captions: their rows, counted from the first of them, ordered by word, uint16."""

    rows: np.ndarray
    first: np.ndarray  # where the rows of each word begin


def _keys(name: str) -> list[list[set[str]]]:
    """Words that a caption must hold to name a class: for each form of the name, of each group one."""
    forms = []
    for words in spoken_forms(name):
        pieces = [re.findall(r'[^\W_]+', word.lower()) for word in words]
        groups = [{piece} for word in pieces for piece in word]
        if pieces[-1]:
            groups[-1] = _singular_and_plurals(pieces[-1][-1])
        forms.append(groups)
    return forms


def _words(name: str) -> set[str]:
    return {word for form in _keys(name) for group in form for word in group}


def _singular_and_plurals(word: str) -> set[str]:
    """A word in the singular and in every plural that :func:`class_pattern` knows."""
    return {word, f'{word}s', f'{word}es'} | ({f'{word[:-1]}ies'} if word.endswith('y') else set())
