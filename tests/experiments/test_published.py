from __future__ import annotations

import pytest

from experiments.published import measures_published, published, published_accuracy, published_success


def test_mean_differences_are_those_that_the_paper_prints() -> None:
    printed = {'zero_shot': ['', '-0.097', '+0.009'], 'probe': ['', '-0.083', '+0.005']}
    assert {task: [row[-1] for row in published_accuracy(task, [])] for task in printed} == printed


def test_sets_are_found_in_any_case_and_others_are_empty() -> None:
    clip, *_ = published_accuracy('zero_shot', ['cifar10', 'mine'])
    assert clip == ['CLIP, paper', '0.482', '-', '']


def test_success_is_shown_for_the_attacks_that_were_measured() -> None:
    assert measures_published(['mine', 'badnet']) == ['badnet']
    assert published_success(['badnet'])[6] == ['CLIP on COCO, paper', '0.310']


def test_overheads_follow_from_the_costs_of_epochs_and_splits() -> None:
    unimodal, mixed, first, later, _ = published()['epochs'].values()
    five, one, *_ = published()['overhead'].values()
    for epochs, overhead in ((5, five), (1, one)):
        assert overhead == pytest.approx((epochs * unimodal + mixed + first + later * 32) / 32, abs=1e-3)
