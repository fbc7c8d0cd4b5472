from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from datamodules.pictures.batches import CLEAN, OverlaidPictures, PairBatch, PairDataset
from datamodules.pictures.cache import DecodedPictures
from datamodules.rows.partition import Draw
from datamodules.text.tokenizer import WordTokenizer
from tests.helpers.tiny import CONTEXT_LENGTH, tiny_table

TABLE = tiny_table(10, 3, seed=0)
TOKENIZER = WordTokenizer(CONTEXT_LENGTH)


def shades(*values: int) -> np.ndarray:
    """Pictures of a single shade each, uint8 (n, 3, 2, 2)."""
    return np.tile(np.array(values, np.uint8)[:, None, None, None], (1, 3, 2, 2))


class KeyAsCaption:
    """Rewrites a caption into its key."""

    def __call__(self, caption: str, *, key: tuple[int, ...]) -> str:
        return ' '.join(map(str, key))


def dataset(views: dict[str, int], epoch: int = 5, rewrite: bool = True, **kwargs: Any) -> PairDataset:
    images = OverlaidPictures(DecodedPictures(TABLE, 8))
    tokens = np.stack([TOKENIZER(caption) for caption in TABLE.captions(range(10))]).astype(np.uint16)
    captions = (KeyAsCaption() if rewrite else None,)
    return PairDataset(TABLE, images, TOKENIZER, tokens, captions, views, seed=7, epoch=epoch, **kwargs)


class TestOverlaidPictures:
    def test_overlays_replace_clean_pictures_and_follow_them(self) -> None:
        images = OverlaidPictures(shades(0, 1, 2, 3), [(np.array([5, 1, 4]), shades(100, 101, 102))])
        assert images(np.array([0, 1, 2, 3, 4, 5, 1]))[:, 0, 0, 0].tolist() == [0, 101, 2, 3, 102, 100, 101]

    def test_a_later_overlay_wins(self) -> None:
        overlays = [(np.array([0, 2]), shades(100, 101)), (np.array([2, 4]), shades(200, 201))]
        images = OverlaidPictures(shades(0, 1, 2, 3), overlays)
        assert images(np.arange(5))[:, 0, 0, 0].tolist() == [100, 1, 200, 3, 201]
        assert [images.is_overlaid(row) for row in range(5)] == [True, False, True, False, True]

    def test_does_not_open_a_clean_picture_that_is_replaced(self) -> None:
        table = tiny_table(4, 2, seed=0)
        images = OverlaidPictures(DecodedPictures(table, 2), [(np.array([1]), shades(100))])
        images(np.array([0, 1]))
        assert table.opener.opened == ['0:0']

    def test_returns_writable_arrays(self) -> None:
        images = OverlaidPictures(shades(0, 1), [(np.empty(0, np.int64), shades())])
        assert images(np.array([1, 0])).flags.writeable


class TestBatch:
    def test_fields_do_not_reveal_poisons(self) -> None:
        # A defense that could see whether a pair is poisoned would prove nothing.
        assert PairBatch._fields == ('image', 'tokens', 'row', 'cross_modal', 'epoch')

    def test_shapes_and_types(self) -> None:
        batch = dataset({'cross_modal': 2})[Draw(np.array([4, 0, 9]), 3)]
        assert (batch.image.shape, batch.image.dtype) == ((3, 3, 8, 8), torch.uint8)
        assert (batch.tokens.shape, batch.tokens.dtype) == ((2, 3, CONTEXT_LENGTH), torch.int64)
        assert (batch.row.tolist(), batch.row.dtype) == ([4, 0, 9], torch.int64)
        assert (batch.cross_modal, batch.epoch) == (3, 5)

    @pytest.mark.parametrize(('safe', 'views'), [(3, 1), (0, 2), (1, 2)])
    def test_number_of_views_is_the_largest_of_its_sides(self, safe: int, views: int) -> None:
        assert len(dataset({'cross_modal': 1, 'within_modal': 2})[Draw(np.arange(3), safe)].tokens) == views

    def test_rewritten_captions_depend_on_seed_epoch_row_and_view(self) -> None:
        batch = dataset({'within_modal': 2})[Draw(np.array([4, 0]), 0)]
        for view in range(2):
            for position, row in enumerate((4, 0)):
                assert batch.tokens[view, position].tolist() == TOKENIZER(f'7 5 {row} {view}').tolist()

    def test_an_original_caption_can_be_beside_a_rewritten_one(self) -> None:
        pairs = dataset({'cross_modal': 3})
        pairs.caption_views = (None, KeyAsCaption())
        original, rewritten, third = pairs[Draw(np.array([4]), 1)].tokens[:, 0].tolist()
        assert original == third == TOKENIZER(TABLE.captions([4])[0]).tolist()
        assert rewritten == TOKENIZER('7 5 4 1').tolist()

    @pytest.mark.parametrize('how', [{'epoch': CLEAN}, {'rewrite': False}])
    def test_captions_are_unchanged_when_clean(self, how: dict[str, Any]) -> None:
        batch = dataset({'cross_modal': 2}, **how)[Draw(np.array([4, 0]), 2)]
        for view in range(2):
            for position, row in enumerate((4, 0)):
                assert batch.tokens[view, position].tolist() == TOKENIZER(TABLE.captions([row])[0]).tolist()
