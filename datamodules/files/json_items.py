"""Lists in JSON files, item by item: a file of a gigabyte takes a few megabytes of memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from datamodules.usage_error import UsageError

_CHUNK = 1 << 20  # characters that are read at once
_LARGEST = 1 << 25  # characters of an item; what goes on for longer has brackets that do not match
_DECODER = json.JSONDecoder()
_ENDS = tuple(' \t\n\r,:]}')  # what may follow a value; 25 may go on as 25.0
_SPACE = re.compile(r'[ \t\n\r]*')


def json_items(path: Path, source: str) -> Iterator[tuple[str, Any]]:
    """Items of a file's list, each under the key ``''``, or of all lists of its object, each under the list's key.

    Other values of the object are passed over. Memory is that of the largest item and of one chunk.

    Args:
        path: The file, in UTF-8.
        source: What is read, as ``data.<argument>=<value>``.

    Raises:
        UsageError: If the file is no JSON, is neither list nor object, or breaks off.
    """
    with path.open(encoding='utf-8-sig', errors='replace') as file:
        text = _Text(file, source)
        if text.take('[', '{') == '[':
            yield from (('', item) for item in text.items())
        else:
            yield from text.members()


def field(item: Any, key: str, kinds: type | tuple[type, ...], source: str) -> Any:
    """A value of an object; a string in a form that can be written as UTF-8.

    Raises:
        UsageError: If the item is no object, or has no such value.
    """
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, kinds):
        raise UsageError(
            f'{source} holds an item without {key!r}, {repr(item)[:80]}: it is not the published file of that name, '
            f'see docs/data.md.'
        )
    return value.encode('utf-8', 'replace').decode() if isinstance(value, str) else value  # lone surrogates


class _Decoded(NamedTuple):
    """A value and where its text ends, or what is wrong and where."""

    value: Any
    place: int
    fault: str | None = None


class _Text:
    """A JSON file of which only the part that is being read is in memory."""

    def __init__(self, file: IO[str], source: str) -> None:
        self.file, self.source = file, source
        self.held, self.at = '', 0  # text in memory, and how much of it has been taken
        self.before = 0  # characters that have been let go

    def items(self) -> Iterator[Any]:
        """Items of a list whose bracket has been taken."""
        if self.next() == ']':
            self.take(']')
            return
        more = True
        while more:
            yield self.value()
            more = self.take(',', ']') == ','

    def members(self) -> Iterator[tuple[str, Any]]:
        """Items of the lists in an object whose brace has been taken, under their keys."""
        more = self.next() != '}'
        while more:
            key = self.value()
            self.take(':')
            if self.next() == '[':
                self.take('[')
                yield from ((str(key), item) for item in self.items())
            else:
                self.value()
            more = self.take(',', '}') == ','

    def next(self) -> str:
        """The next character that is no white space, which stays; empty at the end of the file."""
        while True:
            space = _SPACE.match(self.held, self.at)
            assert space is not None
            self.at = space.end()
            if self.at < len(self.held):
                return self.held[self.at]
            if not self._read_on():
                return ''

    def take(self, *expected: str) -> str:
        """Takes the next character, which must be one of some."""
        found = self.next()
        if found not in expected:
            raise self._fault(f'{" or ".join(expected)} expected', self.at)
        self.at += 1
        return found

    def value(self) -> Any:
        """Takes the next value; what may go on behind the text in memory is decoded again with more of it."""
        self.next()
        while True:
            found = self._decoded()
            whole = found.fault is None and self.held[found.place : found.place + 1] in _ENDS
            if whole or len(self.held) - self.at > _LARGEST or not self._read_on():
                break
        if found.fault is not None:
            raise self._fault(found.fault, found.place)
        self.at = found.place
        return found.value

    def _decoded(self) -> _Decoded:
        try:
            return _Decoded(*_DECODER.raw_decode(self.held, self.at))
        except json.JSONDecodeError as error:
            return _Decoded(None, error.pos, error.msg)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
            return _Decoded(None, self.at, str(error))

    def _read_on(self) -> bool:
        """Lets go what has been taken, and reads at least as much as is left; false at the end of the file."""
        left = self.held[self.at :]
        more = self.file.read(max(_CHUNK, len(left)))
        if more:
            self.before += self.at
            self.held, self.at = left + more, 0
        return bool(more)

    def _fault(self, reason: str, place: int) -> UsageError:
        return UsageError(
            f'{self.source} is no whole JSON: {reason} at character {self.before + place:,}; download it again.'
        )
