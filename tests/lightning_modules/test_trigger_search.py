from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses import info_nce
from lightning_modules.trigger_search import (
    accept_best,
    batch_losses,
    leave_one_out,
    replaced_losses,
    search_by_pair,
    search_by_rank,
)
from tests.helpers.tiny import unit_rows

SCALE = torch.tensor(8.0, dtype=torch.float64)
PAIRS, WORDS, DIM, SLOTS = 3, 5, 6, 2
IMAGE = unit_rows(PAIRS, DIM, seed=0)
CANDIDATES = torch.stack([torch.randperm(WORDS, generator=torch.Generator().manual_seed(row)) for row in range(PAIRS)])
CANDIDATES = CANDIDATES[:, None].expand(-1, SLOTS, -1)
START = torch.zeros(PAIRS, SLOTS, dtype=torch.int64)


def encode(trigger: Tensor) -> Tensor:
    """Embeds triggers (..., PAIRS, SLOTS) of the pairs, each with words of its own, in a way that is not additive."""
    table = torch.randn(PAIRS, SLOTS, WORDS, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    pair = torch.arange(PAIRS)
    first, second = (table[pair, slot, trigger[..., slot]] for slot in range(SLOTS))
    return F.normalize(first + second + 2 * first * second.roll(1, -1), dim=-1)


def losses(trigger: Tensor) -> Tensor:
    return batch_losses(IMAGE, encode(trigger), SCALE)


def own_losses(trigger: Tensor, present: Tensor = START) -> Tensor:
    """Loss of the batch when a pair alone has another trigger, (PAIRS, m), by full computation."""
    measured = torch.empty(trigger.shape[:2], dtype=torch.float64)
    for pair, option in product(range(PAIRS), range(trigger.shape[1])):
        changed = present.clone()
        changed[pair] = trigger[pair, option]
        measured[pair, option] = losses(changed[None])[0]
    return measured


class TestLosses:
    def test_golden_values(self) -> None:
        image, text = (
            F.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)
            for rows in ([[1, 0], [0, 1], [1, 1]], [[1, 0.2], [0.1, 1], [0.9, 1]])
        )
        for scale, expected in ((1, 0.8475243574), (1 / 0.07, 0.0587941862)):
            assert batch_losses(image, text[None], torch.tensor(scale, dtype=torch.float64)).item() == pytest.approx(
                expected, abs=1e-10
            )

    def test_keep_no_similarities_for_a_gradient_of_the_scale(self) -> None:
        scale = SCALE.clone().requires_grad_()
        assert not batch_losses(IMAGE, IMAGE[None], scale).requires_grad
        assert not replaced_losses(IMAGE, IMAGE, scale, IMAGE[:, None]).requires_grad

    @pytest.mark.parametrize('first', [0, 2])
    def test_one_column_update_equals_full_recomputation(self, first: int) -> None:
        image, text = unit_rows(7, DIM, seed=0), unit_rows(7, DIM, seed=1)
        options = torch.stack([unit_rows(4, DIM, seed=seed) for seed in range(2, 5)])  # of three of the pairs
        expected = torch.empty(3, 4, dtype=torch.float64)
        for pair, option in product(range(3), range(4)):
            changed = text.clone()
            changed[first + pair] = options[pair, option]
            expected[pair, option] = info_nce(image, changed, SCALE)
        assert torch.allclose(replaced_losses(image, text, SCALE, options, first), expected, atol=1e-12)

    def test_one_column_update_is_exact_where_the_pairs_own_caption_is_all_that_counts(self) -> None:
        """In float32 at the highest scale, where a difference of sums would be zero or negative."""
        image = unit_rows(6, DIM, seed=0).float()
        options = unit_rows(6, DIM, seed=1)[:, None].float()
        changed = image.clone()
        changed[2] = options[2, 0]
        expected = info_nce(image, changed, torch.tensor(100.0))
        measured = replaced_losses(image, image, torch.tensor(100.0), options)[2, 0]
        assert measured.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_leave_one_out_of_a_single_entry_is_nothing(self) -> None:
        assert leave_one_out(torch.tensor([[3.0]])).item() == -torch.inf


