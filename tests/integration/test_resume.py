from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callbacks.scores import Augmented, Clean, Running, Score
from datamodules.rows.filters import CleanSubset
from datamodules.rows.partition import RISKY, SAFE
from experiments.checkpoint_choice import runs_newest_first
from experiments.checkpoint_io import AtomicCheckpointIO
from tests.helpers.tiny import TinyPairs
from tests.integration.kills import End, read_outcome, start
from tests.integration.processes import read_tracebacks, run_in_processes
from tests.integration.runs import (
    PHASES,
    PLACES,
    STEPS,
    Died,
    Place,
    find_differences,
    kill_self,
    last,
    load_outcome,
    pairs,
    repartition,
    run,
)

pytestmark = [
    pytest.mark.filterwarnings('ignore:.*LeafSpec.*:FutureWarning'),  # of Lightning 2.6 on a newer torch
    pytest.mark.filterwarnings('ignore:The dirpath has changed'),  # a resumed run has its own folder
    pytest.mark.filterwarnings('ignore:Checkpoint directory'),  # or continues in the old one
]


def run_until_death(folder: Path, place: Place, resume: Path | None = None, **kwargs: Any) -> Path:
    """Starts a run that dies; returns the checkpoint to resume from."""
    with pytest.raises(Died):
        run(folder, place=place, resume=resume, **kwargs)
    return last(folder) if resume is None or last(folder).exists() else resume


def test_compared_state_is_complete(whole: dict[str, Any]) -> None:
    """The comparisons below would prove little otherwise."""
    assert {'state_dict', 'optimizer_states', 'lr_schedulers', 'loops', 'callbacks', 'TinyPairs'} <= whole.keys()
    assert {'pools.image.rows', 'pools.text.rows', 'pools.text.position'} <= whole['state_dict'].keys()
    assert whole['state_dict']['pools.image.rows'].abs().sum(1).bool().all()
    partition = whole['TinyPairs']['partition']
    assert set(partition['side'].tolist()) == {SAFE, RISKY} and not partition['score'].isnan().any()
    assert {'Metrics', 'Curves', 'SafeRiskyRepartition'} <= whole['callbacks'].keys()
    assert {'asr/badnet/rate', 'zero_shot/heldout', 'partition/share'} <= whole['callbacks']['Metrics']['epochs'][
        -1
    ].keys()
    history = whole['callbacks']['Curves']['history']
    epochs = {name: [epochs for epochs, _ in history[name]] for name in ('asr/badnet/rate', 'split/share')}
    assert epochs == {'asr/badnet/rate': [1, 2, 3, 4, 5], 'split/share': [3, 4, 5]}


