#!/usr/bin/env bash
# lightning 2.6.6: a metric that some training steps log is written again, unchanged, at all later steps of the epoch.
#
# Versions: lightning 2.6.6, torch 2.14.1, Python 3.11, CPU.
#
# Expected: `self.log('term', value)` in the first two steps of an epoch puts two values into the logs. Steps that do not
# call it have none.
#
# What happens: at each step that is logged, the trainer sends the logger all metrics that it holds since the epoch
# began. So the value of step 1 appears at steps 2 to 5 too. With `log_every_n_steps=3` no logged step computed the
# value at all, and still each has it. Only the start of the next epoch clears it. A term of a loss that ends in
# mid-epoch, or is there in every other step only, becomes a line that looks measured. Logging NaN at the other steps
# keeps it out of the curves.
#
# Output seen:
#   every step:        epoch 0 [0, 1, 1, 1, 1, 1] epoch 1 [-, -, -, -, -, -]
#   every third step:  epoch 0 [1, 1] epoch 1 [-, -]
#   with NaN:          epoch 0 [0, 1, nan, nan, nan, nan] epoch 1 [nan, nan, nan, nan, nan, nan]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6

cat > "$folder/main.py" <<'PYTHON'
import csv
import logging
import sys
import warnings

from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import CSVLogger

warnings.simplefilter('ignore')
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)


class Model(BoringModel):
    otherwise = None

    def training_step(self, batch, batch_idx):
        self.log('step_in_epoch', float(batch_idx))
        if self.current_epoch == 0 and batch_idx < 2:
            self.log('term', float(batch_idx))
        elif self.otherwise is not None:
            self.log('term', self.otherwise)
        return super().training_step(batch, batch_idx)


def written(label, every, otherwise=None):
    model = Model()
    model.otherwise = otherwise
    logger = CSVLogger(sys.argv[1], label)
    trainer = Trainer(logger=logger, max_epochs=2, limit_train_batches=6, limit_val_batches=0, log_every_n_steps=every,
                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                      accelerator='cpu')
    trainer.fit(model, BoringDataModule())
    with open(f'{logger.log_dir}/metrics.csv') as file:
        rows = list(csv.DictReader(file))
    values = [[row['term'].removesuffix('.0') or '-' for row in rows if row['epoch'] == epoch] for epoch in '01']
    print(f'{label + ":":<18}', *(f' epoch {epoch} [{", ".join(own)}]' for epoch, own in enumerate(values)), sep='')
    return values


seen = [written('every step', 1), written('every third step', 3), written('with NaN', 1, float('nan'))]
expected = [
    [list('011111'), list('------')],
    [list('11'), list('--')],
    [['0', '1', *['nan'] * 4], ['nan'] * 6],
]
sys.exit(0 if seen == expected else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/main.py" "$folder"
