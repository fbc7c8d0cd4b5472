"""Makes a split at the end of an epoch, for the next one to train on: measures, asks a rule, applies, remembers."""

from __future__ import annotations

import inspect
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast, get_args

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from callbacks.metric_names import MIXTURE_SECONDS, SWEEP_SECONDS
from callbacks.mismatches import Mismatches
from callbacks.mixture import fit_mixture
from callbacks.scores import Clean, Score
from callbacks.shuffled_pairs import ShuffledPairs, draw_sample
from callbacks.split_decision import NOTHING_KNOWN, Past, Side, Split, pack_side, unpack_side
from callbacks.split_memory import average_with_earlier
from callbacks.split_schedule import extend_slow_phase, first_split, sides_of, trains_both_sides
from callbacks.split_trust import REMEDY, OnDistrust, doubt_about
from datamodules.contracts import canaries_of, pairs_of
from datamodules.pictures.copies import Copies, least_of_copies
from datamodules.rows.partition import DROPPED, SAFE, Partition
from datamodules.rows.row_sets import mark_rows, row_numbers
from datamodules.usage_error import UsageError, check_number

log = logging.getLogger(__name__)

STATE_VERSION = 3  # in a checkpoint; 1 stored the running average outside `score`, 2 had no null


class Repartition(L.Callback, ABC):
    """Decides which pairs are trusted; a subclass says how, in :meth:`decide`.

    A split is made at the end of an epoch if the next epoch trains both sides: all pairs are scored, and rank 0
    decides for all ranks. Pairs that the user trusts, ``data.trusted``, are safe whatever they score, beside those that
    the rule decides on. The checkpoint written at the end of that epoch holds the new split.

    Args:
        score: Source of the similarities: ``Clean``, ``Augmented``, ``Running`` or another subclass of ``Score``.
            ``None`` means ``Clean``, a sweep over the pairs as they are.
        every: Number of epochs from one split to the next.
        memory: Weight of earlier splits in the ranking, in [0, 1); 0 ranks by the latest similarities alone. Helps on
            small data sets, where the ranking right after the slow phase stays the best one for many epochs.
        copies: How pairs with pixel-identical pictures are judged. ``apart``: each by its own similarity, as in the
            paper. ``together``: all by the lowest similarity among them. A targeted poison repeats one picture many
            times; once a single copy is trusted, the model learns the picture, and at the next split the other
            copies look similar, too. ``together`` also joins the captions of one picture (COCO), but not
            near-duplicates whose pixels differ.
        max_leak: Largest share of mismatched pairs, shuffled ones or canaries, that a first split which can be trusted
            lets onto the safe side.
        max_later_leak: The same for later splits.
        on_distrust: What to do about a split that cannot be trusted, once the slow phase has been extended as far as
            the model allows. ``go_on`` trains on the split and warns. ``stop`` ends the run, with exit status 3.
            ``unimodal`` trains each modality alone from then on.

    Attributes:
        distrust: Why the run has ended; empty if it has not.
    """

    def __init__(
        self,
        score: Score | None = None,
        every: int = 1,
        memory: float = 0.0,
        copies: Copies = 'apart',
        max_leak: float = 0.05,
        max_later_leak: float = 0.1,
        on_distrust: OnDistrust = 'go_on',
    ) -> None:
        if every < 1:
            raise UsageError(f'callbacks.repartition.every must be at least 1, got {every}.')
        if not 0 <= memory < 1:
            raise UsageError(f'callbacks.repartition.memory must lie in [0, 1), got {memory}.')
        if copies not in get_args(Copies):
            raise UsageError(f'callbacks.repartition.copies must be apart or together, got {copies!r}.')
        self.score = Clean() if score is None else score
        for name, value in (('max_leak', max_leak), ('max_later_leak', max_later_leak)):
            check_number(f'callbacks.repartition.{name}', value, '[0, 1]')
        if on_distrust not in get_args(OnDistrust):
            raise UsageError(
                f'callbacks.repartition.on_distrust must be one of {", ".join(get_args(OnDistrust))}, '
                f'got {on_distrust!r}.'
            )
        self.every, self.memory, self.copies = every, memory, copies
        self.max_leak, self.max_later_leak, self.on_distrust = max_leak, max_later_leak, on_distrust
        self.distrust = ''
        self.remembered: Tensor | None = None  # standardized similarities, averaged over splits, (N,)
        self.past: Past | None = None
        self._fingerprint: str | None = None

    @abstractmethod
    def decide(
        self,
        score: NDArray[np.floating],
        side: Side,
        past: Past | None,
        candidates: NDArray[np.int64] | None = None,
        mismatches: Mismatches = NOTHING_KNOWN,
    ) -> Split:
        """Decides the side of each pair from arrays alone, without trainer or model.

        Args:
            score: Cosine similarity of each pair, (N,); NaN where unknown.
            side: The split so far, (N,); pairs that are ``DROPPED`` stay dropped.
            past: What the previous split passed on; ``None`` for the first.
            candidates: Rows that were measured for this split, the only ones that can become safe; ``None`` for all.
            mismatches: Pairs that are known not to match, which show how many others pass, and those that the user
                trusts, which the callback makes safe afterwards.

        Raises:
            UsageError: If no pair would be safe.
        """

    def candidates(self, score: NDArray[np.floating], side: Side, past: Past | None) -> NDArray[np.int64] | None:
        """Rows to measure, ascending, given the scores so far; ``None`` for all."""
        return None

    # --- when ---------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a run in which the split would have no effect, or an unintended one."""
        if stage == 'fit':
            _partition(trainer)  # fail before loaders and optimizers are built
            _check_arguments(self.decide, Repartition.decide)
            _check_arguments(self.score.measure, Score.measure)
            self._check_schedule(trainer, pl_module)
            self._check_answer(trainer, pl_module)

    def _check_schedule(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if (first := first_split(module)) is None:
            raise UsageError('this model never trains on a risky side: use SafeCLIP, or --callbacks.repartition=null.')
        if not self.score.is_measurable_after([sides_of(module, epoch) for epoch in range(first)]):
            raise UsageError(
                'no epoch before the first split trains the similarities that it would go by: set model.slow_epochs=1.'
            )
        if first >= (trainer.max_epochs or 0) > 0:
            rank_zero_info(f'no split: epoch {first + 1} is the first to train two sides, and the run ends before it.')

    def _check_answer(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Refuses an ``on_distrust`` that could not be followed."""
        if self.on_distrust == 'unimodal' and not hasattr(module, 'unimodal_from'):
            raise UsageError(
                f'callbacks.repartition.on_distrust=unimodal needs a model that can go on so, but '
                f'{type(module).__name__} has no unimodal_from: use SafeCLIP, or stop.'
            )
        if self.on_distrust == 'stop' and (trainer.min_epochs or trainer.min_steps):
            raise UsageError(
                'callbacks.repartition.on_distrust=stop could not end a run before trainer.min_epochs or min_steps: '
                'leave both null.'
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_data(_partition(trainer))
        since = getattr(pl_module, 'unimodal_from', None)
        if since is not None and self.on_distrust != 'unimodal':
            raise UsageError(
                f'callbacks.repartition.on_distrust={self.on_distrust} comes too late, as this run trains each '
                f'modality alone from epoch {since + 1} on: leave it at unimodal, or resume from a checkpoint of '
                f'before.'
            )
        if self.distrust and self.on_distrust == 'stop':
            trainer.should_stop = True  # it ends as before, also if it was killed before it could say so
            return
        if self.distrust and self.on_distrust == 'unimodal':
            cast(Any, pl_module).unimodal_from = _partition(trainer).epoch
        self.distrust = ''

    def _check_data(self, partition: Partition) -> None:
        if self._fingerprint not in (None, partition.fingerprint):
            raise UsageError(
                f'the checkpoint holds a split of data set {self._fingerprint}, but this run uses '
                f'{partition.fingerprint}: resume with the data and attacks of that run, or start from its weights '
                f'with model.init_from instead of ckpt_path.'
            )
        self._fingerprint = partition.fingerprint

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, partition = trainer.current_epoch, _partition(trainer)
        if trains_both_sides(pl_module, epoch) and (self.past is None or partition.epoch != epoch):
            raise UsageError(
                f'epoch {epoch + 1} would train on the split of epoch {partition.epoch + 1}: the checkpoint was not '
                f'written at the end of an epoch; resume from one that was (checkpoint.save_on_train_epoch_end=true).'
            )
        self.score.begin_epoch(len(partition), sides_of(pl_module, epoch), pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.score.add(batch, outputs)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.score.end_epoch(trainer)
        epoch, partition = trainer.current_epoch + 1, _partition(trainer)
        if not trains_both_sides(pl_module, epoch):
            return
        if (epoch - (first_split(pl_module) or 0)) % self.every:
            partition.epoch = epoch  # the current split holds for one more epoch
            return
        self._split(trainer, pl_module, epoch, partition)

    # --- how ----------------------------------------------------------------------------------------------------

    def _split(self, trainer: L.Trainer, module: L.LightningModule, epoch: int, partition: Partition) -> None:
        """Scores the pairs, decides, applies the new split and logs it."""
        candidates = self.candidates(partition.score.numpy(), partition.side.numpy(), self.past)
        start = time.perf_counter()
        score, mismatches = self._measure(trainer, module, epoch, candidates)
        measured = time.perf_counter()
        split = self._decide_together(trainer, score.numpy(), candidates, mismatches)
        seconds = {SWEEP_SECONDS: measured - start, MIXTURE_SECONDS: time.perf_counter() - measured}
        metrics = self._follow(trainer, module, epoch, score, split)
        for name, value in (metrics | seconds).items():
            module.log(name, value, sync_dist=True)  # only the timings differ between ranks

    def _measure(
        self, trainer: L.Trainer, module: L.LightningModule, epoch: int, candidates: NDArray[np.int64] | None
    ) -> tuple[Tensor, Mismatches]:
        """Similarity of each row, (N,), and of what is known not to match, as :meth:`_remember` averages them."""
        sample = draw_sample(row_numbers(_partition(trainer).side.numpy() != DROPPED))
        shuffled = ShuffledPairs(sample, pairs_of(trainer).tokens[sample])
        score = self._measure_rows(trainer, module, epoch, candidates, shuffled)
        score, null = self._remember(score, shuffled.similarities(trainer))
        is_known = null.isfinite()
        compared = float(is_known.float().mean()) if shuffled.is_measured else None
        canaries, trusted = canaries_of(trainer).canary_rows(), pairs_of(trainer).trusted_rows
        return score, Mismatches(null[is_known].numpy(), canaries, compared, trusted)

    def _measure_rows(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        epoch: int,
        candidates: NDArray[np.int64] | None,
        shuffled: ShuffledPairs,
    ) -> Tensor:
        """Similarity of each row, (N,), measured anew for the candidates alone."""
        if candidates is None:
            return self.score.measure(trainer, module, epoch, None, shuffled)
        new = self.score.measure(trainer, module, epoch, np.union1d(candidates, shuffled.rows), shuffled)
        score, rows = _partition(trainer).score.clone(), torch.from_numpy(candidates)
        score[rows] = new[rows]
        return score

    def _remember(self, score: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
        """Averages similarities of pairs and of shuffled pairs with those of earlier splits, if asked to."""
        if not self.memory:
            return score, null
        latest, known = torch.cat([score, null]), score[score.isfinite()]
        average, self.remembered = average_with_earlier(latest, known, self.remembered, self.memory)
        return average[: len(score)], average[len(score) :]

    def _decide_together(
        self,
        trainer: L.Trainer,
        score: NDArray[np.floating],
        candidates: NDArray[np.int64] | None,
        mismatches: Mismatches,
    ) -> Split:
        """Rank 0 decides and broadcasts the split, or the error, without which the other ranks would hang.

        Sides travel as bits, and p-values not at all: every rank has what they follow from.
        """
        judged = self._judged(trainer, score)
        outcome: tuple[Split, list[NDArray[np.uint8]]] | str = ''
        if trainer.is_global_zero:
            try:
                split = self._judge(trainer, score, judged, candidates, mismatches)
                outcome = replace(split, side=split.side[:0]), pack_side(split.side)
            except UsageError as error:
                outcome = str(error)
        outcome = trainer.strategy.broadcast(outcome)
        if isinstance(outcome, str):
            raise UsageError(outcome)
        split, packed = outcome
        return replace(split, side=unpack_side(packed, len(score)), p_value=mismatches.p_values(judged))

    def _judged(self, trainer: L.Trainer, score: NDArray[np.floating]) -> NDArray[np.floating]:
        """The similarities that decide: those of the pairs themselves, or the lowest among the copies of a picture."""
        is_together = self.copies == 'together'
        return least_of_copies(score, pairs_of(trainer).picture_hashes()) if is_together else score

    def _judge(
        self,
        trainer: L.Trainer,
        score: NDArray[np.floating],
        judged: NDArray[np.floating],
        candidates: NDArray[np.int64] | None,
        mismatches: Mismatches,
    ) -> Split:
        """The decision by the similarities that are judged, with what mismatched pairs say about it."""
        split = self.decide(judged, _partition(trainer).side.numpy(), self.past, candidates, mismatches)
        side = split.side.copy()
        side[mismatches.trusted] = SAFE
        leaks = mismatches.metrics(judged, side, split.threshold)
        null = mismatches.histogram(score, split.threshold)  # drawn beside the similarities of the pairs themselves
        return replace(split, side=side, leaks=leaks, null=null)

    # --- what follows -------------------------------------------------------------------------------------------

    def _follow(
        self, trainer: L.Trainer, module: L.LightningModule, epoch: int, score: Tensor, split: Split
    ) -> dict[str, float]:
        """Applies the split, or extends the slow phase instead. Returns the metrics to log."""
        partition, doubt, remarks = _partition(trainer), self.doubt(split.leaks), split.remarks
        is_last = epoch == trainer.max_epochs
        if doubt and self.past is None and not is_last and extend_slow_phase(module):
            self.remembered = None
            remarks = (*remarks, f'{doubt}; the slow phase is extended by an epoch.')
            metrics = {**split.leaks}  # nothing is trained on this split
        else:
            self._apply(partition, epoch, score, split, pairs_of(trainer).trusted_rows)
            self._answer(doubt, trainer, module, epoch)
            metrics = _metrics(partition, split, doubt)
        for remark in remarks:
            rank_zero_info(f'split after epoch {epoch}: {remark}')
        return metrics

    def doubt(self, leaks: Mapping[str, float]) -> str:
        """Why a split with these leaks cannot be trusted, in words; empty if it can."""
        if self.past is None:
            return doubt_about(leaks, 'max_leak', self.max_leak)
        return doubt_about(leaks, 'max_later_leak', self.max_later_leak)

    def _apply(self, partition: Partition, epoch: int, score: Tensor, split: Split, trusted: NDArray[np.int64]) -> None:
        partition.hold(torch.from_numpy(split.side), score, torch.from_numpy(split.p_value))
        partition.null = split.null
        partition.epoch = partition.scored_after = epoch
        mixture = split.past.mixture
        if mixture is None or (self.past is not None and mixture == self.past.mixture):
            # The decision used an earlier mixture or none; ledger and figures need one fitted to these similarities.
            mixture = fit_mixture(score.numpy(), anchors=mark_rows(trusted, len(score)))
        if mixture.state == 'fitted':
            partition.mixture = {**mixture.parameters(), 'threshold': split.threshold}
        else:
            partition.mixture = None
        self.past = split.past

    def _answer(self, doubt: str, trainer: L.Trainer, module: L.LightningModule, epoch: int) -> None:
        """Does what ``on_distrust`` says about a split that cannot be trusted."""
        if not doubt:
            return
        if self.on_distrust == 'stop':
            trainer.should_stop = True
            self.distrust = (
                f'the split after epoch {epoch} cannot be trusted: {doubt}. {REMEDY}, or set '
                f'callbacks.repartition.on_distrust=go_on.'
            )
        elif self.on_distrust == 'unimodal':
            cast(Any, module).unimodal_from = epoch
        if trainer.is_global_zero:
            log.warning('the split after epoch %d cannot be trusted: %s. %s', epoch, doubt, REMEDY)

    # --- resume -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            'version': STATE_VERSION,
            'fingerprint': self._fingerprint,
            'split_done': self.past is not None,
            'past': self.past and self.past.state_dict(),
            'score': self.score.state_dict(),
            'remembered': self.remembered,
            'distrust': self.distrust,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state, also one of version 1. Raises ``UsageError`` if a later release wrote it."""
        version = state_dict.get('version', 1)
        if version > STATE_VERSION:
            raise UsageError(
                f'the checkpoint holds version {version} of the state of callbacks.repartition, but this release reads '
                f'up to {STATE_VERSION}: resume with the release that wrote it.'
            )
        self._fingerprint = state_dict['fingerprint']
        self.past = Past.from_state(state_dict['past']) if state_dict['split_done'] else None
        self.score.load_state_dict(state_dict['score'] if version > 1 else {'average': state_dict['running']})
        self.remembered, self.distrust = state_dict['remembered'], state_dict.get('distrust', '')


def _check_arguments(method: Callable[..., Any], of_base: Callable[..., Any]) -> None:
    """Refuses a method of a subclass that cannot be called as that of its base, before it is needed."""
    _, *names = inspect.signature(of_base).parameters
    try:
        inspect.signature(method).bind(*names)
    except TypeError as error:
        raise UsageError(
            f'{method.__qualname__} does not take the arguments {", ".join(names)}: give it those of '
            f'{of_base.__qualname__}, as this release calls it with them.'
        ) from error


def _partition(trainer: L.Trainer) -> Partition:
    return pairs_of(trainer).partition


def _metrics(partition: Partition, split: Split, doubt: str) -> dict[str, float]:
    metrics = {'share': partition.share, 'threshold': split.threshold, 'unscored': float(split.unscored)}
    is_judged = not all(math.isnan(leak) for leak in split.leaks.values())
    metrics['trusted'] = float(not doubt) if is_judged else math.nan
    if partition.mixture is not None:
        metrics |= {name: partition.mixture[name] for name in ('mean_low', 'mean_high')}
    return {f'partition/{name}': value for name, value in metrics.items()} | {**split.leaks}
