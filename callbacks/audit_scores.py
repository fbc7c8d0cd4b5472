"""How well the scores of ``clipward audit`` tell poisoned pairs, on the model as training leaves it."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from callbacks.detection import quality
from callbacks.harmless import Harmless
from callbacks.metric_names import flagged_metric
from callbacks.separation import mark_clean
from callbacks.sweep import embed_pairs
from datamodules.contracts import Truth, truth_of
from datamodules.pair_scores import COMPARED, PairScores, score_pairs
from datamodules.rows.suspicion import STANDS_OUT

ALL = 'suspicion'  # the scores together


class AuditScores(Callback):
    """Measures the scores of ``clipward audit`` against the truth after the last of ``trainer.max_epochs`` epochs.

    Logs what :class:`callbacks.detection.Detectors` does, for ``similarity``, ``density``, ``copies``, ``pattern`` and
    ``detail``, and for ``suspicion``, which is all of them together. Besides, ``detect/<score>/flagged`` is the number
    of pairs that stand out, and ``detect/<score>/false_alarms`` that of clean ones among them; without an attack, all
    are. The embeddings of all pairs must fit into memory. A run that ends before is not measured.

    Args:
        compared: Pairs that each one is compared with at least; ``null`` for all.
        device: Where neighbors are searched.
    """

    def __init__(self, compared: int | None = COMPARED, device: str = 'cpu') -> None:
        self.compared, self.device = compared, device

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = truth_of(trainer)
        if trainer.current_epoch + 1 != trainer.max_epochs:
            return
        rows = len(data.table)
        pairs = rows - data.canary_count
        image, text = embed_pairs(trainer, pl_module, data.predict_dataloader(), rows, 'audit')
        metrics: dict[str, float] = {}
        if trainer.is_global_zero:
            with Harmless('measuring the audit', 'nothing is known about it'):
                metrics = self._measure(image[:pairs], text[:pairs], data)
        pl_module.log_dict(trainer.strategy.broadcast(metrics), sync_dist=True)

    def _measure(self, image: np.ndarray, text: np.ndarray, data: Truth) -> dict[str, float]:
        hashes = data.picture_hashes()[: len(image)]
        scores = score_pairs(data.images, hashes, image, text, self.compared, self.device)
        return audit_quality(scores, {attack: data.manifest.rows(attack) for attack in data.manifest.attacks})


def audit_quality(scores: PairScores, poisons: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The metrics of :class:`AuditScores`, given the poisoned rows of each attack."""
    is_clean = mark_clean(len(scores.group), poisons)
    metrics: dict[str, float] = {}
    for name, score in {**scores.standing, ALL: scores.suspicion}.items():
        is_flagged = score >= STANDS_OUT
        metrics[flagged_metric(name, 'flagged')] = float(is_flagged.sum())
        metrics[flagged_metric(name, 'false_alarms')] = float((is_flagged & is_clean).sum())
        metrics |= quality(name, -score, poisons)
    return metrics
