from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from callbacks import retrieval_ranks
from callbacks.retrieval_ranks import (
    Ranks,
    hit_rate,
    mean_rank,
    rank_both_ways,
    rank_quantile,
    right_captions,
    tied_share,
)

NEAREST = (1, 5, 10)


def both(image: Tensor, text: Tensor, picture: list[int] | np.ndarray, meaning: object = None) -> tuple[Ranks, Ranks]:
    """Ranks of true answers; every caption says something else unless ``meaning`` tells."""
    meaning = np.arange(len(text)) if meaning is None else np.array(meaning)
    return rank_both_ways(image, text, right_captions(np.array(picture), meaning), np.arange(len(image))[None])


def from_scores(scores: list[list[float]], picture: list[int], meaning: object = None) -> tuple[Ranks, Ranks]:
    """Ranks for similarities of pictures (rows) and captions (columns)."""
    image = torch.tensor(scores)
    return both(image, torch.eye(image.shape[1]), picture, meaning)


def rates(ranks: Ranks) -> list[float]:
    return [float(hit_rate(ranks, k)) for k in NEAREST]


def five_captions(pictures: int) -> np.ndarray:
    return np.repeat(np.arange(pictures), 5)


@pytest.fixture(scope='module')
def of_random() -> tuple[Ranks, Ranks]:
    torch.manual_seed(0)
    image, text = (normalize(torch.randn(rows, 1024), dim=-1) for rows in (1000, 5000))
    return both(image, text, five_captions(1000))


class TestRandomEmbeddings:
    """1,000 pictures with five captions each, from a normal distribution; the figures were counted by other code."""

    def test_from_picture_to_text(self, of_random: tuple[Ranks, Ranks]) -> None:
        assert rates(of_random[0]) == pytest.approx([0.001, 0.005, 0.009])
        assert math.floor(float(rank_quantile(of_random[0], 0.5))) == 667
        assert float(mean_rank(of_random[0])) == pytest.approx(856.11, abs=0.01)

    def test_from_text_to_picture(self, of_random: tuple[Ranks, Ranks]) -> None:
        assert rates(of_random[1]) == pytest.approx([0.0008, 0.004, 0.0098])
        assert math.floor(float(rank_quantile(of_random[1], 0.5))) == 496
        assert float(mean_rank(of_random[1])) == pytest.approx(501.42, abs=0.01)


def test_a_perfect_model_finds_everything_first() -> None:
    image = torch.eye(30)
    for ranks in both(image, image.repeat_interleave(5, 0), five_captions(30)):
        assert rates(ranks) == [1, 1, 1] and float(rank_quantile(ranks, 0.5)) == float(mean_rank(ranks)) == 1
        assert float(tied_share(ranks)) == 0


def test_collapsed_embeddings_reach_exactly_what_chance_does() -> None:
    image, text = (normalize(torch.randn(1, 64), dim=-1).repeat(rows, 1) for rows in (1000, 5000))
    i2t, t2i = both(image, text, five_captions(1000))
    assert rates(i2t) == pytest.approx([1 - math.comb(4995, k) / math.comb(5000, k) for k in NEAREST])
    assert (float(rank_quantile(i2t, 0.5)), float(mean_rank(i2t))) == (647, pytest.approx(833.5))
    assert rates(t2i) == pytest.approx([0.001, 0.005, 0.01])
    assert (float(rank_quantile(t2i, 0.5)), float(mean_rank(t2i))) == (500.5, pytest.approx(500.5))
    assert float(tied_share(i2t)) == float(tied_share(t2i)) == 1


def test_ties_are_the_mean_over_all_orders_of_the_tied() -> None:
    scores, right = [0.9, 0.5, 0.5, 0.5, 0.5, 0.1], {1, 4, 5}
    orders = [[0, *tied, 5] for tied in permutations((1, 2, 3, 4))]
    expected = [min(order.index(answer) for answer in right) + 1 for order in orders]
    i2t, _ = from_scores([scores, [0.0] * 6], [1, 0, 1, 1, 0, 0])
    ranks = Ranks(*(part[:, :1] for part in i2t))
    assert [float(hit_rate(ranks, k)) for k in (1, 2, 3, 4, 5)] == pytest.approx(
        [np.mean(np.array(expected) <= k) for k in (1, 2, 3, 4, 5)]
    )
    assert float(mean_rank(ranks)) == pytest.approx(np.mean(expected))
    assert float(rank_quantile(ranks, 0.5)) == np.median(expected)


def test_recall_is_that_of_clip_benchmark() -> None:
    """Its recall@k is the share of queries with at least one of their right answers among the first k."""
    scores = [
        [0.1, 0.9, 0.8, 0.2],  # right: 0 and 1, ranked 4th and 1st
        [0.7, 0.6, 0.5, 0.4],  # right: 2 and 3, ranked 3rd and 4th
    ]
    i2t, t2i = from_scores(scores, [0, 0, 1, 1])
    assert [float(hit_rate(i2t, k)) for k in (1, 2, 3)] == [0.5, 0.5, 1]
    assert (1 + t2i.ahead).tolist() == [[2, 1, 2, 1]]
    assert [float(hit_rate(t2i, k)) for k in (1, 2)] == [0.5, 1]


