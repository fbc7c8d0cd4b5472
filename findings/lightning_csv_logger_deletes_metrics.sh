#!/usr/bin/env bash
# lightning 2.6.6: a run that is resumed, or only validated, with its own CSVLogger loses all metrics of before.
#
# Versions: lightning 2.6.6, torch 2.14.1, Python 3.11, CPU.
#
# Expected: `CSVLogger(folder, name='run', version='')` names the folder of a run. A process that resumes it from its
# checkpoint adds lines to metrics.csv, and one that validates it adds one.
#
# What happens: a logger that finds the folder not empty deletes metrics.csv. A warning says that earlier files "will be
# deleted when the new ones are saved", but they go before there is anything to save: the first use of `logger.experiment`
# is enough. So `trainer.validate` on a finished run replaces its history by one line, and a process that dies before
# its first log leaves a run with none. The checkpoint does not hold the metrics, so there is no way back.
#
# Output seen (lines of metrics.csv, without the header):
#   after 3 epochs                     3
#   resumed for a fourth               1
#   validated after 3 epochs           1
#   logger opened, nothing logged      no file
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6

cat > "$folder/main.py" <<'PYTHON'
import csv
import logging
import shutil
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

warnings.simplefilter('ignore')
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().sum()
        self.log('loss', loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log('heldout', self.layer(batch).square().sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def trainer(place, epochs):
    """As a new process would make it."""
    return Trainer(max_epochs=epochs, accelerator='cpu', logger=CSVLogger(place, name='run', version=''),
                   enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)


def count_lines(place):
    file = place / 'run/metrics.csv'
    return len([*csv.DictReader(file.open())]) if file.exists() else 'no file'


def finish(place):
    """A run of three epochs, and its checkpoint."""
    fitting = trainer(place, 3)
    fitting.fit(Line(), batches)
    fitting.save_checkpoint(place / 'run.ckpt')
    return place / 'run.ckpt'


base, batches = Path(sys.argv[1]), DataLoader(torch.ones(4, 2))
checkpoint = finish(base / 'first')
lines = {'after 3 epochs': count_lines(base / 'first')}
for copy in ('resumed', 'validated', 'opened'):
    shutil.copytree(base / 'first', base / copy)
trainer(base / 'resumed', 4).fit(Line(), batches, ckpt_path=checkpoint)
lines['resumed for a fourth'] = count_lines(base / 'resumed')
trainer(base / 'validated', 3).validate(Line(), batches, ckpt_path=checkpoint, verbose=False)
lines['validated after 3 epochs'] = count_lines(base / 'validated')
_ = trainer(base / 'opened', 3).logger.experiment
lines['logger opened, nothing logged'] = count_lines(base / 'opened')
for name, count in lines.items():
    print(f'{name:<34} {count}')
sys.exit(0 if [*lines.values()] == [3, 1, 1, 'no file'] else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/main.py" "$folder"
