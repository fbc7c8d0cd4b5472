"""Which captions name which of many classes: captions are read once, not once for each class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.captions import mentions, spoken_forms

_ROWS_AT_ONCE = 1 << 16  # so that 16 bits number them


class ClassSearch:
    """Finds captions that name a class, as :func:`datamodules.captions.mentions` does, in a fraction of the time.

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
            groups[-1] = _any_number(pieces[-1][-1])
        forms.append(groups)
    return forms


def _words(name: str) -> set[str]:
    return {word for form in _keys(name) for group in form for word in group}


def _any_number(word: str) -> set[str]:
    """A word in the singular and in every plural that :func:`datamodules.captions.class_pattern` knows."""
    return {word, f'{word}s', f'{word}es'} | ({f'{word[:-1]}ies'} if word.endswith('y') else set())
