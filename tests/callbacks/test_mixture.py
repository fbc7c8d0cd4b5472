from __future__ import annotations

import math

import numpy as np
import pytest

from callbacks.mixture import (
    Backend,
    Bins,
    Components,
    Mixture,
    State,
    em_step,
    fit_mixture,
    histogram,
    share_above,
)
from experiments.bench.mixture import SHAPES

TWELVE = np.array([-0.10, -0.05, 0, 0.02, 0.05, 0.08, 0.10, 0.30, 0.34, 0.38, 0.40, 0.42])
NARROW_HIGH = Mixture((0.1, 0.3), (0.1, 0.03), (0.7, 0.3))
WIDE_HIGH = Mixture((0.0, 0.3), (0.05, 0.15), (0.5, 0.5))


class TestFit:
    @pytest.mark.parametrize('backend', ['histogram', 'sklearn'])
    @pytest.mark.parametrize('tol', [1e-3, 1e-10])
    def test_matches_known_values_on_twelve_numbers(self, backend: Backend, tol: float) -> None:
        mixture = fit_mixture(TWELVE, tol=tol, backend=backend)
        assert mixture.weights == pytest.approx((0.58336, 0.41664), abs=1e-5)
        assert mixture.means == pytest.approx((0.014297, 0.368004), abs=1e-6)
        assert np.square(mixture.sds) == pytest.approx((0.0043428, 0.0018569), abs=1e-7)
        assert mixture.posterior(np.array([0.30, 0.34])) == pytest.approx((0.999736, 0.999994), abs=1e-6)
        cut = mixture.guarded_cut(0.9)
        assert cut is not None and (cut <= TWELVE).sum() == 5

    @pytest.mark.parametrize('backend', ['histogram', 'sklearn'])
    def test_matches_known_values_on_a_thousand_numbers(self, backend: Backend) -> None:
        generator = np.random.default_rng(0)
        values = np.concatenate([generator.normal(0.05, 0.06, 800), generator.normal(0.30, 0.05, 200)])
        mixture = fit_mixture(values, backend=backend)
        assert mixture.means == pytest.approx((0.048718, 0.294257), abs=1e-6)
        assert mixture.sds == pytest.approx((0.060311, 0.042167), abs=1e-6)
        assert mixture.weights == pytest.approx((0.801778, 0.198222), abs=1e-6)
        cuts = [mixture.guarded_cut(threshold) for threshold in (0.95, 0.9, 0.7, 0.5)]
        assert [(cut <= values).sum() for cut in cuts if cut is not None] == [183, 188, 194, 198]
        assert values[values >= cuts[1]].min() == pytest.approx(0.22876, abs=1e-5)

    def test_one_step_matches_a_calculation_by_hand(self) -> None:
        values = Bins(np.full(4, 0.25), np.array([0, 0.1, 0.5, 0.6]), 0.0)
        start = Components(np.array([0.5, 0.5]), np.array([0.0, 0.6]), np.array([0.04, 0.04]))
        after, likelihood = em_step(values, start)
        assert likelihood == pytest.approx(-0.0353303, abs=1e-7)
        assert after.weight == pytest.approx([0.5, 0.5])
        assert after.mean == pytest.approx([0.06278126, 0.53721874], abs=1e-8)
        assert after.variance == pytest.approx([0.00872827, 0.00872827], abs=1e-8)
        assert em_step(values, after)[1] == pytest.approx(0.6059470, abs=1e-7)

    @pytest.mark.parametrize('shape', SHAPES)
    def test_agrees_with_scikit_learn(self, shape: str) -> None:
        values = SHAPES[shape](80_000, 0)
        ours, theirs = fit_mixture(values), fit_mixture(values, backend='sklearn')
        assert ours.iterations == theirs.iterations
        assert np.abs(ours.posterior(values) - theirs.posterior(values)).max() < 1e-3

    @pytest.mark.slow
    @pytest.mark.parametrize('shape', SHAPES)
    def test_agrees_with_scikit_learn_on_millions(self, shape: str) -> None:
        values = SHAPES[shape](3_000_000, 1)
        ours, theirs = fit_mixture(values), fit_mixture(values, backend='sklearn')
        assert np.abs(ours.posterior(values) - theirs.posterior(values)).max() < 0.01

    @pytest.mark.parametrize('seed', range(5))
    def test_does_not_depend_on_the_order_when_run_to_convergence(self, seed: int) -> None:
        values = SHAPES['wide_high'](5000, seed)
        shuffled = np.random.default_rng(seed).permutation(values)
        here, there = fit_mixture(values, tol=1e-12), fit_mixture(shuffled, tol=1e-12)
        assert here.means == pytest.approx(there.means, abs=1e-4)
        assert here.weights == pytest.approx(there.weights, abs=1e-4)

    def test_recovers_the_distributions_that_values_were_drawn_from(self) -> None:
        mixture = fit_mixture(SHAPES['apart'](80_000, 3), tol=1e-9)
        assert mixture.means == pytest.approx((0.05, 0.30), abs=2e-3)
        assert mixture.sds == pytest.approx((0.06, 0.05), abs=2e-3)
        assert mixture.weights == pytest.approx((0.8, 0.2), abs=5e-3)

    def test_reports_that_it_stopped_before_convergence(self) -> None:
        mixture = fit_mixture(SHAPES['overlapping'](2000, 0), tol=1e-12, max_iterations=3)
        assert (mixture.converged, mixture.iterations) == (False, 3)


