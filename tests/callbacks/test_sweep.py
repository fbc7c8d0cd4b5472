from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.sweep import RowSums, embed_pairs, sweep
from tests.callbacks.planted import DDP, PlantedData, PlantedModule, batches_of, quiet_lightning, trainer

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


@pytest.mark.parametrize('counts', [torch.float32, torch.uint8])
def test_a_row_drawn_twice_counts_as_its_mean(counts: torch.dtype) -> None:
    sums = RowSums(2, torch.device('cpu'), counts)
    sums.add(torch.tensor([0, 0]), torch.tensor([0.1, 0.3]))
    mean = sums.mean(trainer(1))
    assert mean[0] == pytest.approx(0.2) and mean[1].isnan() and mean.dtype == torch.float32


# --- embeddings -----------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    row: Tensor


class Embedder(L.LightningModule):
    """Embeds a row by its number."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image = nn.Parameter(torch.randn(PAIRS, WIDTH, generator=generator))
        self.text = nn.Parameter(torch.randn(PAIRS, WIDTH, generator=generator))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        assert not self.training and not torch.is_grad_enabled()
        image, text = (nn.functional.normalize(table[batch.row], dim=-1) for table in (self.image, self.text))
        return {'row': batch.row, 'similarity': (image * text).sum(-1), 'image': image, 'text': text}


def loader(rows: np.ndarray, rank: int = 0, world: int = 1) -> DataLoader[Any]:
    mine: Any = [Batch(part) for part in batches_of(torch.from_numpy(rows[rank::world]), 4)]
    return DataLoader(mine, batch_size=None)


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


class EmbedAtTheEnd(L.Callback):
    """Saves the embeddings as the last process has them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        share = loader(ROWS, trainer.global_rank, trainer.world_size)
        embeddings = embed_pairs(trainer, pl_module, share, PAIRS)
        if trainer.global_rank == trainer.world_size - 1:
            np.save(self.path, np.stack(embeddings))


class Trained(Embedder):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return 0 * (self.image.sum() + self.text.sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.slow
@quiet_lightning
def test_two_processes_embed_the_pairs_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / 'one.npy', tmp_path / 'two.npy'
    trainer(1, EmbedAtTheEnd(two), **DDP).fit(Trained(), loader(ROWS))
    trainer(1, EmbedAtTheEnd(one)).fit(Trained(), loader(ROWS))
    assert one.read_bytes() == two.read_bytes()
