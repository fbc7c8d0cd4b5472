from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks.attack_success import (
    AttackSuccessRate,
    clean_rate,
    clean_set_for,
    is_unsaid,
    target_recall,
    wilson_interval,
)
from callbacks.metric_names import AsrQuantity
from datamodules.evaluation.sets import EvaluationSet
from tests.callbacks.observed import QUIET, Answers, Data, batches, evaluation_set, numbers, trainer

pytestmark = QUIET

CLASSES = 5
TARGET = 3


def logits(images: int, seed: int) -> Tensor:
    return torch.randn(images, CLASSES, generator=torch.Generator().manual_seed(seed))


def sets(images: int = 47, seed: int = 0) -> list[EvaluationSet]:
    """A clean set, a backdoor tested on the same images, and poison aimed at five individual images."""
    label = np.random.default_rng(seed).integers(0, CLASSES, images).tolist()
    return [
        evaluation_set('heldout', label, None, CLASSES),
        evaluation_set('badnet', label, [TARGET] * images, CLASSES),
        evaluation_set('targeted', [0, 1, 2, 4, -1], [1, 2, 0, 3, 2], CLASSES),
    ]


def answers(all_sets: list[EvaluationSet]) -> list[Tensor]:
    return [logits(len(source), seed) for seed, source in enumerate(all_sets)]


def counted(
    callback: AttackSuccessRate, all_sets: list[EvaluationSet], logits_by_set: list[Tensor], size: int, world: int = 1
) -> dict[str, float]:
    """Metrics of an evaluation in batches of one size, with counts summed over ranks as the strategy does."""
    totals: dict[int, Tensor] = {}
    for rank in range(world):
        for index, source in enumerate(all_sets):
            for batch in batches(source, size, rank, world):
                count = callback.count(all_sets, index, logits_by_set[index][numbers(batch)], batch)
                if count is not None:
                    totals[index] = totals.get(index, torch.zeros_like(count)) + count
    return callback.report(all_sets, totals)


