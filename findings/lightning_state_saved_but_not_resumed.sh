#!/usr/bin/env bash
# lightning 2.6.6: a run saves callback states that `fit(ckpt_path=...)` then refuses, so it cannot be resumed.
#
# Versions: lightning 2.6.6, torch 2.14.1, numpy 2.4.0, Python 3.11, CPU.
#
# Expected: what a callback returns from `state_dict` is either refused when the checkpoint is written, while the run is
# alive, or read back by the same version on the same machine.
#
# What happens: checkpoints are written with pickle, which takes anything, but `Trainer.fit(ckpt_path=...)` reads with
# `weights_only=True` unless told otherwise, and that refuses everything but tensors and plain containers. So a state that
# holds a best score as numpy computed it, the path of a file, a date, or a counter by name in a defaultdict shows only
# when the run is to go on: hours of training are in a file that is whole and that its trainer does not open. `set` and
# `OrderedDict` pass, as do `int`, `float` and `str`; of numpy, arrays and scalars do not. `weights_only=False` reads all of
# them, for whoever trusts the file.
#
# Output seen:
#   float             saved, resumed
#   OrderedDict       saved, resumed
#   set               saved, resumed
#   numpy.float64     saved, refused
#   numpy.ndarray     saved, refused
#   defaultdict       saved, refused
#   deque             saved, refused
#   Path              saved, refused
#   datetime          saved, refused
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6 numpy==2.4.0

cat > "$folder/main.py" <<'PYTHON'
import logging
import pickle
import sys
import warnings
from collections import OrderedDict, defaultdict, deque
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

warnings.simplefilter('ignore')
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
EXPECTED = {
    'float': (0.5, True),
    'OrderedDict': (OrderedDict(seen=3), True),
    'set': ({3}, True),
    'numpy.float64': (np.mean([0.25, 0.75]), False),
    'numpy.ndarray': (np.zeros(2), False),
    'defaultdict': (defaultdict(int, seen=3), False),
    'deque': (deque([3]), False),
    'Path': (Path('best.png'), False),
    'datetime': (datetime(2026, 1, 1, tzinfo=timezone.utc), False),
}


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Memory(Callback):
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {'value': self.value}

    def load_state_dict(self, state_dict):
        self.value = state_dict['value']


def train(value, epochs, resume_from=None):
    trainer = Trainer(max_epochs=epochs, accelerator='cpu', logger=False, callbacks=[Memory(value)],
                      enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    trainer.fit(Line(), DataLoader(torch.ones(4, 2)), ckpt_path=resume_from)
    return trainer


def resumes(file, value):
    try:
        return train(value, 2, resume_from=file).current_epoch == 2
    except pickle.UnpicklingError:
        return False


as_stated = True
for name, (value, expected) in EXPECTED.items():
    file = f'{sys.argv[1]}/run.ckpt'
    train(value, 1).save_checkpoint(file)
    resumed = resumes(file, value)
    print(f'{name:<17} saved, {"resumed" if resumed else "refused"}')
    as_stated &= resumed == expected
sys.exit(0 if as_stated else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/main.py" "$folder"
