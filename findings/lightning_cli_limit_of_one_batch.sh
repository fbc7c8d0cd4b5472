#!/usr/bin/env bash
# lightning 2.6.6: `limit_train_batches` of 1 is one batch in Python and the whole epoch on the command line.
#
# Versions: lightning 2.6.6, jsonargparse[signatures] 4.53.0, torch 2.14.1, Python 3.11, CPU.
#
# Expected: `--trainer.limit_train_batches=1` of LightningCLI, or the same in its YAML, runs one batch, as
# `Trainer(limit_train_batches=1)` does. An int is a number of batches, a float is a share of the epoch.
#
# What happens: the parser hands the 1 over as the float 1.0, which is all batches. 0 and 2 come out as floats
# in the saved configuration too and still mean batches, because the trainer takes whole floats other than 1.0 for a
# count. So a smoke test of one batch trains an epoch. `limit_val_batches` behaves alike.
#
# Output seen:
#   Trainer(limit_train_batches=1)   value 1       1 steps
#   --trainer.limit_train_batches=1  value 1.0    64 steps
#   the same as YAML                 value 1.0    64 steps
#   --trainer.limit_train_batches=2  value 2.0     2 steps
#   no limit                         value None   64 steps
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6 'jsonargparse[signatures]==4.53.0'

cat > "$folder/main.py" <<'PYTHON'
import logging
import sys
import warnings

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

warnings.simplefilter('ignore')
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
QUIET = {'logger': False, 'enable_checkpointing': False, 'enable_progress_bar': False, 'enable_model_summary': False,
         'max_epochs': 1, 'accelerator': 'cpu', 'limit_val_batches': 0}


def steps_of(trainer):
    trainer.fit(BoringModel(), BoringDataModule())
    return trainer.global_step


def run_cli(*arguments):
    cli = LightningCLI(BoringModel, BoringDataModule, args=list(arguments), run=False, trainer_defaults=QUIET,
                       save_config_callback=None, seed_everything_default=False)
    return cli.config.trainer.limit_train_batches, steps_of(cli.trainer)


path = f'{sys.argv[1]}/one.yaml'
with open(path, 'w') as file:
    file.write('trainer:\n  limit_train_batches: 1\n')
results = {'Trainer(limit_train_batches=1)': (1, steps_of(Trainer(**QUIET, limit_train_batches=1)))}
for label, arguments in {
    '--trainer.limit_train_batches=1': ['--trainer.limit_train_batches=1'],
    'the same as YAML': [f'--config={path}'],
    '--trainer.limit_train_batches=2': ['--trainer.limit_train_batches=2'],
    'no limit': [],
}.items():
    results[label] = run_cli(*arguments)
for label, (value, steps) in results.items():
    print(f'{label:<32} value {value!r:<5} {steps:3} steps')
steps = [count for _, count in results.values()]
sys.exit(0 if steps == [1, 64, 64, 2, 64] else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/main.py" "$folder"
