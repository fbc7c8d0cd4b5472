from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from callbacks.metric_names import (
    AsrQuantity,
    Direction,
    Head,
    RetrievalQuantity,
    asr_metric,
    detection_metric,
    detector_seconds,
    parse_asr_metric,
    parse_detection_metric,
    parse_retrieval_set,
    renamed_since_version_1,
    retrieval_metric,
    zero_shot_metric,
    zero_shot_top5_metric,
)

QUANTITIES = get_args(AsrQuantity)
OLD_QUANTITIES = ('rate', 'clean', 'low', 'high', 'hits', 'n')
ATTACKS = ('badnet', 'badnet_clean', 'clean', 'rate', 'badnet/clean', 'n', 'asr/')


class TestAsrMetric:
    def test_names_of_different_attacks_never_collide(self) -> None:
        names = [asr_metric(*name) for name in product(ATTACKS, QUANTITIES, get_args(Head))]
        assert len(set(names)) == len(names)

    @pytest.mark.parametrize(('attack', 'what'), [*product(ATTACKS, QUANTITIES)])
    def test_parsing_returns_attack_and_quantity(self, attack: str, what: AsrQuantity) -> None:
        assert parse_asr_metric(asr_metric(attack, what)) == (attack, what)

    @pytest.mark.parametrize(
        'metric', ['asr/badnet', 'asr/badnet_hits', 'asr/rate', 'asr//n', 'asr/badnet/other', 'partition/leak/n', '']
    )
    def test_other_names_are_not_parsed(self, metric: str) -> None:
        assert parse_asr_metric(metric) is None

    def test_success_by_other_means_is_parsed_as_such(self) -> None:
        name = asr_metric('badnet', 'rate', 'retrieval')
        assert name == 'asr_retrieval/badnet/rate' and parse_asr_metric(name) is None
        assert parse_asr_metric(name, 'retrieval') == ('badnet', 'rate')


class TestDetectionMetric:
    @pytest.mark.parametrize('attack', ['badnet', 'badnet/auroc', 'seconds'])
    def test_parsing_returns_its_parts(self, attack: str) -> None:
        assert parse_detection_metric(detection_metric('lof', attack, 'ap')) == ('lof', attack, 'ap')

    @pytest.mark.parametrize('metric', [detector_seconds('lof'), 'asr/lof/badnet/auroc', 'detect/lof', ''])
    def test_other_names_are_not_parsed(self, metric: str) -> None:
        assert parse_detection_metric(metric) is None


def test_a_set_named_like_a_top_5_metric_has_its_own_name() -> None:
    assert len({named(name) for name in ('a', 'a_top5') for named in (zero_shot_metric, zero_shot_top5_metric)}) == 4


def old_names(*attacks: str) -> set[str]:
    ends = ('', '_clean', '_low', '_high', '_hits', '_n')
    return {f'asr/{attack}{end}' for attack in attacks for end in ends}


class TestRenamedSinceVersion1:
    def test_finds_every_metric_of_each_attack(self) -> None:
        renamed = renamed_since_version_1(old_names('badnet', 'tdpa_2') | {'partition/leak/badnet', 'zero_shot/a'})
        assert renamed.keys() == old_names('badnet', 'tdpa_2')
        assert set(renamed.values()) == {asr_metric(a, what) for a in ('badnet', 'tdpa_2') for what in OLD_QUANTITIES}
        assert renamed['asr/tdpa_2'] == 'asr/tdpa_2/rate' and renamed['asr/tdpa_2_clean'] == 'asr/tdpa_2/clean'

    def test_a_shared_name_is_taken_for_a_rate(self) -> None:
        renamed = renamed_since_version_1(old_names('badnet', 'badnet_clean'))
        assert renamed['asr/badnet_clean'] == 'asr/badnet_clean/rate'
        assert renamed['asr/badnet_clean_clean'] == 'asr/badnet_clean/clean'
        assert 'asr/badnet/clean' not in renamed.values()

    def test_an_attack_may_end_like_a_count(self) -> None:
        renamed = renamed_since_version_1(old_names('x_hits'))
        assert set(renamed.values()) == {asr_metric('x_hits', what) for what in OLD_QUANTITIES}

    def test_top_5_belongs_to_the_set_with_an_accuracy(self) -> None:
        metrics = ['zero_shot/a', 'zero_shot/a_top5', 'zero_shot/b_top5']
        assert renamed_since_version_1(metrics) == {'zero_shot/a_top5': 'zero_shot_top5/a'}

    @pytest.mark.parametrize('current', ['asr/badnet/n', 'zero_shot_top5/a'])
    def test_current_names_stay(self, current: str) -> None:
        assert renamed_since_version_1([current, 'zero_shot/a', 'zero_shot/a_top5']) == {}


class TestRetrievalMetric:
    @pytest.mark.parametrize('name', ['heldout', 'a/b', 'i2t_r1'])
    def test_parsing_returns_the_set(self, name: str) -> None:
        for direction, what in product(get_args(Direction), get_args(RetrievalQuantity)):
            assert parse_retrieval_set(retrieval_metric(name, direction, what)) == name

    @pytest.mark.parametrize('metric', ['retrieval/a', 'retrieval//i2t_r1', 'retrieval/a/i2t_r2', 'zero_shot/a/i2t_r1'])
    def test_other_names_are_not_parsed(self, metric: str) -> None:
        assert parse_retrieval_set(metric) is None
