from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.usage_error import UsageError
from experiments.inspection import Finding, Inspection
from experiments.inspector import Inspector
from experiments.surrogates.surrogate import Surrogate
from lightning_modules.clip import CLIP
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer


def weights_after(folder: Path, *callbacks: Any, **data: Any) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Trains two epochs; returns the weights, and what was logged about backdoors."""
    torch.manual_seed(0)
    model = CLIP(tiny_architecture(folder), lr=1e-2)
    run = trainer(max_epochs=2, callbacks=[*callbacks])
    run.fit(model, TinyPairs(**{'classes': 5, 'cache_dir': str(folder / 'cache'), **data}))
    assert model.training
    logged = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith('inspect/')}
    return dict(model.state_dict()), logged


def test_training_ends_with_a_verdict_and_is_not_changed_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def inspect_model(surrogate: Surrogate, pictures: np.ndarray, *settings: float) -> Inspection:
        assert not surrogate.model.training and surrogate.logits(torch.rand(2, 3, 8, 8)).shape == (2, 5)
        seen.append(len(pictures))
        torch.rand(3)
        found = [Finding('a patch', name, 0.75, log_odds=2, z=z, p_value=1 / (1 + z)) for z, name in enumerate('abcde')]
        return Inspection(found, [], len(pictures), seconds=3)

    monkeypatch.setattr('experiments.inspector.inspect_model', inspect_model)
    weights, logged = weights_after(tmp_path, Inspector(pictures=10))
    plain, nothing = weights_after(tmp_path)
    assert seen == [10] and not nothing
    assert logged == pytest.approx({
        'inspect/verdict': 1, 'inspect/target': 4, 'inspect/success': 0.75, 'inspect/z': 4, 'inspect/p_value': 0.2,
        'inspect/seconds': 3,
    })  # fmt: skip
    assert all(torch.equal(weights[name], plain[name]) for name in plain)


def test_a_model_that_cannot_be_inspected_loses_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, logged = weights_after(tmp_path, Inspector(pictures=2, steps=1))  # one picture in each half
    assert not logged and 'inspecting the model failed (UsageError: inspect needs pictures' in caplog.text


@pytest.mark.parametrize(
    ('settings', 'data', 'sentence'),
    [
        ({'pictures': 1}, {}, '^pictures must be at least 2'),
        ({'steps': 0}, {}, '^steps must be at least 1'),
        ({}, {'classes': 4}, '^an inspection compares classes, and 4 are too few'),
        ({}, {'heldout_rows': 0}, '^Inspector needs clean pictures, and the data holds none out'),
    ],
)
def test_what_cannot_be_inspected_is_refused_before_training(
    settings: dict[str, Any], data: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CLIP, 'training_step', lambda *_: pytest.fail('training has begun'))
    with pytest.raises(UsageError, match=sentence):
        weights_after(tmp_path, Inspector(**settings), **data)
