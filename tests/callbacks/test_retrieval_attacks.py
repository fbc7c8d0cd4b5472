from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from callbacks.intervals import wilson_interval
from callbacks.retrieval_attacks import Attacked, AttackedPictures, CaptionPool, measure_success
from callbacks.sweep import Embeddings
from datamodules.evaluation.sets import EvalBatch
from datamodules.pictures.images import ArrayImages
from datamodules.rows.table import PairTable

CLASSES = ('dog', 'boat', 'hot dog')
CAPTIONS = ['a dog', 'two boats', 'a hot dog', 'a DOG on a boat', 'the sea', 'a dogma']
NO_PICTURES = ArrayImages(np.zeros((1, 8, 8, 3), np.uint8))
DOG, BOAT, HOT_DOG = range(3)


def pool(image: Tensor, text: Tensor, captions: list[str] = CAPTIONS, label: list[int] | None = None) -> CaptionPool:
    """A picture for each caption, labeled by CLASSES if at all."""
    names = [f'{row}.jpg' for row in range(len(captions))]
    pairs = PairTable(names, captions, label, CLASSES if label else (), opener=NO_PICTURES)
    return CaptionPool(pairs, Embeddings(image.numpy(), text.numpy()), np.arange(len(captions)), CLASSES)


def of_own_captions(**kwargs: object) -> CaptionPool:
    """Pictures and captions in one dimension each: every picture finds its own caption."""
    return pool(torch.eye(6), torch.eye(6), **kwargs)  # type: ignore[arg-type]


def attacked(image: Tensor, target: list[int]) -> Attacked:
    return Attacked(image, torch.tensor(target))


class TestPool:
    def test_a_caption_names_a_class_by_its_words(self) -> None:
        named = {target: np.flatnonzero(of_own_captions().names(target)).tolist() for target in (DOG, BOAT, HOT_DOG)}
        assert named == {DOG: [0, 3], BOAT: [1, 3], HOT_DOG: [2]}

    def test_a_picture_shows_a_class_by_any_caption_or_its_label(self) -> None:
        several = pool(torch.eye(6), torch.eye(6), label=[-1, -1, -1, -1, BOAT, DOG])
        several.picture = np.array([0, 0, 1, 1, 2, 3])
        several.image = torch.eye(4)
        assert several.shows(BOAT).tolist() == [True, True, True, False]
        assert several.shows(DOG).tolist() == [True, True, False, True]


class TestSuccess:
    def test_is_a_caption_that_names_the_target(self) -> None:
        pictures = torch.eye(6)[[1, 3, 4, 4]]  # that find a boat, a boat, the sea and the sea
        measured = measure_success(attacked(pictures, [BOAT] * 4), of_own_captions())
        assert (measured['rate'], measured['hits'], measured['n']) == (0.5, 2, 4)
        assert (measured['low'], measured['high']) == wilson_interval(2, 4)

    def test_is_compared_with_clean_pictures_that_do_not_show_the_target(self) -> None:
        image = torch.eye(6)[[0, 1, 2, 3, 1, 5]]  # the picture of the sea finds two boats
        measured = measure_success(attacked(torch.eye(6)[:1], [BOAT]), pool(image, torch.eye(6)))
        assert measured['clean'] == pytest.approx(1 / 4)  # of 0, 2, 4, 5
        assert (measured['recall'], measured['recall_n']) == (1, 2)

    def test_weights_the_clean_rates_of_several_targets_by_their_pictures(self) -> None:
        image = torch.eye(6)[[0, 1, 2, 3, 1, 5]]
        measured = measure_success(
            attacked(torch.eye(6)[[0, 0, 0]], [BOAT, HOT_DOG, HOT_DOG]), pool(image, torch.eye(6))
        )
        assert measured['clean'] == pytest.approx((1 / 4 + 0 + 0) / 3)
        assert (measured['recall'], measured['recall_n']) == (1, 3)

    @pytest.mark.parametrize('top', [1, 2, 5])
    def test_equals_counting_one_by_one(self, top: int) -> None:
        torch.manual_seed(0)
        image, text, pictures = (normalize(torch.randn(rows, 4), dim=-1) for rows in (6, 6, 50))
        target = np.random.default_rng(0).integers(0, 3, 50).tolist()
        named = {DOG: {0, 3}, BOAT: {1, 3}, HOT_DOG: {2}}
        best = (pictures @ text.T).argsort(1, descending=True)[:, :top].tolist()
        hits = sum(bool(named[aim] & set(found)) for aim, found in zip(target, best, strict=True))
        assert measure_success(attacked(pictures, target), pool(image, text), top)['hits'] == pytest.approx(hits)

    def test_a_collapsed_model_reaches_what_chance_does(self) -> None:
        ones = torch.ones(6, 2)
        measured = measure_success(attacked(torch.ones(4, 2), [BOAT] * 4), pool(ones, ones))
        assert measured['rate'] == measured['clean'] == pytest.approx(2 / 6)

    def test_a_diverged_model_has_none(self) -> None:
        nothing = torch.full((6, 2), torch.nan)
        assert measure_success(attacked(nothing, [BOAT] * 6), pool(nothing, nothing))['rate'] == 0

    def test_is_not_measured_for_a_target_that_no_caption_names(self, caplog: pytest.LogCaptureFixture) -> None:
        captions = ['a dog', 'a cat', 'the sea', 'a house', 'a tree', 'a man']
        with caplog.at_level('INFO'):
            measured = measure_success(
                attacked(torch.eye(6)[:3], [DOG, BOAT, BOAT]), of_own_captions(captions=captions)
            )
            assert (measured['rate'], measured['n']) == (1, 1)
            assert not measure_success(attacked(torch.eye(6)[:1], [BOAT]), of_own_captions(captions=captions))
        assert 'no held-out caption names boat' in caplog.text


def test_pictures_that_show_the_target_or_pad_a_batch_do_not_count() -> None:
    label, target, valid = torch.tensor([DOG, BOAT, -1]), torch.tensor([BOAT] * 3), torch.tensor([True, True, False])
    pictures = AttackedPictures()
    pictures.add(1, torch.eye(3), EvalBatch(torch.zeros(3), label, target, valid))

    class OneProcess:
        def all_gather(self, tensor: Tensor) -> Tensor:
            return tensor

    gathered = pictures.gather(OneProcess())  # type: ignore[arg-type]
    assert gathered[1].image.tolist() == [[1, 0, 0]] and gathered[1].target.tolist() == [BOAT]
