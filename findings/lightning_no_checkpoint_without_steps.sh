#!/usr/bin/env bash
# lightning 2.6.6: a run that trains by other means than its optimizer writes no checkpoint before its end.
#
# Versions: lightning 2.6.6, torch 2.14.1, Python 3.11, CPU.
#
# Expected: `ModelCheckpoint(save_last=True, save_on_train_epoch_end=True)` writes a file at the end of every epoch, so
# that a killed run can go on. A module with `automatic_optimization = False` may update tensors of its own, such as
# adversarial noise, with a trained model that stays as it is.
#
# What happens: the callback saves only if `trainer.global_step` has moved since the last file, and it starts to compare
# at 0. `global_step` counts calls of an optimizer's `step`, not batches. With none, every epoch ends without a file and
# without a word; only at the end of `fit` is last.ckpt there. So a killed run has nothing to go on from. One optimizer
# step in each epoch is enough to get all files.
#
# Output seen:
#   optimizer steps an epoch: 0   files after each of 3 epochs: [0, 0, 0]   after fit: ['last.ckpt']
#   optimizer steps an epoch: 1   files after each of 3 epochs: [2, 3, 4]   after fit: ['epoch=0-step=1.ckpt', ... 'last.ckpt']
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6

cat > "$folder/main.py" <<'PYTHON'
import logging
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

warnings.simplefilter('ignore')
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)


class Noise(LightningModule):
    """Changes a buffer in every batch; the optimizer makes the first steps of an epoch, if any."""

    def __init__(self, optimizer_steps):
        super().__init__()
        self.automatic_optimization = False
        self.optimizer_steps = optimizer_steps
        self.layer = torch.nn.Linear(2, 1)
        self.register_buffer('noise', torch.zeros(2))

    def training_step(self, batch, batch_idx):
        if batch_idx < self.optimizer_steps:
            self.manual_backward(self.layer(batch).sum())
            self.optimizers().step()
        self.noise += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveAndCount(ModelCheckpoint):
    """Counts the files after each epoch."""

    counts = ()

    def on_train_epoch_end(self, trainer, pl_module):
        super().on_train_epoch_end(trainer, pl_module)
        self.counts += (len([*Path(self.dirpath).glob('*.ckpt')]),)


def files_of(optimizer_steps):
    place = Path(sys.argv[1], str(optimizer_steps))
    save = SaveAndCount(place, save_last=True, save_top_k=-1, save_on_train_epoch_end=True)
    trainer = Trainer(max_epochs=3, accelerator='cpu', logger=False, callbacks=[save], enable_progress_bar=False,
                      enable_model_summary=False)
    trainer.fit(Noise(optimizer_steps), DataLoader(torch.ones(4, 2)))
    return list(save.counts), sorted(file.name for file in place.glob('*.ckpt'))


results = {steps: files_of(steps) for steps in (0, 1)}
for steps, (counts, files) in results.items():
    print(f'optimizer steps an epoch: {steps}   files after each of 3 epochs: {counts}   after fit: {files}')
sys.exit(0 if [counts for counts, _ in results.values()] == [[0, 0, 0], [2, 3, 4]] else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/main.py" "$folder"
