"""Splits the pairs into safe and risky ones at the end of an epoch, for the next one to train on."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, Protocol, cast, get_args

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from callbacks.mismatches import Mismatches
from callbacks.mixture import Array, Backend, Mixture, fit_mixture, log_odds_of
from callbacks.scores import Clean, Score
from callbacks.shuffled_pairs import ShuffledPairs, draw_sample
from datamodules.contracts import canaries_of, pairs_of
from datamodules.pictures.copies import Copies, least_of_copies
from datamodules.rows.draws import bits
from datamodules.rows.partition import DROPPED, RISKY, SAFE, Partition
from datamodules.usage_error import UsageError, check_number

log = logging.getLogger(__name__)

NOTHING_KNOWN = Mismatches()
REMEDY = (
    'Train on more pairs or for more epochs, start from pretrained weights (model.pretrained), let a smaller split be '
    'found (callbacks.repartition.size=calibrated)'
)
OnDistrust = Literal['stop', 'unimodal', 'go_on']
Side = NDArray[np.int8]
MAX_WARM_UP_EPOCHS = 1000  # how far ahead to look for the first epoch that trains both sides
CANDIDATE_MARGIN = Fraction(1, 10)  # share of all pairs that is measured beyond those that may become safe
TIE_KEY = 0x7469_6573  # key of the hash that breaks ties; arbitrary, but a change would change splits
STATE_VERSION = (
    3  # of this callback's state in a checkpoint; 1 stored the running average outside `score`, 2 had no null
)


@dataclass(frozen=True)
class Past:
    """What one split passes on to the next.

    Args:
        fraction: Intended safe share of the pairs that are not dropped, as an exact fraction.
        mixture: The mixture that was fitted last.
    """

    fraction: Fraction
    mixture: Mixture | None = None

    def state_dict(self) -> dict[str, Any]:
        """The same as plain values, for a checkpoint."""
        return {'fraction': str(self.fraction), 'mixture': self.mixture and asdict(self.mixture)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Past:
        """Inverts :meth:`state_dict`."""
        mixture = state['mixture']
        return cls(Fraction(state['fraction']), mixture and Mixture(**mixture))


@dataclass(frozen=True)
class Split:
    """What :meth:`Repartition.decide` returns.

    Args:
        side: ``SAFE``, ``RISKY`` or ``DROPPED`` of each row, int8 (N,).
        past: Passed to the next call.
        threshold: Similarity of the least similar safe pair; NaN if none is safe.
        p_value: Share of mismatched pairs that are at least as similar as each pair, float32 (N,); NaN where unknown.
            The callback adds it, as it adds the leaks.
        leaks: What is logged about mismatched pairs.
        unscored: Number of pairs without a finite similarity; none of them is safe.
        remarks: Messages for the user.
    """

    side: Side
    past: Past
    threshold: float
    unscored: int = 0
    remarks: tuple[str, ...] = ()
    p_value: NDArray[np.float32] | None = None
    leaks: Mapping[str, float] = field(default_factory=dict)


class Sided(Protocol):
    """A module whose ``sides`` gives the sides that an epoch trains on and the number of views of each, as CLIP."""

    def sides(self, epoch: int) -> dict[str, int]: ...


class Repartition(L.Callback, ABC):
    """Decides which pairs are trusted; a subclass says how, in :meth:`decide`.

    A split is made at the end of an epoch if the next epoch trains both sides: all pairs are scored, and rank 0
    decides for all ranks. The checkpoint written at the end of that epoch holds the new split.

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
            mismatches: Pairs that are known not to match, which show how many others pass.

        Raises:
            UsageError: If no pair would be safe.
        """

    def candidates(self, score: NDArray[np.floating], side: Side, past: Past | None) -> NDArray[np.int64] | None:
        """Rows to measure, ascending, given the scores so far; ``None`` for all."""
        return None

    # --- when ---------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a run in which the split would have no effect, or an unintended one."""
        if stage != 'fit':
            return
        _partition(trainer)  # fail before loaders and optimizers are built
        if cast(Any, trainer).reload_dataloaders_every_n_epochs != 1:  # set by Lightning without being declared
            raise UsageError(
                'a split takes effect only when loaders are rebuilt: set trainer.reload_dataloaders_every_n_epochs=1.'
            )
        if (first := _first_split(pl_module)) is None:
            raise UsageError('this model never trains on a risky side: use SafeCLIP, or --callbacks.repartition=null.')
        if not self.score.is_measurable_after([_sides(pl_module, epoch) for epoch in range(first)]):
            raise UsageError(
                'no epoch before the first split trains the similarities that it would go by: set model.slow_epochs=1.'
            )
        if self.on_distrust == 'unimodal' and not hasattr(pl_module, 'unimodal_from'):
            raise UsageError(
                f'callbacks.repartition.on_distrust=unimodal needs a model that can go on so, but '
                f'{type(pl_module).__name__} has no unimodal_from: use SafeCLIP, or stop.'
            )
        if self.on_distrust == 'stop' and (trainer.min_epochs or trainer.min_steps):
            raise UsageError(
                'callbacks.repartition.on_distrust=stop could not end a run before trainer.min_epochs or min_steps: '
                'leave both null.'
            )
        if first >= (trainer.max_epochs or 0) > 0:
            rank_zero_info(f'no split: epoch {first} is the first to train two sides, and the run ends before it.')

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        fingerprint = _partition(trainer).fingerprint
        if self._fingerprint not in (None, fingerprint):
            raise UsageError(
                f'the checkpoint holds a split of data set {self._fingerprint}, but this run uses {fingerprint}: '
                f'resume with the data and attacks of that run, or start from its weights with model.init_from '
                f'instead of ckpt_path.'
            )
        self._fingerprint = fingerprint
        since = getattr(pl_module, 'unimodal_from', None)
        if since is not None and self.on_distrust != 'unimodal':
            raise UsageError(
                f'callbacks.repartition.on_distrust={self.on_distrust} comes too late, as this run trains each '
                f'modality alone from epoch {since} on: leave it at unimodal, or resume from a checkpoint of before.'
            )
        if self.distrust and self.on_distrust == 'stop':
            trainer.should_stop = True  # it ends as before, also if it was killed before it could say so
            return
        if self.distrust and self.on_distrust == 'unimodal':
            cast(Any, pl_module).unimodal_from = _partition(trainer).epoch
        self.distrust = ''

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, partition = trainer.current_epoch, _partition(trainer)
        if _trains_both_sides(pl_module, epoch) and (self.past is None or partition.epoch != epoch):
            raise UsageError(
                f'epoch {epoch} would train on the split of epoch {partition.epoch}: the checkpoint was not written at '
                f'the end of an epoch; resume from one that was (checkpoint.save_on_train_epoch_end=true).'
            )
        self.score.begin_epoch(len(partition), _sides(pl_module, epoch), pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.score.add(batch, outputs)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.score.end_epoch(trainer)
        epoch, partition = trainer.current_epoch + 1, _partition(trainer)
        if not _trains_both_sides(pl_module, epoch):
            return
        if (epoch - (_first_split(pl_module) or 0)) % self.every:
            partition.epoch = epoch  # the current split holds for one more epoch
            return
        self._split(trainer, pl_module, epoch, partition)

    def _split(self, trainer: L.Trainer, module: L.LightningModule, epoch: int, partition: Partition) -> None:
        """Scores the pairs, decides, applies the new split and logs it."""
        candidates = self.candidates(partition.score.numpy(), partition.side.numpy(), self.past)
        start = time.perf_counter()
        sample = draw_sample(np.flatnonzero(partition.side.numpy() != DROPPED))
        shuffled = ShuffledPairs(sample, pairs_of(trainer).tokens[sample])
        score = self._measure(trainer, module, epoch, candidates, shuffled)
        score, null = self._remember(score, shuffled.similarities(trainer))
        measured = time.perf_counter()
        judged = self._scores_to_judge(trainer, score.numpy())
        is_known = null.isfinite()
        compared = float(is_known.float().mean()) if shuffled.is_measured else None
        mismatches = Mismatches(null[is_known].numpy(), canaries_of(trainer).canary_rows(), compared)
        split = self._decide_together(trainer, judged, partition.side.numpy(), candidates, mismatches)
        seconds = {'cost/sweep_s': measured - start, 'cost/mixture_s': time.perf_counter() - measured}
        doubt = self.doubt(split.leaks)
        is_last = epoch == trainer.max_epochs
        if doubt and self.past is None and not is_last and _extend_slow_phase(module):
            self.remembered = None
            remarks = (*split.remarks, f'{doubt}; the slow phase is extended by an epoch.')
            metrics = {**split.leaks}  # nothing is trained on this split
        else:
            remarks = split.remarks
            self._apply(partition, epoch, score, split)
            self._answer(doubt, trainer, module, epoch)
            metrics = _metrics(partition, split, doubt)
        for remark in remarks:
            rank_zero_info(f'split after epoch {epoch}: {remark}')
        for name, value in (metrics | seconds).items():
            module.log(name, value, sync_dist=True)  # only the timings differ between ranks

    def doubt(self, leaks: Mapping[str, float]) -> str:
        """Why a split with these leaks cannot be trusted, in words; empty if it can."""
        name, bound = ('max_leak', self.max_leak) if self.past is None else ('max_later_leak', self.max_later_leak)
        excesses = [
            f'{leaks[metric]:.1%} of {what} would count as safe'
            for metric, what in (
                ('partition/null_leak', 'shuffled pairs'),
                ('canary/evident_leak', 'the pairs of one canary, at least,'),
            )
            if leaks.get(metric, 0.0) > bound
        ]
        if excesses:
            return f'{" and ".join(excesses)} ({name}={bound:g})'
        return 'no two captions look different to the model' if leaks.get('partition/null_compared') == 0 else ''

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

    # --- how ----------------------------------------------------------------------------------------------------

    def _measure(
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
        """Averages the similarities with those of earlier splits, on the scale of the latest."""
        if not self.memory:
            return score, null
        known = score[score.isfinite()]
        mean, deviation = known.mean(), known.std().clamp(min=1e-12)
        standardized = (torch.cat([score, null]) - mean) / deviation
        previous = standardized if self.remembered is None else self.remembered
        if len(previous) < len(standardized):  # from a checkpoint of a release without shuffled pairs
            previous = torch.cat([previous, standardized[len(previous) :]])
        average = self.memory * previous + (1 - self.memory) * standardized
        self.remembered = torch.where(average.isfinite(), average, standardized)
        restored = mean + deviation * self.remembered
        return restored[: len(score)], restored[len(score) :]

    def _scores_to_judge(self, trainer: L.Trainer, score: NDArray[np.floating]) -> NDArray[np.floating]:
        """The scores that rank 0 decides by; other ranks do not use theirs."""
        if self.copies == 'apart' or not trainer.is_global_zero:
            return score
        return least_of_copies(score, pairs_of(trainer).picture_hashes())

    def _decide_together(
        self,
        trainer: L.Trainer,
        score: NDArray[np.floating],
        side: Side,
        candidates: NDArray[np.int64] | None,
        mismatches: Mismatches,
    ) -> Split:
        """Rank 0 decides and broadcasts the split, or the error, without which the other ranks would hang."""
        outcome: Split | str = ''
        if trainer.is_global_zero:
            try:
                split = self.decide(score, side, self.past, candidates, mismatches)
                leaks = mismatches.metrics(score, split.side, split.threshold)
                outcome = replace(split, p_value=mismatches.p_values(score), leaks=leaks)
            except UsageError as error:
                outcome = str(error)
        outcome = trainer.strategy.broadcast(outcome)
        if isinstance(outcome, str):
            raise UsageError(outcome)
        return outcome

    def _apply(self, partition: Partition, epoch: int, score: Tensor, split: Split) -> None:
        partition.side = torch.from_numpy(split.side.copy())
        partition.score = score
        partition.p_value = torch.from_numpy(split.p_value)
        partition.epoch = partition.scored_after = epoch
        mixture = split.past.mixture
        if mixture is None or (self.past is not None and mixture == self.past.mixture):
            # The decision used an earlier mixture or none; ledger and figures need one fitted to these similarities.
            mixture = fit_mixture(score[score.isfinite()].numpy())
        if mixture.state == 'fitted':
            partition.mixture = {**mixture.parameters(), 'threshold': split.threshold}
        else:
            partition.mixture = None
        self.past = split.past

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


class SafeRiskyRepartition(Repartition):
    """SafeCLIP's split (Yang et al., ICML 2024): the pairs whose image and caption are most similar are safe.

    The first split fits a mixture of two normal distributions to the similarities. Pairs are safe if their posterior
    of belonging to the high component is at least ``threshold``. Later splits make more of the most similar pairs
    safe.

    Args:
        threshold: Minimum posterior of a safe pair, in (0, 1) (paper: 0.9).
        growth: Fraction by which the safe side may grow at each later split (paper: 0.01).
        size: How the safe side changes at later splits. ``growth``: it grows by the argument ``growth``. ``mixture``:
            to as many pairs as a refitted mixture accepts. It then grows by ``growth`` at most, and may shrink; with
            a larger ``growth``, this suits data sets on which 1 % per epoch is too slow. ``calibrated``: the first
            split too is as large as ``max_leak`` allows, a later one as ``max_later_leak`` and ``growth`` allow.
        rank_by: What the pairs are ranked by. ``similarity``: no pair is safe while a more similar one is risky.
            ``posterior``: as in the released code; it is not monotonic in the similarity. A hash of the row breaks
            ties in both.
        refit: Fit the mixture at the ``first`` split only (paper) or at ``every`` split (released). With
            ``size: mixture`` it is always refitted.
        score: Source of the similarities: ``Clean``, ``Augmented``, ``Running`` or another subclass of ``Score``.
            ``None`` means ``Clean``, a sweep over the pairs as they are.
        every: Number of epochs from one split to the next.
        top_fraction: Fraction of the pairs to measure at later splits: those that were most similar last time. It is
            raised to cover the pairs that may become safe plus a tenth of all. Other pairs are risky and keep their
            old score. Paper: 0.3.
        cap: Upper bound of the safe fraction (released: 0.85).
        growth_base: What ``growth`` is a fraction of: the ``dataset`` without dropped pairs (released), or the pairs
            that are still ``risky``.
        min_fraction: Lower bound of the safe fraction. If the mixture trusts fewer pairs, or none because its
            components overlap, this share of the most similar pairs is safe instead.
        first_fraction: Safe fraction of the first split; ``None`` leaves it to the mixture. Set it for small data
            sets, on which the components overlap so much that the cut is arbitrary although the ranking is good.
        backend: How the mixture is fitted: on a fine ``histogram`` of the similarities, or by ``sklearn`` on all of
            them, which takes longer and agrees closely.
        tol: Gain in mean log-likelihood per pair, in nats, below which the fit of the mixture stops.
        memory: Weight of earlier splits in the ranking, in [0, 1); 0 ranks by the latest similarities alone. Helps on
            small data sets, where the ranking right after the slow phase stays the best one for many epochs.
        copies: How pairs with pixel-identical pictures are judged. ``apart``: each by its own similarity, as in the
            paper. ``together``: all by the lowest similarity among them, so that one trusted copy of a targeted
            poison does not make the model learn the picture and trust the other copies. ``together`` also joins the
            captions of one picture (COCO), but not near-duplicates whose pixels differ.
        max_leak: Largest share of mismatched pairs, shuffled ones or canaries, that a first split which can be trusted
            lets onto the safe side. ``size: calibrated`` makes the split as large as it allows.
        max_later_leak: The same for later splits.
        on_distrust: What to do about a split that cannot be trusted, once the slow phase has been extended as far as
            the model allows. ``go_on`` trains on the split and warns. ``stop`` ends the run, with exit status 3.
            ``unimodal`` trains each modality alone from then on.
    """

    def __init__(
        self,
        threshold: float = 0.9,
        growth: float = 0.01,
        size: Literal['growth', 'mixture', 'calibrated'] = 'growth',
        rank_by: Literal['similarity', 'posterior'] = 'similarity',
        refit: Literal['first', 'every'] = 'first',
        score: Score | None = None,
        every: int = 1,
        top_fraction: float = 1.0,
        cap: float = 1.0,
        growth_base: Literal['dataset', 'risky'] = 'dataset',
        min_fraction: float = 0.1,
        first_fraction: float | None = None,
        backend: Backend = 'histogram',
        tol: float = 1e-3,
        memory: float = 0.0,
        copies: Copies = 'apart',
        max_leak: float = 0.05,
        max_later_leak: float = 0.1,
        on_distrust: OnDistrust = 'go_on',
    ) -> None:
        super().__init__(score, every, memory, copies, max_leak, max_later_leak, on_distrust)
        check_number('callbacks.repartition.threshold', threshold, '(0, 1)')
        check_number('callbacks.repartition.tol', tol, '[0, inf)')
        ranges = {'growth': growth, 'top_fraction': top_fraction, 'cap': cap, 'min_fraction': min_fraction}
        for name, value in {**ranges, 'first_fraction': first_fraction}.items():
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f'callbacks.repartition.{name} must be a fraction in [0, 1], got {value}.')
            if value == 0 and name in ('cap', 'first_fraction'):
                raise UsageError(f'callbacks.repartition.{name}=0 would leave the safe side empty: raise it.')
        if min_fraction > cap:
            raise UsageError(
                f'callbacks.repartition.cap={cap} is below min_fraction={min_fraction}: lower min_fraction.'
            )
        if size == 'calibrated' and rank_by != 'similarity':
            raise UsageError(
                'callbacks.repartition.size=calibrated compares similarities with those of mismatched pairs: leave '
                'rank_by at similarity.'
            )
        if size == 'calibrated' and first_fraction is not None:
            raise UsageError(
                'callbacks.repartition.first_fraction says how large the first split is, and so does size=calibrated: '
                'leave it at null.'
            )
        if top_fraction < 1 and not self.score.sweeps:
            raise UsageError(
                f'callbacks.repartition.top_fraction shortens a sweep, but score={type(self.score).__name__} makes '
                f'none: leave it at 1.'
            )
        self.threshold, self.size, self.rank_by, self.refit = threshold, size, rank_by, refit
        self.growth_base, self.backend, self.tol = growth_base, backend, tol
        # Exact decimals, as the user wrote them: 0.01 has no exact binary form, and sizes would drift.
        self.growth, self.top_fraction = Fraction(str(growth)), Fraction(str(top_fraction))
        self.cap, self.min_fraction = Fraction(str(cap)), Fraction(str(min_fraction))
        self.first_fraction = None if first_fraction is None else Fraction(str(first_fraction))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != 'fit' or self.size != 'calibrated':
            return
        if not self.score.sweeps and not canaries_of(trainer).canary_rows():
            raise UsageError(
                f'callbacks.repartition.size=calibrated needs similarities of shuffled pairs, which '
                f'score={type(self.score).__name__} does not measure, or canaries: use score=Clean or data.canaries.'
            )

    def decide(
        self,
        score: NDArray[np.floating],
        side: Side,
        past: Past | None,
        candidates: NDArray[np.int64] | None = None,
        mismatches: Mismatches = NOTHING_KNOWN,
    ) -> Split:
        usable = side != DROPPED
        values = np.where(usable & np.isfinite(score), score, np.nan).astype(np.float64)
        known = ~np.isnan(values)
        if not known.any():
            raise UsageError('no pair has a finite similarity, so training has diverged: lower model.lr.')
        mixture, remarks = self._mixture(values[known], past)
        rank, trusted = self._rank(values, mixture)
        if candidates is not None:
            is_unmeasured = np.ones(len(rank), bool)
            is_unmeasured[candidates] = False
            rank[is_unmeasured] = np.nan
        pairs = int(usable.sum())
        size_remarks: tuple[str, ...] = ()
        if self.size == 'calibrated':
            fraction = self._calibrated(rank, mismatches, pairs, past)
        else:
            fraction, size_remarks = self._fraction(trusted, pairs, past, mixture)
        safe = top_rows(rank, round(fraction * pairs))
        if not len(safe):
            raise UsageError(
                f'{float(fraction):.2g} of {pairs:,} pairs rounds to no safe pair: raise '
                f'callbacks.repartition.first_fraction, cap or min_fraction.'
            )
        new_side = np.where(usable, RISKY, DROPPED).astype(np.int8)
        new_side[safe] = SAFE
        unscored = int((usable & ~known).sum())
        if unscored:
            size_remarks = (*size_remarks, f'{unscored:,} pairs have no finite similarity and are risky.')
        remarks = (*remarks, *size_remarks)
        return Split(new_side, Past(fraction, mixture), float(values[safe].min()), unscored, remarks)

    def candidates(self, score: NDArray[np.floating], side: Side, past: Past | None) -> NDArray[np.int64] | None:
        if past is None or self.top_fraction >= 1:
            return None
        fraction = max(self.top_fraction, self._grow(past.fraction) + CANDIDATE_MARGIN)
        if fraction >= 1:
            return None
        rank = np.where(side != DROPPED, score, np.nan)
        return np.sort(top_rows(rank, math.ceil(fraction * int((side != DROPPED).sum()))))

    def _mixture(self, values: Array, past: Past | None) -> tuple[Mixture, tuple[str, ...]]:
        """The mixture to decide by, and remarks about it."""
        if past is not None and past.mixture is not None and self.refit == 'first' and self.size != 'mixture':
            return past.mixture, ()
        mixture = fit_mixture(values, tol=self.tol, backend=self.backend)
        if mixture.state != 'fitted':
            low, high = values.min(), values.max()
            return mixture, (f'no mixture ({mixture.state}): {len(values):,} similarities, {low:.4f} to {high:.4f}.',)
        if not mixture.converged:
            return mixture, (f'the mixture has not converged in {mixture.iterations} steps: raise tol.',)
        return mixture, ()

    def _rank(self, values: Array, mixture: Mixture) -> tuple[Array, int]:
        """The values that rank the pairs, NaN where unknown, and the number of pairs that the mixture trusts."""
        if self.rank_by == 'posterior' and mixture.state == 'fitted':
            odds = mixture.log_odds(values)  # order the pairs as the posterior does, but without ties at 1
            return odds, int((odds >= log_odds_of(self.threshold)).sum())
        cut = mixture.guarded_cut(self.threshold)
        return values.copy(), 0 if cut is None else int((values >= cut).sum())

    def _fraction(
        self, trusted: int, pairs: int, past: Past | None, mixture: Mixture
    ) -> tuple[Fraction, tuple[str, ...]]:
        """The safe fraction, and remarks about it."""
        if past is None and self.first_fraction is not None:
            return self.first_fraction, ()
        if past is not None and self.size == 'growth':
            return self._grow(past.fraction), ()
        basis = f'{trusted:,} of {pairs:,} pairs have a posterior of at least {self.threshold:g} ({_describe(mixture)})'
        if past is not None and not trusted:
            return past.fraction, (f'{basis}; the safe side keeps its size.',)
        smallest = math.ceil(self.min_fraction * pairs)
        if not trusted and not smallest:
            raise UsageError(
                f'{basis}, so none is safe: lower callbacks.repartition.threshold or raise '
                f'callbacks.repartition.min_fraction.'
            )
        largest = self.cap if past is None else self._grow(past.fraction)
        fraction = max(min(Fraction(trusted, pairs), largest), Fraction(smallest, pairs))
        if trusted >= smallest:
            return fraction, ()
        return fraction, (f'{basis}; the {smallest:,} most similar are safe instead (min_fraction).',)

    def _calibrated(self, rank: Array, mismatches: Mismatches, pairs: int, past: Past | None) -> Fraction:
        """The largest safe fraction whose leak is within the bound, but at least the smallest."""
        p_value = mismatches.p_values(rank)
        if np.isnan(p_value).all():
            if mismatches.compared is None:
                raise UsageError(
                    'callbacks.repartition.size=calibrated has no mismatched pair to go by: plant data.canaries, or '
                    'use another size.'
                )
            return self.min_fraction  # all captions look the same, so the split is not trusted
        bound = self.max_leak if past is None else self.max_later_leak
        largest = self.cap if past is None else self._grow(past.fraction)
        return max(min(Fraction(int((p_value <= bound).sum()), pairs), largest), self.min_fraction)

    def _grow(self, fraction: Fraction) -> Fraction:
        """The safe fraction after one more split, exactly."""
        if self.growth_base == 'risky':
            # Without a limit the denominator grows with every split; a millionth of a pair is close enough.
            grown = (fraction + self.growth * (1 - fraction)).limit_denominator(10**15)
        else:
            grown = fraction + self.growth
        return min(grown, self.cap)


def top_rows(rank: Array, count: int) -> NDArray[np.int64]:
    """Rows of the ``count`` largest values, largest first.

    Ties are broken by a keyed hash of the row. Breaking them by row number would leak which pairs are poisoned:
    attacks append their poisons, so a poison would lose every tie.

    Args:
        rank: A value for each row, (N,); NaN where unknown.
        count: How many rows to take; fewer are returned if fewer are known.
    """
    order = np.lexsort((bits(len(rank), TIE_KEY), -rank))  # lexsort's last key comes first; NaN goes last
    return order[: min(count, int((~np.isnan(rank)).sum()))]


def _sides(module: L.LightningModule, epoch: int) -> dict[str, int]:
    return cast(Sided, module).sides(epoch)


def _first_split(module: L.LightningModule) -> int | None:
    """The first epoch that trains both sides; ``None`` if none does."""
    return next((epoch for epoch in range(MAX_WARM_UP_EPOCHS) if _trains_both_sides(module, epoch)), None)


def _extend_slow_phase(module: Any) -> bool:
    """Asks the module for one more slow epoch; ``False`` if it has none to give."""
    extend = getattr(module, 'extend_slow_phase', None)
    return extend is not None and bool(extend())


def _trains_both_sides(module: L.LightningModule, epoch: int) -> bool:
    return {'cross_modal', 'within_modal'} <= _sides(module, epoch).keys()


def _partition(trainer: L.Trainer) -> Partition:
    return pairs_of(trainer).partition


def _metrics(partition: Partition, split: Split, doubt: str) -> dict[str, float]:
    metrics = {'share': partition.share, 'threshold': split.threshold, 'unscored': float(split.unscored)}
    is_judged = not all(math.isnan(leak) for leak in split.leaks.values())
    metrics['trusted'] = float(not doubt) if is_judged else math.nan
    if partition.mixture is not None:
        metrics |= {name: partition.mixture[name] for name in ('mean_low', 'mean_high')}
    return {f'partition/{name}': value for name, value in metrics.items()} | {**split.leaks}


def _describe(mixture: Mixture) -> str:
    if mixture.state != 'fitted':
        return f'no two components: {mixture.state}'
    (low, high), (sd_low, sd_high) = mixture.means, mixture.sds
    return f'means {low:.3f} and {high:.3f}, standard deviations {sd_low:.3f} and {sd_high:.3f}'
