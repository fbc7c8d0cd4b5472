from __future__ import annotations

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

# Models this small lose more time to thread synchronization than they gain; on a busy machine, a hundred times as much.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each test begin in process 0: a trainer of another rank leaves its number to the whole process."""
    monkeypatch.setattr(rank_zero_only, 'rank', 0)
