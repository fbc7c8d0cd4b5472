from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.sweep import PROGRESS, Embeddings, RowSums, embed_pairs, evaluating, sweep, sweep_embeddings
from datamodules.usage_error import UsageError
from tests.callbacks.planted import PlantedData, PlantedModule, batches_of, quiet_lightning, trainer

PAIRS, WIDTH = 50, 6
ROWS = np.delete(np.arange(PAIRS), [7, 48])  # two pairs are dropped


class TestSimilarity:
    pytestmark: ClassVar[Any] = [
        pytest.mark.filterwarnings('ignore:.*does not have many workers.*'),
        pytest.mark.filterwarnings('ignore:.*LeafSpec.*:FutureWarning'),
    ]

    def test_does_not_change_modes_and_generators(self) -> None:
        module, data = PlantedModule(), PlantedData()
        fitting = trainer(1)
        fitting.fit(module, data)
        module.train()
        module.frozen.eval()
        torch.manual_seed(7)
        expected = torch.rand(2)
        torch.manual_seed(7)
        sweep(fitting, module, data.sweep_dataloader(), 64)
        assert torch.equal(torch.rand(2), expected)
        assert module.training and module.norm.training and not module.frozen.training
        assert module.weight.requires_grad

    def test_rows_without_a_batch_have_no_score(self) -> None:
        module, data = PlantedModule(), PlantedData()
        fitting = trainer(1)
        fitting.fit(module, data)
        score = sweep(fitting, module, data.sweep_dataloader(rows=np.array([3, 5])), 64)
        assert torch.nonzero(~score.isnan()).flatten().tolist() == [3, 5]
        assert score.dtype == torch.float32


def test_a_row_drawn_twice_counts_as_its_mean() -> None:
    sums = RowSums(2, torch.device('cpu'))
    sums.add(torch.tensor([0, 0]), torch.tensor([0.1, 0.3]))
    assert sums.mean(trainer(1))[0] == pytest.approx(0.2)


def test_modes_are_restored_after_an_error() -> None:
    module = PlantedModule().train()
    module.frozen.eval()
    with pytest.raises(RuntimeError), evaluating(module):
        assert not module.norm.training
        raise RuntimeError
    assert module.norm.training and not module.frozen.training


# --- embeddings -----------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    row: Tensor


class Killed(Exception):
    pass


