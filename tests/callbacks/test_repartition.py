from __future__ import annotations

import logging
import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import shuffled_pairs
from callbacks.mismatches import Mismatches
from callbacks.mixture import Array, Mixture, fit_mixture
from callbacks.repartition import NOTHING_KNOWN, Past, Repartition, SafeRiskyRepartition, Side, Split, top_rows
from callbacks.scores import Augmented, Clean, Running, Score
from callbacks.split_callback import STATE_VERSION
from callbacks.split_decision import TIE_KEY, mark_top, pack_side, unpack_side
from datamodules.rows.draws import bits
from datamodules.rows.partition import DROPPED, RISKY, SAFE
from datamodules.usage_error import UsageError
from tests.callbacks.planted import (
    DDP,
    POISONS,
    WARM_UP,
    Batch,
    PlantedData,
    PlantedModule,
    batches_of,
    quiet_lightning,
    trainer,
)

NONE = torch.zeros(0)  # no shuffled pairs


def bimodal_scores(size: int = 1000, safe: int = 114, seed: int = 0) -> Array:
    """Shuffled similarities, of which the mixture calls exactly ``safe`` safe."""
    generator = np.random.default_rng(seed)
    values = np.concatenate([generator.normal(0.1, 0.02, size - safe), generator.normal(0.8, 0.02, safe)])
    return generator.permutation(values)


def all_safe(size: int = 1000) -> Side:
    return np.full(size, SAFE, np.int8)


def split_repeatedly(callback: SafeRiskyRepartition, score: Array, times: int, side: Side | None = None) -> list[Split]:
    """Makes several splits, one after the other, of the same scores."""
    side, past, results = all_safe(len(score)) if side is None else side, None, []
    for _ in range(times):
        results.append(callback.decide(score, side, past))
        side, past = results[-1].side, results[-1].past
    return results


def safe_rows(split: Split) -> list[int]:
    return np.flatnonzero(split.side == SAFE).tolist()


