from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datamodules.attacks.manifest import Manifest
from datamodules.rows.partition import DROPPED, Partition
from experiments.cli import main
from experiments.plan import cautions, kept_by_filters, phases, poison_counts, sum_up
from lightning_modules.clip import CLIP
from lightning_modules.roclip import RoCLIP
from lightning_modules.safeclip import SafeCLIP
from tests.experiments.conftest import SMALL


@pytest.fixture(scope='module')
def safeclip() -> SafeCLIP:
    return SafeCLIP(architecture='tiny_toy.json', lr=1e-3, unimodal_epochs=2, slow_epochs=1, slow_lr=1e-4)


class TestPhases:
    def test_cover_all_epochs_in_order(self, safeclip: SafeCLIP) -> None:
        planned = list(phases(safeclip, steps_per_epoch=10, epochs=6))
        assert [(p.name, p.first, p.last) for p in planned] == [('unimodal', 1, 2), ('slow', 3, 3), ('mixed', 4, 6)]
        assert [p.steps for p in planned] == [20, 10, 30]

    def test_state_the_learning_rates_of_training(self, safeclip: SafeCLIP) -> None:
        factor = safeclip.schedule(10, 6)
        rate = [1e-3 * factor(step) for step in range(60)]
        unimodal, slow, mixed = phases(safeclip, 10, 6)
        assert unimodal.lr == pytest.approx([rate[0], max(rate[:20]), rate[19]])
        assert slow.lr == pytest.approx([1e-4] * 3)
        assert mixed.lr == pytest.approx([rate[30], rate[30], rate[59]])

    def test_a_short_run_has_no_later_phase(self, safeclip: SafeCLIP) -> None:
        assert [p.name for p in phases(safeclip, 10, 2)] == ['unimodal']

    def test_plain_clip_has_one(self) -> None:
        (phase,) = phases(CLIP(architecture='tiny_toy.json'), 7, 3)
        assert (phase.first, phase.last, phase.steps) == (1, 3, 21)

    def test_phases_that_take_turns_are_summed_up(self) -> None:
        planned = [*phases(RoCLIP(architecture='tiny_toy.json'), 10, 24)]
        clip, matching = sum_up(planned)
        assert clip[:5] == ('clip', 1, 23, 12, 120) and matching[:5] == ('matching', 2, 24, 12, 120)
        assert matching.lr == (planned[1].lr[0], max(phase.lr[1] for phase in planned[1::2]), planned[-1].lr[2])
        assert sum_up(planned[:6]) == planned[:6]

    def test_a_long_run_does_not_look_up_every_step(self, safeclip: SafeCLIP) -> None:
        steps = [phase.steps for phase in phases(safeclip, steps_per_epoch=5859, epochs=48)]
        assert sum(steps) == 48 * 5859


def test_warns_of_a_run_that_never_compares_pictures_with_captions(safeclip: SafeCLIP) -> None:
    (line,) = cautions(safeclip, 2, 0)
    assert line.split()[:5] == ['beware', 'epochs', '1', 'to', '2']
    assert 'raise trainer.max_epochs, or lower model.unimodal_epochs' in line
    assert not cautions(safeclip, 3, 0)
    assert 'compare trusted pairs alone' in cautions(safeclip, 2, 0, trusted=5)[0]


def test_warns_of_a_run_that_never_matches_pictures_with_the_pool() -> None:
    roclip = RoCLIP(match_every=7, architecture='tiny_toy.json')
    assert 'lower model.match_every' in cautions(roclip, 6, 0)[0]
    assert not cautions(roclip, 7, 0)


def test_says_how_long_the_slow_phase_may_become(safeclip: SafeCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safeclip, 'extra_slow_epochs', 2)
    (line,) = cautions(safeclip, 9, 0)
    assert line.split()[:4] == ['slow', 'up', 'to', '2']