class TestRunThatDied:
    """An exception replaces the kill, which is faster than a separate process; the next class really kills one."""

    @pytest.mark.parametrize('name', PLACES)
    def test_resumes_as_if_it_had_not_died(self, tmp_path: Path, whole: dict[str, Any], name: str) -> None:
        resumed = run(tmp_path / 'resumed', resume=run_until_death(tmp_path / 'died', PLACES[name]))
        assert find_differences(whole, load_outcome(tmp_path / 'resumed')) == []
        remaining = list(range(PLACES[name].epoch, len(PHASES)))
        assert [epoch.number for epoch in resumed.trace.epochs] == resumed.trace.validations == remaining
        assert all(len(epoch.rows) == STEPS for epoch in resumed.trace.epochs)

    def test_leaves_last_and_one_other_checkpoint(self, tmp_path: Path) -> None:
        """Lightning never deletes a file that it resumed from, other than ``last.ckpt``; see findings/."""
        run(tmp_path, resume=run_until_death(tmp_path, PLACES['mixed']))
        assert len([*last(tmp_path).parent.glob('*.ckpt')]) == 2

    def test_resumes_with_trusted_pairs(self, tmp_path: Path) -> None:
        def data() -> TinyPairs:
            return pairs(tmp_path, trusted=CleanSubset(6))

        whole = run(tmp_path / 'whole', data=data())
        trusted = {*whole.data.trusted_rows.tolist()}
        for epoch, phase in zip(whole.trace.epochs, PHASES, strict=True):
            across = [rows[:safe] for rows, safe in zip(epoch.rows, epoch.safe, strict=True) if safe]
            assert len(epoch.rows) == STEPS
            assert across and all({*rows} <= trusted for rows in across) == (phase == 'unimodal')
        assert all((epoch.partition[0][whole.data.trusted_rows] == SAFE).all() for epoch in whole.trace.epochs)
        assert (whole.data.partition.side == RISKY).any()
        checkpoint = run_until_death(tmp_path / 'died', PLACES['unimodal'], data=data())
        checkpoint = run_until_death(tmp_path / 'died again', PLACES['mixed'], checkpoint, data=data())
        run(tmp_path / 'resumed', resume=checkpoint, data=data())
        assert find_differences(load_outcome(tmp_path / 'whole'), load_outcome(tmp_path / 'resumed')) == []

    @pytest.mark.slow
    def test_may_die_several_times(self, tmp_path: Path, whole: dict[str, Any]) -> None:
        checkpoint = None
        for name in ('unimodal', 'first sweep', 'mixed', 'sweep', 'writing last'):
            checkpoint = run_until_death(tmp_path / name, PLACES[name], checkpoint)
        run(tmp_path / 'resumed', resume=checkpoint)
        assert find_differences(whole, load_outcome(tmp_path / 'resumed')) == []

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ('arguments', 'name'),
        [
            *product([(Augmented, {}), (Clean, {'top_fraction': 0.3})], ['first sweep', 'mixed', 'writing last']),
            *product([(Running, {})], ['mixed', 'writing last']),  # makes no sweep to die in
        ],
    )
    def test_resumes_with_every_kind_of_score(
        self, tmp_path: Path, arguments: tuple[type[Score], dict[str, Any]], name: str
    ) -> None:
        score, others = arguments
        run(tmp_path / 'whole', split=repartition(score=score(), **others))
        checkpoint = run_until_death(tmp_path / 'died', PLACES[name], split=repartition(score=score(), **others))
        run(tmp_path / 'resumed', resume=checkpoint, split=repartition(score=score(), **others))
        assert find_differences(load_outcome(tmp_path / 'whole'), load_outcome(tmp_path / 'resumed')) == []


def run_with_workers(folder: Path, workers: int, place: Place | None = None, resume: Path | None = None) -> None:
    """Job for a separate process, which is killed at ``place``."""
    run(folder, place, kill_self, resume, data=pairs(folder, workers))


class TestKilledProcess:
    def test_resumes_as_if_it_had_not_died(self, tmp_path: Path, whole: dict[str, Any]) -> None:
        killed = tmp_path / 'killed'
        killed.mkdir()
        assert run_in_processes(run_with_workers, killed, 0, PLACES['writing last']) == [-signal.SIGKILL], (
            read_tracebacks(killed)
        )
        assert len(list(last(killed).parent.glob('*.tmp*'))) == 1  # half of a checkpoint
        run(tmp_path / 'resumed', resume=last(killed))
        assert find_differences(whole, load_outcome(tmp_path / 'resumed')) == []

    @pytest.mark.slow
    @pytest.mark.parametrize('workers', [0, 2])
    @pytest.mark.parametrize('name', PLACES)
    def test_resumes_wherever_it_was_killed(
        self, tmp_path: Path, whole: dict[str, Any], name: str, workers: int
    ) -> None:
        killed, resumed = tmp_path / 'killed', tmp_path / 'resumed'
        killed.mkdir()
        resumed.mkdir()
        assert run_in_processes(run_with_workers, killed, workers, PLACES[name]) == [-signal.SIGKILL], read_tracebacks(
            killed
        )
        assert run_in_processes(run_with_workers, resumed, workers, None, last(killed)) == [0], read_tracebacks(resumed)
        assert find_differences(whole, load_outcome(resumed)) == []

    @pytest.mark.slow
    def test_workers_do_not_change_the_outcome(self, tmp_path: Path, whole: dict[str, Any]) -> None:
        run(tmp_path, data=pairs(tmp_path, workers=2))
        assert find_differences(whole, load_outcome(tmp_path)) == []


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    'cut': lambda content: content[: len(content) // 2],
    'empty': lambda content: b'',
    'one bit': lambda content: content[:100_000] + bytes([content[100_000] ^ 1]) + content[100_001:],
}


