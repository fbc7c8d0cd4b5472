from __future__ import annotations

from experiments.report_sections import find_reference, sections
from experiments.results import Result
from tests.experiments.finished_runs import attacked_result, timed_result


def titles(results: list[Result]) -> list[str]:
    return [section.title for section in sections(results, find_reference(results, None))]


def test_has_what_was_measured_and_no_more() -> None:
    assert titles([Result('lost', 1, 4, {}, 1.0, caveat='diverged')]) == ['Runs']
    assert titles([Result('plain', 1, 4, {'zero_shot/a': [(4, 0.5)]}, 1.0)]) == ['Runs', 'Over the epochs']


def test_has_all_that_can_be_compared() -> None:
    runs = [timed_result(name, seed, {'clip': [1.0] * 4}, {}, views=1) for name in ('clip', 'safe') for seed in (1, 2)]
    for run in runs:
        run.series.update(attacked_result(run.name, 1, 1, 200).series, **{'zero_shot/DTD': [(4, 0.2)]})
    assert titles(runs) == [
        'Runs',
        'Utility against attack success',
        'Over the epochs',
        'Differences over the same seeds',
        'Attack success beside that of the paper',
        'Accuracy on several sets, zero-shot',
        'Cost of an epoch',
        'Training time beyond that of the reference',
    ]
