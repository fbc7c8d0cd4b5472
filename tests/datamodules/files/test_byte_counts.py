from __future__ import annotations

import pytest

from datamodules.files.byte_counts import format_bytes, parse_bytes
from datamodules.usage_error import UsageError


@pytest.mark.parametrize(
    ('count', 'text'),
    [
        (0, '0 bytes'),
        (999, '999 bytes'),
        (1536, '1.54 kB'),
        (450e9, '450 GB'),
        (3.2e12, '3.2 TB'),
        (2.5e15, '2,500.0 TB'),
    ],
)
def test_bytes_have_a_readable_unit(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(('value', 'count'), [(7, 7), ('7', 7), ('1.5 kb', 1500), ('200GB', 200 * 10**9), (None, None)])
def test_reads_bytes_with_a_unit(value: int | str | None, count: int | None) -> None:
    assert parse_bytes(value, 'data.cache_limit') == count


@pytest.mark.parametrize('value', ['much', '1.2.3', '0', -1, '5 GiB', '1e999'])
def test_refuses_what_is_no_number_of_bytes(value: int | str) -> None:
    with pytest.raises(UsageError, match=r'data\.cache_limit=.* is no number of bytes: write it as in 200GB'):
        parse_bytes(value, 'data.cache_limit')