class TestDecision:
    def test_sizes_follow_the_schedule_of_the_paper(self) -> None:
        results = split_repeatedly(SafeRiskyRepartition(), bimodal_scores(), 42)  # of epochs 7 to 48
        safe = {epoch: (split.side == SAFE).sum() for epoch, split in enumerate(results, 7)}
        risky = {epoch: (split.side == RISKY).sum() for epoch, split in enumerate(results, 7)}
        epochs = (7, 8, 9, 10, 20, 30, 40, 47, 48)
        assert [safe[epoch] for epoch in epochs] == [114, 124, 134, 144, 244, 344, 444, 514, 524]
        assert all(safe[epoch] + risky[epoch] == 1000 for epoch in range(7, 49))

    @pytest.mark.parametrize('size', [7, 64, 1000, 999_983])
    def test_sizes_do_not_drift(self, size: int) -> None:
        callback = SafeRiskyRepartition(growth=0.007)
        fraction = Fraction(size // 9, size)
        for step in range(1, 60):
            fraction = callback._grow(fraction)
            assert round(fraction * size) == round(size // 9 + size * Fraction(7 * step, 1000))

    def test_first_split_is_the_guarded_posterior(self) -> None:
        score = bimodal_scores(safe=300)
        split = SafeRiskyRepartition(min_fraction=0).decide(score, all_safe(), None)
        cut = fit_mixture(score).guarded_cut(0.9)
        assert cut is not None
        assert safe_rows(split) == np.flatnonzero(score >= cut).tolist()
        assert split.threshold == score[score >= cut].min()
        assert split.past.fraction == Fraction(300, 1000)
        assert split.remarks == ()

    def test_first_split_has_the_requested_size(self) -> None:
        score = bimodal_scores(safe=300)
        split = SafeRiskyRepartition(first_fraction=0.125).decide(score, all_safe(), None)
        assert safe_rows(split) == sorted(np.argsort(-score, kind='stable')[:125].tolist())
        assert split.past.fraction == Fraction(1, 8)

    @pytest.mark.parametrize('seed', range(20))
    @pytest.mark.parametrize('size', ['growth', 'mixture'])
    def test_no_safe_pair_is_less_similar_than_a_risky_one(self, seed: int, size: Any) -> None:
        generator = np.random.default_rng(seed)
        side, past = all_safe(500), None
        side[generator.random(500) < 0.05] = DROPPED
        dropped = side == DROPPED
        for _ in range(5):
            low, high = generator.normal(0.1, generator.uniform(0.02, 0.2), 500), generator.normal(0.3, 0.05, 500)
            score = np.where(generator.random(500) < generator.uniform(0.2, 0.9), low, high).round(2)  # with ties
            score[generator.random(500) < 0.02] = math.nan
            split = SafeRiskyRepartition(growth=0.05, size=size).decide(score, side, past)
            side, past = split.side, split.past
            assert ((side == DROPPED) == dropped).all()
            assert not np.isnan(score[side == SAFE]).any()
            assert score[side == SAFE].min() >= np.nanmax(score[side == RISKY])
            assert split.unscored == np.isnan(score[~dropped]).sum()

    def test_a_decision_depends_only_on_its_arguments(self) -> None:
        callback, score, side = SafeRiskyRepartition(refit='every'), bimodal_scores(), all_safe()
        original = score.copy()
        first = callback.decide(score, side, None)
        callback.decide(bimodal_scores(seed=1), side, first.past)
        again = callback.decide(score, side, None)
        assert (first.side == again.side).all() and first.past == again.past
        assert (score == original).all() and (side == SAFE).all()
        assert callback.past is None

    def test_growth_as_a_fraction_of_the_risky_side_slows_down(self) -> None:
        results = split_repeatedly(SafeRiskyRepartition(growth=0.1, growth_base='risky'), bimodal_scores(safe=200), 30)
        assert [(split.side == SAFE).sum() for split in results[:4]] == [200, 280, 352, 417]
        assert all(split.past.fraction.denominator <= 10**15 for split in results)

    def test_cap_limits_first_and_later_splits(self) -> None:
        results = split_repeatedly(SafeRiskyRepartition(growth=0.1, cap=0.35), bimodal_scores(safe=300), 3)
        assert [(split.side == SAFE).sum() for split in results] == [300, 350, 350]
        (capped,) = split_repeatedly(SafeRiskyRepartition(cap=0.2), bimodal_scores(safe=300), 1)
        assert (capped.side == SAFE).sum() == 200

    def test_dropped_pairs_stay_dropped_and_are_not_counted(self) -> None:
        score, side = bimodal_scores(), all_safe()
        side[np.argsort(score)[-50:]] = DROPPED
        results = split_repeatedly(SafeRiskyRepartition(growth=0.02, min_fraction=0), score, 2, side)
        assert [(split.side == SAFE).sum() for split in results] == [64, 83]
        assert all((split.side == DROPPED).sum() == 50 for split in results)

    def test_pairs_without_similarity_are_risky_and_counted(self) -> None:
        score = bimodal_scores()
        score[:3] = math.nan
        score[3] = math.inf
        split = SafeRiskyRepartition(min_fraction=1).decide(score, all_safe(), None)
        assert split.unscored == 4
        assert (split.side[:4] == RISKY).all() and (split.side[4:] == SAFE).all()
        assert '4 pairs have no finite similarity' in split.remarks[-1]

    def test_refuses_scores_without_a_finite_value(self) -> None:
        with pytest.raises(ValueError, match='training has diverged'):
            SafeRiskyRepartition().decide(np.full(9, math.nan), all_safe(9), None)

    @pytest.mark.parametrize('seed', range(5))
    def test_min_fraction_applies_if_the_mixture_accepts_too_few(self, seed: int) -> None:
        score = np.random.default_rng(seed).normal(0.1, 0.05, 1000)
        split = SafeRiskyRepartition(threshold=0.999999, min_fraction=0.1).decide(score, all_safe(), None)
        assert sorted(safe_rows(split)) == sorted(np.argsort(score)[-100:].tolist())
        assert 'the 100 most similar are safe instead (min_fraction)' in split.remarks[-1]

    @pytest.mark.parametrize('score', [np.full(1000, 0.25), np.array([0.1, 0.2, math.nan])])
    def test_untrained_towers_give_a_split_and_a_remark(self, score: Array) -> None:
        split = SafeRiskyRepartition().decide(score, all_safe(len(score)), None)
        assert safe_rows(split) == ([1] if len(score) == 3 else sorted(top_rows(score, 100)))
        assert split.remarks[0].startswith('no mixture (')

    def test_refuses_an_empty_safe_side(self) -> None:
        callback = SafeRiskyRepartition(min_fraction=0)
        with pytest.raises(ValueError, match=r'none is safe: lower callbacks.repartition.threshold or raise'):
            callback.decide(np.full(100, 0.25), all_safe(100), None)

    def test_refuses_a_fraction_that_rounds_to_no_pair(self) -> None:
        callback = SafeRiskyRepartition(min_fraction=0, first_fraction=0.004)
        with pytest.raises(ValueError, match=r'0\.004 of 100 pairs rounds to no safe pair: raise callbacks'):
            callback.decide(bimodal_scores(100, 20), all_safe(100), None)

    @pytest.mark.parametrize('argument', ['cap', 'first_fraction'])
    def test_refuses_arguments_that_leave_the_safe_side_empty(self, argument: str) -> None:
        with pytest.raises(ValueError, match=rf'callbacks.repartition.{argument}=0.* would leave the safe side empty'):
            SafeRiskyRepartition(min_fraction=0, **{argument: 0.0})

    @pytest.mark.parametrize('argument', ['min_fraction', 'first_fraction'])
    def test_refuses_a_cap_below_another_fraction(self, argument: str) -> None:
        with pytest.raises(UsageError, match=rf'cap=0\.5 is below {argument}=0\.9: lower {argument}\.$'):
            SafeRiskyRepartition(cap=0.5, **{argument: 0.9})

    def test_ranks_by_posterior_as_released(self) -> None:
        generator = np.random.default_rng(0)
        score = np.concatenate([generator.normal(0.1, 0.1, 7000), generator.normal(0.3, 0.03, 3000)])
        callback = SafeRiskyRepartition(rank_by='posterior', refit='every')
        first, second = split_repeatedly(callback, score, 2)
        posterior = fit_mixture(score).posterior(score)
        assert safe_rows(first) == np.flatnonzero(posterior >= 0.9).tolist()
        assert posterior[second.side == SAFE].min() >= posterior[second.side == RISKY].max()
        assert (second.side == SAFE).sum() == (first.side == SAFE).sum() + 100
        # The fault of the released ranking: the most similar pairs may be risky.
        assert (first.side[np.argsort(score)[-20:]] == RISKY).any()

    def test_mixture_is_fitted_once_or_for_every_split(self) -> None:
        for refit, same in (('first', True), ('every', False)):
            callback = SafeRiskyRepartition(refit=refit)
            first = callback.decide(bimodal_scores(), all_safe(), None)
            second = callback.decide(bimodal_scores(safe=400), first.side, first.past)
            assert (first.past.mixture == second.past.mixture) == same

    def test_size_follows_the_mixture_gradually(self) -> None:
        callback = SafeRiskyRepartition(size='mixture', growth=0.1)
        side, past, sizes = all_safe(), None, []
        for accepted in (150, 600, 600, 300, 120, 20):
            split = callback.decide(bimodal_scores(safe=accepted), side, past)
            side, past = split.side, split.past
            sizes.append(int((side == SAFE).sum()))
        assert sizes == [150, 250, 350, 300, 120, 100]

    def test_size_is_kept_if_the_mixture_accepts_nothing(self) -> None:
        callback = SafeRiskyRepartition(size='mixture', growth=0.1)
        first = callback.decide(bimodal_scores(safe=300), all_safe(), None)
        second = callback.decide(np.full(1000, 0.2), first.side, first.past)
        assert second.past.fraction == first.past.fraction
        assert second.remarks[-1].endswith('the safe side keeps its size.')

    def test_growth_of_less_than_a_pair_accumulates(self) -> None:
        results = split_repeatedly(SafeRiskyRepartition(size='mixture', growth=0.02, cap=1), bimodal_scores(20, 10), 1)
        callback, past = SafeRiskyRepartition(size='mixture', growth=0.02), Past(Fraction(2, 20))
        for _ in range(5):
            past = callback.decide(bimodal_scores(20, 10), results[0].side, past).past
        assert round(20 * past.fraction) == 4


def test_sides_travel_as_two_bits_a_row() -> None:
    side = np.random.default_rng(0).integers(0, 3, 1003).astype(np.int8)
    packed = pack_side(side)
    assert sum(marks.nbytes for marks in packed) == 2 * 126
    assert (unpack_side(packed, 1003) == side).all()


class TestTopRows:
    """The last rows are the poisons here, because attacks append them."""

    @pytest.mark.parametrize(('pairs', 'poisons', 'count'), [(1050, 50, 420), (10_100, 100, 505), (4000, 400, 3200)])
    def test_constant_scores_select_poisons_at_their_share(self, pairs: int, poisons: int, count: int) -> None:
        taken = (top_rows(np.full(pairs, 0.25), count) >= pairs - poisons).sum()
        expected = count * poisons / pairs
        assert abs(taken - expected) <= 3 * math.sqrt(expected)

    @pytest.mark.parametrize('seed', range(5))
    def test_rounded_scores_select_poisons_at_their_share(self, seed: int) -> None:
        pairs, poisons, count = 20_000, 1000, 6000
        score = np.random.default_rng(seed).normal(0.25, 0.02, pairs).round(2)
        is_poison = np.arange(pairs) >= pairs - poisons
        safe = top_rows(score, count)
        tied = score == score[safe].min()
        room = (tied & np.isin(np.arange(pairs), safe)).sum()
        expected = room * is_poison[tied].mean()
        taken = (is_poison & tied)[safe].sum()
        assert 10 < expected < is_poison[tied].sum() - 10
        assert abs(taken - expected) <= 3 * math.sqrt(expected)

    @pytest.mark.parametrize('score', [np.full(1050, 0.25), bimodal_scores(1050).round(2)], ids=['constant', 'rounded'])
    def test_a_split_with_ties_does_not_favor_any_rows(self, score: Array) -> None:
        split = SafeRiskyRepartition(first_fraction=0.4).decide(score, all_safe(1050), None)
        assert (split.side == SAFE).sum() == 420
        assert 20 - 13 <= (split.side[-50:] == SAFE).sum() <= 20 + 13

    @pytest.mark.parametrize('seed', range(5))
    def test_distinct_scores_are_ordered_by_score_alone(self, seed: int) -> None:
        score = np.random.default_rng(seed).permutation(np.linspace(-1, 1, 3000))
        score[::7] = math.nan
        expected = np.argsort(-score, kind='stable')
        assert top_rows(score, 3000).tolist() == expected[: (~np.isnan(score)).sum()].tolist()

    def test_order_of_tied_rows_does_not_depend_on_other_rows(self) -> None:
        score = np.full(100, 0.5)
        order = top_rows(score, 100).tolist()
        assert order != list(range(100)) and sorted(order) == list(range(100))
        score[order[::2]] = 0.9
        assert top_rows(score, 100).tolist() == order[::2] + order[1::2]
        assert top_rows(np.full(8, 0.1), 8).tolist() == [6, 7, 2, 4, 1, 3, 0, 5]  # must not change between versions

    def test_are_those_of_a_sort_of_all_values(self) -> None:
        score = np.random.default_rng(0).normal(0.25, 0.02, 3000).round(3).astype(np.float32)
        score[::7] = math.nan
        order = np.lexsort((bits(3000, TIE_KEY), -score))
        for count in (0, 1, 1000, 2570):
            assert top_rows(score, count).tolist() == order[:count].tolist()
            assert np.flatnonzero(mark_top(score, count)).tolist() == np.sort(order[:count]).tolist()

    def test_missing_values_are_never_selected(self) -> None:
        assert top_rows(np.array([math.nan, 0.1, math.nan, 0.3]), 3).tolist() == [3, 1]


class TestCandidates:
    def test_are_all_pairs_in_the_first_split_and_by_default(self) -> None:
        assert SafeRiskyRepartition(top_fraction=0.3).candidates(bimodal_scores(), all_safe(), None) is None
        assert SafeRiskyRepartition().candidates(bimodal_scores(), all_safe(), Past(Fraction(1, 10))) is None

    @pytest.mark.parametrize(
        ('fraction', 'count'), [(Fraction(1, 10), 300), (Fraction(3, 10), 410), (Fraction(9, 10), None)]
    )
    def test_are_the_pairs_that_may_become_safe(self, fraction: Fraction, count: int | None) -> None:
        score = bimodal_scores()
        rows = SafeRiskyRepartition(top_fraction=0.3).candidates(score, all_safe(), Past(fraction))
        if count is None:
            assert rows is None
        else:
            assert rows is not None
            assert sorted(rows.tolist()) == rows.tolist()
            assert set(rows.tolist()) == set(np.argsort(-score, kind='stable')[:count].tolist())

    def test_other_pairs_cannot_become_safe(self) -> None:
        callback, score = SafeRiskyRepartition(top_fraction=0.3), bimodal_scores()
        first = callback.decide(score, all_safe(), None)
        rows = callback.candidates(score, first.side, first.past)
        assert rows is not None
        score[rows] = np.linspace(-1, -0.9, len(rows))  # stale scores of the others are now the highest
        second = callback.decide(score, first.side, first.past, rows)
        assert set(safe_rows(second)) <= set(rows.tolist())
        assert (second.side == SAFE).sum() == 124

    def test_leave_out_dropped_pairs(self) -> None:
        score, side = bimodal_scores(), all_safe()
        side[np.argsort(score)[-50:]] = DROPPED
        rows = SafeRiskyRepartition(top_fraction=0.3).candidates(score, side, Past(Fraction(1, 10)))
        assert rows is not None
        assert len(rows) == 285 and (side[rows] != DROPPED).all()


class TestArguments:
    @pytest.mark.parametrize('name', ['growth', 'top_fraction', 'cap', 'min_fraction'])
    @pytest.mark.parametrize('value', [-0.1, 1.1, math.nan])
    def test_refuses_fractions_out_of_range(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=rf'callbacks.repartition.{name} must be a fraction'):
            SafeRiskyRepartition(**{name: value})

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'threshold': 1.0}, r'callbacks.repartition.threshold must lie in \(0, 1\)'),
            ({'every': 0}, 'every must be at least 1, got 0'),
            ({'cap': 0.05}, 'below min_fraction'),
            ({'score': Running(), 'top_fraction': 0.3}, 'score=Running makes none'),
        ],
    )
    def test_refuses_contradictory_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SafeRiskyRepartition(**arguments)


