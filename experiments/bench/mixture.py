"""Time and accuracy of the mixture fit relative to scikit-learn's, on the same values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from callbacks.mixture import Array, fit_mixture
from experiments.bench.measure import Result, best_of

REPEATS_OF_SIZE = {80_000: 10, 3_000_000: 1}  # number of values -> how often the fits take turns


def measure() -> Iterator[Result]:
    """Measures speed-up and largest difference of the posterior, for each shape and size."""
    for size, repeats in REPEATS_OF_SIZE.items():
        for shape, draw in SHAPES.items():
            values = draw(size, 1)
            fits = {backend: partial(fit_mixture, values, backend=backend) for backend in ('histogram', 'sklearn')}
            times = best_of(fits, repeats)
            posteriors = [fit().posterior(values) for fit in fits.values()]
            difference = float(np.abs(np.subtract(*posteriors)).max())
            what = f'of {size:,} values, {shape.replace("_", " ")}'
            yield Result(
                f'mixture {what}, faster than scikit-learn', times['sklearn'] / times['histogram'], 'x', 50, True
            )
            yield Result(f'greatest difference of the posterior {what}', difference, '', 0.01)


def two_normals(size: int, seed: int, share: float, low: tuple[float, float], high: tuple[float, float]) -> Array:
    """Shuffled values of two normal components, (size,).

    Args:
        size: Number of values.
        seed: Seed of the values and their order.
        share: Fraction of values from the high component.
        low: Mean and standard deviation of the low component.
        high: Mean and standard deviation of the high component.
    """
    generator = np.random.default_rng(seed)
    high_count = round(size * share)
    values = np.concatenate([generator.normal(*low, size - high_count), generator.normal(*high, high_count)])
    return generator.permutation(values)


def skewed(size: int, seed: int) -> Array:
    """Values of a single skewed component, which no normal distribution fits, (size,)."""
    return np.tanh(np.random.default_rng(seed).gamma(2.0, 0.08, size) - 0.05)


SHAPES: dict[str, Callable[[int, int], Array]] = {
    'apart': partial(two_normals, share=0.2, low=(0.05, 0.06), high=(0.30, 0.05)),
    'overlapping': partial(two_normals, share=0.5, low=(0.10, 0.06), high=(0.15, 0.04)),
    'narrow_high': partial(two_normals, share=0.3, low=(0.1, 0.1), high=(0.3, 0.03)),
    'wide_high': partial(two_normals, share=0.5, low=(0.0, 0.05), high=(0.3, 0.15)),
    'one_skewed': skewed,
}
