"""The score ledger: for every pair its similarity, how sure the mixture is of it, and the side that it is on."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch.callbacks import Callback

from callbacks.mixture import Mixture, fit_mixture
from callbacks.separation import separation
from callbacks.sweep import RowSums
from datamodules.contracts import truth_of
from datamodules.rows.partition import DROPPED, RISKY, SAFE
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError

SIDES = {SAFE: 'safe', RISKY: 'risky', DROPPED: 'dropped'}
FILE = 'ledger.parquet'


class ScoreLedger(Callback):
    """Writes ``ledger.parquet`` into the run's folder and logs how well the split tells poison from clean pairs.

    In training, whenever a new split was made; only the last ledger is kept. Logged are ``partition/leak/<attack>``,
    ``partition/risky_share/<attack>``, ``partition/auroc/<attack>``, ``partition/contamination`` and
    ``partition/poisons``, see :func:`callbacks.separation.separation`; they are the truth about an experiment, which
    no defense sees.

    In ``predict``, on any data: scores every pair with a trained model, fits a mixture to these scores, and says how
    many pairs look risky. Dropped is then what was not scored.

    Args:
        threshold: Posterior in (0, 1) from which ``predict`` calls a pair safe (paper: 0.9). In training the split
            decides.
    """

    def __init__(self, threshold: float = 0.9) -> None:
        if not 0 < threshold < 1:
            raise UsageError(f'callbacks.ledger.threshold must lie between 0 and 1, got {threshold}.')
        self.threshold = threshold
        self._seen: RowSums | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = truth_of(trainer)
        partition = data.partition
        if partition.epoch != trainer.current_epoch + 1:
            return
        folder = trainer.log_dir  # asks all ranks
        score, side = partition.score.numpy(), partition.side.numpy()
        if folder and trainer.is_global_zero:
            mixture = None if partition.mixture is None else mixture_from(partition.mixture)
            write_ledger(Path(folder, FILE), ledger(data.table, score, side, mixture))
        poisons = {attack: data.manifest.rows(attack) for attack in data.manifest.attacks}
        metrics = {f'partition/{name}': value for name, value in separation(side, score, poisons).items()}
        pl_module.log_dict(metrics, sync_dist=True)  # the same on all ranks; this is for Lightning not to warn

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = truth_of(trainer)
        self._seen = RowSums(len(data.table), pl_module.device)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert self._seen is not None
        self._seen.add(outputs['row'], outputs['similarity'])

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self._seen is not None
        score, self._seen = self._seen.mean(trainer).numpy(), None
        folder = trainer.log_dir  # asks all ranks
        if folder and trainer.is_global_zero:
            mixture = fit_mixture(score)
            cut = mixture.guarded_cut(self.threshold)
            data = truth_of(trainer)
            write_ledger(Path(folder, FILE), ledger(data.table, score, sides_by(score, cut), mixture))
            print(f'\n{summary(score, cut, mixture)}\nLedger: {Path(folder, FILE)}', flush=True)


def ledger(table: PairTable, score: np.ndarray, side: np.ndarray, mixture: Mixture | None) -> pa.Table:
    """One line for each pair, in the order of the rows.

    Args:
        table: The pairs.
        score: Similarity of each, (N,), NaN where it was not scored.
        side: Side of each, (N,).
        mixture: What the posterior is taken from.

    Returns:
        The columns row, key (image reference), caption, similarity, posterior and side. Similarity and posterior are
        null for pairs that were not scored, the posterior also without a fitted mixture. The posterior need not rise
        with the similarity, the side does.
    """
    posterior = np.full(len(score), math.nan)
    if mixture is not None and mixture.state == 'fitted':
        posterior = mixture.posterior(score)
    names = pa.DictionaryArray.from_arrays(pa.array(side), pa.array([SIDES[i] for i in range(len(SIDES))]))
    return pa.table(
        {
            'row': pa.array(np.arange(len(table))),
            'key': table.image,
            'caption': table.caption,
            'similarity': pa.array(score, pa.float32(), mask=np.isnan(score)),
            'posterior': pa.array(posterior.astype(np.float32), mask=np.isnan(posterior)),
            'side': names.cast(pa.string()),
        }
    )


def write_ledger(path: Path, lines: pa.Table) -> None:
    """Replaces the file in one go: a run killed meanwhile leaves the ledger of the split before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.tmp{os.getpid()}')
    try:
        pq.write_table(lines, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)  # gone already unless the writing failed


def mixture_from(parameters: dict[str, float]) -> Mixture:
    """The fitted mixture that a partition keeps the parameters of."""
    low, high = ({name: parameters[f'{name}_{end}'] for name in ('mean', 'sd', 'weight')} for end in ('low', 'high'))
    return Mixture((low['mean'], high['mean']), (low['sd'], high['sd']), (low['weight'], high['weight']))


def sides_by(score: np.ndarray, cut: float | None) -> np.ndarray:
    """Safe from the cut on, everything risky without one; dropped where there is no score. int8 (N,)."""
    safe = score >= (math.inf if cut is None else cut)  # never of NaN
    return np.select([np.isnan(score), safe], [DROPPED, SAFE], RISKY).astype(np.int8)


def summary(score: np.ndarray, cut: float | None, mixture: Mixture) -> str:
    """What ``predict`` found, in one sentence for a person."""
    scored = int((~np.isnan(score)).sum())
    if mixture.state != 'fitted':
        return f'The similarities of {scored:,} pairs do not form two groups ({mixture.state}): all count as risky.'
    low, high = mixture.means
    groups = f'two groups around a similarity of {low:.3f} and {high:.3f}'
    if cut is None:
        return f'{scored:,} pairs form {groups} that overlap too much to trust any of them: all count as risky.'
    risky = int((score < cut).sum())
    return f'{risky:,} of {scored:,} pairs ({risky / scored:.1%}) look risky: less similar than {cut:.3f}, of {groups}.'