# --- runs with planted similarities ---------------------------------------------------------------------------------


class SafeOnly(PlantedModule):
    def sides(self, epoch: int) -> dict[str, int]:
        return {'cross_modal': 1}


class NoWarmUp(PlantedModule):
    def sides(self, epoch: int) -> dict[str, int]:
        return {'cross_modal': 1, 'within_modal': 2}


class NoSlowPhase(PlantedModule):
    def sides(self, epoch: int) -> dict[str, int]:
        return {'within_modal': 2} if epoch < WARM_UP else {'cross_modal': 1, 'within_modal': 2}


def run(
    epochs: int = 5, module: PlantedModule | None = None, path: Path | None = None, **arguments: Any
) -> tuple[PlantedModule, PlantedData, SafeRiskyRepartition, L.Trainer]:
    torch.manual_seed(0)
    module, data, callback = module or PlantedModule(), PlantedData(), SafeRiskyRepartition(growth=0.05, **arguments)
    fitting = trainer(epochs, callback)
    fitting.fit(module, data)
    return module, data, callback, fitting


@quiet_lightning
class TestEpochEnd:
    def test_splits_for_the_next_epoch_after_the_warm_up(self) -> None:
        module, data, callback, _ = run(epochs=WARM_UP - 1)
        assert callback.past is None and data.partition.share == 1 and data.partition.scored_after is None
        module, data, callback, fitting = run(epochs=WARM_UP + 2)
        assert data.partition.epoch == WARM_UP + 2
        sizes = [sum(len(rows) for rows in module.seen[i : i + 8]) for i in (0, 8)]
        assert sizes == [64, 64]
        after_first = sorted(row for rows in module.seen[16:22] for row in rows)
        assert after_first == list(range(64 - POISONS))  # the first safe side has no poisons
        assert fitting.callback_metrics['partition/share'] == pytest.approx((48 + 2 * 3.2) / 64, abs=0.01)

    def test_writes_scores_and_mixture(self) -> None:
        module, data, _, fitting = run(epochs=WARM_UP)
        expected = data.similarity + 0.001 * module.weight.detach()
        assert torch.equal(data.partition.score, expected)
        mixture = data.partition.mixture
        assert mixture is not None
        assert mixture['mean_low'] == pytest.approx(0.1, abs=0.05)
        assert mixture['threshold'] == expected[: 64 - POISONS].min()
        metrics = fitting.callback_metrics
        assert {'partition/share', 'partition/threshold', 'partition/mean_low', 'partition/mean_high'} <= metrics.keys()
        assert {'cost/sweep_s', 'cost/mixture_s', 'partition/unscored'} <= metrics.keys()
        assert metrics['partition/threshold'] == pytest.approx(mixture['threshold'])

    def test_the_stored_mixture_is_fitted_to_the_stored_scores(self) -> None:
        _, data, callback, _ = run(epochs=WARM_UP + 2)
        mixture, fresh = data.partition.mixture, fit_mixture(data.partition.score.numpy())
        assert mixture is not None and mixture['mean_high'] == pytest.approx(fresh.means[1])
        assert callback.past is not None and callback.past.mixture is not None
        assert callback.past.mixture.means[1] != pytest.approx(fresh.means[1])  # the decision uses the first one

    def test_sweeps_clean_pairs_unless_augmented_ones_are_requested(self) -> None:
        assert run(epochs=3)[1].swept == []
        swept = run(epochs=3, score=Augmented(views=4))[1].swept
        assert swept == [('epoch', 2), ('views', 4), ('epoch', 3), ('views', 4)]

    def test_splits_every_n_epochs_and_keeps_the_split_in_between(self) -> None:
        swept, shares = [], []
        for epochs in range(WARM_UP, WARM_UP + 5):
            _, data, _, _ = run(epochs=epochs, every=2, score=Augmented())
            assert data.partition.epoch == epochs
            assert data.partition.scored_after == WARM_UP + (epochs - WARM_UP) // 2 * 2
            swept, shares = [at for name, at in data.swept if name == 'epoch'], [*shares, data.partition.share]
        assert swept == [WARM_UP, WARM_UP + 2, WARM_UP + 4]
        assert shares == pytest.approx([shares[0]] * 2 + [shares[0] + 0.05] * 2 + [shares[0] + 0.1], abs=0.01)

    def test_measures_only_the_candidates_after_the_first_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shuffled_pairs, 'SAMPLE', 1)
        _, data, _, _ = run(epochs=WARM_UP + 1, top_fraction=0.3)
        ((name, rows),) = data.swept
        assert name == 'rows'
        assert len(rows) - math.ceil(64 * (0.75 + 0.05 + 0.1)) in (0, 1)  # the pair to shuffle may be no candidate
        assert not data.partition.score.isnan().any()

    def test_running_scores_need_no_sweep(self) -> None:
        score = Running()
        _, data, _, _ = run(epochs=WARM_UP, score=score)
        assert data.swept == []
        assert torch.allclose(data.partition.score, data.similarity + 0.01, atol=1e-6)
        assert (data.partition.side[-POISONS:] == RISKY).all()
        assert score.average is not None

    def test_logs_the_remarks_of_a_split(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, 'lightning.pytorch.utilities.rank_zero'):
            run(epochs=WARM_UP, min_fraction=0.9)
        assert 'split after epoch 2: 48 of 64 pairs have a posterior' in caplog.text

    def test_stops_if_no_pair_is_safe(self) -> None:
        module, data = PlantedModule(), PlantedData()
        data.similarity[:] = 0.3
        with pytest.raises(ValueError, match='so none is safe'):
            trainer(3, SafeRiskyRepartition(min_fraction=0)).fit(module, data)


