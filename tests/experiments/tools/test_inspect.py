from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.usage_error import UsageError
from experiments.inspection import Finding, Inspection
from experiments.surrogates.surrogate import Surrogate
from experiments.tools.inspect import inspect
from lightning_modules.clip import CLIP
from tests.helpers.tiny import TinyPairs, tiny_architecture


def test_prints_a_verdict_and_writes_figures_and_triggers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CLIP(tiny_architecture(tmp_path, 'inspected_by_command'))
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.ckpt')
    data = TinyPairs(classes=5, heldout_rows=10, cache_dir=str(tmp_path / 'cache'))
    found = [Finding('a patch', name, success=0.9, log_odds=2, z=z, p_value=0.01) for z, name in enumerate('abcde')]

    def inspect_model(surrogate: Surrogate, pictures: np.ndarray, *settings: float) -> Inspection:
        assert not surrogate.model.training and surrogate.classifier.shape[0] == 5 and len(pictures) == 10
        return Inspection(found, list(pictures[:5]), len(pictures), seconds=1)

    monkeypatch.setattr('experiments.tools.inspect.inspect_model', inspect_model)
    file, sheet = str(tmp_path / 'a.json'), str(tmp_path / 'a.png')
    inspect(model, data, torch.device('cpu'), file=file, sheet=sheet, ckpt_path=str(tmp_path / 'a.ckpt'))
    assert capsys.readouterr().out.startswith(
        "backdoored: a patch turns 90% of other pictures into 'e', and stands out"
    )
    assert json.loads(Path(file).read_text())['clearest']['target'] == 'e'
    with Image.open(sheet) as drawn:
        assert drawn.width > 100


@pytest.mark.parametrize('output', ['file', 'sheet'])
def test_what_cannot_be_written_is_refused_before_the_search(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('experiments.tools.inspect.inspect_model', lambda *_: pytest.fail('the search has begun'))
    (tmp_path / 'file').touch()
    model = CLIP(tiny_architecture(tmp_path, 'inspected_by_command'))
    data = TinyPairs(classes=5, cache_dir=str(tmp_path / 'cache'))
    with pytest.raises(UsageError, match='cannot be created as a folder'):
        inspect(model, data, torch.device('cpu'), **{output: str(tmp_path / 'file' / 'a.out')})
