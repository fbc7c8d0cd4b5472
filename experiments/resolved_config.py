"""The settings of a run, kept in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.cli import SaveConfigCallback

from datamodules.files.atomic import write_text
from experiments.wandb_run import wandb_runs


class ResolvedConfig(SaveConfigCallback):
    """Saves the resolved configuration in the run's folder when the run starts, and in W&B.

    Without the checkpoint that a training run resumed from: the settings are those of the whole run.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Does nothing; a start that fails must not change the folder of the run that it was to resume."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.already_saved or trainer.sanity_checking:
            return
        self.already_saved = True
        folder = trainer.log_dir  # asks all ranks
        if not trainer.is_global_zero:
            return
        config = self.config.clone()
        if trainer.state.fn == 'fit':
            config['ckpt_path'] = None
        text = self.parser.dump(config, skip_unset=False)
        write_text(Path(folder or '', self.config_filename), text)
        settings: dict[str, Any] = yaml.safe_load(text)
        for logger in wandb_runs(trainer):
            logger.log_hyperparams(settings)

    on_validation_start = on_test_start = on_predict_start = on_train_epoch_start