@quiet_lightning
class TestRefusals:
    def test_data_without_row_numbers(self) -> None:
        with pytest.raises(ValueError, match=r'a split needs a row number for each pair, which a stream does not have'):
            trainer(3, SafeRiskyRepartition()).fit(PlantedModule(), DataLoader([]))

    def test_modules_without_a_risky_side(self) -> None:
        with pytest.raises(
            ValueError, match=r'never trains on a risky side: use SafeCLIP, or --callbacks\.repartition=null'
        ):
            trainer(3, SafeRiskyRepartition()).fit(SafeOnly(), PlantedData())

    def test_a_split_before_anything_was_trained(self) -> None:
        with pytest.raises(ValueError, match=r'model.slow_epochs=1'):
            trainer(3, SafeRiskyRepartition()).fit(NoWarmUp(), PlantedData())

    def test_running_scores_that_no_epoch_provides(self) -> None:
        with pytest.raises(ValueError, match=r'model.slow_epochs=1'):
            trainer(3, SafeRiskyRepartition(score=Running())).fit(NoSlowPhase(), PlantedData())

    def test_a_run_that_ends_before_its_first_split_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, 'lightning.pytorch.utilities.rank_zero'):
            run(epochs=1)
        assert 'no split: epoch 3 is the first to train two sides' in caplog.text

    def test_a_stale_split(self) -> None:
        class Forgets(L.Callback):
            def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                trainer.datamodule.partition.epoch = 0

        with pytest.raises(ValueError, match='epoch 3 would train on the split of epoch 1'):
            trainer(3, SafeRiskyRepartition(), Forgets()).fit(PlantedModule(), PlantedData())

    def test_another_data_set(self) -> None:
        callback = SafeRiskyRepartition()
        callback.load_state_dict(run(epochs=WARM_UP)[2].state_dict())
        with pytest.raises(ValueError, match='holds a split of data set abc, but this run uses xyz'):
            trainer(3, callback).fit(PlantedModule(), PlantedData('xyz'))


