"""Splits the pairs into safe and risky ones at the end of an epoch, for the next one to train on."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol, cast, get_args

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from callbacks.mixture import Array, Backend, Mixture, fit_mixture, log_odds_of
from callbacks.sweep import RunningSimilarity, sweep
from datamodules.contracts import pairs_of
from datamodules.pictures.copies import least_of_copies
from datamodules.rows.partition import DROPPED, RISKY, SAFE, Partition
from datamodules.usage_error import UsageError

Score = Literal['clean', 'augmented', 'running']
Copies = Literal['apart', 'together']
Side = NDArray[np.int8]
HORIZON = 1000  # epochs looked ahead for one that splits; a plan's warm-up is never that long
MARGIN = Fraction(1, 10)  # of the pairs, ranked again beyond those that may become safe


@dataclass(frozen=True)
class Past:
    """What a split leaves to those after it.

    Args:
        fraction: Pairs meant to be safe over all that are not dropped, exactly.
        mixture: The mixture that was fitted last.
    """

    fraction: Fraction
    mixture: Mixture | None = None

    def state_dict(self) -> dict[str, Any]:
        """Plain values, which a checkpoint may hold."""
        return {'fraction': str(self.fraction), 'mixture': self.mixture and asdict(self.mixture)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Past:
        """The reverse of :meth:`state_dict`."""
        mixture = state['mixture']
        return cls(Fraction(state['fraction']), mixture and Mixture(**mixture))


@dataclass(frozen=True)
class Split:
    """A decision.

    Args:
        side: ``SAFE``, ``RISKY`` or ``DROPPED`` of each row, int8 (N,).
        past: What the next decision builds on.
        threshold: Similarity of the least similar safe pair; NaN if none is safe.
        unscored: Pairs without a finite similarity, none of them safe.
        remarks: What the user should know.
    """

    side: Side
    past: Past
    threshold: float
    unscored: int = 0
    remarks: tuple[str, ...] = ()


class Sided(Protocol):
    """A module that says which sides an epoch trains on, with how many views of each; CLIP is one."""

    def sides(self, epoch: int) -> dict[str, int]: ...


class Repartition(L.Callback, ABC):
    """Whatever decides which pairs are trusted; a subclass says how, in :meth:`decide`.

    At the end of an epoch after which both sides are trained, the similarities of all pairs are measured and the
    first process decides for all. A checkpoint of that epoch's end holds the new split.

    Args:
        score: Where similarities come from. ``clean``: a sweep over pairs as they are. ``augmented``: a sweep over
            augmented views of the epoch that is to come, as the released code does. ``running``: the moving
            average of what training computed in epochs that train across modalities, for no extra cost; pairs that
            no such epoch drew are risky.
        score_views: Views that ``augmented`` averages over, at the cost of as many sweeps (released: 1, noisier than
            ``clean``; four are less so, above all for single images, of which targeted poison is made).
        every: Epochs from one split to the next.
        momentum: Weight of the past in the average of ``running``, in [0, 1).
        memory: Weight of earlier splits in what pairs are ranked by, in [0, 1); 0 for the latest similarities alone.
            On small sets the ranking right after the slow phase is the best for many epochs to come.
        copies: How pairs with the very same picture are judged. ``apart`` (paper), or ``together``: by the least
            similar of them. A targeted poison is one picture many times; where a single copy is trusted, the model
            learns the picture, and at the next split its other copies are similar too. Copies whose pixels differ
            are judged apart, and captions of one picture (COCO) together.
    """

    def __init__(
        self,
        score: Score = 'clean',
        score_views: int = 1,
        every: int = 1,
        momentum: float = 0.5,
        memory: float = 0.0,
        copies: Copies = 'apart',
    ) -> None:
        if every < 1:
            raise UsageError(f'callbacks.repartition.every must be at least 1, got {every}.')
        if score_views < 1 or (score_views > 1 and score != 'augmented'):
            raise UsageError(
                f'callbacks.repartition.score_views={score_views}: at least 1, and more only with score=augmented.'
            )
        if not 0 <= memory < 1:
            raise UsageError(f'callbacks.repartition.memory must lie in [0, 1), got {memory}.')
        if copies not in get_args(Copies):
            raise UsageError(f'callbacks.repartition.copies must be apart or together, got {copies!r}.')
        self.score, self.score_views, self.every, self.memory = score, score_views, every, memory
        self.copies = copies
        self.first = 0  # epoch that trains on the first split
        self.remembered: Tensor | None = None  # standardized similarities, averaged over splits, (N,)
        self.running = RunningSimilarity(momentum)
        self.past: Past | None = None
        self._fingerprint: str | None = None

    @abstractmethod
    def decide(
        self, score: NDArray[np.floating], side: Side, past: Past | None, candidates: NDArray[np.int64] | None = None
    ) -> Split:
        """Decides from arrays alone.

        Args:
            score: Cosine similarity of each pair, (N,); NaN where unknown.
            side: The split so far, (N,); what is ``DROPPED`` stays so.
            past: Of the split before; ``None`` for the first.
            candidates: Rows whose score is new, where only some were measured; the others cannot become safe.

        Raises:
            UsageError: If no pair would be safe.
        """

    def candidates(self, score: NDArray[np.floating], side: Side, past: Past | None) -> NDArray[np.int64] | None:
        """Rows to measure, ascending, given the scores so far; ``None`` for all."""
        return None

    # --- when ---------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a run in which the split would have no effect, or not the one meant."""
        if stage != 'fit':
            return
        _partition(trainer)  # whoever has none is told so before loaders and optimizers are made
        if cast(Any, trainer).reload_dataloaders_every_n_epochs != 1:  # set by Lightning without being declared
            raise UsageError(
                'a split takes effect when loaders are made anew: set trainer.reload_dataloaders_every_n_epochs=1.'
            )
        first = next((epoch for epoch in range(HORIZON) if _splits(pl_module, epoch)), None)
        if first is None:
            raise UsageError('this module has no risky side: use SafeCLIP, or --callbacks.repartition=null.')
        self.first = first
        before = [_sides(pl_module, epoch) for epoch in range(first)]
        if not before or (self.score == 'running' and not any('cross_modal' in sides for sides in before)):
            raise UsageError('no epoch before the first split measures how similar pairs are: set model.slow_epochs=1.')
        if first >= (trainer.max_epochs or 0) > 0:
            rank_zero_info(f'no split: epoch {first} is the first to train two sides, and the run ends before it.')

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        fingerprint = _partition(trainer).fingerprint
        if self._fingerprint not in (None, fingerprint):
            raise UsageError(
                f'the checkpoint splits the data set {self._fingerprint}, this one is {fingerprint}: resume with the '
                f'data and attacks of that run, or start from its weights with model.init_from instead of ckpt_path.'
            )
        self._fingerprint = fingerprint

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, partition = trainer.current_epoch, _partition(trainer)
        if _splits(pl_module, epoch) and (self.past is None or partition.epoch != epoch):
            raise UsageError(
                f'epoch {epoch} would train on the split of epoch {partition.epoch}: the checkpoint was not written at '
                f'the end of an epoch; resume from one that was (checkpoint.save_on_train_epoch_end=true).'
            )
        if self.score == 'running' and 'cross_modal' in _sides(pl_module, epoch):
            self.running.begin_epoch(len(partition), pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.score == 'running':
            self.running.add(batch.row, outputs['similarity'])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.running.end_epoch(trainer)
        epoch = trainer.current_epoch + 1
        if not _splits(pl_module, epoch):
            return
        partition = _partition(trainer)
        if (epoch - self.first) % self.every:
            partition.epoch = epoch  # the split stands
            return
        candidates = self.candidates(partition.score.numpy(), partition.side.numpy(), self.past)
        start = time.perf_counter()
        score = self._remember(self._measure(trainer, pl_module, epoch, candidates))
        swept = time.perf_counter()
        split = self._agree(trainer, self._judged(trainer, score.numpy()), partition.side.numpy(), candidates)
        seconds = {'cost/sweep_s': swept - start, 'cost/mixture_s': time.perf_counter() - swept}
        self._apply(partition, epoch, score, split)
        for remark in split.remarks:
            rank_zero_info(f'split for epoch {epoch}: {remark}')
        for name, value in (_metrics(partition, split) | seconds).items():
            pl_module.log(name, value, sync_dist=True)  # clocks differ, the rest agrees

    # --- how ----------------------------------------------------------------------------------------------------

    def _measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int, candidates: NDArray[np.int64] | None
    ) -> Tensor:
        """Similarity of each row, (N,): new for the candidates, as it was for the others."""
        partition = _partition(trainer)
        if self.score == 'running':
            if self.running.average is None:
                raise UsageError(
                    f'no similarities from before epoch {epoch}: resume from a checkpoint of an epoch end.'
                )
            return self.running.average.clone()
        data = pairs_of(trainer)
        how: dict[str, Any] = {'epoch': epoch, 'views': self.score_views} if self.score == 'augmented' else {}
        how |= {} if candidates is None else {'rows': candidates}
        new = sweep(trainer, pl_module, data.sweep_dataloader(**how), len(partition))
        if candidates is None:
            return new
        score = partition.score.clone()
        rows = torch.from_numpy(candidates)
        score[rows] = new[rows]
        return score

    def _remember(self, score: Tensor) -> Tensor:
        """The similarities, or their average with those of earlier splits in the units of the latest."""
        if not self.memory:
            return score
        known = score[score.isfinite()]
        mean, deviation = known.mean(), known.std().clamp(min=1e-12)
        standard = (score - mean) / deviation
        before = standard if self.remembered is None else self.remembered
        moved = self.memory * before + (1 - self.memory) * standard
        self.remembered = torch.where(moved.isfinite(), moved, standard)
        return mean + deviation * self.remembered

    def _judged(self, trainer: L.Trainer, score: NDArray[np.floating]) -> NDArray[np.floating]:
        """What the first process, which decides, is to go by."""
        if self.copies == 'apart' or not trainer.is_global_zero:
            return score
        return least_of_copies(score, pairs_of(trainer).picture_hashes())

    def _agree(
        self,
        trainer: L.Trainer,
        score: NDArray[np.floating],
        side: Side,
        candidates: NDArray[np.int64] | None,
    ) -> Split:
        """The first process's decision; what it refuses, all refuse, instead of waiting for it forever."""
        outcome: Split | str = ''
        if trainer.is_global_zero:
            try:
                outcome = self.decide(score, side, self.past, candidates)
            except UsageError as error:
                outcome = str(error)
        outcome = trainer.strategy.broadcast(outcome)
        if isinstance(outcome, str):
            raise UsageError(outcome)
        return outcome

    def _apply(self, partition: Partition, epoch: int, score: Tensor, split: Split) -> None:
        partition.side = torch.from_numpy(split.side.copy())
        partition.score = score
        partition.epoch = epoch
        mixture = split.past.mixture
        if mixture is None or (self.past is not None and mixture == self.past.mixture):
            # What ledger and figures show belongs to these similarities, whatever the decision rests on.
            mixture = fit_mixture(score[score.isfinite()].numpy())
        if mixture.state == 'fitted':
            partition.mixture = {**mixture.parameters(), 'threshold': split.threshold}
        else:
            partition.mixture = None
        self.past = split.past

    # --- resume -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            'fingerprint': self._fingerprint,
            'split_done': self.past is not None,
            'past': self.past and self.past.state_dict(),
            'running': self.running.average,
            'remembered': self.remembered,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._fingerprint = state_dict['fingerprint']
        self.past = Past.from_state(state_dict['past']) if state_dict['split_done'] else None
        self.running.average = state_dict['running']
        self.remembered = state_dict['remembered']