class Embedder(L.LightningModule):
    """Embeds a row by its number; dies in the forward pass after ``batches_to_live`` batches."""

    def __init__(self, batches_to_live: int = 1000, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.image = nn.Parameter(torch.randn(PAIRS, WIDTH, generator=generator))
        self.text = nn.Parameter(torch.randn(PAIRS, WIDTH, generator=generator))
        self.batches_to_live = batches_to_live
        self.seen: list[int] = []

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        assert not self.training and not torch.is_grad_enabled()
        if len(self.seen) >= self.batches_to_live:
            raise Killed
        self.seen.append(len(batch.row))
        image, text = (nn.functional.normalize(table[batch.row], dim=-1) for table in (self.image, self.text))
        return {'row': batch.row, 'similarity': (image * text).sum(-1), 'image': image, 'text': text}


def loader(rows: np.ndarray, rank: int = 0, world: int = 1) -> DataLoader[Any]:
    mine: Any = [Batch(part) for part in batches_of(torch.from_numpy(rows[rank::world]), 4)]
    return DataLoader(mine, batch_size=None)


def embed(folder: Path, module: Embedder | None = None, **arguments: Any) -> Embeddings:
    settings: dict[str, Any] = {'identity': 'data and weights', 'chunk_rows': 12, **arguments}
    return sweep_embeddings(trainer(1), module or Embedder(), loader, ROWS, PAIRS, folder, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def batches(rows: int) -> int:
    """Number of batches of four for rows in chunks of twelve."""
    return sum(-(-len(part) // 4) for part in np.split(np.arange(rows), range(12, rows, 12)))


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[dict[str, bytes]]:
    """The files of an uninterrupted sweep."""
    embed(tmp_path / 'whole')
    yield contents(tmp_path / 'whole')


class TestEmbedPairs:
    def test_gives_the_embeddings_of_every_pair_of_the_loader(self) -> None:
        module = Embedder().train()
        embeddings = embed_pairs(trainer(1), module, loader(ROWS), PAIRS)
        for name, kept in embeddings._asdict().items():
            expected = nn.functional.normalize(getattr(module, name), dim=-1).detach().numpy()
            assert kept.dtype == np.float32
            np.testing.assert_array_equal(kept[ROWS], expected[ROWS])
            assert np.flatnonzero(np.isnan(kept).all(1)).tolist() == [7, 48]
        assert module.training

    def test_gives_nothing_for_no_pairs(self) -> None:
        embeddings = embed_pairs(trainer(1), Embedder(), loader(ROWS[:0]), 0)
        assert len(embeddings.image) == len(embeddings.text) == 0


class TestEmbeddings:
    @pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 0), ('float16', 1e-3)])
    def test_are_stored_for_every_swept_row(self, tmp_path: Path, dtype: Any, tolerance: float) -> None:
        module = Embedder()
        embeddings = embed(tmp_path, module, dtype=dtype)
        for name, kept in embeddings._asdict().items():
            assert isinstance(kept, np.memmap) and kept.shape == (PAIRS, WIDTH) and kept.dtype == dtype
            expected = nn.functional.normalize(getattr(module, name), dim=-1).detach().numpy()
            np.testing.assert_allclose(kept[ROWS].astype(np.float32), expected[ROWS], rtol=0, atol=tolerance)
            assert np.flatnonzero(np.isnan(kept).all(1)).tolist() == [7, 48]
            assert np.array_equal(np.load(tmp_path / f'{name}.npy'), kept, equal_nan=True)

    def test_does_not_change_modes_and_generators(self, tmp_path: Path) -> None:
        module = Embedder().train()
        torch.manual_seed(7)
        expected = torch.rand(2)
        torch.manual_seed(7)
        embed(tmp_path, module)
        assert module.training and torch.equal(torch.rand(2), expected)

    def test_are_not_computed_again_once_complete(self, tmp_path: Path, whole: dict[str, bytes]) -> None:
        embed(tmp_path / 'whole', again := Embedder())
        assert again.seen == [] and contents(tmp_path / 'whole') == whole


class TestInterrupted:
    @pytest.mark.parametrize(('survived', 'left'), [(0, 48), (2, 48), (3, 36), (8, 24), (11, 12)])
    def test_finished_chunks_are_skipped_and_the_files_are_the_same(
        self, tmp_path: Path, whole: dict[str, bytes], survived: int, left: int
    ) -> None:
        with pytest.raises(Killed):
            embed(tmp_path / 'part', Embedder(batches_to_live=survived))
        embed(tmp_path / 'part', resumed := Embedder())
        assert sum(resumed.seen) == left
        assert contents(tmp_path / 'part') == whole

    @pytest.mark.parametrize('call', [1, 2, 4])
    def test_resumes_if_killed_before_the_progress_is_recorded(
        self, tmp_path: Path, whole: dict[str, bytes], call: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[Path] = []
        replace = os.replace

        def dies(source: Path, target: Path) -> None:
            calls.extend([Path(target)] * (Path(target).name == PROGRESS))
            if len(calls) == call:
                raise Killed
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, 'replace', dies)
            with pytest.raises(Killed):
                embed(tmp_path / 'part')
        embed(tmp_path / 'part', resumed := Embedder())
        assert sum(resumed.seen) == 48 - 12 * (call - 1)
        assert {name: contents(tmp_path / 'part')[name] for name in whole} == whole

    @pytest.mark.parametrize(
        'changed',
        [{'identity': 'other weights'}, {'dtype': 'float32'}, {'chunk_rows': 24}],
        ids=lambda c: next(iter(c)),
    )
    def test_another_sweep_starts_again(self, tmp_path: Path, changed: dict[str, Any]) -> None:
        with pytest.raises(Killed):
            embed(tmp_path / 'part', Embedder(batches_to_live=6))
        other = Embedder(seed=1)
        embed(tmp_path / 'part', other, **changed)
        embed(tmp_path / 'fresh', Embedder(seed=1), **changed)
        assert sum(other.seen) == len(ROWS)
        assert contents(tmp_path / 'part') == contents(tmp_path / 'fresh')

    @pytest.mark.parametrize('name', ['image.npy', 'text.npy', PROGRESS])
    def test_a_missing_file_starts_again(self, tmp_path: Path, whole: dict[str, bytes], name: str) -> None:
        (tmp_path / 'whole' / name).unlink()
        embed(tmp_path / 'whole', again := Embedder())
        assert sum(again.seen) == len(ROWS) and contents(tmp_path / 'whole') == whole

    def test_unreadable_progress_starts_again(self, tmp_path: Path, whole: dict[str, bytes]) -> None:
        (tmp_path / 'whole' / PROGRESS).write_text('{')
        embed(tmp_path / 'whole')
        assert contents(tmp_path / 'whole') == whole

    def test_progress_counts_finished_chunks(self, tmp_path: Path) -> None:
        with pytest.raises(Killed):
            embed(tmp_path, Embedder(batches_to_live=6))
        assert len(json.loads((tmp_path / PROGRESS).read_text())['finished']) == 2

    @pytest.mark.parametrize(('damage', 'swept'), [('flip', 36), ('cut', 48), ('empty', 48), ('folder', 0)])
    def test_chunks_are_swept_again_from_the_first_damaged_one(
        self, tmp_path: Path, whole: dict[str, bytes], damage: str, swept: int
    ) -> None:
        file = tmp_path / 'whole' / 'text.npy'
        content = bytearray(whole['text.npy'])
        content[-WIDTH * 2 * (PAIRS - 20)] ^= 1  # of row 20, in the second chunk
        if damage == 'folder':
            file.unlink()
            file.mkdir()
            with pytest.raises(UsageError, match=r'text\.npy cannot be written \(Is a directory\)'):
                embed(tmp_path / 'whole')
            return
        file.write_bytes({'flip': content, 'cut': content[:-100], 'empty': b''}[damage])
        embed(tmp_path / 'whole', again := Embedder())
        assert sum(again.seen) == swept and contents(tmp_path / 'whole') == whole

    def test_a_full_disk_is_one_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, 'full')

        monkeypatch.setattr('callbacks.sweep.fill_with_nan', fail)
        with pytest.raises(UsageError, match=r'no space is left on the disk of .*image\.npy'):
            embed(tmp_path)


class SweepAtTheEnd(L.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        def share(rows: np.ndarray) -> DataLoader[Any]:
            return loader(rows, trainer.global_rank, trainer.world_size)

        sweep_embeddings(trainer, pl_module, share, ROWS, PAIRS, self.folder, 'data and weights', chunk_rows=25)
        in_memory = embed_pairs(trainer, pl_module, share(ROWS), PAIRS)
        if trainer.global_rank == trainer.world_size - 1:
            np.save(self.folder / 'in_memory.npy', np.stack(in_memory))


class Trained(Embedder):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return 0 * (self.image.sum() + self.text.sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.slow
@quiet_lightning
def test_two_processes_write_the_files_of_one(tmp_path: Path) -> None:
    ddp: dict[str, Any] = {'strategy': 'ddp_spawn', 'devices': 2, 'use_distributed_sampler': False}
    trainer(1, SweepAtTheEnd(tmp_path / 'two'), **ddp).fit(Trained(), loader(ROWS))
    trainer(1, SweepAtTheEnd(tmp_path / 'one')).fit(Trained(), loader(ROWS))
    assert contents(tmp_path / 'two') == contents(tmp_path / 'one')