def fit_by_definition(values: np.ndarray, anchors: np.ndarray, means: tuple[float, float], steps: int) -> list[float]:
    """Means after EM from equal weights and a spread of 0.1: an anchor is high for certain."""
    parts = [(0.5, mean, 0.01) for mean in means]
    for _ in range(steps):
        low, high = (w / math.sqrt(v) * np.exp(-((values - m) ** 2) / 2 / v) for w, m, v in parts)
        posterior = np.where(anchors, 1, high / (low + high))
        parts = []
        for share in (1 - posterior, posterior):
            mean = float(share @ values / share.sum())
            parts.append((float(share.mean()), mean, float(share @ (values - mean) ** 2 / share.sum()) + 1e-6))
    return [mean for _, mean, _ in parts]


class TestAnchors:
    def test_one_step_matches_a_calculation_by_hand(self) -> None:
        values = Bins(np.full(4, 0.25), np.array([0, 0.1, 0.5, 0.6]), 0.0, np.array([0, 1, 0, 0]))
        start = Components(np.array([0.5, 0.5]), np.array([0.0, 0.6]), np.array([0.04, 0.04]))
        after, likelihood = em_step(values, start)  # posteriors of the high component: 0.011, 1, 0.953, 0.989
        assert likelihood == pytest.approx(-0.7974771, abs=1e-7)
        assert after.weight == pytest.approx([0.26185647, 0.73814353])
        assert after.mean == pytest.approx([0.02893293, 0.39616106], abs=1e-8)
        assert after.variance == pytest.approx([0.01425972, 0.04768843], abs=1e-8)

    @pytest.mark.parametrize('bins', [1024, 200])
    def test_agrees_with_the_definition(self, bins: int) -> None:
        generator = np.random.default_rng(0)
        values = np.concatenate([generator.normal(0.1, 0.08, 600), generator.normal(0.3, 0.08, 200)])
        anchors = np.arange(800) >= 700
        mixture = fit_mixture(values, bins=bins, tol=1e-12, anchors=anchors)
        expected = fit_by_definition(values, anchors, (0.1, 0.3), 600)
        assert mixture.means == pytest.approx(expected, abs=1e-4)
        assert mixture.means != pytest.approx(fit_mixture(values, bins=bins, tol=1e-12).means, abs=1e-3)

    def test_find_their_bin_and_outlast_missing_values(self) -> None:
        values = np.linspace(0, 1, 3000)
        anchors = values >= 0.9
        binned = histogram(values, 10, anchors)
        assert np.asarray(binned.anchored).round(2).tolist() == [0] * 9 + [1, 1]  # the last holds the largest alone
        with_gap, kept = np.insert(values, 5, math.nan), np.insert(anchors, 5, True)
        assert fit_mixture(with_gap, anchors=kept).means == fit_mixture(values, anchors=anchors).means

    def test_none_of_them_changes_nothing(self) -> None:
        assert fit_mixture(TWELVE, anchors=np.zeros(12, bool)) == fit_mixture(TWELVE)

    def test_anchors_alone_are_no_two_groups(self) -> None:
        assert fit_mixture(TWELVE, anchors=np.ones(12, bool)).state == 'collapsed'

    def test_are_refused_by_scikit_learn(self) -> None:
        with pytest.raises(ValueError, match='use backend=histogram'):
            fit_mixture(TWELVE, backend='sklearn', anchors=TWELVE > 0.3)


