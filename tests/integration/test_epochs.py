from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks.repartition import Past, SafeRiskyRepartition
from datamodules.attacks.base import Manifest
from datamodules.pictures.augment import CleanView, normalize
from datamodules.pictures.batches import CLEAN
from datamodules.rows.partition import RISKY, SAFE
from lightning_modules.safeclip import SafeCLIP
from tests.helpers.tiny import IMAGE_SIZE, TinyPairs
from tests.integration.runs import BATCH, PHASES, STEPS, Run, Seen, differences, model, pairs, repartition, run

pytestmark = pytest.mark.filterwarnings('ignore:.*LeafSpec.*:FutureWarning')  # of Lightning 2.6 on a newer torch


class TestEpochs:
    def test_have_the_same_number_of_whole_batches_in_every_phase(self, finished: Run) -> None:
        assert [epoch.number for epoch in finished.trace.epochs] == list(range(len(PHASES)))
        for epoch in finished.trace.epochs:
            assert [len(rows) for rows in epoch.rows] == [BATCH] * STEPS
        assert finished.trainer.global_step == STEPS * len(PHASES)

    def test_are_evaluated_once_each(self, finished: Run) -> None:
        assert finished.trace.validations == list(range(len(PHASES)))

    def test_train_the_sides_of_their_phase(self, finished: Run) -> None:
        for epoch, phase in zip(finished.trace.epochs, PHASES, strict=True):
            assert finished.module.phase(epoch.number) == phase
            expected = {'unimodal': {0}, 'slow': {BATCH}, 'mixed': {0, BATCH}}[phase]
            assert set(epoch.safe) == expected

    def test_take_every_pair_before_the_first_split(self, finished: Run) -> None:
        for epoch in finished.trace.epochs[:3]:
            drawn = [row for rows in epoch.rows for row in rows]
            assert len(set(drawn)) == len(drawn) == STEPS * BATCH

    def test_train_on_the_split_that_was_made_at_the_end_of_the_one_before(self, finished: Run) -> None:
        for before, epoch in itertools.pairwise(finished.trace.epochs[2:]):
            (side,) = before.partition
            for rows, safe in zip(epoch.rows, epoch.safe, strict=True):
                assert (side[rows] == (SAFE if safe else RISKY)).all()

    def test_do_not_share_a_split(self, finished: Run) -> None:
        sides = [epoch.partition[0] for epoch in finished.trace.epochs]
        assert all((side == SAFE).all() for side in sides[:2])
        assert [int((side == SAFE).sum()) for side in sides[2:]] == sorted({int((s == SAFE).sum()) for s in sides[2:]})

    def test_number_their_split(self, finished: Run) -> None:
        assert finished.data.partition.epoch == len(PHASES)


class TestSweep:
    def test_sees_every_pair_once_at_the_end_of_every_epoch_before_a_split(self, finished: Run, seen: Seen) -> None:
        for epoch in (2, 3, 4):
            rows = [row for at, batch in seen.swept if at == epoch for row in batch.row.tolist()]
            assert sorted(rows) == list(range(len(finished.data.table)))
        assert {at for at, _ in seen.swept} == {2, 3, 4}

    def test_sees_pictures_and_captions_as_they_are(self, finished: Run, seen: Seen) -> None:
        data = finished.data
        for _, batch in seen.swept:
            assert torch.equal(batch.image, clean(data, batch.row)[None])
            assert torch.equal(batch.tokens, torch.from_numpy(data.tokens[batch.row.numpy()].astype('int64'))[None])
            assert batch.epoch == CLEAN

    def test_does_not_see_what_training_does(self, finished: Run, seen: Seen) -> None:
        for batch in seen.trained:
            for view in batch.image:
                assert not torch.isclose(view, clean(finished.data, batch.row)).all((1, 2, 3)).any()

    def test_leaves_training_as_it_would_be_without(self, finished: Run, tmp_path: Path) -> None:
        again = run(tmp_path, split=Remembers({epoch.number: epoch.partition[0] for epoch in finished.trace.epochs}))
        assert differences(finished.module.state_dict(), again.module.state_dict()) == []


