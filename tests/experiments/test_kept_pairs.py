from __future__ import annotations

from typing import Any

import pytest

from datamodules.usage_error import UsageError
from experiments.kept_pairs import filter_options

WHERE = 'grid.yaml: methods.retrain.keep'


def _filter(name: str, **arguments: Any) -> dict[str, Any]:
    return {'class_path': name, 'init_args': arguments}


def test_a_ledger_filter_needs_no_name() -> None:
    assert filter_options({'max_p': 0.1}, ['a', 'b'], WHERE) == (
        '--data.filters.ledger=LedgerFilter', '--data.filters.ledger.max_p=0.1',
    )  # fmt: skip


def test_any_filter_that_reads_a_file_can_be_named() -> None:
    options = filter_options(_filter('DensityFilter', detector='slof', batch=None), ['clip'], WHERE)
    given = {option.removeprefix('--data.filters.ledger') for option in options}
    assert given == {'=DensityFilter', '.detector=slof', '.batch=null'}


@pytest.mark.parametrize(
    ('keep', 'message'),
    [
        ({'shares': 0.5}, ": Option 'shares' is not accepted by LedgerFilter"),
        ({'share': 'half'}, r'\.share: expected float.*, got half'),
        ([0.5], ' must hold arguments of LedgerFilter, as in'),
        ({'class_path': 'SimilarityFilter', 'quantile': 0.1}, ' must hold arguments of LedgerFilter, as in'),
        ({'file': 'a.parquet'}, ': file is that of the ledger: leave it out'),
        (_filter('DensityFilter', drop_share=2), r': data.filters: drop_share must lie in \(0, 1\), got 2'),
        (_filter('SimilarityFilter', quantil=0.1), ": Option 'quantil' is not accepted by SimilarityFilter"),
        (_filter('Density'), ": .*'?Density"),
        (_filter('RandomSubset', share=0.5), ": Option 'file' is not accepted by RandomSubset"),
    ],
)
def test_refuses_before_any_run_what_would_be_refused_after_the_first(keep: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f'^{WHERE}{message}'):
        filter_options(keep, ['clip'], WHERE)


def test_refuses_several_ledgers_for_a_filter_that_reads_one() -> None:
    with pytest.raises(UsageError, match=r'keep\.file: .*str'):
        filter_options(_filter('DensityFilter'), ['a', 'b'], WHERE)
