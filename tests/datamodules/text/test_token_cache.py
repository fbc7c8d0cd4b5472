from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.text import token_cache
from datamodules.text.token_cache import stored_tokens
from datamodules.text.tokenizer import WordTokenizer
from tests.helpers.tiny import tiny_table


def test_another_tokenizer_version_or_length_makes_other_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, tokenizer, changed = tiny_table(3, 2, seed=0), WordTokenizer(8), WordTokenizer(8)
    monkeypatch.setattr(changed, '_clean', str.upper)  # used for captions with special characters only
    first = stored_tokens(table, tokenizer, tmp_path)
    assert np.array_equal(stored_tokens(table, WordTokenizer(8), tmp_path), first)
    assert len(list(tmp_path.iterdir())) == 1
    stored_tokens(table, changed, tmp_path)
    stored_tokens(table, WordTokenizer(9), tmp_path)
    monkeypatch.setattr(token_cache, '_VERSION', 0)
    stored_tokens(table, tokenizer, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
