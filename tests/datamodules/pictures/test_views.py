from __future__ import annotations

import pytest
import torch

from datamodules.pictures.augment import CleanView, SimCLRViews
from datamodules.pictures.batches import CLEAN, PairBatch
from datamodules.pictures.views import as_makers, as_rewriters, check_views, clean_view, make_views
from datamodules.text.eda import EDA
from datamodules.usage_error import UsageError

PICTURES = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def batch(views: int, epoch: int = 2) -> PairBatch:
    return PairBatch(PICTURES, torch.zeros(views, 3, 1, dtype=torch.int64), torch.arange(3), 3, epoch)


class TestMakeViews:
    def test_one_maker_makes_different_views(self) -> None:
        views = make_views(batch(2), as_makers(SimCLRViews()), 8, seed=0)
        assert views.shape == (2, 3, 3, 8, 8)
        assert not torch.equal(views[0], views[1])

    def test_a_clean_view_can_be_beside_an_augmented_one(self) -> None:
        clean, augmented = make_views(batch(2), as_makers([CleanView(), SimCLRViews()]), 8, seed=0)
        assert torch.equal(clean, clean_view(PICTURES, 8))
        assert torch.equal(augmented, make_views(batch(2), as_makers(SimCLRViews()), 8, seed=0)[1])

    def test_a_clean_batch_is_not_augmented(self) -> None:
        (view,) = make_views(batch(1, CLEAN), as_makers(SimCLRViews()), 8, seed=0)
        assert torch.equal(view, clean_view(PICTURES, 8))

    def test_makers_take_turns_if_a_sweep_reads_more_views(self) -> None:
        views = make_views(batch(3), as_makers([CleanView(), SimCLRViews()]), 8, seed=0)
        assert torch.equal(views[0], views[2])
        assert not torch.equal(views[0], views[1])


class TestMakers:
    def test_none_gives_clean_views(self) -> None:
        (maker,) = as_makers(None)
        assert isinstance(maker, CleanView)

    def test_refuses_an_empty_list_and_one_of_another_length(self) -> None:
        with pytest.raises(UsageError, match=r'data.image_views is an empty list'):
            as_makers([])
        check_views(as_makers(SimCLRViews()), 2, 'data.image_views')
        with pytest.raises(UsageError, match=r'data.image_views has 3 entries, but some epochs train on 2 views: '):
            check_views(as_makers([CleanView()] * 3), 2, 'data.image_views')

    def test_captions_take_one_rewriter_or_one_for_each_view(self) -> None:
        rewrite = EDA()
        assert as_rewriters(None) == (None,)
        assert as_rewriters(rewrite) == (rewrite,)
        assert as_rewriters([None, rewrite]) == (None, rewrite)
        with pytest.raises(UsageError, match=r'data.caption_views is an empty list'):
            as_rewriters([])
