"""How well detectors of poisoned pairs work on a model's embeddings, and what they cost; a measurement, no defense."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from callbacks.harmless import Harmless
from callbacks.ledger import FILE, ScoreLedger
from callbacks.metric_names import detection_metric, detector_seconds
from callbacks.separation import detection
from callbacks.sweep import embed_pairs
from datamodules.contracts import truth_of
from datamodules.files.atomic import write_text
from datamodules.rows.detectors import DETECTORS, Detector, DetectorName
from datamodules.rows.embeddings import read_embeddings
from datamodules.rows.filters import read_lines
from datamodules.rows.partition import DROPPED
from datamodules.usage_error import UsageError

RESULT_FILE = 'detectors.json'
SIMILARITY = 'similarity'  # the name of the score that needs no detector


class Detectors(Callback):
    """Measures detectors against the truth, at the end of training and of ``predict``; needs attacks of ours.

    Training logs ``detect/<detector>/<attack>/<what>`` with the last of ``trainer.max_epochs`` epochs, and not if it
    ends before, where ``what`` is ``auroc``, ``ap``
    (average precision), ``leak_2`` or ``leak_10`` (share of the poisons that is left without the 2 % and the 10 % most
    suspicious pairs), and ``detect/<detector>/seconds``. ``similarity`` is a detector, too: less is more suspicious.
    The embeddings of all pairs must fit into memory. A detector that fails, as where nearly all pictures are embedded
    alike, is left out.

    ``predict`` measures what the ledger wrote: it needs ``callbacks.ledger.embeddings=true``, which has no such limit,
    prints a table and writes the same numbers to ``detectors.json``.

    Args:
        detectors: Names of the detectors, see :class:`datamodules.rows.detectors.Detector`; all by default.
        neighbors: Nearest neighbors that a pair is compared with.
        dimension_neighbors: Nearest neighbors that ``dao`` estimates the local dimension from.
        batch: Compares pairs only with those of a random batch of at least this many; ``None`` with all.
        groups: Groups of captions that stand for classes in the detectors that are made for labeled data.
        device: Where neighbors are searched.
    """

    def __init__(
        self,
        detectors: Sequence[DetectorName] = DETECTORS,
        neighbors: int = 16,
        dimension_neighbors: int = 64,
        batch: int | None = None,
        groups: int = 1,
        device: str = 'cpu',
    ) -> None:
        self.detectors = {
            name: Detector(name, 'image', neighbors, dimension_neighbors, batch, groups, device) for name in detectors
        }

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_count(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = truth_of(trainer)
        if trainer.current_epoch + 1 != trainer.max_epochs or not data.manifest.attacks:
            return
        rows = len(data.table)
        image, text = embed_pairs(trainer, pl_module, data.predict_dataloader(), rows, 'detectors')
        image, text = (part[: rows - data.canary_count] for part in (image, text))
        metrics = self._measure(image, text, (image * text).sum(1), trainer) if trainer.is_global_zero else {}
        pl_module.log_dict(trainer.strategy.broadcast(metrics), sync_dist=True)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        has_attacks = bool(truth_of(trainer).manifest.attacks)
        if has_attacks and not any(isinstance(x, ScoreLedger) and x.embeddings for x in cast(Any, trainer).callbacks):
            raise UsageError('Detectors need embeddings of the pairs: give --callbacks.ledger.embeddings=true.')
        self._check_count(trainer)

    def _check_count(self, trainer: L.Trainer) -> None:
        """Refuses more neighbors than there are pairs, before they have been embedded."""
        data = truth_of(trainer)
        pairs = int((data.partition.side != DROPPED).sum()) - data.canary_count
        for name, detector in self.detectors.items() if data.manifest.attacks else ():
            detector.check_count(pairs, f'the set that Detectors measure {name} on')

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir  # a collective call, so all ranks make it
        if folder and trainer.is_global_zero and truth_of(trainer).manifest.attacks:
            ledger = str(Path(folder, FILE))
            similarity = read_lines(ledger)['similarity'].to_numpy(zero_copy_only=False)
            metrics = self._measure(*read_embeddings(ledger, similarity), similarity, trainer)
            write_text(Path(folder, RESULT_FILE), json.dumps(metrics, indent=1))
            print(detector_table(metrics), flush=True)

    def _measure(
        self, image: np.ndarray, text: np.ndarray, similarity: np.ndarray, trainer: L.Trainer
    ) -> dict[str, float]:
        manifest = truth_of(trainer).manifest
        poisons = {attack: manifest.rows(attack) for attack in manifest.attacks}
        metrics = quality(SIMILARITY, similarity, poisons)
        for name, detector in self.detectors.items():
            with Harmless(f'measuring the detector {name}', 'nothing is known about it'):
                start = time.perf_counter()
                score = -detector.suspicion(image, text)
                metrics |= {**quality(name, score, poisons), detector_seconds(name): time.perf_counter() - start}
        return metrics


def quality(detector: str, score: np.ndarray, poisons: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How well a score, low for suspicious pairs, tells poisoned from clean ones, by the names of metrics."""
    return {
        detection_metric(detector, attack, what): value
        for attack, measured in detection(score, poisons).items()
        for what, value in measured.items()
        if not np.isnan(value)
    }


def detector_table(metrics: Mapping[str, float]) -> str:
    """The measurements as a Markdown table, a line for each detector and attack."""
    lines = dict.fromkeys(metric.rpartition('/')[0] for metric in metrics if metric.count('/') > 2)
    columns = ('auroc', 'ap', 'leak_2', 'leak_10')
    table = [f'| detector | attack | {" | ".join(columns)} |', '|---|---|' + '---|' * len(columns)]
    for line in lines:
        _, detector, attack = line.split('/', 2)
        values = (metrics.get(f'{line}/{column}', np.nan) for column in columns)
        table.append(f'| {detector} | {attack} | {" | ".join(f"{value:.3f}" for value in values)} |')
    return '\n'.join(table)