@pytest.fixture(scope='module')
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the checkpoints of a run that died in its fourth epoch."""
    return run_until_death(tmp_path_factory.mktemp('died'), PLACES['mixed']).parent


class TestDamagedCheckpoint:
    @pytest.mark.parametrize('damage', DAMAGE)
    def test_is_refused_and_the_newest_intact_one_is_named(self, tmp_path: Path, died: Path, damage: str) -> None:
        folder = tmp_path / 'checkpoints'
        shutil.copytree(died, folder)
        (other,) = (path for path in folder.glob('*.ckpt') if path.name != 'last.ckpt')
        (folder / 'last.ckpt').write_bytes(DAMAGE[damage]((folder / 'last.ckpt').read_bytes()))
        with pytest.raises(ValueError, match=rf'last\.ckpt.* is damaged: resume from {re.escape(str(other))}\.'):
            run(tmp_path / 'refused', resume=folder / 'last.ckpt')
        other.write_bytes(DAMAGE[damage](other.read_bytes()))
        with pytest.raises(ValueError, match=r'last\.ckpt. is damaged'):
            AtomicCheckpointIO().load_checkpoint(folder / 'last.ckpt')

    def test_the_other_one_can_be_resumed_from(self, tmp_path: Path, died: Path, whole: dict[str, Any]) -> None:
        (other,) = (path for path in died.glob('*.ckpt') if path.name != 'last.ckpt')
        run(tmp_path / 'resumed', resume=other)
        assert find_differences(whole, load_outcome(tmp_path / 'resumed')) == []


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int, float]:
    """The outcome of a command that was left alone, the number of its changes of files, and its seconds."""
    folder, started = tmp_path_factory.mktemp('whole'), time.monotonic()
    assert start(folder, None) == 0, read_tracebacks(folder)
    seconds = time.monotonic() - started
    return read_outcome(folder / 'runs/toy/version_0'), int((folder / 'changes').read_text()), seconds


@pytest.mark.slow
class TestCommand:
    """Uses the command as a user would: ``clipward fit``, killed, then again with ``--ckpt_path=last``."""

    @pytest.mark.parametrize('seed', range(int(os.environ.get('CLIPWARD_KILLS', '3'))))
    def test_resumes_as_if_it_had_not_died(
        self, tmp_path: Path, whole_run: tuple[dict[str, Any], int, float], seed: int
    ) -> None:
        """CLIPWARD_KILLS in the environment sets the number of runs; every third finds the disk full."""
        expected, changes, seconds = whole_run
        random = np.random.default_rng(seed)
        kind = ('change', 'time', 'full')[seed % 3]
        resume: tuple[str, ...] = ()
        for _ in range(random.integers(1, 4)):
            end = End(kind, float(random.uniform(0, seconds)) if kind == 'time' else int(random.integers(changes)))
            status = start(tmp_path, end, *resume)
            assert status in (-signal.SIGKILL, -signal.SIGALRM, 2, 0), (end, read_tracebacks(tmp_path))
            resume = ('--ckpt_path=last',) if list(tmp_path.glob('runs/toy/version_*/checkpoints/*.ckpt')) else ()
        assert start(tmp_path, None, *resume) == 0, read_tracebacks(tmp_path)
        newest = next(runs_newest_first(tmp_path / 'runs/toy'))
        assert find_differences(expected, read_outcome(newest)) == []