class TestAttackSuccessRate:
    @pytest.mark.parametrize(('size', 'world'), [(1, 1), (7, 1), (100, 1), (4, 2), (7, 3), (5, 64)])
    def test_counts_each_image_once_for_every_batch_size_and_number_of_ranks(self, size: int, world: int) -> None:
        all_sets = sets()
        logits_by_set = answers(all_sets)
        metrics = counted(AttackSuccessRate(), all_sets, logits_by_set, size, world)
        hits = n = 0
        for label, answer in zip(all_sets[1].label, logits_by_set[1].tolist(), strict=True):
            if label != TARGET:
                n += 1
                hits += answer.index(max(answer)) == TARGET
        assert (metrics['asr/badnet/hits'], metrics['asr/badnet/n']) == (hits, n)
        assert metrics['asr/badnet/rate'] == hits / n
        assert (metrics['asr/badnet/low'], metrics['asr/badnet/high']) == wilson_interval(hits, n)

    def test_follows_the_golden_example(self) -> None:
        predicted, label = [9, 9, 2, 1, 9, 9, 5, 9], [9, 1, 2, 9, 3, 4, 5, 6]
        source = [evaluation_set('badnet', label, [9] * 8, 10)]
        metrics = counted(AttackSuccessRate(), source, [torch.eye(10)[predicted]], 3)
        assert (metrics['asr/badnet/hits'], metrics['asr/badnet/n']) == (4, 6)

    def test_each_image_may_have_its_own_target(self) -> None:
        source = [evaluation_set('targeted', [0, 1, 2], [1, 2, 0], CLASSES)]
        metrics = counted(AttackSuccessRate(), source, [torch.eye(CLASSES)[[1, 2, 2]]], 2)
        assert metrics['asr/targeted/rate'] == 2 / 3

    def test_an_image_of_unknown_class_counts(self) -> None:
        source = [evaluation_set('targeted', [-1, -1], [1, 2], CLASSES)]
        assert counted(AttackSuccessRate(), source, [torch.eye(CLASSES)[[1, 1]]], 2)['asr/targeted/rate'] == 0.5

    def test_logs_no_rate_if_all_images_are_of_the_target_class(self) -> None:
        source = [evaluation_set('badnet', [1, 1], [1, 1], CLASSES)]
        metrics = counted(AttackSuccessRate(), source, [torch.eye(CLASSES)[[1, 1]]], 2)
        assert metrics == {'asr/badnet/n': 0, 'asr/badnet/hits': 0, 'asr/badnet/low': 0.0, 'asr/badnet/high': 1.0}

    def test_refuses_a_confidence_that_is_not_a_probability(self) -> None:
        with pytest.raises(ValueError, match='confidence must lie between 0 and 1, got 95'):
            AttackSuccessRate(confidence=95)

    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
    def test_logs_in_every_kind_of_run(self, stage: str, tmp_path: Path) -> None:
        all_sets = sets()
        module, data = Answers(answers(all_sets)), Data(all_sets)
        run = trainer(tmp_path, [AttackSuccessRate()], epochs=2)
        getattr(run, stage)(module, datamodule=data, **({} if stage == 'fit' else {'verbose': False}))
        expected = counted(AttackSuccessRate(), all_sets, module.logits, 100)
        logged = {name: value.item() for name, value in run.callback_metrics.items()}
        assert logged == pytest.approx(expected)
        quantities = get_args(AsrQuantity)
        assert set(logged) == {f'asr/{attack}/{what}' for attack in ('badnet', 'targeted') for what in quantities}

    def test_an_attack_named_like_a_metric_of_another_one_overwrites_nothing(self) -> None:
        label, target = [0, 1, 2], [TARGET] * 3
        all_sets = [evaluation_set('heldout', label, None, CLASSES)]
        all_sets += [evaluation_set(name, label, target, CLASSES) for name in ('badnet', 'badnet_clean')]
        one_hot = torch.eye(CLASSES)
        predicted = [one_hot[[TARGET, 1, 2]], one_hot[[TARGET, TARGET, 2]], one_hot[[TARGET] * 3]]
        metrics = counted(AttackSuccessRate(), all_sets, predicted, 2)
        assert len(metrics) == 2 * 6
        assert (metrics['asr/badnet/rate'], metrics['asr/badnet/clean']) == (2 / 3, pytest.approx(1 / 3))
        assert (metrics['asr/badnet_clean/rate'], metrics['asr/badnet_clean/clean']) == (1.0, pytest.approx(1 / 3))

    def test_an_image_without_finite_logits_is_no_success(self) -> None:
        label = [1, 1, 2, 2]
        all_sets = [
            evaluation_set('heldout', label, None, CLASSES),
            evaluation_set('first', label, [0] * 4, CLASSES),
            evaluation_set('last', label, [CLASSES - 1] * 4, CLASSES),
        ]
        nothing = torch.full((4, CLASSES), float('nan'))
        metrics = counted(AttackSuccessRate(), all_sets, [nothing] * 3, 3)
        for attack in ('first', 'last'):
            assert (metrics[f'asr/{attack}/hits'], metrics[f'asr/{attack}/n']) == (0, 4)
            assert metrics[f'asr/{attack}/clean'] == 0


class TestCleanRate:
    def test_of_a_backdoor_is_the_rate_outside_the_target_class(self) -> None:
        all_sets = sets()
        logits_by_set = answers(all_sets)
        predicted, label = logits_by_set[0].argmax(-1).numpy(), all_sets[0].label
        expected = (predicted == TARGET)[label != TARGET].mean()
        metrics = counted(AttackSuccessRate(), all_sets, logits_by_set, 8, world=3)
        assert metrics['asr/badnet/clean'] == pytest.approx(expected)

    def test_of_targeted_poison_is_the_mean_over_its_class_pairs(self) -> None:
        all_sets = sets()
        logits_by_set = answers(all_sets)
        predicted, label = logits_by_set[0].argmax(-1).numpy(), all_sets[0].label
        pairs = zip(all_sets[2].label, all_sets[2].target if all_sets[2].target is not None else [], strict=True)
        rates = [(predicted == t)[label != t if c < 0 else label == c].mean() for c, t in pairs]
        metrics = counted(AttackSuccessRate(), all_sets, logits_by_set, 8)
        assert metrics['asr/targeted/clean'] == pytest.approx(np.mean(rates))

    def test_uses_all_other_classes_if_the_true_class_has_no_clean_image(self) -> None:
        matrix = torch.tensor([[0, 0, 0], [2, 6, 0], [1, 0, 3]])
        assert clean_rate(matrix, np.array([0]), np.array([1])) == 0.0
        assert clean_rate(matrix, np.array([-1]), np.array([0])) == pytest.approx(3 / 12)

    def test_is_nan_without_clean_images_or_without_images_of_the_attack(self) -> None:
        assert math.isnan(clean_rate(torch.zeros(3, 3, dtype=torch.int64), np.array([0]), np.array([1])))
        assert math.isnan(clean_rate(torch.ones(3, 3, dtype=torch.int64), np.array([1]), np.array([1])))

    def test_is_not_logged_without_a_clean_set_of_the_same_classes(self) -> None:
        all_sets = [evaluation_set('other', [0, 1], None, 2), *sets()[1:]]
        logits_by_set = [torch.eye(2), *answers(sets())[1:]]
        metrics = counted(AttackSuccessRate(), all_sets, logits_by_set, 8)
        assert not [name for name in metrics if name.rpartition('/')[2] in ('clean', 'recall', 'recall_n')]

    def test_comes_from_the_first_clean_set(self) -> None:
        first, *attacks = sets()
        second = evaluation_set('second', [0], None, CLASSES)
        assert clean_set_for(attacks[0], [*attacks, first, second]) == 2
        assert clean_set_for(first, [first, second]) is None

    def test_leaves_out_images_of_unknown_class(self) -> None:
        clean = evaluation_set('heldout', [0, -1, -1], None, CLASSES)
        attack = evaluation_set('badnet', [0], [TARGET], CLASSES)
        logits_by_set = [torch.eye(CLASSES)[[0, TARGET, TARGET]], torch.eye(CLASSES)[[0]]]
        assert counted(AttackSuccessRate(), [clean, attack], logits_by_set, 2)['asr/badnet/clean'] == 0.0


