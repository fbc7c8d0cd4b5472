"""A mixture of two normal distributions in one dimension, and the lowest similarity at which it trusts a pair."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.rows.row_sets import blocks
from datamodules.usage_error import UsageError

Array = NDArray[np.float64]
Backend = Literal['histogram', 'sklearn']
State = Literal['fitted', 'too_few', 'constant', 'collapsed']

MIN_VALUES = 4  # two for each component, or there is no spread to estimate
MIN_RANGE = 1e-4  # values closer together count as constant: REGULARIZATION alone adds a spread ten times as wide
REGULARIZATION = 1e-6  # added to each variance, as scikit-learn's `reg_covar`


@dataclass(frozen=True)
class Mixture:
    """Two normal components, the one with the lower mean first.

    Args:
        means: Means of the low and the high component.
        sds: Their standard deviations; 0 if there was nothing to fit.
        weights: Their shares of the values, adding up to 1.
        state: ``fitted``, or why there are no two components: ``too_few`` values, ``constant`` values, or a component
            that ``collapsed`` to less than half a value. A mixture that is not fitted trusts nothing.
        converged: Whether the likelihood stopped rising within the allowed number of iterations.
        iterations: Number of EM steps.
        ignored: Number of values left out because they are NaN or infinite.
    """

    means: tuple[float, float]
    sds: tuple[float, float]
    weights: tuple[float, float]
    state: State = 'fitted'
    converged: bool = True
    iterations: int = 0
    ignored: int = 0

    def log_odds(self, values: Array | float) -> Array:
        """Log-odds of the high component, of the shape of ``values``; unlike :meth:`posterior`, they never saturate.

        Minus infinity everywhere unless ``fitted``; NaN for NaN.
        """
        values = np.asarray(values, np.float64)
        if self.state != 'fitted':
            return np.where(np.isnan(values), np.nan, -np.inf)
        a, b, c = self._quadratic()
        offset = values - self.means[0]
        return (a * offset + b) * offset + c

    def posterior(self, values: Array | float) -> Array:
        """Probability in [0, 1] of the high component, of the shape of ``values``; 0 unless ``fitted``, NaN for NaN.

        It is not monotonic in the value: far out on either side, the wider component wins.
        """
        return 0.5 * (1.0 + np.tanh(0.5 * self.log_odds(values)))

    def guarded_cut(self, threshold: float) -> float | None:
        """The smallest value above the low mean whose posterior reaches ``threshold``.

        Values at or above the cut are safe, all others are not. The posterior itself would call the most similar pairs
        risky if the high component is the narrower one, and the least similar pairs safe if it is the wider one.

        Args:
            threshold: Posterior in (0, 1).

        Returns:
            The cut; the low mean if the posterior reaches the threshold there already; ``None`` if it never does.
        """
        if self.state != 'fitted':
            return None
        a, b, c = self._quadratic()
        c -= log_odds_of(threshold)
        if c >= 0:
            return self.means[0]
        discriminant = b * b - 4 * a * c
        if discriminant < 0 or b + math.sqrt(discriminant) == 0:
            return None
        return self.means[0] - 2 * c / (b + math.sqrt(discriminant))  # the smaller root; this form avoids cancellation

    def parameters(self) -> dict[str, float]:
        """Means, standard deviations and weights by name, as a partition stores them."""
        named_pairs = ('mean', self.means), ('sd', self.sds), ('weight', self.weights)
        return {f'{name}_{side}': pair[i] for name, pair in named_pairs for i, side in enumerate(('low', 'high'))}

    def _quadratic(self) -> tuple[float, float, float]:
        """Coefficients a, b, c of the log-odds a u^2 + b u + c, where u is the distance from the low mean."""
        (low, high), (weight_low, weight_high) = self.means, self.weights
        variance_low, variance_high = (sd * sd for sd in self.sds)
        gap = high - low
        a = 0.5 / variance_low - 0.5 / variance_high
        c = math.log(weight_high / weight_low) - 0.5 * math.log(variance_high / variance_low)
        return a, gap / variance_high, c - 0.5 * gap * gap / variance_high


def log_odds_of(probability: float) -> float:
    """Log-odds of a probability in (0, 1). Raises ``UsageError`` for other numbers."""
    if not 0 < probability < 1:
        raise UsageError(f'threshold must lie between 0 and 1, both excluded, got {probability}.')
    return math.log(probability / (1 - probability))


def fit_mixture(
    values: NDArray[np.floating],
    bins: int = 1024,
    tol: float = 1e-3,
    backend: Backend = 'histogram',
    max_iterations: int = 1000,
    anchors: NDArray[np.bool_] | None = None,
) -> Mixture:
    """Fits two normal components, as ``sklearn.mixture.GaussianMixture(2, random_state=0)`` does, in much less time.

    Both start from two-means with the same seeds and stop by the same rule, so they agree. The seeds matter because
    the rule stops early: with ``tol=1e-3``, a fit from other seeds may stop one step sooner, which moves a
    posterior by 0.05. A smaller ``tol`` makes the result independent of the seeds.

    Args:
        values: Similarities in [-1, 1], any order, (N,). NaN and infinities are left out and counted.
        bins: Number of equal-width bins from the smallest to the largest value. Fewer values are not binned.
        tol: Gain in mean log-likelihood, in nats per value, below which the fit has converged.
        backend: ``histogram``, or ``sklearn`` on all values.
        max_iterations: Number of steps after which to stop anyway; the released code leaves scikit-learn's 100.
        anchors: Values that are known to be of the high component, (N,): their posterior is 1 in every step. ``None``
            for no such value. For the ``histogram`` alone.

    Returns:
        The mixture; its ``state`` says whether there was something to fit.

    Raises:
        ValueError: For anchors with ``sklearn``.
    """
    if backend == 'sklearn' and anchors is not None and anchors.any():
        raise ValueError('scikit-learn cannot hold the posterior of anchors: use backend=histogram.')
    values = np.asarray(values).ravel()
    usable = np.isfinite(values)
    finite = values if usable.all() else values[usable]
    ignored = len(values) - len(finite)
    if len(finite) < MIN_VALUES:
        return _unfitted(finite, 'too_few', ignored)
    if float(finite.max()) - float(finite.min()) < MIN_RANGE:
        return _unfitted(finite, 'constant', ignored)
    if backend == 'sklearn':
        return _fitted_by_sklearn(finite, tol, max_iterations, ignored)
    binned = histogram(finite, bins, None if anchors is None else anchors[usable])
    return _fitted_by_histogram(finite, binned, tol, max_iterations, ignored)


def _unfitted(values: NDArray[np.floating], state: State, ignored: int, iterations: int = 0) -> Mixture:
    mean = float(values.mean(dtype=np.float64)) if len(values) else math.nan
    return Mixture((mean, mean), (0.0, 0.0), (1.0, 0.0), state, False, iterations, ignored)


class Bins(NamedTuple):
    """A histogram without its empty bins.

    Attributes:
        share: Share of the values in each bin, (K,).
        mean: Center of each bin, ascending, (K,).
        width: Width of a bin; 0 if each bin is a single value.
        anchored: Share of the values in each bin that are known to be of the high component, (K,).
    """

    share: Array
    mean: Array
    width: float
    anchored: Array | float = 0.0

    @property
    def variance(self) -> float:
        """Variance of the values within a bin, assuming that they spread evenly over it."""
        return self.width * self.width / 12


class Components(NamedTuple):
    """Weight, mean and variance of both components, (2,)."""

    weight: Array
    mean: Array
    variance: Array


def histogram(values: NDArray[np.floating], bins: int, anchors: NDArray[np.bool_] | None = None) -> Bins:
    """Sorts values into equal-width bins over their range, which must not be empty. Few values get a bin each."""
    anchored = values[:0] if anchors is None else values[anchors]
    if len(values) <= bins:
        distinct, count = np.unique(values.astype(np.float64), return_counts=True)
        of_anchors = np.bincount(np.searchsorted(distinct, anchored), minlength=len(distinct))
        return Bins(count / len(values), distinct, 0.0, of_anchors / count)
    low = np.float64(values.min())
    width = (np.float64(values.max()) - low) / bins
    count, of_anchors = (_count_in_bins(part, float(low), float(width), bins) for part in (values, anchored))
    kept = np.flatnonzero(count)
    share, mean = count[kept] / len(values), low + width * (kept + 0.5)
    return Bins(share, mean, float(width), of_anchors[kept] / count[kept])


def _count_in_bins(values: NDArray[np.floating], low: float, width: float, bins: int) -> NDArray[np.intp]:
    count = np.zeros(bins + 1, np.intp)  # the extra bin holds the largest value alone
    for block in blocks(len(values), 1 << 14):
        place = (values[block].astype(np.float64) - low) * (1 / width)
        count += np.bincount(place.astype(np.intp), minlength=bins + 1)
    return count


def maximized(bins: Bins, responsibility: Array) -> Components:
    """The M step: the components of the highest likelihood, given their responsibilities for the bins, (2, K).

    Anchored values count for the second component, which starts as the high one, whatever its responsibility for them.
    """
    moved = bins.anchored * responsibility[0]
    mass = np.stack([responsibility[0] - moved, responsibility[1] + moved]) * bins.share
    weight = np.maximum(mass.sum(1), np.finfo(np.float64).tiny)  # above 0 also where all values are anchored
    mean = mass @ bins.mean / weight
    scatter = bins.variance + np.square(bins.mean - mean[:, None])
    return Components(weight, mean, (mass * scatter).sum(1) / weight + REGULARIZATION)


def em_step(bins: Bins, now: Components) -> tuple[Components, float]:
    """One EM step.

    Returns:
        The next components, and the mean log-likelihood of the values under ``now``, in nats; that of an anchored value
        is under the second component alone.
    """
    scale = np.log(now.weight) - 0.5 * np.log(2 * np.pi * now.variance)
    joint = scale[:, None] - np.square(bins.mean - now.mean[:, None]) / (2 * now.variance[:, None])
    total = np.logaddexp(joint[0], joint[1])
    observed = total + bins.anchored * (joint[1] - total)
    return maximized(bins, np.exp(joint - total)), float(bins.share @ observed)


def _fitted_by_histogram(
    values: NDArray[np.floating], binned: Bins, tol: float, max_iterations: int, ignored: int
) -> Mixture:
    components = maximized(binned, two_means(binned, two_seeds(values, binned)))
    previous, gain, iterations = -math.inf, math.inf, 0
    while iterations < max_iterations and abs(gain) >= tol:
        if components.weight.min() * len(values) < 0.5:
            return _unfitted(values, 'collapsed', ignored, iterations)
        components, likelihood = em_step(binned, components)
        previous, gain, iterations = likelihood, likelihood - previous, iterations + 1
    return _sorted(components, abs(gain) < tol, iterations, ignored)


def _fitted_by_sklearn(values: NDArray[np.floating], tol: float, max_iterations: int, ignored: int) -> Mixture:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture  # takes a second to import; the default backend does not need it

    model = GaussianMixture(2, random_state=0, tol=tol, max_iter=max_iterations, reg_covar=REGULARIZATION)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # reported in `converged` instead
        model.fit(values.astype(np.float64)[:, None])
    parts = Components(model.weights_, model.means_[:, 0], model.covariances_[:, 0, 0])
    return _sorted(parts, bool(model.converged_), int(model.n_iter_), ignored)


def _sorted(parts: Components, converged: bool, iterations: int, ignored: int) -> Mixture:
    """The fitted mixture with the low component first, in plain numbers for a checkpoint."""
    order = np.argsort(parts.mean, kind='stable')
    (w0, w1), (m0, m1), (v0, v1) = (part[order].tolist() for part in parts)
    sds = math.sqrt(v0), math.sqrt(v1)
    return Mixture((m0, m1), sds, (w0, w1), 'fitted', converged, iterations, ignored)


def two_seeds(values: NDArray[np.floating], bins: Bins) -> tuple[float, float]:
    """Picks two of the values, as k-means++ in scikit-learn does with ``random_state=0``.

    The first is drawn at random. For the second, two candidates are drawn in proportion to their squared distance from
    the first, and the one that leaves less total distance is taken. The likelihood may have several optima, so only
    the same start gives the result of scikit-learn.
    """
    generator = np.random.RandomState(0)
    parts = [*blocks(len(values), 1 << 12)]  # with whole arrays, allocating memory would take most of the time
    first = float(values[int(generator.random_sample() * len(values))])
    distances = (values[part].astype(np.float64) - first for part in parts)
    cumulative = np.cumsum([distance @ distance for distance in distances])
    candidates = []
    for target in generator.uniform(size=2) * cumulative[-1]:
        i = min(int(np.searchsorted(cumulative, target)), len(parts) - 1)
        part = values[parts[i]].astype(np.float64)
        within = np.cumsum(np.square(part - first)) + (cumulative[i - 1] if i else 0.0)
        candidates.append(part[min(int(np.searchsorted(within, target)), len(within) - 1)])
    to_first = bins.variance + np.square(bins.mean - first)
    totals = [bins.share @ np.minimum(to_first, bins.variance + np.square(bins.mean - c)) for c in candidates]
    low, high = sorted((first, candidates[int(np.argmin(totals))]))
    return float(low), float(high)


def two_means(bins: Bins, centers: tuple[float, float], tol: float = 1e-4, max_iterations: int = 300) -> Array:
    """Lloyd's algorithm with scikit-learn's stopping rule.

    Args:
        bins: The values.
        centers: The low and the high center to start from.
        tol: Stop when the squared shift of the centers, divided by the variance of the values, is at most this.
        max_iterations: Number of steps after which to stop anyway.

    Returns:
        Share of each bin nearer to the low center, and share nearer to the high center, (2, K).
    """
    mean = bins.share @ bins.mean
    spread = bins.share @ (bins.variance + np.square(bins.mean - mean))
    # The cut stays within these limits, so that neither side is ever empty.
    limits = (bins.mean[0] + bins.mean[1]) / 2, (bins.mean[-2] + bins.mean[-1]) / 2
    edges = np.repeat(bins.mean, 2) + np.tile([-0.5, 0.5], len(bins.mean)) * bins.width
    shares, sums = (_cumulate_at_edges(amount) for amount in (bins.share, bins.share * bins.mean))
    current = np.array(centers)
    for _ in range(max_iterations):
        cut = np.clip(current.mean(), *limits)
        share, total = np.interp(cut, edges, shares), np.interp(cut, edges, sums)
        previous, current = current, np.array([total / share, (sums[-1] - total) / (shares[-1] - share)])
        if np.square(current - previous).sum() <= tol * spread:
            break
    above = share_above(bins, np.clip(current.mean(), *limits))
    return np.stack([1 - above, above])


def _cumulate_at_edges(amount: Array) -> Array:
    """Total amount below the lower and the upper edge of each bin, in turn, (2 K,)."""
    return np.repeat(np.concatenate([[0.0], np.cumsum(amount)]), 2)[1:-1]


def share_above(bins: Bins, cut: float) -> Array:
    """Share of each bin that lies at or above ``cut``, (K,); a cut within a bin divides it."""
    if bins.width == 0:
        return (bins.mean >= cut).astype(np.float64)
    return np.clip((bins.mean - cut) / bins.width + 0.5, 0.0, 1.0)
