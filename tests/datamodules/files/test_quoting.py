from __future__ import annotations

import pytest

from datamodules.files.quoting import quote


@pytest.mark.parametrize(
    ('text', 'quoted'),
    [
        ('cats/1.png', "'cats/1.png'"),
        ('naïve 犬', "'naïve 犬'"),
        ('\x1b[2J\nERROR forged\r', r"'\x1b[2J\nERROR forged\r'"),
        ('\u202egnp.exe', r"'\u202egnp.exe'"),
        ('caf\udce9.png', r"'caf\udce9.png'"),
    ],
)
def test_shows_what_a_terminal_would_obey(text: str, quoted: str) -> None:
    assert quote(text) == quoted


def test_leaves_out_the_middle_of_a_long_text() -> None:
    quoted = quote('a' * 10_000_000 + '/cat.png')
    assert len(quoted) < 210 and quoted.endswith("/cat.png'")
