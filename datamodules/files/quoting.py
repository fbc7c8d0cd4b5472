"""Quotes text that comes from data, so that a log or a terminal shows it instead of obeying it."""

from __future__ import annotations

_MAX_CHARACTERS = 200
_LAST_CHARACTERS = 50  # kept of a longer text, because paths differ at the end


def quote(text: object) -> str:
    r"""Quotes text as Python writes it, with escapes, line breaks and invisible characters spelled out.

    Of a text of more than 200 characters, the middle is left out.

    Example:
        >>> print(quote('cat\x1b[2J.png'))
        'cat\x1b[2J.png'
        >>> len(quote('a' * 1_000_000))
        205
    """
    text = str(text)
    if len(text) > _MAX_CHARACTERS:
        text = f'{text[: _MAX_CHARACTERS - _LAST_CHARACTERS]}...{text[-_LAST_CHARACTERS:]}'
    return repr(text)


def spell_out(message: str) -> str:
    r"""Spells out what a terminal would obey in a whole message, whoever wrote the parts of it.

    Example:
        >>> print(spell_out('no class cat\x1b[2J'))
        no class cat\x1b[2J
    """
    return ''.join(each if each.isprintable() else repr(each)[1:-1] for each in message)