class TestTargetRecall:
    def test_of_a_backdoor_is_the_share_of_its_class_that_is_recognized(self) -> None:
        all_sets = sets()
        logits_by_set = answers(all_sets)
        predicted, label = logits_by_set[0].argmax(-1).numpy(), all_sets[0].label
        metrics = counted(AttackSuccessRate(), all_sets, logits_by_set, 8, world=3)
        assert metrics['asr/badnet/recall'] == pytest.approx((predicted == TARGET)[label == TARGET].mean())
        assert metrics['asr/badnet/recall_n'] == (label == TARGET).sum()

    def test_of_several_targets_is_the_mean_over_the_classes_that_are_shown(self) -> None:
        matrix = torch.tensor([[6, 0, 2, 0], [9, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
        assert target_recall(matrix, np.array([0, 0, 0, 1, 2])) == (pytest.approx((0.75 + 0.1) / 2), 18)

    def test_is_not_logged_where_no_clean_image_shows_a_target(self) -> None:
        all_sets = [evaluation_set('heldout', [0, -1], None, CLASSES), evaluation_set('b', [0], [TARGET], CLASSES)]
        metrics = counted(AttackSuccessRate(), all_sets, [torch.eye(CLASSES)[[0, TARGET]], torch.eye(CLASSES)[[0]]], 2)
        assert 'asr/b/clean' in metrics and 'asr/b/recall' not in metrics and 'asr/b/recall_n' not in metrics

    def test_only_a_low_rate_needs_it(self) -> None:
        assert is_unsaid(0.01, 0.04)
        assert not is_unsaid(0.01, 0.06) and not is_unsaid(0.6, 0.0) and not is_unsaid(0.01, math.nan)


class TestWilsonInterval:
    @pytest.mark.parametrize(
        ('hits', 'n', 'low', 'high'),
        [(0, 16, 0.0, 0.1936), (16, 16, 0.8064, 1.0), (1, 300, 0.0006, 0.0186), (15, 30, 0.3315, 0.6685)],
    )
    def test_known_values(self, hits: int, n: int, low: float, high: float) -> None:
        assert wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)

    @pytest.mark.parametrize(('hits', 'n'), [(1, 7), (3, 10), (49_000, 49_950)])
    def test_bounds_are_where_the_score_test_just_rejects(self, hits: int, n: int) -> None:
        for end in wilson_interval(hits, n, confidence=0.9):
            z = abs(hits / n - end) / math.sqrt(end * (1 - end) / n)
            assert z == pytest.approx(1.6448536, rel=1e-6)

    @pytest.mark.parametrize('n', [1, 2, 16, 300])
    def test_contains_the_rate_and_stays_between_0_and_1(self, n: int) -> None:
        for hits in range(n + 1):
            low, high = wilson_interval(hits, n)
            assert 0.0 <= low <= hits / n <= high <= 1.0

    def test_without_trials_the_interval_is_0_to_1(self) -> None:
        assert wilson_interval(0, 0) == (0.0, 1.0)

    def test_refuses_more_hits_than_trials(self) -> None:
        with pytest.raises(ValueError, match='between 0 and n=3, got 4'):
            wilson_interval(4, 3)