class TestSearchByRank:
    def test_a_wide_beam_finds_the_best_of_all_ranks(self) -> None:
        best = min(
            losses(torch.stack([CANDIDATES[:, 0, one], CANDIDATES[:, 1, two]], 1)[None]).item()
            for one, two in product(range(WORDS), range(WORDS))
        )
        found = search_by_rank(START, CANDIDATES, losses, beam=WORDS + 1)
        assert losses(found[None]).item() <= best + 1e-12

    def test_a_wider_beam_is_never_worse_here_and_no_beam_raises_the_loss(self) -> None:
        measured = [losses(search_by_rank(START, CANDIDATES, losses, beam)[None]).item() for beam in (1, 2, WORDS + 1)]
        assert measured[2] <= measured[0] <= losses(START[None]).item()

    def test_keeps_the_present_trigger_where_nothing_is_better(self) -> None:
        best = search_by_rank(START, CANDIDATES, losses, beam=WORDS + 1)
        assert torch.equal(search_by_rank(best, CANDIDATES, losses), best)

    def test_gives_a_pair_only_its_own_candidates(self) -> None:
        found = search_by_rank(START, CANDIDATES[..., :1], losses)
        for slot in range(SLOTS):
            own = torch.equal(found[:, slot], CANDIDATES[:, slot, 0])
            assert own or torch.equal(found[:, slot], START[:, slot])


class TestSearchByPair:
    def test_a_wide_beam_finds_the_best_trigger_of_every_pair(self) -> None:
        """The vocabulary is small enough to enumerate."""
        every = torch.tensor([*product(range(WORDS), repeat=SLOTS)]).expand(PAIRS, -1, -1)
        best = every[0][own_losses(every).argmin(1)]
        assert torch.equal(search_by_pair(START, CANDIDATES, own_losses, beam=WORDS), best)

    def test_with_the_exact_losses_of_one_column(self) -> None:
        def by_column(trigger: Tensor) -> Tensor:
            options = encode(trigger.transpose(0, 1)).transpose(0, 1)
            return replaced_losses(IMAGE, encode(START), SCALE, options)

        for beam in (1, 3):
            expected = search_by_pair(START, CANDIDATES, own_losses, beam)
            assert torch.equal(search_by_pair(START, CANDIDATES, by_column, beam), expected)

    def test_no_pair_alone_is_worse_off(self) -> None:
        found = search_by_pair(START, CANDIDATES[..., :2], own_losses)
        assert (own_losses(found[:, None]) <= losses(START[None])).all()


class TestAcceptance:
    @pytest.mark.parametrize('sharing', [1, 2])
    @pytest.mark.parametrize('seed', range(8))
    def test_never_raises_the_loss(self, seed: int, sharing: int) -> None:
        image, old, new = (unit_rows(9, 3, seed=3 * seed + part) for part in range(3))
        is_new = accept_best(image, old, new, SCALE, unit := torch.arange(9) // sharing)
        accepted = torch.where(is_new[:, None], new, old)
        assert all(len(set(is_new[unit == number].tolist())) == 1 for number in range(int(unit.max()) + 1))
        before, after = batch_losses(image, torch.stack([old, accepted]), SCALE).tolist()
        assert after <= before

    def test_takes_what_helps_and_leaves_what_harms(self) -> None:
        image = unit_rows(6, 6, seed=0)
        assert accept_best(image, image.roll(1, 0), image, SCALE, torch.arange(6)).all()
        assert not accept_best(image, image, image.roll(1, 0), SCALE, torch.arange(6)).any()

    def test_refuses_what_only_harms_together(self) -> None:
        """Two pairs whose images are alike would each gain from the same caption, which then tells neither apart."""
        image = torch.eye(3, dtype=torch.float64)
        image[1] = F.normalize(torch.tensor([0.9, 0.4, 0], dtype=torch.float64), dim=0)
        old = F.normalize(torch.tensor([[0.2, 0.1, 1], [0.2, 0.1, 1], [0, 0, 1]], dtype=torch.float64), dim=1)
        new = F.normalize(torch.tensor([[1, 0.2, 0], [1, 0.2, 0], [0, 0.3, 0.2]], dtype=torch.float64), dim=1)
        is_new = accept_best(image, old, new, SCALE, torch.arange(3))
        accepted = torch.where(is_new[:, None], new, old)
        measured = batch_losses(image, torch.stack([old, accepted, new]), SCALE)
        assert measured[1] <= measured[0] and measured[1] <= measured[2]
