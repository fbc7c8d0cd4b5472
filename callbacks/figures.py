"""Figures of a run, redrawn while it trains, in its folder, and in W&B and TensorBoard if these are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks import plots
from callbacks.at_evaluation import is_left_out
from callbacks.figure_files import save_figure
from callbacks.figure_loggers import send_figure
from callbacks.harmless import Harmless
from callbacks.metric_names import (
    ASR_PREFIX,
    RETRIEVAL_PREFIX,
    ZERO_SHOT_PREFIX,
    AsrQuantity,
    asr_metric,
    renamed_since_version_1,
    retrieval_metric,
    retrieval_sets,
    zero_shot_metric,
)
from callbacks.plots import DIRECTIONS, AttackCurves, Curve, PoisonedPair, RankCurves
from callbacks.protection_sheet import protection_sheet, sample_protected_pairs
from callbacks.separation import mark_clean, separation
from callbacks.sweep import RowSums
from datamodules.contracts import Truth, truth_of
from datamodules.usage_error import UsageError

STATE_VERSION = 2  # of the history in a checkpoint; version 1 named metrics differently
DRAWN_PREFIXES = (ASR_PREFIX, ZERO_SHOT_PREFIX, RETRIEVAL_PREFIX)  # metrics of other callbacks that figures show
ATTACK_CURVES: tuple[AsrQuantity, ...] = ('rate', 'low', 'high', 'clean')


class Figures(Callback):
    """Draws the progress of a run into ``figures/`` of its folder, and sends the figures to loggers.

    - ``poisons.png``: some poisoned pairs of each attack, drawn once when training starts;
    - ``success.png``: attack success and zero-shot accuracy against the epochs trained;
    - ``retrieval.png``: mean loss, and median rank of held-out pairs beside what it is by chance;
    - ``protected.png``: some pairs as they are and as MEM, EM or UAP has protected them so far, and the noise enlarged;
    - ``mean_similarity.png``: mean similarity of clean and of poisoned pairs (Fig. 4 of the SafeCLIP paper);
    - ``split.png``: size of the safe side, and the poison on it;
    - ``similarity_<epochs trained>.png``: histogram of the similarities behind a new split, beside those of shuffled
      pairs, with the threshold and the share of shuffled pairs above it.

    A resumed run removes those of epochs that it trains again.

    Args:
        every_n_epochs: Number of epochs from one drawing to the next; each takes a second or two. Figures are also
            drawn after the first split and at the end of training. Values are recorded after every epoch.
        examples: Pairs of each attack in ``poisons.png``, and pairs in ``protected.png``.

    Attributes:
        history: Curve name -> points ``[epochs trained, value]``. It is saved in checkpoints, so that the curves of a
            resumed run are complete.
    """

    def __init__(self, every_n_epochs: int = 5, examples: int = 6) -> None:
        for name, value in (('every_n_epochs', every_n_epochs), ('examples', examples)):
            if value < 1:
                raise UsageError(f'callbacks.figures.{name} must be at least 1, got {value}.')
        self.every_n_epochs, self.examples = every_n_epochs, examples
        self.history: dict[str, list[list[float]]] = {}
        self.harmless = Harmless('drawing figures')
        self._epochs_drawn = 0  # number of epochs trained at the latest drawing
        self._group: Tensor | None = None  # of each row: 0 if clean, else 1 + index of the attack; canaries are last
        self._training_similarity: RowSums | None = None  # by group
        self._training_loss: RowSums | None = None

    # --- recording --------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = _folder(trainer)
        with self.harmless:
            self._begin(trainer, folder, pl_module.device)

    def _begin(self, trainer: L.Trainer, folder: Path | None, device: torch.device) -> None:
        data = truth_of(trainer)
        group = np.zeros(len(data.table), np.int16)
        for number, rows in enumerate(_poisoned_rows(data).values(), 1):
            group[rows] = number
        group[_pairs(data) :] = 1 + len(data.manifest.attacks)
        self._group = torch.from_numpy(group).to(device)
        if folder and data.manifest.attacks:
            pairs = {attack: poisoned_pairs(data, attack, self.examples) for attack in data.manifest.attacks}
            _save(trainer, folder, 'poisons', plots.contact_sheet(pairs), shows_pairs=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for path in folder.glob('similarity_*.png') if (folder := _folder(trainer)) else ():
            if int(path.stem.rpartition('_')[2]) > trainer.current_epoch:
                path.unlink()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._training_similarity = RowSums(2 + len(truth_of(trainer).manifest.attacks), pl_module.device)
        self._training_loss = RowSums(1, pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(outputs, Mapping) and 'similarity' in outputs and self._training_similarity is not None:
            assert self._group is not None
            self._training_similarity.add(self._group[batch.row].long(), outputs['similarity'])
        if isinstance(outputs, Mapping) and 'loss' in outputs and self._training_loss is not None:
            loss = outputs['loss'].detach().float().reshape(1)
            self._training_loss.add(torch.zeros_like(loss, dtype=torch.int64), loss)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == 'fit' and not trainer.sanity_checking:
            self._record_metrics(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epochs, data = trainer.current_epoch + 1, truth_of(trainer)
        if self._training_similarity is not None:
            means = self._training_similarity.mean(trainer)[:-1].tolist()  # without canaries
            self._record(epochs, _prefix_names('similarity/training/', ('clean', *data.manifest.attacks), means))
        if self._training_loss is not None:
            self._record(epochs, {'loss': float(self._training_loss.mean(trainer))})
        if is_left_out(trainer):  # retrieval is measured all the same
            self._record_metrics(trainer)
        is_new_split = data.partition.scored_after == epochs
        if is_new_split:
            with self.harmless:
                self._record(epochs, measure_split(data))
        is_first_split = is_new_split and len(self.history.get('split/share', ())) == 1
        if epochs % self.every_n_epochs == 0 or is_first_split or epochs == trainer.max_epochs:
            self._draw(trainer, pl_module, epochs)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._epochs_drawn != trainer.current_epoch:
            self._draw(trainer, pl_module, trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        history = {name: [list(point) for point in points] for name, points in self.history.items()}
        return {'version': STATE_VERSION, 'history': history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state, also one of version 1. Raises ``UsageError`` if a later release wrote it."""
        if (version := state_dict.get('version', 1)) > STATE_VERSION:
            raise UsageError(
                f'the checkpoint holds version {version} of the state of callbacks.figures, but this release reads up '
                f'to {STATE_VERSION}: resume with the release that wrote it.'
            )
        history = state_dict['history']
        renamed = renamed_since_version_1(history) if version == 1 else {}
        self.history = {renamed.get(name, name): [list(point) for point in points] for name, points in history.items()}

    def _record_metrics(self, trainer: L.Trainer) -> None:
        """Adds what other callbacks have measured after this epoch."""
        metrics = trainer.callback_metrics
        measured = {name: float(value) for name, value in metrics.items() if name.startswith(DRAWN_PREFIXES)}
        self._record(trainer.current_epoch + 1, measured)

    def _record(self, epochs: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve, replacing any value recorded earlier in the same epoch."""
        for name, value in values.items():
            if not np.isnan(value):
                points = self.history.setdefault(name, [])
                points[:] = [point for point in points if point[0] < epochs] + [[float(epochs), float(value)]]

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, epochs: int) -> None:
        self._epochs_drawn = epochs
        if folder := _folder(trainer):
            with self.harmless:
                self._draw_into(folder, trainer, pl_module, epochs)

    def _draw_into(self, folder: Path, trainer: L.Trainer, pl_module: L.LightningModule, epochs: int) -> None:
        data = truth_of(trainer)
        phase: Any = getattr(pl_module, 'phase', lambda epoch: '')
        phases = [phase(epoch) for epoch in range(max(trainer.max_epochs or 0, epochs))]
        for name, figure in self._curves(data, phases).items():
            _save(trainer, folder, name, figure)
        if (protection := getattr(pl_module, 'protection', None)) is not None:
            sheet = protection_sheet(sample_protected_pairs(protection, self.examples))
            _save(trainer, folder, 'protected', sheet, shows_pairs=True)
        score = data.partition.score.numpy()[: _pairs(data)]
        if data.partition.scored_after == epochs and np.isfinite(score).any():
            title = f'Similarities after {epochs} epoch{"s" * (epochs > 1)}'
            partition = data.partition
            figure = plots.similarity_histogram(score, _poisoned_rows(data), partition.mixture, title, partition.null)
            _save(trainer, folder, f'similarity_{epochs:03d}', figure, key='similarity')

    def _curves(self, data: Truth, phases: list[str]) -> dict[str, plots.Figure]:
        """Figures with the epochs on the x axis, those whose values were recorded."""
        figures, attacks, sets = {}, data.manifest.attacks, [source.name for source in data.evaluation_sets]
        success = {name: self._attack_curves(name) for name in sets if asr_metric(name, 'rate') in self.history}
        metrics = {name: zero_shot_metric(name) for name in sets}
        accuracy = {name: self._curve(metric) for name, metric in metrics.items() if metric in self.history}
        if success or accuracy:
            figures['success'] = plots.success_and_accuracy(success, accuracy, phases)
        if ranks := self._rank_curves():
            figures['retrieval'] = plots.loss_and_ranks(self._curve('loss'), ranks, phases)
        during, after = (self._similarity_curves(f'similarity/{when}/', attacks) for when in ('training', 'sweep'))
        if during or after:
            figures['mean_similarity'] = plots.mean_similarity(during, after, phases)
        if 'split/share' in self.history:
            leak = {attack: self._curve(f'split/leak/{attack}') for attack in attacks}
            share, contamination = self._curve('split/share'), self._curve('split/contamination')
            rate = len(data.manifest) / _pairs(data)
            figures['split'] = plots.split_over_epochs(share, contamination, leak, rate, phases)
        return figures

    def _curve(self, name: str) -> Curve:
        points = self.history.get(name, [])
        return Curve([epochs for epochs, _ in points], [value for _, value in points])

    def _attack_curves(self, attack: str) -> AttackCurves:
        return AttackCurves(**{what: self._curve(asr_metric(attack, what)) for what in ATTACK_CURVES})

    def _rank_curves(self) -> dict[str, RankCurves]:
        return {
            f'{name}, {words}': RankCurves(
                self._curve(retrieval_metric(name, way, 'medr')),
                self._curve(retrieval_metric(name, way, 'medr_chance_low')),
                self._curve(retrieval_metric(name, way, 'medr_chance_high')),
            )
            for name in retrieval_sets(self.history)
            for way, words in DIRECTIONS.items()
        }

    def _similarity_curves(self, prefix: str, attacks: tuple[str, ...]) -> dict[str, Curve]:
        return {name: self._curve(prefix + name) for name in ('clean', *attacks) if prefix + name in self.history}


def poisoned_pairs(data: Truth, attack: str, count: int) -> list[PoisonedPair]:
    """Example pairs of an attack as they are stored, spread evenly over its poisons.

    Args:
        data: The datamodule, after its setup.
        attack: Name of the attack.
        count: Number of pairs; all of them if the attack made fewer.
    """
    lines = data.manifest.of_attack(attack)
    chosen = np.unique(np.linspace(0, len(lines) - 1, count).round().astype(np.int64))
    poisons = lines.take(chosen).to_pylist()
    images = data.images(np.array([poison['row'] for poison in poisons]))
    return [
        PoisonedPair(image, poison['caption'], poison['target_class'])
        for image, poison in zip(images, poisons, strict=True)
    ]


def measure_split(data: Truth) -> dict[str, float]:
    """Poison on each side of the newest split, and the mean similarity of clean pairs and of each attack's poisons.

    Args:
        data: The datamodule that holds the split.

    Returns:
        ``split/<name>`` of :func:`callbacks.separation.separation`, ``split/share`` and ``similarity/sweep/<group>``,
        whose groups are ``clean`` and the attacks.
    """
    poisons, pairs = _poisoned_rows(data), _pairs(data)
    score, side = data.partition.score.numpy()[:pairs], data.partition.side.numpy()[:pairs]
    groups = {'clean': score[mark_clean(pairs, poisons)], **{attack: score[rows] for attack, rows in poisons.items()}}
    means = [float(np.nanmean(group)) if np.isfinite(group).any() else np.nan for group in groups.values()]
    split = {f'split/{name}': value for name, value in separation(side, score, poisons).items()}
    return {**_prefix_names('similarity/sweep/', tuple(groups), means), **split, 'split/share': data.partition.share}


def _poisoned_rows(data: Truth) -> dict[str, np.ndarray]:
    return {attack: data.manifest.rows(attack) for attack in data.manifest.attacks}


def _pairs(data: Truth) -> int:
    """Number of pairs that are no canaries."""
    return len(data.table) - data.canary_count


def _prefix_names(prefix: str, names: tuple[str, ...], values: list[float]) -> dict[str, float]:
    return {prefix + name: value for name, value in zip(names, values, strict=True)}


def _folder(trainer: L.Trainer) -> Path | None:
    """Folder of the figures; ``None`` for a run without a folder, and on all ranks but 0."""
    folder = trainer.log_dir  # a collective call, so all ranks make it
    return Path(folder, 'figures') if folder and trainer.is_global_zero else None


def _save(
    trainer: L.Trainer,
    folder: Path,
    name: str,
    figure: plots.Figure,
    key: str | None = None,
    shows_pairs: bool = False,
) -> None:
    path = folder / f'{name}.png'
    save_figure(figure, path)
    send_figure(trainer, f'figures/{key or name}', path, shows_pairs)
