from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from callbacks.scores import Augmented, Clean, Running, Score
from datamodules.rows.partition import RISKY, SAFE
from experiments.checkpoint_io import AtomicCheckpointIO
from tests.experiments.conftest import EXPERIMENTS, SMALL
from tests.integration.processes import in_processes, report
from tests.integration.runs import (
    PHASES,
    PLACES,
    STEPS,
    Died,
    Place,
    differences,
    kill_self,
    last,
    outcome,
    pairs,
    repartition,
    run,
)

pytestmark = [
    pytest.mark.filterwarnings('ignore:.*LeafSpec.*:FutureWarning'),  # of Lightning 2.6 on a newer torch
    pytest.mark.filterwarnings('ignore:The dirpath has changed'),  # a resumed run has a folder of its own
    pytest.mark.filterwarnings('ignore:Checkpoint directory'),  # or goes on in the old one
]
ROOT = Path(__file__).parents[2]


def die(folder: Path, place: Place, resume: Path | None = None, **kwargs: Any) -> Path:
    """A run that dies; returns what there is to resume from."""
    with pytest.raises(Died):
        run(folder, place=place, resume=resume, **kwargs)
    return last(folder) if resume is None or last(folder).exists() else resume


def test_what_is_compared_holds_everything(whole: dict[str, Any]) -> None:
    """Or it would prove little that two runs agree on it."""
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


class TestARunThatDied:
    """Stands for a killed one without the seconds that a process of its own takes; see the next class for those."""

    @pytest.mark.parametrize('name', PLACES)
    def test_goes_on_as_if_it_had_not(self, tmp_path: Path, whole: dict[str, Any], name: str) -> None:
        resumed = run(tmp_path / 'resumed', resume=die(tmp_path / 'died', PLACES[name]))
        assert differences(whole, outcome(tmp_path / 'resumed')) == []
        remaining = list(range(PLACES[name].epoch, len(PHASES)))
        assert [epoch.number for epoch in resumed.trace.epochs] == resumed.trace.validations == remaining
        assert all(len(epoch.rows) == STEPS for epoch in resumed.trace.epochs)

    @pytest.mark.slow
    def test_may_die_again_and_again(self, tmp_path: Path, whole: dict[str, Any]) -> None:
        checkpoint = None
        for name in ('unimodal', 'first sweep', 'mixed', 'sweep', 'writing last'):
            checkpoint = die(tmp_path / name, PLACES[name], checkpoint)
        run(tmp_path / 'resumed', resume=checkpoint)
        assert differences(whole, outcome(tmp_path / 'resumed')) == []

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ('arguments', 'name'),
        [
            *product([(Augmented, {}), (Clean, {'top_fraction': 0.3})], ['first sweep', 'mixed', 'writing last']),
            *product([(Running, {})], ['mixed', 'writing last']),  # there is no sweep to die in
        ],
    )
    def test_continues_with_every_kind_of_score(
        self, tmp_path: Path, arguments: tuple[type[Score], dict[str, Any]], name: str
    ) -> None:
        score, others = arguments
        run(tmp_path / 'whole', split=repartition(score=score(), **others))
        checkpoint = die(tmp_path / 'died', PLACES[name], split=repartition(score=score(), **others))
        run(tmp_path / 'resumed', resume=checkpoint, split=repartition(score=score(), **others))
        assert differences(outcome(tmp_path / 'whole'), outcome(tmp_path / 'resumed')) == []


def run_with_workers(folder: Path, workers: int, place: Place | None = None, resume: Path | None = None) -> None:
    """A run in a process of its own, which is killed at a place."""
    run(folder, place, kill_self, resume, data=pairs(folder, workers))


