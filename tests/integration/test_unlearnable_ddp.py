from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.unlearnable import MEM
from tests.integration.processes import read_tracebacks, run_in_processes
from tests.lightning_modules.unlearnable_runs import ROWS, TwoCaptions, build, content, fit, pairs, store_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings('ignore:Checkpoint directory')]
KINDS = {  # with batches that two processes share unequally
    'batch': {},
    'row': {'selection': 'row', 'beam': 2},
    'class': {'granularity': 'class'},
}


def protect_all(folder: Path, **settings: object) -> None:
    for name, kwargs in KINDS.items():
        module = build(folder, MEM, lr=1e-4, store=str(folder / name / 'noise'), **kwargs)
        fit(folder, module, pairs(folder, TwoCaptions), strategy='auto' if not settings else 'ddp', **settings)


def protect_on_two(folder: Path) -> None:
    protect_all(folder, devices=2)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of what one process made, and two."""
    alone, together = (tmp_path_factory.mktemp(name) for name in ('alone', 'together'))
    protect_all(alone)
    assert run_in_processes(protect_on_two, together, ranks=2) == [0, 0], read_tracebacks(together)
    return alone, together


@pytest.mark.parametrize('kind', KINDS)
def test_two_processes_protect_the_same_rows_as_one(folders: tuple[Path, Path], kind: str) -> None:
    """Both make the same noise and words but for rounding, which turns a sign or chooses between equal words."""
    alone, together = (store_of(folder / kind) for folder in folders)
    assert np.array_equal(alone.unit, together.unit) and together.rounds == alone.rounds == 2
    units = np.arange(alone.unit.max() + 1)
    one, two = alone.noise(units), together.noise(units)
    assert two.any((1, 2, 3)).all() and (one == two).mean() > 0.98
    triggers = [store.trigger(np.arange(ROWS)) for store in (alone, together)]
    assert (triggers[0] != 518).any(1).mean() > 0.2 and (triggers[0] == triggers[1]).mean() > 0.95
    assert content(folders[0] / kind).keys() == content(folders[1] / kind).keys()
