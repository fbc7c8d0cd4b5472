from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.first_split import EndAtFirstSplit
from callbacks.repartition import SafeRiskyRepartition
from tests.callbacks.planted import WARM_UP, PlantedData, PlantedModule, quiet_lightning, trainer


@quiet_lightning
@pytest.mark.filterwarnings('ignore:Checkpoint directory .* exists')
class TestEndAtFirstSplit:
    def test_ends_a_run_with_its_first_split_in_the_checkpoint(self, tmp_path: Path) -> None:
        data = PlantedData()
        checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
        fitting = trainer(9, EndAtFirstSplit(), SafeRiskyRepartition(), checkpoint)
        fitting.fit(PlantedModule(), data)
        assert (fitting.current_epoch, data.partition.scored_after) == (WARM_UP, WARM_UP)

        module, resumed = PlantedModule(), PlantedData()
        again = trainer(9, EndAtFirstSplit(), SafeRiskyRepartition(), ModelCheckpoint(tmp_path))
        again.fit(module, resumed, ckpt_path=checkpoint.last_model_path)
        assert not module.seen and resumed.partition.scored_after == WARM_UP
        assert torch.equal(resumed.partition.side, data.partition.side)

    def test_a_run_without_a_split_comes_to_its_end(self) -> None:
        fitting = trainer(3, EndAtFirstSplit())
        fitting.fit(PlantedModule(), PlantedData())
        assert fitting.current_epoch == 3
