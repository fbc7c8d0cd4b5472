"""SafeCLIP's rule: how many of the most similar pairs are safe."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import lightning as L
import numpy as np
from numpy.typing import NDArray

from callbacks.mismatches import Array, Mismatches
from callbacks.mixture import Backend, Mixture, fit_mixture, log_odds_of
from callbacks.scores import Score
from callbacks.split_callback import Repartition
from callbacks.split_decision import NOTHING_KNOWN, Past, Side, Split, mark_top, top_rows
from callbacks.split_trust import OnDistrust
from datamodules.contracts import canaries_of, pairs_of
from datamodules.pictures.copies import Copies
from datamodules.rows.partition import DROPPED, RISKY, SAFE
from datamodules.rows.row_sets import blocks, mark_rows
from datamodules.usage_error import UsageError, check_number

__all__ = ['NOTHING_KNOWN', 'Past', 'Repartition', 'SafeRiskyRepartition', 'Side', 'Split', 'top_rows']  # for rules

CANDIDATE_MARGIN = Fraction(1, 10)  # share of all pairs that is measured beyond those that may become safe


class SafeRiskyRepartition(Repartition):
    """SafeCLIP's split (Yang et al., ICML 2024): the pairs whose image and caption are most similar are safe.

    The first split fits a mixture of two normal distributions to the similarities. Pairs are safe if their posterior
    of belonging to the high component is at least ``threshold``. Later splits make more of the most similar pairs
    safe. Pairs that the user trusts, ``data.trusted``, are safe beside them; they anchor the mixture, as their
    posterior of the high component is 1.

    Args:
        threshold: Minimum posterior of a safe pair, in (0, 1) (paper: 0.9). Without effect with ``size: calibrated``.
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
        fractions = {'growth': growth, 'top_fraction': top_fraction, 'cap': cap, 'min_fraction': min_fraction}
        check_number('callbacks.repartition.threshold', threshold, '(0, 1)')
        check_number('callbacks.repartition.tol', tol, '[0, inf)')
        _check_fractions({**fractions, 'first_fraction': first_fraction})
        if size == 'calibrated':
            _check_calibrated(rank_by, first_fraction)
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
        if stage != 'fit':
            return
        if self.backend == 'sklearn' and len(pairs_of(trainer).trusted_rows):
            raise UsageError(
                'callbacks.repartition.backend=sklearn cannot anchor the mixture in the pairs of data.trusted: use '
                'histogram.'
            )
        if self.size == 'calibrated' and not self.score.sweeps and not canaries_of(trainer).canary_rows():
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
        known = usable & np.isfinite(score)
        if not known.any():
            raise UsageError('no pair has a finite similarity, so training has diverged: lower model.lr.')
        anchors = mark_rows(mismatches.trusted, len(score))[known] if len(mismatches.trusted) else None
        mixture, remarks = self._mixture(score[known], past, anchors)
        values = score if known.all() else np.where(known, score, score.dtype.type(np.nan))
        rank, trusted = self._rank(values, mixture)
        if candidates is not None:
            rank = _only(candidates, rank)
        pairs = int(usable.sum())
        reasons: tuple[str, ...] = ()
        if self.size == 'calibrated':
            fraction = self._calibrated(rank, mismatches, pairs, past)
        else:
            fraction, reasons = self._fraction(trusted, pairs, past, mixture)
        safe = _mark_safe(rank, fraction, pairs)
        return _split(values, usable, safe, Past(fraction, mixture), (*remarks, *reasons))

    def candidates(self, score: NDArray[np.floating], side: Side, past: Past | None) -> NDArray[np.int64] | None:
        if past is None or self.top_fraction >= 1:
            return None
        fraction = max(self.top_fraction, self._grow(past.fraction) + CANDIDATE_MARGIN)
        if fraction >= 1:
            return None
        rank = np.where(side != DROPPED, score, np.nan)
        return np.flatnonzero(mark_top(rank, math.ceil(fraction * int((side != DROPPED).sum()))))

    def _mixture(
        self, values: Array, past: Past | None, anchors: NDArray[np.bool_] | None
    ) -> tuple[Mixture, tuple[str, ...]]:
        """The mixture to decide by, and remarks about it."""
        if past is not None and past.mixture is not None and self.refit == 'first' and self.size != 'mixture':
            return past.mixture, ()
        mixture = fit_mixture(values, tol=self.tol, backend=self.backend, anchors=anchors)
        if mixture.state != 'fitted':
            low, high = values.min(), values.max()
            return mixture, (f'no mixture ({mixture.state}): {len(values):,} similarities, {low:.4f} to {high:.4f}.',)
        if not mixture.converged:
            return mixture, (f'the mixture has not converged in {mixture.iterations} steps: raise tol.',)
        return mixture, ()

    def _rank(self, values: Array, mixture: Mixture) -> tuple[Array, int]:
        """The values that rank the pairs, NaN where unknown, and the number of pairs that the mixture trusts."""
        if self.rank_by == 'posterior' and mixture.state == 'fitted':
            odds = np.empty(len(values))  # order the pairs as the posterior does, but without ties at 1
            for block in blocks(len(values)):
                odds[block] = mixture.log_odds(values[block].astype(np.float64))
            return odds, _count_from(log_odds_of(self.threshold), odds)
        cut = mixture.guarded_cut(self.threshold)
        return values, 0 if cut is None else _count_from(cut, values)

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
        """The largest safe fraction whose leak is within the bound, but at least the smallest, and one pair."""
        p_value, smallest = mismatches.p_values(rank), max(self.min_fraction, Fraction(1, pairs))
        if np.isnan(p_value).all():
            if mismatches.compared is None:
                raise UsageError(
                    'callbacks.repartition.size=calibrated has no mismatched pair to go by: plant data.canaries, or '
                    'use another size.'
                )
            return smallest  # all captions look the same, so the split is not trusted
        bound = self.max_leak if past is None else self.max_later_leak
        largest = self.cap if past is None else self._grow(past.fraction)
        return max(min(Fraction(int((p_value <= bound).sum()), pairs), largest), smallest)

    def _grow(self, fraction: Fraction) -> Fraction:
        """The safe fraction after one more split, exactly."""
        if self.growth_base == 'risky':
            # Without a limit the denominator grows with every split; a millionth of a pair is close enough.
            grown = (fraction + self.growth * (1 - fraction)).limit_denominator(10**15)
        else:
            grown = fraction + self.growth
        return min(grown, self.cap)


