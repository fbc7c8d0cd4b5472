import torch

from experiments.measurements import describe_measurements


def test_are_listed_once_by_name() -> None:
    metrics = {'zero_shot/heldout': torch.tensor(0.25), 'asr/a/n': torch.tensor(1200.0)}
    assert describe_measurements(metrics) == '  asr/a/n            1200\n  zero_shot/heldout  0.25'
