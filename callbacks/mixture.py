"""A mixture of two normal distributions in one dimension, and the similarity from which it trusts a pair."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.usage_error import UsageError

Array = NDArray[np.float64]
Backend = Literal['histogram', 'sklearn']
State = Literal['fitted', 'too_few', 'constant', 'collapsed']

MIN_VALUES = 4  # two for each component, or there is no spread to estimate
MIN_RANGE = 1e-4  # of values that are not constant; REGULARIZATION alone is a spread ten times as wide
REGULARIZATION = 1e-6  # added to each variance, as scikit-learn's `reg_covar`


@dataclass(frozen=True)
class Mixture:
    """Two normal components, the one with the lower mean first.

    Args:
        means: Of the low and the high component.
        sds: Their standard deviations; 0 if there was nothing to fit.
        weights: Their shares of the values, adding up to 1.
        state: ``fitted``, or why there are no two components: ``too_few`` values, ``constant`` values, or a component
            that ``collapsed`` to less than half a value. A mixture that is not fitted trusts nothing.
        converged: Whether the likelihood stopped rising within the allowed number of iterations.
        iterations: Number of steps of expectation and maximization.
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
        """Log-odds of the high component, of the shape of ``values``; unlike :meth:`posterior` they never saturate.

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

        It need not rise with the value: far out on either side, the wider component wins.
        """
        return 0.5 * (1.0 + np.tanh(0.5 * self.log_odds(values)))

    def guarded_cut(self, threshold: float) -> float | None:
        """The smallest value above the low mean whose posterior reaches ``threshold``.

        Values from the cut on are safe and all others are not. The posterior itself would call the most similar pairs
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
        return self.means[0] - 2 * c / (b + math.sqrt(discriminant))  # the smaller root, without cancellation

    def parameters(self) -> dict[str, float]:
        """Means, standard deviations and weights by name, the form in which a partition keeps them."""
        names = ('mean', self.means), ('sd', self.sds), ('weight', self.weights)
        return {f'{name}_{side}': pair[i] for name, pair in names for i, side in enumerate(('low', 'high'))}

    def _quadratic(self) -> tuple[float, float, float]:
        """Log-odds as a u^2 + b u + c of the distance u from the low mean."""
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
) -> Mixture:
    """Fits two normal components, as ``sklearn.mixture.GaussianMixture(2, random_state=0)`` does, in much less time.

    Both start with two-means from the same seeds and stop by the same rule. They agree although the rule stops early:
    with ``tol=1e-3`` another seed may stop one step sooner and move a posterior by 0.05. A smaller ``tol`` makes the
    result independent of the seeds.

    Args:
        values: Similarities in [-1, 1], any order, (N,). NaN and infinities are left out and counted.
        bins: Bins of equal width between the smallest and the largest value, if there are more values than bins.
        tol: Gain in mean log-likelihood, in nats per value, below which the fit has converged.
        backend: ``histogram``, or scikit-learn's on all values.
        max_iterations: Number of steps after which to stop anyway.

    Returns:
        The mixture; its ``state`` says whether there was something to fit.
    """
    values = np.asarray(values, np.float64).ravel()
    usable = np.isfinite(values)
    finite = values if usable.all() else values[usable]
    ignored = len(values) - len(finite)
    if len(finite) < MIN_VALUES:
        return _single(finite, 'too_few', ignored)
    if np.ptp(finite) < MIN_RANGE:
        return _single(finite, 'constant', ignored)
    if backend == 'sklearn':
        return _fitted_by_sklearn(finite, tol, max_iterations, ignored)
    return _fitted_by_histogram(finite, bins, tol, max_iterations, ignored)


def _single(values: Array, state: State, ignored: int, iterations: int = 0) -> Mixture:
    mean = float(values.mean()) if len(values) else math.nan
    return Mixture((mean, mean), (0.0, 0.0), (1.0, 0.0), state, False, iterations, ignored)


class Bins(NamedTuple):
    """A histogram without its empty bins.

    Attributes:
        share: Share of the values in each bin, (K,).
        mean: Middle of each bin, rising, (K,).
        width: Of a bin; 0 if each holds equal values.
    """

    share: Array
    mean: Array
    width: float

    @property
    def variance(self) -> float:
        """Variance of the values within a bin, assuming that they spread evenly over it."""
        return self.width * self.width / 12


class Components(NamedTuple):
    """Weight, mean and variance of both components, (2,)."""

    weight: Array
    mean: Array
    variance: Array


def histogram(values: Array, bins: int) -> Bins:
    """Puts values into bins of equal width over their range, which must not be a point; few values are kept as is."""
    if len(values) <= bins:
        distinct, count = np.unique(values, return_counts=True)
        return Bins(count / len(values), distinct, 0.0)
    low = values.min()
    width = (values.max() - low) / bins
    count = np.zeros(bins + 1, np.intp)  # the largest value has the last one to itself
    for block in _blocks(values, 1 << 14):
        count += np.bincount(((block - low) * (1 / width)).astype(np.intp), minlength=bins + 1)
    kept = np.flatnonzero(count)
    return Bins(count[kept] / len(values), low + width * (kept + 0.5), float(width))


def _blocks(values: Array, size: int) -> list[Array]:
    """Consecutive parts that fit into a processor's cache; otherwise fresh memory takes most of the time."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def maximized(bins: Bins, responsibility: Array) -> Components:
    """The components that fit best, given the responsibility of each for each bin, (2, K)."""
    mass = responsibility * bins.share
    weight = mass.sum(1)
    mean = mass @ bins.mean / weight
    scatter = bins.variance + np.square(bins.mean - mean[:, None])
    return Components(weight, mean, (mass * scatter).sum(1) / weight + REGULARIZATION)


