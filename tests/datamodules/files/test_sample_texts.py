from __future__ import annotations

import pytest

from datamodules.files.sample_texts import choose_caption, parse_metadata, text_under


@pytest.mark.parametrize(
    ('metadata', 'text'),
    [
        (b'{"a": "b"}', 'b'), (b'{"a": 3}', '3'), (b'{"a": 1.0}', '1.0'), (b'{"a": "\\ud800"}', '?'), (b'[1]', None),
        (b'{"a": true}', None), (b'{"a": ["b"]}', None), (b'{}', None), (None, None), (b'\xff', None), (b'"a"', None),
        (b'[' * 100_000, None), (b'{"a": NaN}', None), (b'{"a": 1e999}', None), (b'{"a": ' + b'9' * 5000 + b'}', None),
    ],
)  # fmt: skip
def test_only_text_and_numbers_are_taken_from_metadata(metadata: bytes | None, text: str | None) -> None:
    assert text_under(parse_metadata(metadata), 'a') == text


def test_a_text_counts_before_the_metadata_unless_a_key_is_named() -> None:
    metadata = {'caption': 'a dog', 'alt': 'an ox'}
    assert choose_caption(b'a cat', metadata) == 'a cat'
    assert choose_caption(None, metadata) == 'a dog'
    assert choose_caption(b'a cat', metadata, 'alt') == 'an ox'
    assert choose_caption(b'a cat', {}, 'alt') is None


@pytest.mark.parametrize('text', [b'caf\xe9', 'a dog'.encode('utf-16-le'), b'a\0dog', b'\xff\xfea'])
def test_a_file_that_is_not_text_is_no_caption(text: bytes) -> None:
    assert choose_caption(text, {'caption': 'another'}) is None
