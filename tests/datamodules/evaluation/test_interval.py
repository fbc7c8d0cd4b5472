from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.evaluation.interval import check_evaluation_interval
from datamodules.usage_error import UsageError

EVALUATES: dict[str, Any] = {'limit_train_batches': 1.0, 'limit_val_batches': 1.0, 'check_val_every_n_epoch': 1}


@pytest.mark.parametrize(('limit', 'steps'), [(1.0, 4), (0.5, 2), (3, 3)])
def test_an_interval_longer_than_an_epoch_is_refused(limit: float, steps: int) -> None:
    trainer = SimpleNamespace(**{**EVALUATES, 'limit_train_batches': limit}, val_check_interval=steps + 1)
    with pytest.raises(
        UsageError, match=rf'^trainer\.val_check_interval={steps + 1} is larger than the {steps} batches'
    ):
        check_evaluation_interval(trainer, 4)


@pytest.mark.parametrize('changed', [{'check_val_every_n_epoch': None}, {'limit_val_batches': 0}, {}])
def test_other_intervals_are_accepted(changed: dict[str, Any]) -> None:
    interval = 9 if changed else 4
    check_evaluation_interval(SimpleNamespace(**{**EVALUATES, **changed}, val_check_interval=interval), 4)
