"""Read the lists of a JSON file item by item: a file of a gigabyte takes a few megabytes of memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from datamodules.files.text_lines import UNDECODABLE, open_text
from datamodules.usage_error import UsageError

_CHUNK_CHARACTERS = 1 << 20  # read at once
_MAX_ITEM_CHARACTERS = 1 << 25  # a longer item has brackets that do not match
_DECODER = json.JSONDecoder()
_DELIMITERS = tuple(' \t\n\r,:]}')  # what may follow a value; without one, 25 may go on as 25.0
_WHITE_SPACE = re.compile(r'[ \t\n\r]*')
_WHOLE_NUMBER = re.compile(r'\s*(-?[0-9]{1,18})(?:\.0*)?\s*')


def json_items(path: Path, source: str) -> Iterator[tuple[str, Any]]:
    """Yields the items of a JSON list with the key ``''``, or of every list in a JSON object with the list's key.

    Other values of the object are skipped. Memory is that of the largest item and of one chunk.

    Args:
        path: The file, in UTF-8 or UTF-16.
        source: What is read, as ``data.<argument>=<value>``.

    Raises:
        UsageError: If the file is not valid JSON, is neither a list nor an object, is cut off, or goes on after it.
    """
    with open_text(path, source) as file:
        reader = _JsonReader(file, source)
        if reader.expect('[', '{') == '[':
            yield from (('', item) for item in reader.items())
        else:
            yield from reader.members()
        reader.expect_end()


def read_text(item: Any, key: str) -> str | None:
    """Returns the text under a key of a JSON object; ``None`` if there is no text, or bytes of it are not text."""
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, str) or UNDECODABLE in value:
        return None
    return value.encode('utf-8', 'replace').decode()  # lone surrogates cannot be written


def read_list(item: Any, key: str) -> list[Any]:
    """Returns the list under a key of a JSON object; an empty one if there is none."""
    value = item.get(key) if isinstance(item, dict) else None
    return value if isinstance(value, list) else []


def read_id(item: Any, *keys: str) -> int | str | None:
    """Returns an identifier under the first of some keys that a JSON object has; ``None`` if it is none.

    Tools write the same identifier as a number, a fraction or a text.

    Example:
        >>> [read_id({'id': value}, 'id') for value in (7, 7.0, '7', ' 7.0', 'a7', True, None)]
        [7, 7, 7, 7, 'a7', None, None]
    """
    value = next((item[key] for key in keys if key in item), None) if isinstance(item, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return int(number[1]) if (number := _WHOLE_NUMBER.fullmatch(value)) else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class _Decoded(NamedTuple):
    """A value and the position after it, or the error and its position."""

    value: Any
    position: int
    error: str | None = None


class _JsonReader:
    """A JSON file, of which only the part that is being read is in memory."""

    def __init__(self, file: IO[str], source: str) -> None:
        self.file, self.source = file, source
        self.buffer, self.position = '', 0  # text in memory, and how much of it has been consumed
        self.discarded = 0  # characters of the file before the buffer

    def items(self) -> Iterator[Any]:
        """Yields the items of a list whose opening bracket has been consumed."""
        if self.peek() == ']':
            self.expect(']')
            return
        more = True
        while more:
            yield self.read_value()
            more = self.expect(',', ']') == ','

    def members(self) -> Iterator[tuple[str, Any]]:
        """Yields key and item for the lists in an object whose opening brace has been consumed."""
        if self.peek() == '}':
            self.expect('}')
            return
        more = True
        while more:
            key = self.read_value()
            self.expect(':')
            if self.peek() == '[':
                self.expect('[')
                yield from ((str(key), item) for item in self.items())
            else:
                self.read_value()
            more = self.expect(',', '}') == ','

    def peek(self) -> str:
        """Skips white space and returns the next character without consuming it; empty at the end of the file."""
        while True:
            space = _WHITE_SPACE.match(self.buffer, self.position)
            assert space is not None
            self.position = space.end()
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._read_chunk():
                return ''

    def expect(self, *characters: str) -> str:
        """Consumes the next character, which must be one of these."""
        character = self.peek()
        if character not in characters:
            raise self._error(f'{" or ".join(characters)} expected', self.position)
        self.position += 1
        return character

    def expect_end(self) -> None:
        """Checks that nothing follows, such as a second file that was appended to the first."""
        if self.peek():
            raise self._error('end of the file expected', self.position)

    def read_value(self) -> Any:
        """Consumes the next value; one that may go on beyond the buffer is decoded again with more of the file."""
        self.peek()
        while True:
            decoded = self._decode()
            complete = decoded.error is None and self.buffer[decoded.position : decoded.position + 1] in _DELIMITERS
            too_long = len(self.buffer) - self.position > _MAX_ITEM_CHARACTERS
            if complete or too_long or not self._read_chunk():
                break
        if decoded.error is not None:
            raise self._error(decoded.error, decoded.position)
        self.position = decoded.position
        return decoded.value

    def _decode(self) -> _Decoded:
        try:
            return _Decoded(*_DECODER.raw_decode(self.buffer, self.position))
        except json.JSONDecodeError as error:
            return _Decoded(None, error.pos, error.msg)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
            return _Decoded(None, self.position, str(error))

    def _read_chunk(self) -> bool:
        """Discards what has been consumed and reads at least as much as is left; false at the end of the file."""
        left = self.buffer[self.position :]
        more = self.file.read(max(_CHUNK_CHARACTERS, len(left)))
        if more:
            self.discarded += self.position
            self.buffer, self.position = left + more, 0
        return bool(more)

    def _error(self, reason: str, position: int) -> UsageError:
        return UsageError(
            f'{self.source} is not valid JSON: {reason} at character {self.discarded + position:,}; download it again.'
        )