class SafeRiskyRepartition(Repartition):
    """SafeCLIP's split (Yang et al., ICML 2024): safe are the pairs whose image and caption are most similar.

    The first split takes the pairs that belong to the high component of a mixture of two normal distributions with a
    posterior of at least ``threshold``; later ones take more of the most similar.

    Args:
        threshold: Posterior from which a pair is safe, in (0, 1) (paper: 0.9).
        growth: Fraction by which the safe side may grow at each later split (paper: 0.01).
        size: How large it gets. ``growth``: that much larger. ``mixture``: what a mixture fitted anew calls safe, at
            most that much larger, smaller where it says so; for sets on which 1 % an epoch is too slow.
        rank_by: ``similarity``, ties by row: a pair is never safe while a more similar one is risky. ``posterior``: as
            released, which neither rises with the similarity nor falls with it.
        refit: Fit the mixture at the ``first`` split (paper) or at ``every`` one (released); ``size: mixture`` does the
            latter anyway.
        score: See :class:`Repartition`.
        score_views: See there.
        every: See there.
        top_fraction: After the first split, measure only as many of the pairs that were most similar last time, but
            no fewer than may become safe plus a tenth of all; the others stay risky with their old score. Paper: 0.3.
        cap: Largest safe fraction (released: 0.85).
        growth_base: What ``growth`` is a fraction of: the ``dataset`` without dropped pairs (released), or what is
            ``risky`` by then.
        min_fraction: Smallest safe fraction. Where the mixture finds fewer pairs, or none because its components
            overlap, the most similar ones are taken.
        first_fraction: Size of the first split, instead of what the mixture says; ``None`` leaves it to the mixture.
            On small sets the components overlap so much that their cut is arbitrary, while the ranking is good.
        backend: See :func:`callbacks.mixture.fit_mixture`.
        tol: Where the fit stops, see there.
        momentum: See :class:`Repartition`.
        memory: See there.
        copies: See there.
    """

    def __init__(
        self,
        threshold: float = 0.9,
        growth: float = 0.01,
        size: Literal['growth', 'mixture'] = 'growth',
        rank_by: Literal['similarity', 'posterior'] = 'similarity',
        refit: Literal['first', 'every'] = 'first',
        score: Score = 'clean',
        score_views: int = 1,
        every: int = 1,
        top_fraction: float = 1.0,
        cap: float = 1.0,
        growth_base: Literal['dataset', 'risky'] = 'dataset',
        min_fraction: float = 0.1,
        first_fraction: float | None = None,
        backend: Backend = 'histogram',
        tol: float = 1e-3,
        momentum: float = 0.5,
        memory: float = 0.0,
        copies: Copies = 'apart',
    ) -> None:
        super().__init__(score, score_views, every, momentum, memory, copies)
        log_odds_of(threshold)
        ranges = {'growth': growth, 'top_fraction': top_fraction, 'cap': cap, 'min_fraction': min_fraction}
        for name, value in {**ranges, 'first_fraction': first_fraction}.items():
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f'callbacks.repartition.{name} is a fraction in [0, 1], got {value}.')
            if value == 0 and name in ('cap', 'first_fraction'):
                raise UsageError(f'callbacks.repartition.{name}=0 would leave the safe side empty: raise it.')
        if min_fraction > cap:
            raise UsageError(f'callbacks.repartition.cap={cap} is below min_fraction={min_fraction}: lower the latter.')
        if score == 'running' and top_fraction < 1:
            raise UsageError('callbacks.repartition.top_fraction shortens a sweep and score=running has none: leave 1.')
        self.threshold, self.size, self.rank_by, self.refit = threshold, size, rank_by, refit
        self.growth_base, self.backend, self.tol = growth_base, backend, tol
        # Decimal fractions as they are written, so that sizes do not drift: 0.01 is no binary fraction.
        self.growth, self.top_fraction = Fraction(str(growth)), Fraction(str(top_fraction))
        self.cap, self.min_fraction = Fraction(str(cap)), Fraction(str(min_fraction))
        self.first_fraction = None if first_fraction is None else Fraction(str(first_fraction))

    def decide(
        self, score: NDArray[np.floating], side: Side, past: Past | None, candidates: NDArray[np.int64] | None = None
    ) -> Split:
        usable = side != DROPPED
        values = np.where(usable & np.isfinite(score), score, np.nan).astype(np.float64)
        known = ~np.isnan(values)
        if not known.any():
            raise UsageError('no pair has a finite similarity, training has diverged: lower model.lr.')
        mixture, remarks = self._mixture(values[known], past)
        rank, trusted = self._ranked(values, mixture)
        if candidates is not None:
            stale = np.ones(len(rank), bool)
            stale[candidates] = False
            rank[stale] = np.nan
        pairs = int(usable.sum())
        fraction, more = self._fraction(trusted, pairs, past, mixture)
        safe = top_rows(rank, round(fraction * pairs))
        if not len(safe):
            raise UsageError(
                f'{float(fraction):.2g} of {pairs:,} pairs rounds to no safe pair: raise '
                f'callbacks.repartition.first_fraction, cap or min_fraction.'
            )
        new = np.where(usable, RISKY, DROPPED).astype(np.int8)
        new[safe] = SAFE
        unscored = int((usable & ~known).sum())
        if unscored:
            more = (*more, f'{unscored:,} pairs have no finite similarity and are risky.')
        return Split(new, Past(fraction, mixture), float(values[safe].min()), unscored, (*remarks, *more))

    def candidates(self, score: NDArray[np.floating], side: Side, past: Past | None) -> NDArray[np.int64] | None:
        if past is None or self.top_fraction >= 1:
            return None
        fraction = max(self.top_fraction, self._grown(past.fraction) + MARGIN)
        if fraction >= 1:
            return None
        rank = np.where(side != DROPPED, score, np.nan)
        return np.sort(top_rows(rank, math.ceil(fraction * int((side != DROPPED).sum()))))

    def _mixture(self, values: Array, past: Past | None) -> tuple[Mixture, tuple[str, ...]]:
        """The mixture to go by, and what is odd about it."""
        if past is not None and past.mixture is not None and self.refit == 'first' and self.size != 'mixture':
            return past.mixture, ()
        mixture = fit_mixture(values, tol=self.tol, backend=self.backend)
        if mixture.state != 'fitted':
            low, high = values.min(), values.max()
            return mixture, (f'no mixture ({mixture.state}): {len(values):,} similarities, {low:.4f} to {high:.4f}.',)
        if not mixture.converged:
            return mixture, (f'the mixture still moved after {mixture.iterations} steps: raise tol.',)
        return mixture, ()

    def _ranked(self, values: Array, mixture: Mixture) -> tuple[Array, int]:
        """What pairs are ranked by, NaN where unknown, and how many the mixture trusts."""
        if self.rank_by == 'posterior' and mixture.state == 'fitted':
            odds = mixture.log_odds(values)  # in the order of the posterior, but without its ties at 1
            return odds, int((odds >= log_odds_of(self.threshold)).sum())
        cut = mixture.guarded_cut(self.threshold)
        return values.copy(), 0 if cut is None else int((values >= cut).sum())

    def _fraction(
        self, trusted: int, pairs: int, past: Past | None, mixture: Mixture
    ) -> tuple[Fraction, tuple[str, ...]]:
        """The safe fraction, and what is odd about it."""
        if past is None and self.first_fraction is not None:
            return self.first_fraction, ()
        if past is not None and self.size == 'growth':
            return self._grown(past.fraction), ()
        found = f'{trusted:,} of {pairs:,} pairs have a posterior of at least {self.threshold:g} ({_told(mixture)})'
        if past is not None and not trusted:
            return past.fraction, (f'{found}; the safe side keeps its size.',)
        smallest = math.ceil(self.min_fraction * pairs)
        if not trusted and not smallest:
            raise UsageError(
                f'{found}, so none is safe: lower callbacks.repartition.threshold or raise '
                f'callbacks.repartition.min_fraction.'
            )
        most = self.cap if past is None else self._grown(past.fraction)
        fraction = max(min(Fraction(trusted, pairs), most), Fraction(smallest, pairs))
        if trusted >= smallest:
            return fraction, ()
        return fraction, (f'{found}; the {smallest:,} most similar are safe instead (min_fraction).',)

    def _grown(self, fraction: Fraction) -> Fraction:
        """The safe fraction after one more split, exactly."""
        if self.growth_base == 'risky':
            # Else its denominator would grow with every epoch; a millionth of a pair is close enough.
            grown = (fraction + self.growth * (1 - fraction)).limit_denominator(10**15)
        else:
            grown = fraction + self.growth
        return min(grown, self.cap)


