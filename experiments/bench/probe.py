"""Time of the linear probe over that of AdamW with its sweep, on features like those of an image tower."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from callbacks.probe_recipes import AdamWProbe, Classifier, Features, Labels, LbfgsProbe, ProbeRecipe, score
from datamodules.usage_error import check_number
from experiments.bench.measure import Result, seconds

FEATURES = 50_000
TEST_FEATURES = 5_000
WIDTH, CLASSES = 1024, 10
WEIGHT_DECAYS = np.logspace(-6, 2, 7).tolist()  # where CLIP_benchmark's search starts; it trains twelve more


def measure(features: int = FEATURES) -> Iterator[Result]:
    """Trains both recipes, each with its sweep, and compares what they reach.

    Args:
        features: Features to train on.
    """
    feature, label = draw_features(features, 0)
    others, truth = draw_features(TEST_FEATURES, 1)
    recipes: dict[str, ProbeRecipe] = {'lbfgs': LbfgsProbe(), 'adamw': AdamWProbe(weight_decay=WEIGHT_DECAYS)}
    times, reached = {}, {}
    for name, recipe in recipes.items():
        times[name], classify = fit(recipe, feature, label)
        reached[name] = score(classify(others), truth, 'accuracy')
    yield Result(f'linear probe of {features:,} x {WIDTH:,} features, with its sweep', times['lbfgs'], 's')
    yield Result('AdamW with its sweep over the same', times['adamw'] / times['lbfgs'], 'x', 5, higher_is_better=True)
    yield Result('accuracy of the probe', reached['lbfgs'], '')
    yield Result('accuracy of AdamW', reached['adamw'], '')


def check(features: int) -> None:
    """Refuses too few features to choose a regularization by."""
    check_number('--features', features, '[100, inf)')


def fit(recipe: ProbeRecipe, feature: Features, label: Labels) -> tuple[float, Classifier]:
    """CPU seconds that a recipe takes, and its classifier."""
    fitted: list[Classifier] = []
    time = seconds(lambda: fitted.append(recipe.fit(feature, label, 'accuracy', torch.device('cpu'))))
    return time, fitted[0]


def draw_features(count: int, seed: int) -> tuple[Features, Labels]:
    """Features whose variance falls along their principal directions, and which differ by class along the first ones.

    Args:
        count: Number of features N.
        seed: Seed of all but the directions and the means of the classes.
    """
    draw, shared = np.random.default_rng(seed), np.random.default_rng(99)
    deviation = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    directions = np.linalg.qr(shared.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    means = shared.standard_normal((CLASSES, WIDTH), np.float32) * deviation**2
    label = draw.integers(0, CLASSES, count)
    return (means[label] + draw.standard_normal((count, WIDTH), np.float32) * deviation) @ directions, label
