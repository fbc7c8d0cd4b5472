"""Suggests what a misspelled word was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near_names(word: str, known: Iterable[str], count: int = 2) -> list[str]:
    """The known names that a word resembles, the most similar first, whatever their case."""
    by_lower = {name.lower(): name for name in known}
    return [by_lower[lower] for lower in get_close_matches(word.lower(), by_lower, count)]


def find_similar(word: str, known: Iterable[str]) -> str:
    """The hint ``did you mean ...?``, or all choices if none is similar."""
    names = list(known)
    similar = near_names(word, names)
    return f'did you mean {" or ".join(similar)}?' if similar else f'choose from {", ".join(names)}.'