@quiet_lightning
class TestResume:
    @pytest.mark.parametrize('score', [Clean, Augmented, Running])
    @pytest.mark.parametrize('arguments', [{}, {'size': 'mixture'}, {'refit': 'every'}])
    def test_state_loads_as_weights_only(self, tmp_path: Path, score: type[Score], arguments: dict[str, Any]) -> None:
        callback = run(epochs=WARM_UP + 1, score=score(), **arguments)[2]
        torch.save(callback.state_dict(), tmp_path / 'state.pt')
        fresh = SafeRiskyRepartition(score=score(), **arguments)
        fresh.load_state_dict(torch.load(tmp_path / 'state.pt', weights_only=True))
        assert fresh.past == callback.past
        assert fresh.past is not None and isinstance(fresh.past.mixture, Mixture)
        if isinstance(fresh.score, Running):
            assert torch.equal(fresh.score.average, callback.score.average)

    def test_state_before_the_first_split(self) -> None:
        fresh = SafeRiskyRepartition()
        fresh.load_state_dict(SafeRiskyRepartition().state_dict())
        assert fresh.past is None

    def test_a_state_without_a_version_is_converted(self) -> None:
        score, average = Running(), torch.tensor([0.1, math.nan])
        state = SafeRiskyRepartition().state_dict()
        del state['version'], state['score']
        SafeRiskyRepartition(score=score).load_state_dict({**state, 'running': average})
        assert score.average is average

    def test_a_state_of_a_later_version_is_refused(self) -> None:
        state = {**SafeRiskyRepartition().state_dict(), 'version': STATE_VERSION + 1}
        with pytest.raises(ValueError, match=rf'version {STATE_VERSION + 1} of the state of callbacks.repartition'):
            SafeRiskyRepartition().load_state_dict(state)

    @pytest.mark.filterwarnings('ignore:Checkpoint directory .* exists')
    @pytest.mark.parametrize(
        ('score', 'arguments'),
        [(Clean, {}), (Running, {}), (Clean, {'top_fraction': 0.3}), (Clean, {'size': 'mixture'})],
    )
    @pytest.mark.parametrize('stop', [1, 2, 4])
    def test_resumes_as_if_it_had_not_stopped(
        self, tmp_path: Path, score: type[Score], arguments: dict[str, Any], stop: int
    ) -> None:
        whole, of_whole, _, _ = run(6, score=score(), **arguments)
        torch.manual_seed(0)
        save = ModelCheckpoint(tmp_path, save_on_train_epoch_end=True, filename='{epoch}')
        first = SafeRiskyRepartition(growth=0.05, score=score(), **arguments)
        trainer(stop, first, save).fit(PlantedModule(), PlantedData())
        module, data = PlantedModule(), PlantedData()
        second = SafeRiskyRepartition(growth=0.05, score=score(), **arguments)
        again = trainer(6, second, ModelCheckpoint(tmp_path))
        again.fit(module, data, ckpt_path=str(tmp_path / f'epoch={stop - 1}.ckpt'))
        assert whole.seen[-len(module.seen) :] == module.seen
        assert torch.equal(of_whole.partition.side, data.partition.side)
        assert torch.equal(of_whole.partition.score, data.partition.score)
        assert data.partition.epoch == 6