def em_step(bins: Bins, now: Components) -> tuple[Components, float]:
    """One step of expectation and maximization.

    Returns:
        The next components, and the mean log-likelihood of the values under those of ``now``, in nats.
    """
    scale = np.log(now.weight) - 0.5 * np.log(2 * np.pi * now.variance)
    joint = scale[:, None] - np.square(bins.mean - now.mean[:, None]) / (2 * now.variance[:, None])
    total = np.logaddexp(joint[0], joint[1])
    return maximized(bins, np.exp(joint - total)), float(bins.share @ total)


def _fitted_by_histogram(values: Array, bins: int, tol: float, max_iterations: int, ignored: int) -> Mixture:
    table = histogram(values, bins)
    now = maximized(table, two_means(table, two_seeds(values, table)))
    before, gain, iterations = -math.inf, math.inf, 0
    while iterations < max_iterations and abs(gain) >= tol:
        if now.weight.min() * len(values) < 0.5:
            return _single(values, 'collapsed', ignored, iterations)
        now, likelihood = em_step(table, now)
        before, gain, iterations = likelihood, likelihood - before, iterations + 1
    return _sorted(now, abs(gain) < tol, iterations, ignored)


def _fitted_by_sklearn(values: Array, tol: float, max_iterations: int, ignored: int) -> Mixture:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture  # takes a second to import; the default backend does not need it

    model = GaussianMixture(2, random_state=0, tol=tol, max_iter=max_iterations, reg_covar=REGULARIZATION)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # `converged` tells instead
        model.fit(values[:, None])
    parts = Components(model.weights_, model.means_[:, 0], model.covariances_[:, 0, 0])
    return _sorted(parts, bool(model.converged_), int(model.n_iter_), ignored)


def _sorted(parts: Components, converged: bool, iterations: int, ignored: int) -> Mixture:
    """The fitted mixture with the low component first, in plain numbers that a checkpoint may hold."""
    order = np.argsort(parts.mean, kind='stable')
    (w0, w1), (m0, m1), (v0, v1) = (part[order].tolist() for part in parts)
    sds = math.sqrt(v0), math.sqrt(v1)
    return Mixture((m0, m1), sds, (w0, w1), 'fitted', converged, iterations, ignored)


def two_seeds(values: Array, bins: Bins) -> tuple[float, float]:
    """Picks two of the values, as k-means++ in scikit-learn does with ``random_state=0``.

    The first is drawn at random. For the second, two candidates are drawn in proportion to their squared distance from
    the first, and the one that leaves less total distance is taken. The likelihood may have several optima, so only
    the same start gives the result of scikit-learn.
    """
    generator = np.random.RandomState(0)
    blocks = _blocks(values, 1 << 12)
    first = values[int(generator.random_sample() * len(values))]
    running = np.cumsum([distance @ distance for distance in (block - first for block in blocks)])
    candidates = []
    for target in generator.uniform(size=2) * running[-1]:
        at = min(int(np.searchsorted(running, target)), len(blocks) - 1)
        within = np.cumsum(np.square(blocks[at] - first)) + (running[at - 1] if at else 0.0)
        candidates.append(blocks[at][min(int(np.searchsorted(within, target)), len(within) - 1)])
    near = bins.variance + np.square(bins.mean - first)
    left = [bins.share @ np.minimum(near, bins.variance + np.square(bins.mean - c)) for c in candidates]
    low, high = sorted((first, candidates[int(np.argmin(left))]))
    return float(low), float(high)


def two_means(bins: Bins, centers: tuple[float, float], tol: float = 1e-4, max_iterations: int = 300) -> Array:
    """Lloyd's algorithm with scikit-learn's stopping rule.

    Args:
        bins: The values.
        centers: The low and the high center to start from.
        tol: Squared shift of the centers over the variance of the values, below which to stop.
        max_iterations: Number of steps after which to stop anyway.

    Returns:
        Share of each bin that is nearer to the low center and to the high one, (2, K).
    """
    mean = bins.share @ bins.mean
    spread = bins.share @ (bins.variance + np.square(bins.mean - mean))
    ends = (bins.mean[0] + bins.mean[1]) / 2, (bins.mean[-2] + bins.mean[-1]) / 2  # so that no side is ever empty
    edges = np.repeat(bins.mean, 2) + np.tile([-0.5, 0.5], len(bins.mean)) * bins.width
    shares, sums = (_up_to_edges(amount) for amount in (bins.share, bins.share * bins.mean))
    now = np.array(centers)
    for _ in range(max_iterations):
        cut = np.clip(now.mean(), *ends)
        share, total = np.interp(cut, edges, shares), np.interp(cut, edges, sums)
        before, now = now, np.array([total / share, (sums[-1] - total) / (shares[-1] - share)])
        if np.square(now - before).sum() <= tol * spread:
            break
    above = share_above(bins, np.clip(now.mean(), *ends))
    return np.stack([1 - above, above])


def _up_to_edges(amount: Array) -> Array:
    """Amount below the lower and the upper edge of each bin, alternating, (2 K,)."""
    return np.repeat(np.concatenate([[0.0], np.cumsum(amount)]), 2)[1:-1]


def share_above(bins: Bins, cut: float) -> Array:
    """Share of each bin that lies at or above ``cut``, (K,); a cut within a bin divides it."""
    if bins.width == 0:
        return (bins.mean >= cut).astype(np.float64)
    return np.clip((bins.mean - cut) / bins.width + 0.5, 0.0, 1.0)
