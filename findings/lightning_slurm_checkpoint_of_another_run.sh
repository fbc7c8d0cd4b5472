#!/usr/bin/env bash
# lightning 2.6.6: in a job of SLURM, a new run goes on from the checkpoint that another run has left, without being asked.
#
# Versions: lightning 2.6.6, torch 2.14.1, Python 3.11, CPU.
#
# Expected: `Trainer.fit(model)` without `ckpt_path` starts with the weights of `model`, at step 0.
#
# What happens: when SLURM signals the end of a job, the trainer saves hpc_ckpt_<n>.ckpt into `default_root_dir`, under a name
# that knows neither the run nor the job. Every later `fit` in any job of SLURM with the same `default_root_dir`, which is
# the working directory by default, looks for such files and loads the newest: weights, optimizer and step of another run,
# if only the names and shapes of the weights agree, as in a sweep over a learning rate. The run then trains the rest of the
# steps alone, and none if the other one had them all. The log says "Restoring states from the checkpoint path" and no
# more; `ckpt_path=None` does not help, and the file is never deleted. Outside of SLURM nothing is loaded.
#
# Output seen (the second run, of another class, from new weights, for 12 steps):
#   outside of SLURM        starts at step 0, with its own weights
#   in a job of SLURM       starts at step 10, with the weights of the first run
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

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

warnings.simplefilter('ignore')
logging.getLogger('lightning').setLevel(logging.ERROR)
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
JOB = {'SLURM_NTASKS': '1', 'SLURM_JOB_NAME': 'train', 'SLURM_JOB_ID': '7', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0',
       'SLURM_NODEID': '0'}


class First(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Second(First):
    def on_train_start(self):
        self.start = self.trainer.global_step, self.layer.weight.detach().clone()


def train(model, steps, root):
    trainer = Trainer(accelerator='cpu', devices=1, max_steps=steps, default_root_dir=root, logger=False,
                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(model, DataLoader(torch.ones(4, 2)))
    return trainer


def start_of_second(root):
    second = Second()
    own = second.layer.weight.detach().clone()
    train(second, 12, root)
    step, weight = second.start
    return step, torch.equal(weight, own)


os.environ.update(JOB)
root = sys.argv[1]
first = train(First(), 10, root)
first.save_checkpoint(first._checkpoint_connector.hpc_save_path(root))  # what the handler of SLURM's signal does
in_job = start_of_second(root)
for name in JOB:
    del os.environ[name]
outside = start_of_second(root)
for where, (step, is_own) in {'outside of SLURM': outside, 'in a job of SLURM': in_job}.items():
    print(f'{where:<23} starts at step {step}, with {"its own weights" if is_own else "the weights of the first run"}')
sys.exit(0 if (outside, in_job) == ((0, True), (10, False)) else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/main.py" "$folder"