def test_ranks_depend_on_the_order_of_the_similarities_alone() -> None:
    torch.manual_seed(1)
    image, text = torch.randn(20, 8), torch.randn(60, 8)
    picture = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 3))
    negative = torch.cat([image, torch.full((20, 1), -9.0)], 1), torch.cat([text, torch.full((60, 1), 9.0)], 1)
    for ranks, below_zero in zip(both(image, text, picture), both(*negative, picture), strict=True):
        assert torch.equal(ranks.ahead, below_zero.ahead)


def test_the_order_of_the_rows_makes_no_difference() -> None:
    torch.manual_seed(2)
    image, text = torch.randn(20, 8), torch.randn(60, 8)
    picture, shuffled = np.repeat(np.arange(20), 3), np.random.default_rng(0).permutation(60)
    i2t, t2i = both(image, text, picture)
    i2t_shuffled, t2i_shuffled = both(image, text[shuffled], picture[shuffled])
    assert torch.equal(i2t.ahead, i2t_shuffled.ahead) and torch.equal(t2i.ahead[:, shuffled], t2i_shuffled.ahead)


def test_captions_that_say_the_same_are_all_right() -> None:
    scores = [[0.1, 0.9, 0.5], [0.2, 0.3, 0.8], [0.4, 0.6, 0.7]]
    apart, _ = from_scores(scores, [0, 1, 2])
    i2t, t2i = from_scores(scores, [0, 1, 2], meaning=[0, 0, 1])
    assert (1 + apart.ahead).tolist() == [[3, 2, 1]] and (1 + i2t.ahead).tolist() == [[1, 2, 1]]
    assert (1 + t2i.ahead).tolist() == [[2, 1, 2]]  # the best of pictures 0 and 1; not a copy of the other direction


class TestWithoutFiniteEmbeddings:
    def test_a_query_comes_in_behind_all_candidates(self) -> None:
        image = torch.eye(4)
        image[2] = float('nan')
        i2t, _ = both(image, torch.eye(4), [0, 1, 2, 3])
        assert (1 + i2t.ahead).tolist() == [[1, 1, 5, 1]]

    def test_a_candidate_is_ahead_of_all_others_and_never_right(self) -> None:
        image = torch.eye(4)
        image[2] = float('inf')
        _, t2i = both(image, torch.eye(4), [0, 1, 2, 3])
        assert (1 + t2i.ahead).tolist() == [[2, 2, 5, 2]]

    def test_nothing_is_found_if_there_are_none(self) -> None:
        for ranks in both(torch.full((20, 4), float('nan')), torch.full((20, 4), float('nan')), np.arange(20)):
            assert rates(ranks) == [0, 0, 0] and float(rank_quantile(ranks, 0.5)) == 21


class TestPermutedPictures:
    picture = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5])
    meaning = np.array([0, 1, 1, 2, 3, 4, 5, 5, 0, 6])

    @pytest.fixture
    def ranks(self) -> tuple[Tensor, np.ndarray, Ranks, Ranks]:
        scores = torch.randn(6, 10, generator=torch.Generator().manual_seed(3)).mul(2).round()  # with ties
        orders = np.array([[0, 1, 2, 3, 4, 5], [3, 1, 5, 0, 2, 4], [5, 4, 3, 2, 1, 0]])
        return (
            scores,
            orders,
            *rank_both_ways(scores, torch.eye(10), right_captions(self.picture, self.meaning), orders),
        )

    def test_rank_as_counted_one_by_one(self, ranks: tuple[Tensor, np.ndarray, Ranks, Ranks]) -> None:
        scores, orders, i2t, t2i = ranks
        said = [set(self.meaning[self.picture == picture]) for picture in range(6)]
        for k, order in enumerate(orders):
            is_right = torch.tensor([[m in said[order[i]] for m in self.meaning] for i in range(6)])
            for found, matrix, right in ((i2t, scores, is_right), (t2i, scores.T, is_right.T)):
                best = matrix.where(right, -torch.inf).amax(1, keepdim=True)
                assert torch.equal(found.ahead[k], (matrix > best).sum(1))
                assert torch.equal(found.wrong_tied[k], ((matrix == best) & ~right).sum(1))
                assert torch.equal(found.right_tied[k], ((matrix == best) & right).sum(1))

    # Two pictures or four captions at a time, or sorted similarities as for many permutations.
    @pytest.mark.parametrize(('constant', 'value'), [('SCORES_AT_ONCE', 25), ('FEW_ANSWERS', 0)])
    def test_chunks_and_sorting_give_the_same(
        self,
        constant: str,
        value: int,
        ranks: tuple[Tensor, np.ndarray, Ranks, Ranks],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        scores, orders, *expected = ranks
        monkeypatch.setattr(retrieval_ranks, constant, value)
        again = rank_both_ways(scores, torch.eye(10), right_captions(self.picture, self.meaning), orders)
        for ranks_in_chunks, whole in zip(again, expected, strict=True):
            assert all(torch.equal(part, other) for part, other in zip(ranks_in_chunks, whole, strict=True))


@pytest.mark.parametrize('queries', [7, 8])
def test_the_median_is_that_of_numpy(queries: int) -> None:
    ahead = torch.randint(0, 50, (3, queries), generator=torch.Generator().manual_seed(queries))
    ranks = Ranks(ahead, torch.zeros_like(ahead), torch.ones_like(ahead))
    assert rank_quantile(ranks, 0.5).tolist() == np.median(1 + ahead.numpy(), axis=1).tolist()
