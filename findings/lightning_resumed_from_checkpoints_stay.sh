#!/usr/bin/env bash
# lightning 2.6.6: with `save_top_k=1`, each time that a run is resumed leaves one more checkpoint behind.
#
# Versions: lightning 2.6.6, torch 2.14.1, Python 3.11, CPU.
#
# Expected: `ModelCheckpoint(save_top_k=1)` keeps one file. A run that is preempted and goes on from this file, in the
# same folder, still has one file at the end; its state says which one was there before.
#
# What happens: the callback does not delete a file that its trainer resumed from. It deletes a file only at the moment a
# newer one takes its place, and the next process does not know the file any more, so nothing ever deletes it. There is one
# whole checkpoint for each resume, optimizer included, with a monitored metric as without. Nothing is logged. If the run
# resumes from last.ckpt, which is overwritten anyway, the others are deleted as they should be.
#
# Output seen (the number of files of the best or newest epoch, after the first process and after each of 4 resumes):
#   resumed from the file itself, no monitor      [1, 2, 3, 4, 5]
#   resumed from the file itself, monitor='loss'  [1, 2, 3, 4, 5]
#   resumed from last.ckpt, no monitor            [1, 1, 1, 1, 1]
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
EPOCHS = 2  # of each process


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().sum()  # falls in each epoch, so the newest is the best
        self.log('loss', loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def count_files(place, monitor=None, save_last=False):
    """Files beside last.ckpt after each process of a run that goes on from its newest file, or from last.ckpt."""
    counts, resume_from = [], None
    for process in range(5):
        save = ModelCheckpoint(place, monitor=monitor, save_top_k=1, save_last=save_last, save_on_train_epoch_end=True)
        trainer = Trainer(max_epochs=EPOCHS * (process + 1), accelerator='cpu', logger=False, callbacks=[save],
                          enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(Line(), DataLoader(torch.ones(4, 2)), ckpt_path=resume_from)
        counts.append(len([*place.glob('epoch=*.ckpt')]))
        resume_from = place / 'last.ckpt' if save_last else save.best_model_path
    return counts


base = Path(sys.argv[1])
results = {
    'resumed from the file itself, no monitor': count_files(base / 'newest'),
    "resumed from the file itself, monitor='loss'": count_files(base / 'best', monitor='loss'),
    'resumed from last.ckpt, no monitor': count_files(base / 'last', save_last=True),
}
for name, counts in results.items():
    print(f'{name:<45} {counts}')
sys.exit(0 if [*results.values()] == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 1, 1, 1, 1]] else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/main.py" "$folder"
