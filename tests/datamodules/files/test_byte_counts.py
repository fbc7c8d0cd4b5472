from __future__ import annotations

import pytest

from datamodules.files.byte_counts import format_bytes


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
