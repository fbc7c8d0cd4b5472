"""The caption and the metadata of a sample, as img2dataset writes them beside a picture."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Mapping
from typing import Any

MAX_TEXT_BYTES = 1 << 20  # of a caption or its metadata; larger files are not captions
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def choose_caption(text: bytes | None, metadata: Mapping[str, Any], key: str | None = None) -> str | None:
    """Takes the caption of a sample; ``None`` if it has none, or its ``.txt`` file is not text in UTF-8 or UTF-16.

    Args:
        text: Content of its ``.txt`` file.
        metadata: Its metadata.
        key: Key of the captions in the metadata. By default, the text counts and, where there is none, ``caption`` in
            the metadata.
    """
    if key is None and text is not None:
        return _decode(text)
    return text_under(metadata, 'caption' if key is None else key)


def _decode(text: bytes) -> str | None:
    """Decodes a caption; ``None`` if it is no text, such as Latin-1, or UTF-16 without a mark."""
    try:
        caption = text.decode('utf-16' if text.startswith(_UTF16) else 'utf-8-sig')
    except UnicodeDecodeError:
        return None
    return None if '\0' in caption else caption


def parse_metadata(content: bytes | None) -> dict[str, Any]:
    """Parses the JSON object of a sample; empty if it is malformed."""
    try:
        metadata = json.loads(content or b'{}')
    except (ValueError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def text_under(metadata: Mapping[str, Any], key: str) -> str | None:
    """Returns the string or number under a key as text, ``None`` if there is no such value.

    Example:
        >>> text_under({'caption': 'a dog', 'class': 7}, 'class')
        '7'
    """
    value = metadata.get(key)
    is_text = isinstance(value, str | int | float) and not isinstance(value, bool)
    if isinstance(value, float) and not math.isfinite(value):  # pandas writes NaN where there is no caption
        return None
    return str(value).encode('utf-8', 'replace').decode() if is_text else None  # UTF-8 cannot encode lone surrogates