def _check_fractions(fractions: dict[str, float | None]) -> None:
    for name, value in fractions.items():
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f'callbacks.repartition.{name} must be a fraction in [0, 1], got {value}.')
        if value == 0 and name in ('cap', 'first_fraction'):
            raise UsageError(f'callbacks.repartition.{name}=0 would leave the safe side empty: raise it.')
    for name in ('min_fraction', 'first_fraction'):
        if (fractions[name] or 0) > (cap := fractions['cap'] or 0):
            raise UsageError(f'callbacks.repartition.cap={cap} is below {name}={fractions[name]}: lower {name}.')


def _check_calibrated(rank_by: str, first_fraction: float | None) -> None:
    if rank_by != 'similarity':
        raise UsageError(
            'callbacks.repartition.size=calibrated compares similarities with those of mismatched pairs: leave rank_by '
            'at similarity.'
        )
    if first_fraction is not None:
        raise UsageError(
            'callbacks.repartition.first_fraction says how large the first split is, and so does size=calibrated: '
            'leave it at null.'
        )


def _count_from(cut: float, values: Array) -> int:
    """Number of values that are at least as large as a cut, which is not rounded to their precision."""
    return sum(int((values[block].astype(np.float64) >= cut).sum()) for block in blocks(len(values)))


def _only(rows: NDArray[np.int64], rank: Array) -> Array:
    """The ranks of some rows; NaN elsewhere."""
    kept = np.full_like(rank, np.nan)
    kept[rows] = rank[rows]
    return kept


def _mark_safe(rank: Array, fraction: Fraction, pairs: int) -> NDArray[np.bool_]:
    safe = mark_top(rank, round(fraction * pairs))
    if not safe.any():
        raise UsageError(
            f'{float(fraction):.2g} of {pairs:,} pairs rounds to no safe pair: raise '
            f'callbacks.repartition.first_fraction, cap or min_fraction.'
        )
    return safe


def _split(
    values: Array,
    usable: NDArray[np.bool_],
    safe: NDArray[np.bool_],
    past: Past,
    remarks: tuple[str, ...],
) -> Split:
    side = np.where(usable, np.int8(RISKY), np.int8(DROPPED))
    side[safe] = SAFE
    unscored = int((usable & np.isnan(values)).sum())
    if unscored:
        remarks = (*remarks, f'{unscored:,} pairs have no finite similarity and are risky.')
    return Split(side, past, float(values.min(where=safe, initial=np.inf)), unscored, remarks)


def _describe(mixture: Mixture) -> str:
    if mixture.state != 'fitted':
        return f'no two components: {mixture.state}'
    (low, high), (sd_low, sd_high) = mixture.means, mixture.sds
    return f'means {low:.3f} and {high:.3f}, standard deviations {sd_low:.3f} and {sd_high:.3f}'