class HalfOfThePlantedData(PlantedData):
    """Each of two processes gets every second row of a batch; neither gets the last row."""

    def loader(self, rows: list[Tensor]) -> DataLoader[Batch]:
        assert self.trainer is not None
        return super().loader([part[self.trainer.global_rank :: 2] for part in rows])

    def train_dataloader(self) -> DataLoader[Batch]:
        rows = self.partition.rows(SAFE)
        return self.loader(batches_of(rows[: len(rows) // 8 * 8], 8))

    def sweep_dataloader(self, **arguments: Any) -> DataLoader[Batch]:
        return self.loader(batches_of(torch.arange(63), 24))


class UsesBatchStatistics(PlantedModule):
    """Adds BatchNorm's statistics to similarities; they differ between processes after a training step."""

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        shift = self.norm.running_mean
        assert isinstance(shift, Tensor)
        return {'row': batch.row, 'similarity': batch.similarity + shift}


class SaveResults(L.Callback):
    """Saves the final partition of each process in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, pl_module: UsesBatchStatistics) -> None:
        partition = trainer.datamodule.partition
        state = {'partition': partition.state_dict(), 'shift': pl_module.norm.running_mean}
        torch.save(state, self.folder / f'{trainer.global_rank}.pt')


@pytest.mark.slow
@quiet_lightning
class TestTwoProcesses:
    @pytest.mark.parametrize('score', [Clean(), Running()], ids=['clean', 'running'])
    def test_have_the_same_scores_and_split(self, tmp_path: Path, score: Score) -> None:
        callbacks = SafeRiskyRepartition(growth=0.05, score=score), SaveResults(tmp_path)
        trainer(4, *callbacks, **DDP).fit(UsesBatchStatistics(), HalfOfThePlantedData())
        first, second = (torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in (0, 1))
        one, other = first['partition'], second['partition']
        assert torch.equal(one['side'], other['side']) and one['mixture'] == other['mixture']
        assert torch.equal(one['score'].nan_to_num(9), other['score'].nan_to_num(9))
        assert (one['side'][-POISONS:] == RISKY).sum() >= POISONS - 8
        if score.sweeps:
            assert torch.nonzero(one['score'].isnan()).flatten().tolist() == [63]
            offset = one['score'] - HalfOfThePlantedData().similarity
            assert torch.allclose(offset[:63], first['shift'].expand(63), atol=1e-6)

    def test_both_refuse_an_empty_safe_side(self) -> None:
        data = HalfOfThePlantedData()
        data.similarity[:] = 0.3
        with pytest.raises(Exception, match='so none is safe'):
            trainer(4, SafeRiskyRepartition(min_fraction=0), **DDP).fit(PlantedModule(), data)


class HalfOfAll(Repartition):
    """A rule of somebody's own, which knows nothing of trusted pairs: the first half is safe."""

    def decide(
        self,
        score: Any,
        side: Side,
        past: Past | None,
        candidates: Any = None,
        mismatches: Mismatches = NOTHING_KNOWN,
    ) -> Split:
        return Split(np.repeat([SAFE, RISKY], 32).astype(np.int8), Past(Fraction(1, 2)), float(score[:32].min()))


class TestTrustedPairs:
    """Rows 60 and 61 have the similarity of poisons, but the user vouches for them."""

    @staticmethod
    def data() -> PlantedData:
        data = PlantedData()
        data.trusted_rows = np.array([3, 60, 61])
        return data

    @pytest.mark.parametrize('rule', [HalfOfAll, partial(SafeRiskyRepartition, first_fraction=0.5)])
    def test_are_safe_whatever_the_rule_says(self, rule: Callable[[], Repartition]) -> None:
        trusted, plain = self.data(), PlantedData()
        for data in (trusted, plain):
            trainer(WARM_UP + 1, rule()).fit(PlantedModule(), data)
        assert trusted.partition.side[[3, 60, 61]].tolist() == [SAFE] * 3
        others = np.delete(np.arange(64), [3, 60, 61])
        assert torch.equal(trusted.partition.side[others], plain.partition.side[others])
        assert (trusted.partition.side[others] == RISKY).sum() > 10

    def test_anchor_the_mixture(self) -> None:
        score = np.concatenate([np.linspace(0, 0.4, 150), np.linspace(0.35, 0.6, 50)])
        trusted = np.arange(120, 150)
        is_trusted = np.isin(np.arange(200), trusted)
        callback, known = SafeRiskyRepartition(size='mixture', min_fraction=0), Mismatches(trusted=trusted)
        split = callback.decide(score, all_safe(200), None, None, known)
        assert split.past.mixture == fit_mixture(score, anchors=is_trusted) != fit_mixture(score)
        assert len(safe_rows(split)) > len(safe_rows(callback.decide(score, all_safe(200), None)))
        assert len(safe_rows(split)) == split.past.fraction * 200  # the callback adds trusted pairs, not the rule

    def test_anchor_the_mixture_that_is_shown(self) -> None:
        data = self.data()
        trainer(WARM_UP + 1, SafeRiskyRepartition()).fit(PlantedModule(), data)  # which decides by the first mixture
        anchored = fit_mixture(data.partition.score.numpy(), anchors=np.isin(np.arange(64), data.trusted_rows))
        assert data.partition.mixture is not None
        assert data.partition.mixture['mean_high'] == anchored.means[1]

    def test_cannot_anchor_that_of_scikit_learn(self) -> None:
        with pytest.raises(UsageError, match=r'backend=sklearn cannot anchor .* data.trusted: use histogram'):
            trainer(WARM_UP, SafeRiskyRepartition(backend='sklearn')).fit(PlantedModule(), self.data())


class TestSignature:
    def test_a_rule_of_an_earlier_release_is_refused_before_training(self) -> None:
        class Rule(SafeRiskyRepartition):
            def decide(self, score: Any, side: Any, past: Any, candidates: Any = None) -> Split:  # type: ignore[override]
                raise AssertionError

        with pytest.raises(UsageError, match=r'Rule.decide does not take the arguments score, side, .*, mismatches'):
            trainer(1, Rule()).fit(PlantedModule(), PlantedData())

    def test_so_is_a_score(self) -> None:
        class Old(Clean):
            def measure(self, trainer: Any, module: Any, epoch: int, rows: Any = None) -> Tensor:  # type: ignore[override]
                raise AssertionError

        with pytest.raises(UsageError, match=r'Old.measure does not take the arguments trainer, .*, shuffled'):
            trainer(1, SafeRiskyRepartition(score=Old())).fit(PlantedModule(), PlantedData())


class TestMemory:
    def test_has_the_scale_of_the_latest_similarities(self) -> None:
        callback = SafeRiskyRepartition(memory=0.9)
        first, second = torch.tensor([0.0, 0.1, 0.2, 0.3]), torch.tensor([0.9, 0.5, 0.3, 0.1])
        assert torch.allclose(callback._remember(first, NONE)[0], first)
        mixed, _ = callback._remember(second, NONE)
        assert mixed.mean().item() == pytest.approx(second.mean().item())
        assert mixed.argsort().tolist() == [0, 1, 2, 3]  # one epoch does not reverse the remembered ranking

    def test_is_the_weighted_mean_of_standardized_similarities(self) -> None:
        callback = SafeRiskyRepartition(memory=0.25)
        scores = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
        for score in scores:
            callback._remember(score, NONE)
        standard = [(score - score.mean()) / score.std() for score in scores]
        expected = 0.25 * (0.25 * standard[0] + 0.75 * standard[1]) + 0.75 * standard[2]
        assert callback.remembered is not None
        assert torch.allclose(callback.remembered, expected, atol=1e-6)

    def test_a_row_without_a_score_starts_again(self) -> None:
        callback = SafeRiskyRepartition(memory=0.5)
        callback._remember(torch.tensor([0.1, 0.2, math.nan]), NONE)
        assert callback._remember(torch.tensor([0.1, 0.2, 0.6]), NONE)[0].isfinite().all()

    def test_shuffled_pairs_are_remembered_on_the_same_scale(self) -> None:
        callback, score = SafeRiskyRepartition(memory=0.5), torch.linspace(0, 1, 9)
        callback._remember(score, score[:3])
        _, null = callback._remember(2 * score + 1, 2 * score[:3] + 1)
        assert torch.allclose(null, 2 * score[:3] + 1)

    def test_a_memory_without_shuffled_pairs_starts_with_the_latest(self) -> None:
        callback, score = SafeRiskyRepartition(memory=0.5), torch.linspace(0, 1, 9)
        callback._remember(score, NONE)
        assert torch.allclose(callback._remember(score, score[:3])[1], score[:3])

    def test_refuses_a_memory_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r'callbacks.repartition.memory must lie in \[0, 1\), got 1.0'):
            SafeRiskyRepartition(memory=1.0)


class TestCopies:
    class Repeated(PlantedData):
        """Four pairs share a picture; one of them is the most similar pair of all."""

        copies = (3, 9, 20, POISONS)

        def __init__(self) -> None:
            super().__init__()
            self.similarity[list(self.copies)] = torch.tensor([0.99, 0.9, 0.1, 0.9])

        def picture_hashes(self) -> np.ndarray:
            picture = np.arange(64)
            picture[list(self.copies)] = -7
            return picture

    @pytest.mark.parametrize('option', ['apart', 'together'])
    def test_one_dissimilar_copy_makes_all_of_them_risky(self, option: Any) -> None:
        data = self.Repeated()
        trainer(WARM_UP + 1, SafeRiskyRepartition(copies=option, first_fraction=0.5)).fit(PlantedModule(), data)
        safe = (data.partition.side[list(data.copies)] == SAFE).tolist()
        assert safe == ([True, True, False, True] if option == 'apart' else [False] * 4)

    def test_scores_of_copies_are_not_merged(self) -> None:
        data = self.Repeated()
        trainer(WARM_UP + 1, SafeRiskyRepartition(copies='together')).fit(PlantedModule(), data)
        assert torch.allclose(data.partition.score, data.similarity, atol=0.2)
        assert data.partition.score[3] > 0.8 > 0.2 > data.partition.score[20]

    def test_the_histogram_covers_the_scores_that_are_not_merged(self) -> None:
        data = self.Repeated()
        fitting: Any = SimpleNamespace(datamodule=data)
        known, score = Mismatches(np.zeros(1)), data.similarity.numpy()
        callback = SafeRiskyRepartition(copies='together')
        split = callback._judge(fitting, score, callback._judged(fitting, score), None, known)
        assert split.null is not None and split.null['edges'][-1] > 0.99

    def test_refuses_an_unknown_option(self) -> None:
        with pytest.raises(ValueError, match="copies must be apart or together, got 'x'"):
            SafeRiskyRepartition(copies='x')
