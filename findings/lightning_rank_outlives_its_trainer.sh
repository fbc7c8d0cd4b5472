#!/usr/bin/env bash
# lightning 2.6.6: the rank of a trainer stays with the process, and a later trainer on one device logs nothing.
#
# Versions: lightning 2.6.6, torch 2.14.1, Python 3.11, CPU.
#
# Expected: a trainer that is never run, such as one that is built to see how a job would be placed, leaves nothing behind.
# A trainer with one device and without a cluster is process 0, and says so: it writes its metrics.
#
# What happens: building a trainer for several nodes, here under the variables that torchrun sets, stores its rank in
# `rank_zero_only.rank`, which belongs to the process. A trainer on a single device does not set it. So when the variables
# are gone, the next trainer has `global_rank` 0 and writes checkpoints, while all that is decorated with
# `rank_zero_only` asks the old number: `CSVLogger` writes no file, `WandbLogger.experiment` is an object that takes any
# call and does nothing, and `rank_zero_info` is silent. There is no warning. In a test suite it depends on the order of
# the tests; in a notebook, on the cells that were run before.
#
# Output seen:
#   before: rank 0, metrics.csv written
#   after:  rank 3, metrics.csv missing, of a trainer with global_rank 0 whose checkpoint is written
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6

cat > "$folder/main.py" <<'PYTHON'
import logging
import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

warnings.simplefilter('ignore')
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
TORCHRUN = {
    'RANK': '3', 'LOCAL_RANK': '1', 'GROUP_RANK': '1', 'WORLD_SIZE': '4', 'LOCAL_WORLD_SIZE': '2',
    'MASTER_ADDR': 'localhost', 'MASTER_PORT': '29500', 'TORCHELASTIC_RUN_ID': 'job',
}  # fmt: skip


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().sum()
        self.log('loss', loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def train(folder):
    trainer = Trainer(max_epochs=1, accelerator='cpu', devices=1, log_every_n_steps=1, default_root_dir=folder,
                      logger=CSVLogger(folder, name='', version=''), enable_progress_bar=False,
                      enable_model_summary=False)
    trainer.fit(Line(), DataLoader(torch.ones(4, 2)))
    return trainer.global_rank, (folder / 'metrics.csv').exists(), bool([*folder.rglob('*.ckpt')])


folder = Path(sys.argv[1])
rank, before, _ = train(folder / 'before')
print(f'before: rank {rank_zero_only.rank}, metrics.csv {"written" if before else "missing"}')

os.environ.update(TORCHRUN)
Trainer(accelerator='cpu', devices=2, num_nodes=2, strategy='ddp', logger=False, enable_checkpointing=False)
for name in TORCHRUN:
    del os.environ[name]

rank, after, checkpoint = train(folder / 'after')
print(
    f'after:  rank {rank_zero_only.rank}, metrics.csv {"written" if after else "missing"}, of a trainer with '
    f'global_rank {rank} whose checkpoint is {"written" if checkpoint else "missing"}'
)
sys.exit(0 if (rank, before, rank_zero_only.rank, after, checkpoint) == (0, True, 3, False, True) else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/main.py" "$folder"
