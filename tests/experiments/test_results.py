from __future__ import annotations

from dataclasses import replace

from experiments.results import Result, attacks_in, caveats, group_repetitions
from tests.experiments.finished_runs import attacked_result


class TestResult:
    def test_attacks_are_those_with_hits(self) -> None:
        series = {f'asr/{attack}/hits': [(1, 0.0)] for attack in ('badnet', 'badnet_clean', 'a/b')}
        attacks = Result('x', 1, 1, {**series, 'asr/other/n': [(1, 4.0)]}, 0.0).attacks
        assert attacks == ['badnet', 'badnet_clean', 'a/b']

    def test_accuracy_is_not_taken_from_five_guesses(self) -> None:
        series = {metric: [(1, 0.5)] for metric in ('zero_shot_top5/a', 'zero_shot/top5_photos')}
        assert Result('x', 1, 1, series, 0.0).accuracy_metric == 'zero_shot/top5_photos'

    def test_a_metric_that_was_not_measured_has_no_value(self) -> None:
        result = Result('x', 1, 1, {'zero_shot/a': []}, 0.0)
        assert result.first('zero_shot/a') is result.last('zero_shot/b') is None

    def test_a_split_that_could_not_be_trusted_is_told(self) -> None:
        result = Result('safe', 3, 9, {'partition/trusted': [(6, 1.0), (10, 0.0), (14, 0.0)]}, 0.0)
        assert result.distrusted_after == 10
        assert caveats([result]) == ['safe, seed 3: its split after epoch 10 could not be trusted.']
        assert caveats([replace(result, series={'partition/trusted': [(6, 1.0)]})]) == []


class TestGroupRepetitions:
    run = attacked_result('toy', 1, 1, 2, data_seed=1, settings='abc', source='runs/toy')

    def labels(self, **changed: object) -> list[str]:
        """Labels of two runs of one name, of which the second differs."""
        return list(group_repetitions([self.run, replace(self.run, source='old/toy', **changed)]))

    def test_runs_that_differ_by_their_seeds_share_a_row(self) -> None:
        assert self.labels(seed=2) == self.labels(data_seed=2) == ['toy']

    def test_other_runs_of_one_name_are_on_their_own(self) -> None:
        apart = ['runs/toy', 'old/toy']
        assert self.labels() == apart  # the same seeds again
        assert self.labels(seed=2, epochs=9) == self.labels(seed=2, settings='xyz') == apart
        assert self.labels(seed=2, caveat='not finished') == apart

    def test_no_run_is_lost_whatever_it_is_named(self) -> None:
        runs = [self.run, self.run, replace(self.run, name='runs/toy')]
        assert [len(group) for group in group_repetitions(runs).values()] == [1, 1, 1]

    def test_names_and_attacks_keep_the_order_of_their_first_appearance(self) -> None:
        results = [attacked_result(name, seed, 1, 2) for name, seed in (('b', 1), ('a', 1), ('b', 2))]
        assert [(name, len(runs)) for name, runs in group_repetitions(results).items()] == [('b', 2), ('a', 1)]
        results[2].series['asr/early/hits'] = [(4, 1.0)]
        assert attacks_in(results) == ['badnet', 'early']