class TestAKilledProcess:
    def test_goes_on_as_if_it_had_not(self, tmp_path: Path, whole: dict[str, Any]) -> None:
        killed = tmp_path / 'killed'
        killed.mkdir()
        assert in_processes(run_with_workers, killed, 0, PLACES['writing last']) == [-signal.SIGKILL], report(killed)
        assert len(list(last(killed).parent.glob('*.tmp*'))) == 1  # half of a checkpoint
        run(tmp_path / 'resumed', resume=last(killed))
        assert differences(whole, outcome(tmp_path / 'resumed')) == []

    @pytest.mark.slow
    @pytest.mark.parametrize('workers', [0, 2])
    @pytest.mark.parametrize('name', PLACES)
    def test_goes_on_wherever_it_was_killed(
        self, tmp_path: Path, whole: dict[str, Any], name: str, workers: int
    ) -> None:
        killed, resumed = tmp_path / 'killed', tmp_path / 'resumed'
        killed.mkdir()
        resumed.mkdir()
        assert in_processes(run_with_workers, killed, workers, PLACES[name]) == [-signal.SIGKILL], report(killed)
        assert in_processes(run_with_workers, resumed, workers, None, last(killed)) == [0], report(resumed)
        assert differences(whole, outcome(resumed)) == []

    @pytest.mark.slow
    def test_leaves_the_same_with_and_without_workers(self, tmp_path: Path, whole: dict[str, Any]) -> None:
        run(tmp_path, data=pairs(tmp_path, workers=2))
        assert differences(whole, outcome(tmp_path)) == []


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    'cut': lambda content: content[: len(content) // 2],
    'empty': lambda content: b'',
    'one bit': lambda content: content[:100_000] + bytes([content[100_000] ^ 1]) + content[100_001:],
    'no checkpoint': lambda content: b'404 not found',
}


@pytest.fixture(scope='module')
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the checkpoints of a run that died in its fourth epoch."""
    return die(tmp_path_factory.mktemp('died'), PLACES['mixed']).parent


class TestADamagedCheckpoint:
    @pytest.mark.parametrize('damage', DAMAGE)
    def test_is_refused_and_the_newest_whole_one_named(self, tmp_path: Path, died: Path, damage: str) -> None:
        folder = tmp_path / 'checkpoints'
        shutil.copytree(died, folder)
        (other,) = (path for path in folder.glob('*.ckpt') if path.name != 'last.ckpt')
        (folder / 'last.ckpt').write_bytes(DAMAGE[damage]((folder / 'last.ckpt').read_bytes()))
        with pytest.raises(ValueError, match=rf'last\.ckpt.* is damaged: resume from {re.escape(str(other))}\.'):
            run(tmp_path / 'refused', resume=folder / 'last.ckpt')
        other.write_bytes(DAMAGE[damage](other.read_bytes()))
        with pytest.raises(ValueError, match=r'no other in its folder is whole, so start anew\.'):
            AtomicCheckpointIO().load_checkpoint(folder / 'last.ckpt')

    def test_the_other_one_leads_to_the_same_end(self, tmp_path: Path, died: Path, whole: dict[str, Any]) -> None:
        (other,) = (path for path in died.glob('*.ckpt') if path.name != 'last.ckpt')
        run(tmp_path / 'resumed', resume=other)
        assert differences(whole, outcome(tmp_path / 'resumed')) == []


@pytest.mark.slow
class TestCommand:
    """As a user does it: ``clipward fit``, killed, and the same again with ``--ckpt_path``."""

    def test_goes_on_as_if_it_had_not_been_killed(self, tmp_path: Path) -> None:
        kill = '--trainer.callbacks={class_path: tests.integration.runs.Kill, init_args: {epoch: 2, batch: 1}}'
        assert command(tmp_path, 'whole') == 0
        assert command(tmp_path, 'killed', kill) == -signal.SIGKILL
        folder = tmp_path / 'killed' / 'version_0'
        assert not (folder / 'DONE').exists()
        assert command(tmp_path, 'killed', f'--ckpt_path={last(folder)}') == 0
        resumed = tmp_path / 'killed' / 'version_1'
        assert (resumed / 'DONE').exists()
        assert differences(outcome(tmp_path / 'whole' / 'version_0'), outcome(resumed)) == []


def command(folder: Path, name: str, *more: str) -> int:
    """Runs the toy experiment in its smallest form and returns the exit status."""
    toy = ['fit', '--config', str(EXPERIMENTS / 'safeclip_toy.yaml'), *SMALL, '--trainer.max_epochs=4']
    where = [f'--name={name}', f'--trainer.default_root_dir={folder}', f'--data.cache_dir={folder}/cache']
    environment = {**os.environ, 'WANDB_MODE': 'disabled', 'PYTHONPATH': str(ROOT)}
    line = [sys.executable, '-m', 'experiments.cli', *toy, *where, *more]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True).returncode
