"""The words that captions end with: in English nearly always a noun that the picture shows."""

from __future__ import annotations

import pyarrow.compute as pc

from datamodules.rows.table import Strings

_LAST_WORD = r'(?P<word>\pL{3,})[^\pL\pN]*$'
_ARTICLE = r'(?:^|[^\pL\pN])(?:an?|the)\s+'


def last_words(captions: Strings, at_least: int, at_most: int, after_article: bool = True) -> list[str]:
    """Finds the words that end many captions but not most of them, in alphabetical order and lower case.

    A template such as "a photo of a {}" ends with the class, a sentence such as "two boys play in the water" with a
    thing that is in the picture. So no list of classes or of stop words is needed.

    Args:
        captions: The captions.
        at_least: Fewest captions that a word must end.
        at_most: Most captions that it may end.
        after_article: Count only captions in which "a", "an" or "the" stands before the word, so that verbs, adverbs
            and pronouns are left out. Captions in other languages, or without sentences, may have none.

    Example:
        >>> import pyarrow as pa
        >>> last_words(pa.array(['He sees a boat.', 'the boat', 'a cat', 'a ship near him']), at_least=2, at_most=3)
        ['boat']
    """
    pattern = _ARTICLE + _LAST_WORD if after_article else _LAST_WORD
    found = pc.struct_field(pc.extract_regex(pc.utf8_lower(captions), pattern), 'word')
    counted = pc.value_counts(pc.drop_null(found)).to_pylist()
    return sorted(each['values'] for each in counted if at_least <= each['counts'] <= at_most)