class TestDegenerateValues:
    @pytest.mark.parametrize('backend', ['histogram', 'sklearn'])
    @pytest.mark.parametrize(
        ('values', 'state', 'ignored'),
        [
            ([], 'too_few', 0),
            ([0.1, 0.2, 0.3], 'too_few', 0),
            ([math.nan] * 9, 'too_few', 9),
            ([0.2] * 100, 'constant', 0),
            ([0.2, 0.20001] * 50, 'constant', 0),
            ([0.2] * 100 + [math.nan, math.inf, -math.inf], 'constant', 3),
        ],
    )
    def test_gives_a_mixture_that_trusts_nothing(
        self, values: list[float], state: State, ignored: int, backend: Backend
    ) -> None:
        mixture = fit_mixture(np.array(values), backend=backend)
        assert (mixture.state, mixture.ignored, mixture.converged) == (state, ignored, False)
        assert mixture.guarded_cut(0.5) is None
        assert mixture.posterior(np.array([-1.0, 0.2, 1.0])).tolist() == [0, 0, 0]

    @pytest.mark.parametrize('tol', [1e-3, 1e-12])
    def test_a_component_without_values_has_collapsed(self, tol: float) -> None:
        mixture = fit_mixture(np.array([0.0] * 100 + [1.5e-3]), tol=tol)
        assert mixture.state == 'collapsed'
        assert mixture.guarded_cut(0.5) is None

    def test_each_of_two_points_is_a_component(self) -> None:
        mixture = fit_mixture(np.array([0.1] * 30 + [0.3] * 70))
        assert mixture.means == pytest.approx((0.1, 0.3))
        assert mixture.weights == pytest.approx((0.3, 0.7))
        cut = mixture.guarded_cut(0.9)
        assert cut is not None and 0.1 < cut < 0.3

    def test_a_single_outlier_is_a_component(self) -> None:
        mixture = fit_mixture(np.array([0.1] * 99 + [0.9]))
        assert mixture.means == pytest.approx((0.1, 0.9))

    @pytest.mark.parametrize('seed', range(5))
    def test_one_sided_values_have_a_cut_above_the_low_mean(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        for values in (np.abs(generator.normal(0, 0.1, 3000)), generator.exponential(0.1, 3000)):
            mixture = fit_mixture(values)
            cut = mixture.guarded_cut(0.9)
            assert mixture.state == 'fitted'
            assert cut is not None and cut > mixture.means[0]

    def test_missing_values_are_counted_and_ignored(self) -> None:
        values = SHAPES['apart'](500, 0)
        with_missing = np.insert(values, [3, 200], math.nan)
        mixture = fit_mixture(with_missing)
        assert mixture.ignored == 2
        assert mixture.parameters() == fit_mixture(values).parameters()
        assert math.isnan(mixture.posterior(math.nan))


class TestGuard:
    def test_posterior_is_not_monotone(self) -> None:
        values = np.array([0.25, 0.30, 0.35, 0.40, 0.45])
        assert NARROW_HIGH.posterior(values) == pytest.approx([0.5232, 0.9135, 0.8902, 0.3321, 0.0024], abs=5e-5)
        values = np.array([-0.3, -0.2, -0.1, 0.0, 0.2])
        assert WIDE_HIGH.posterior(values) == pytest.approx([0.9999, 0.7934, 0.0657, 0.0432, 0.9987], abs=5e-5)

    def test_most_similar_pairs_stay_safe(self) -> None:
        cut = NARROW_HIGH.guarded_cut(0.9)
        assert cut is not None and 0.25 < cut <= 0.45

    def test_least_similar_pairs_stay_risky(self) -> None:
        cut = WIDE_HIGH.guarded_cut(0.9)
        assert cut is not None and cut > 0 > -0.3

    def test_matters_for_a_mixture_fitted_to_values(self) -> None:
        generator = np.random.default_rng(0)
        values = np.concatenate([generator.normal(0.1, 0.1, 7000), generator.normal(0.3, 0.03, 3000)])
        mixture = fit_mixture(values)
        most_similar = np.sort(values)[-100:]
        cut = mixture.guarded_cut(0.9)
        assert (mixture.posterior(most_similar) < 0.9).sum() == 43
        assert cut is not None and (most_similar >= cut).all()

    @pytest.mark.parametrize('seed', range(30))
    def test_is_the_first_value_above_the_low_mean_that_reaches_the_threshold(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        low, high = np.sort(generator.uniform(-0.3, 0.6, 2))
        sd_low, sd_high = generator.uniform(0.01, 0.2, 2)
        weight = generator.uniform(0.05, 0.95)
        threshold = generator.uniform(0.1, 0.95)
        mixture = Mixture((low, high), (sd_low, sd_high), (1 - weight, weight))
        grid = np.linspace(low, low + 3, 300_001)
        reached = grid[mixture.posterior(grid) >= threshold]
        cut = mixture.guarded_cut(threshold)
        if cut is None:
            assert len(reached) == 0
        else:
            assert reached[0] == pytest.approx(cut, abs=2e-5)

    def test_has_no_cut_if_the_components_overlap(self) -> None:
        assert Mixture((0.10, 0.15), (0.06, 0.04), (0.5, 0.5)).guarded_cut(0.9) is None
        assert Mixture((0.1, 0.1), (0.05, 0.05), (0.5, 0.5)).guarded_cut(0.9) is None

    def test_is_the_low_mean_if_the_posterior_is_high_enough_there(self) -> None:
        assert Mixture((0.1, 0.11), (0.2, 0.05), (0.1, 0.9)).guarded_cut(0.5) == 0.1

    @pytest.mark.parametrize('threshold', [0.0, 1.0, -1.0, math.nan])
    def test_refuses_a_threshold_that_is_not_a_probability(self, threshold: float) -> None:
        with pytest.raises(ValueError, match='threshold must lie between 0 and 1'):
            WIDE_HIGH.guarded_cut(threshold)


class TestHistogram:
    @pytest.mark.parametrize('bins', [100, 4096])
    @pytest.mark.parametrize('size', [50, 40_000])
    def test_keeps_mean_and_variance_to_a_fraction_of_a_bin(self, bins: int, size: int) -> None:
        values = SHAPES['one_skewed'](size, 0)
        table = histogram(values, bins)
        assert table.share.sum() == pytest.approx(1)
        mean = table.share @ table.mean
        assert mean == pytest.approx(values.mean(), abs=table.width / 10 + 1e-13)
        variance = table.share @ (table.variance + np.square(table.mean - mean))
        assert variance == pytest.approx(values.var(), rel=1e-6 if bins > size else 5e-3)

    def test_keeps_few_values_exactly(self) -> None:
        table = histogram(np.array([0.3, 0.1, 0.3]), 8)
        assert (table.mean.tolist(), table.width) == ([0.1, 0.3], 0.0)
        assert table.share == pytest.approx([1 / 3, 2 / 3])

    def test_a_cut_divides_its_bin(self) -> None:
        values = np.linspace(0, 1, 10_001)
        table = histogram(values, 10)
        assert share_above(table, 0.42) @ table.share == pytest.approx(0.58, abs=1e-3)

    def test_a_bin_of_equal_values_is_not_divided(self) -> None:
        table = Bins(np.array([0.5, 0.5]), np.array([0.1, 0.3]), 0.0)
        assert share_above(table, 0.2).tolist() == [0, 1]
