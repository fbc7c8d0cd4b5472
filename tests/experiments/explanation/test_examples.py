from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError
from experiments.explanation.examples import draw_examples, words_in
from tests.helpers.tiny import CONTEXT_LENGTH, IMAGE_SIZE, TinyPairs


class SeveralCaptions(TinyPairs):
    """Holds out pictures with seven captions each, which are not beside each other."""

    def load_heldout(self) -> PairTable | None:
        table = super().load_heldout()
        assert table is not None
        rows = np.tile(np.arange(len(table)), 7)
        named = [f'a dog {word}' for word in 'abcdefg' for _ in range(len(table))]
        return PairTable(table.image.take(pa.array(rows)), named, table.label[rows], table.classes, opener=table.opener)


def data(tmp_path: Path, **settings: object) -> SeveralCaptions:
    sizes = {'image_size': IMAGE_SIZE, 'context_length': CONTEXT_LENGTH, 'cache_dir': str(tmp_path / 'cache')}
    pairs = SeveralCaptions(**{**sizes, **settings})
    pairs.adapt_to(None)
    return pairs


def test_draws_ten_pictures_with_five_captions_each(tmp_path: Path) -> None:
    drawn = draw_examples(data(tmp_path, heldout_rows=12), seed=0)
    assert drawn.picture.shape == (10, 3, IMAGE_SIZE, IMAGE_SIZE) == drawn.image.shape
    assert len(np.unique(drawn.picture, axis=0)) == 10
    assert drawn.owner.tolist() == np.repeat(np.arange(10), 5).tolist()
    assert drawn.first_caption(3).tolist() == [0, 5, 10]
    assert [words_in(tokens) for tokens in drawn.tokens[5:10]] == [['a', 'dog', word] for word in 'abcde']
    other = draw_examples(data(tmp_path, heldout_rows=12), seed=1)
    assert not np.array_equal(drawn.picture, other.picture)


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='explain shows 10 held-out pictures, and SeveralCaptions holds out 9'):
        draw_examples(data(tmp_path, heldout_rows=9), seed=0)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'1:4 cannot be read: draw other pictures with another seed'):
        draw_examples(data(tmp_path, heldout_rows=10, broken_heldout=[4]), seed=0)