def test_says_after_which_epoch_a_run_goes_on(safeclip: SafeCLIP) -> None:
    (line,) = cautions(safeclip, 9, 4)
    assert line.split() == ['resumes', 'after', 'epoch', '4', 'of', '9']


def test_counts_what_filters_keep() -> None:
    manifest = SimpleNamespace(attacks=('badnet',), rows=lambda attack: np.array([0, 3]))
    data: Any = SimpleNamespace(filtered=np.array([True, False, False, False]), manifest=manifest)
    data.partition = Partition(5, 'x')  # with a canary
    data.partition.side[0] = DROPPED
    assert kept_by_filters(data) == {'share': 0.75, 'poisons': {'badnet': 1}}
    data.partition.side[3] = DROPPED  # as with `data.poison=false`
    assert kept_by_filters(data) == {'share': 0.75, 'poisons': {'badnet': 0}}


def test_poisons_are_counted_by_attack_and_class() -> None:
    pairs = [{'attack': attack, 'target_class': name} for attack, name in [('a', 'cat'), ('b', 'dog'), ('a', 'cat')]]
    assert poison_counts(Manifest(pa.Table.from_pylist(pairs), 10)) == {'a': {'cat': 2}, 'b': {'dog': 1}}


class TestPrintedPlan:
    def test_states_pairs_poisons_phases_and_memory(self, finished_run: Path) -> None:
        plan = (finished_run / 'plan.txt').read_text()
        assert 'SafeCLIP on ToyPairs, 3 epochs of 4 steps' in plan
        assert '104, of them 8 poisoned (7.692%)' in plan
        assert '4 towards striped star' in plan
        for part in ('unimodal', 'slow', 'mixed', 'model and optimizer', 'checkpoint on disk'):
            assert part in plan

    def test_the_manifest_is_saved_beside_it(self, finished_run: Path) -> None:
        manifest = Manifest.load(finished_run / 'manifest.parquet')
        assert manifest.attacks == ('patch', 'aimed')
        assert len(manifest) == 8

    def test_fits_a_screen(self, finished_run: Path) -> None:
        lines = (finished_run / 'plan.txt').read_text().splitlines()
        assert len(lines) <= 24
        assert max(len(line) for line in lines) <= 120

    def test_says_what_filters_leave_out_and_what_is_planted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = [option for option in SMALL if not option.startswith(('--data.attacks', '--model'))]
        where = [f'--trainer.default_root_dir={tmp_path}', f'--data.cache_dir={tmp_path}', '--trainer.logger=false']
        run = ['fit', '--config', 'clip_toy.yaml', *options, *where, '--data.attacks={}', '--trainer.max_epochs=1']
        planted = '--data.canaries={square: {class_path: PatchCanary, init_args: {at_least: 5}}}'
        main([*run, '--data.filters={half: {class_path: RandomSubset, init_args: {share: 0.5}}}', planted])
        lines = capsys.readouterr().out.splitlines()
        assert any(line.split() == ['pairs', 'batches', 'of', '24', '48'] for line in lines)
        assert any(line.split() == ['filters', 'half', '48', 'pairs', 'left', 'out'] for line in lines)
        assert any(line.split() == ['canaries', 'square', '5', 'planted'] for line in lines)

    def test_says_how_many_pairs_are_trusted(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        where = [f'--trainer.default_root_dir={tmp_path}', f'--data.cache_dir={tmp_path}', '--trainer.logger=false']
        files = ['--config', 'safeclip_toy.yaml', '--config', 'ablations/trusted_1_percent.yaml']
        main(['fit', *files, *SMALL, *where, '--trainer.max_epochs=1', '--data.trusted.count=7'])
        plan = capsys.readouterr().out
        assert any(line.split() == ['trusted', 'CleanSubset', '7', 'pairs'] for line in plan.splitlines())
        assert '1 epochs of 4 steps' in plan and 'epoch 1                      4 steps' in plan
