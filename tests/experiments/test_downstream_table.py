from __future__ import annotations

from experiments.downstream_table import downstream_table
from experiments.results import Result


def result(name: str, task: str, **accuracy: float) -> Result:
    return Result(name, 1, 4, {f'{task}/{dataset}': [(4, value)] for dataset, value in accuracy.items()}, 1.0)


def test_ends_with_the_mean_difference_over_the_sets_of_both() -> None:
    clip = result('clip', 'probe', DTD=0.5, Food101=0.25, pets=0.1)
    table = downstream_table([clip, result('safe', 'probe', DTD=0.6, Food101=0.45)], 'probe', 'clip')
    assert table.rows[0] == ['probe', 'DTD', 'Food101', 'pets', 'mean difference from clip']
    assert table.rows[1:3] == [
        ['clip', '0.500', '0.250', '0.100', ''],
        ['safe', '0.600', '0.450', '-', '+0.150'],
    ]


def test_the_paper_has_its_own_mean_difference_over_ten_sets() -> None:
    table = downstream_table([result('clip', 'zero_shot', CIFAR10=0.5, DTD=0.2)], 'zero_shot', 'clip')
    assert table.rows[-1] == ['SafeCLIP, paper', '0.547', '0.036', '+0.009'] and table.published == 3


def test_one_set_is_no_table() -> None:
    assert not downstream_table([result('clip', 'zero_shot', heldout=0.5)], 'zero_shot', 'clip')