def top_rows(rank: Array, count: int) -> NDArray[np.int64]:
    """Rows of the ``count`` largest values, ties by row, NaN never: fewer where fewer are known."""
    order = np.argsort(-rank, kind='stable')  # NaN last
    return order[: min(count, int((~np.isnan(rank)).sum()))]


def _sides(module: L.LightningModule, epoch: int) -> dict[str, int]:
    return cast(Sided, module).sides(epoch)


def _splits(module: L.LightningModule, epoch: int) -> bool:
    """Whether an epoch trains both sides."""
    return {'cross_modal', 'within_modal'} <= _sides(module, epoch).keys()


def _partition(trainer: L.Trainer) -> Partition:
    return pairs_of(trainer).partition


def _metrics(partition: Partition, split: Split) -> dict[str, float]:
    metrics = {'share': partition.share, 'threshold': split.threshold, 'unscored': float(split.unscored)}
    if partition.mixture is not None:
        metrics |= {name: partition.mixture[name] for name in ('mean_low', 'mean_high')}
    return {f'partition/{name}': value for name, value in metrics.items()}


def _told(mixture: Mixture) -> str:
    if mixture.state != 'fitted':
        return f'no two components: {mixture.state}'
    (low, high), (sd_low, sd_high) = mixture.means, mixture.sds
    return f'means {low:.3f} and {high:.3f}, standard deviations {sd_low:.3f} and {sd_high:.3f}'
