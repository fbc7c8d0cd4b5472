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
from tests.integration.runs import (
    BATCH,
    PHASES,
    STEPS,
    Run,
    SeenBatches,
    find_differences,
    model,
    pairs,
    repartition,
    run,
)

pytestmark = pytest.mark.filterwarnings('ignore:.*LeafSpec.*:FutureWarning')  # of Lightning 2.6 on a newer torch


class TestEpochs:
    def test_have_the_same_number_of_full_batches_in_every_phase(self, finished: Run) -> None:
        assert [epoch.number for epoch in finished.trace.epochs] == list(range(len(PHASES)))
        for epoch in finished.trace.epochs:
            assert [len(rows) for rows in epoch.rows] == [BATCH] * STEPS
        assert finished.trainer.global_step == STEPS * len(PHASES)

    def test_are_evaluated_once(self, finished: Run) -> None:
        assert finished.trace.validations == list(range(len(PHASES)))

    def test_train_the_sides_of_their_phase(self, finished: Run) -> None:
        for epoch, phase in zip(finished.trace.epochs, PHASES, strict=True):
            assert finished.module.phase(epoch.number) == phase
            expected = {'unimodal': {0}, 'slow': {BATCH}, 'mixed': {0, BATCH}}[phase]
            assert set(epoch.safe) == expected

    def test_train_on_every_pair_before_the_first_split(self, finished: Run) -> None:
        for epoch in finished.trace.epochs[:3]:
            drawn = [row for rows in epoch.rows for row in rows]
            assert len(set(drawn)) == len(drawn) == STEPS * BATCH

    def test_train_on_the_split_made_at_the_end_of_the_previous_epoch(self, finished: Run) -> None:
        for before, epoch in itertools.pairwise(finished.trace.epochs[2:]):
            (side,) = before.partition
            for rows, safe in zip(epoch.rows, epoch.safe, strict=True):
                assert (side[rows] == (SAFE if safe else RISKY)).all()

    def test_safe_side_grows_after_the_first_split(self, finished: Run) -> None:
        sides = [epoch.partition[0] for epoch in finished.trace.epochs]
        assert all((side == SAFE).all() for side in sides[:2])
        assert [int((side == SAFE).sum()) for side in sides[2:]] == sorted({int((s == SAFE).sum()) for s in sides[2:]})

    def test_partition_counts_epochs(self, finished: Run) -> None:
        assert finished.data.partition.epoch == len(PHASES)


class TestSweep:
    def test_reads_every_pair_once_before_each_split(self, finished: Run, seen: SeenBatches) -> None:
        for epoch in (2, 3, 4):
            rows = [row for at, batch in seen.swept if at == epoch for row in batch.row.tolist()]
            assert sorted(rows) == list(range(len(finished.data.table)))
        assert {at for at, _ in seen.swept} == {2, 3, 4}

    def test_reads_pictures_and_captions_without_augmentation(self, finished: Run, seen: SeenBatches) -> None:
        data = finished.data
        for _, batch in seen.swept:
            assert torch.equal(batch.image, clean(data, batch.row)[None])
            assert torch.equal(batch.tokens, torch.from_numpy(data.tokens[batch.row.numpy()].astype('int64'))[None])
            assert batch.epoch == CLEAN

    def test_reads_other_views_than_training(self, finished: Run, seen: SeenBatches) -> None:
        for batch in seen.trained:
            for view in batch.image:
                assert not torch.isclose(view, clean(finished.data, batch.row)).all((1, 2, 3)).any()

    def test_does_not_change_training(self, finished: Run, tmp_path: Path) -> None:
        again = run(tmp_path, split=ReplaySplits({epoch.number: epoch.partition[0] for epoch in finished.trace.epochs}))
        assert find_differences(finished.module.state_dict(), again.module.state_dict()) == []


class ReplaySplits(SafeRiskyRepartition):
    """Repeats the splits of another run, given by epoch, without a sweep."""

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


# --- defenses must not read the manifest ----------------------------------------------------------------------------


class ManifestRead(Exception):
    """A defense has read the manifest."""


class GuardedPairs(TinyPairs):
    """Refuses to give the manifest while ``guarded``."""

    guarded = False

    @property
    def manifest(self) -> Manifest:
        if self.guarded:
            raise ManifestRead
        return self._manifest

    @manifest.setter
    def manifest(self, manifest: Manifest) -> None:
        self._manifest = manifest


def guard_methods(data: GuardedPairs, watched: object, *names: str) -> None:
    """Hides the manifest of ``data`` from the named methods of an object."""
    for name in names:
        setattr(watched, name, guard_method(data, getattr(watched, name)))


def guard_method(data: GuardedPairs, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before, data.guarded = data.guarded, True
        try:
            return method(*args, **kwargs)
        finally:
            data.guarded = before

    return wrapped


CALLBACK_HOOKS = [name for name in dir(Callback) if name.startswith(('on_train', 'on_fit', 'on_before', 'on_after'))]
MODULE_METHODS = ['training_step', 'validation_step', 'predict_step', 'on_train_epoch_start', 'on_train_batch_end']
DATA_METHODS = ['train_dataloader', 'sweep_dataloader', 'val_dataloader', 'on_after_batch_transfer']


def run_guarded(folder: Path, split: SafeRiskyRepartition | None = None, module: SafeCLIP | None = None) -> Run:
    data: Any = pairs(folder, kind=GuardedPairs)
    split, module = split or repartition(), module or model(folder)
    guard_methods(data, split, 'setup', 'decide', 'candidates', *CALLBACK_HOOKS)
    guard_methods(data, module, *MODULE_METHODS)
    guard_methods(data, data, *DATA_METHODS)
    return run(folder, data=data, split=split, module=module)


class ReadsAtEpochEnd(SafeRiskyRepartition):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        data: Any = trainer.datamodule
        data.partition.side[data.manifest.rows()] = RISKY


class ReadsWhileTraining(SafeRiskyRepartition):
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.poisons = getattr(trainer.datamodule, 'mani' + 'fest').rows()


class ReadsInTrainingStep(SafeCLIP):
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        assert len(self.trainer.datamodule.manifest)
        return super().training_step(batch, batch_idx)


class TestManifest:
    def test_defense_does_not_read_it(self, tmp_path: Path, finished: Run) -> None:
        unseen = run_guarded(tmp_path)
        assert torch.equal(unseen.data.partition.side, finished.data.partition.side)
        assert torch.equal(unseen.data.partition.score, finished.data.partition.score)

    def test_metrics_may_read_it(self, finished: Run) -> None:
        assert {'partition/leak/badnet', 'partition/auroc/badnet'} <= finished.metrics.epochs[-1].keys()

    @pytest.mark.parametrize('split', [ReadsAtEpochEnd, ReadsWhileTraining])
    def test_a_split_that_reads_it_is_caught(self, tmp_path: Path, split: type[SafeRiskyRepartition]) -> None:
        with pytest.raises(ManifestRead):
            run_guarded(tmp_path, split=split())

    def test_a_model_that_reads_it_is_caught(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestRead):
            run_guarded(tmp_path, module=model(tmp_path, kind=ReadsInTrainingStep))
