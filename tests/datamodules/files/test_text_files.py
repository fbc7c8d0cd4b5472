from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from datamodules.files.text_files import MAX_TEXT_BYTES, TextFiles


def test_counts_what_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / 'root/folder.txt').mkdir(parents=True)
    (tmp_path / 'root/ok.txt').write_text('a dog')
    (tmp_path / 'secret').touch()
    (tmp_path / 'root/out.txt').symlink_to('../secret')
    (tmp_path / 'root/circle.txt').symlink_to('circle.txt')
    os.mkfifo(tmp_path / 'root/fifo.txt')
    with (tmp_path / 'root/large.txt').open('wb') as file:
        file.truncate(300 << 20)
    texts = TextFiles(os.path.realpath(tmp_path / 'root'))
    names = ('folder', 'absent', 'ok', 'out', 'circle', 'fifo', 'large')
    read = [texts.read(tmp_path / 'root' / f'{name}.txt') for name in names]
    assert read == [None, None, b'a dog', None, None, None, None]
    with caplog.at_level(logging.WARNING):
        texts.warn('data.root')
    first = str(tmp_path / 'root/folder.txt')
    assert caplog.messages == [
        f'data.root: 5 text files are not read (3 not a file, 1 outside, 1 too large); first: {first!r}'
    ]


def test_any_content_under_any_name_is_read_or_not(tmp_path: Path) -> None:
    rng, texts = np.random.default_rng(0), TextFiles(os.path.realpath(tmp_path))
    for _ in range(100):
        name = os.fsdecode(rng.bytes(rng.integers(1, 300)).replace(b'/', b'_'))
        content = rng.bytes(rng.integers(0, 50))
        try:
            (tmp_path / name).write_bytes(content)
        except (OSError, ValueError):
            content = b''
        assert (texts.read(tmp_path / name) or b'') == content
    assert texts.read(tmp_path / 'lone \ud800 surrogate') is None
    assert MAX_TEXT_BYTES < 1 << 24
