from __future__ import annotations

import logging

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

# Models this small lose more time to thread synchronization than they gain; on a busy machine, a hundred times as much.
torch.set_num_threads(1)

# Lightning hides its messages from `caplog` unless pytest had a handler before Lightning was imported: 8.0 has none.
for _name in ('lightning.fabric', 'lightning.pytorch'):
    logging.getLogger(_name).propagate = True


@pytest.fixture(autouse=True)
def _first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each test begin in process 0: a trainer of another rank leaves its number to the whole process."""
    monkeypatch.setattr(rank_zero_only, 'rank', 0)


@pytest.fixture(autouse=True)
def _no_bars_of_others() -> None:
    """Forgets progress bars that an earlier test has left open: they would move the lines of this one."""
    getattr(tqdm, '_instances', set()).clear()