class Remembers(SafeRiskyRepartition):
    """Makes the splits of another run, by the epoch at whose end they were made, without a sweep."""

    def __init__(self, sides: dict[int, Tensor]) -> None:
        super().__init__()
        self.sides = sides

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch
        if PHASES[epoch] != 'unimodal':
            partition = trainer.datamodule.partition
            partition.side, partition.epoch, self.past = self.sides[epoch].clone(), epoch + 1, Past(Fraction(1))


def clean(data: TinyPairs, rows: Tensor) -> Tensor:
    """The clean view of some rows, (B, 3, H, H)."""
    pictures = torch.from_numpy(data.images(rows.numpy()))
    return normalize(CleanView()(pictures, rows, IMAGE_SIZE, seed=0, epoch=CLEAN, view=0))


# --- who may know which pairs are poisoned --------------------------------------------------------------------------


class PoisonSeen(Exception):
    """A defense has looked at the truth."""


class GuardedPairs(TinyPairs):
    """Shows the manifest to nobody while ``guarded``."""

    guarded = False

    @property
    def manifest(self) -> Manifest:
        if self.guarded:
            raise PoisonSeen
        return self._manifest

    @manifest.setter
    def manifest(self, manifest: Manifest) -> None:
        self._manifest = manifest


def guard(data: GuardedPairs, watched: object, *names: str) -> None:
    """Hides the manifest of ``data`` from everything that methods of an object do."""
    for name in names:
        setattr(watched, name, guarded(data, getattr(watched, name)))


def guarded(data: GuardedPairs, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before, data.guarded = data.guarded, True
        try:
            return method(*args, **kwargs)
        finally:
            data.guarded = before

    return wrapped


OF_A_CALLBACK = [name for name in dir(Callback) if name.startswith(('on_train', 'on_fit', 'on_before', 'on_after'))]
OF_A_MODULE = ['training_step', 'validation_step', 'predict_step', 'on_train_epoch_start', 'on_train_batch_end']
OF_THE_DATA = ['train_dataloader', 'sweep_dataloader', 'val_dataloader', 'on_after_batch_transfer']


def run_guarded(folder: Path, split: SafeRiskyRepartition | None = None, module: SafeCLIP | None = None) -> Run:
    data: Any = pairs(folder, kind=GuardedPairs)
    split, module = split or repartition(), module or model(folder)
    guard(data, split, 'setup', 'decide', 'candidates', *OF_A_CALLBACK)
    guard(data, module, *OF_A_MODULE)
    guard(data, data, *OF_THE_DATA)
    return run(folder, data=data, split=split, module=module)


class LooksAtTheEnd(SafeRiskyRepartition):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        data: Any = trainer.datamodule
        data.partition.side[data.manifest.rows()] = RISKY


class LooksWhileTraining(SafeRiskyRepartition):
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.poisons = getattr(trainer.datamodule, 'mani' + 'fest').rows()


class LooksInItsStep(SafeCLIP):
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        assert len(self.trainer.datamodule.manifest)
        return super().training_step(batch, batch_idx)


class TestManifest:
    def test_is_not_needed_to_defend(self, tmp_path: Path, finished: Run) -> None:
        unseen = run_guarded(tmp_path)
        assert torch.equal(unseen.data.partition.side, finished.data.partition.side)
        assert torch.equal(unseen.data.partition.score, finished.data.partition.score)

    def test_is_open_to_those_who_report(self, finished: Run) -> None:
        assert {'partition/leak/badnet', 'partition/auroc/badnet'} <= finished.metrics.epochs[-1].keys()

    @pytest.mark.parametrize('split', [LooksAtTheEnd, LooksWhileTraining])
    def test_a_split_that_looks_at_it_is_caught(self, tmp_path: Path, split: type[SafeRiskyRepartition]) -> None:
        with pytest.raises(PoisonSeen):
            run_guarded(tmp_path, split=split())

    def test_a_model_that_looks_at_it_is_caught(self, tmp_path: Path) -> None:
        with pytest.raises(PoisonSeen):
            run_guarded(tmp_path, module=model(tmp_path, kind=LooksInItsStep))
