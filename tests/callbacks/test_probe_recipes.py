from __future__ import annotations

import numpy as np
import pytest
import torch

from callbacks.probe_recipes import (
    AdamWProbe,
    Classifier,
    Features,
    Labels,
    LbfgsProbe,
    NearestNeighbors,
    ProbeRecipe,
    hold_out,
    score,
)
from datamodules.usage_error import UsageError

CPU = torch.device('cpu')
RECIPES = [LbfgsProbe(), AdamWProbe(lr=0.05), NearestNeighbors(5)]
TRAINED = RECIPES[:2]


def clouds(images: int, classes: int = 3, noise: float = 0.1, seed: int = 0) -> tuple[Features, Labels]:
    """Points around the corners of a simplex, away from the origin, of one image in eight of class 0."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, classes, images)
    feature = 5 * np.eye(classes, 16)[label] + 3 + noise * draw.normal(size=(images, 16))
    return feature.astype(np.float32), label


def fit(recipe: ProbeRecipe, feature: Features, label: Labels) -> Classifier:
    return recipe.fit(feature, label, 'accuracy', CPU)


@pytest.mark.parametrize('recipe', RECIPES)
def test_separable_features_are_separated(recipe: ProbeRecipe) -> None:
    feature, label = clouds(300)
    others, truth = clouds(100, seed=1)
    assert (fit(recipe, feature, label)(others) == truth).all()


@pytest.mark.parametrize('recipe', RECIPES)
def test_features_that_say_nothing_are_worth_chance(recipe: ProbeRecipe) -> None:
    draw = np.random.default_rng(0)
    feature, others = draw.normal(size=(2, 400, 16)).astype(np.float32)
    label, truth = draw.integers(0, 3, (2, 400))
    assert score(fit(recipe, feature, label)(others), truth, 'accuracy') == pytest.approx(1 / 3, abs=0.12)


@pytest.mark.parametrize('recipe', RECIPES)
def test_is_the_same_every_time(recipe: ProbeRecipe) -> None:
    feature, label = clouds(200, noise=4)
    others, _ = clouds(200, noise=4, seed=1)
    first = fit(recipe, feature, label)(others)
    torch.manual_seed(7)
    assert np.array_equal(first, fit(recipe, feature, label)(others))


@pytest.mark.parametrize('recipe', TRAINED)
def test_trains_while_gradients_are_off(recipe: ProbeRecipe) -> None:
    feature, label = clouds(60)
    with torch.inference_mode():
        assert score(fit(recipe, feature, label)(feature), label, 'accuracy') == 1


@pytest.mark.parametrize('recipe', RECIPES)
def test_one_image_of_each_class_is_enough(recipe: ProbeRecipe) -> None:
    feature, _ = clouds(2, classes=2)
    assert fit(recipe, feature, np.array([0, 7]))(feature).shape == (2,)


class TestLbfgs:
    def test_finds_what_scikit_learn_finds_on_the_features_as_they_are(self) -> None:
        """Moving and dividing features changes the meaning of C alone, by the square of the divisor."""
        from sklearn.linear_model import LogisticRegression

        feature, label = clouds(200, noise=3)
        others, _ = clouds(500, noise=3, seed=1)
        squared_norm = np.square(feature - feature.mean(0)).sum(1).mean()
        plain = LogisticRegression(C=0.1 / squared_norm, max_iter=10_000, tol=1e-8).fit(feature, label)
        assert (fit(LbfgsProbe([0.1]), feature, label)(others) == plain.predict(others)).mean() > 0.99

    def test_the_held_out_part_chooses_the_regularization(self) -> None:
        """Where most coordinates are noise, hardly any regularization learns the noise by heart."""
        draw = np.random.default_rng(0)
        label = draw.integers(0, 2, 100)
        feature = (draw.normal(size=(100, 400)) + 0.2 * (2 * label[:, None] - 1)).astype(np.float32)
        truth = draw.integers(0, 2, 1000)
        others = (draw.normal(size=(1000, 400)) + 0.2 * (2 * truth[:, None] - 1)).astype(np.float32)
        values = [1e-3, 0.3, 1e3]
        alone = [score(fit(LbfgsProbe([c]), feature, label)(others), truth, 'accuracy') for c in values]
        chosen = score(fit(LbfgsProbe(values), feature, label)(others), truth, 'accuracy')
        assert chosen >= max(alone) - 0.02

    def test_classes_that_are_not_drawn_for_the_sweep_are_learned_in_the_end(self) -> None:
        feature, label = clouds(600, classes=12)
        assert (fit(LbfgsProbe([1e3], sweep_size=10), feature, label)(feature) == label).all()


def test_a_fifth_is_held_out_but_never_the_only_image_of_a_class() -> None:
    label = np.array([0, 1] * 500 + [2])
    fitted, held = hold_out(label, len(label))
    assert (len(fitted), len(held)) == (801, 200) and not {*fitted} & {*held} and 1000 in fitted
    fitted, held = hold_out(label, 50)
    assert (len(fitted), len(held)) == (40, 10) and 1000 in fitted
    assert [len(part) for part in hold_out(np.arange(9), 9)] == [9, 0]


class TestAdamW:
    def test_several_weight_decays_are_compared(self) -> None:
        feature, label = clouds(200, noise=0.5)
        one = fit(AdamWProbe(lr=0.05, weight_decay=0.01), feature, label)
        chosen = fit(AdamWProbe(lr=0.05, weight_decay=[100.0, 0.01]), feature, label)
        others, _ = clouds(200, noise=0.5, seed=1)
        assert np.array_equal(one(others), chosen(others))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: LbfgsProbe([]), r'recipe\.c is empty: give at least one value'),
        (lambda: LbfgsProbe([0.1, 0.0]), r'recipe\.c must be above 0, got 0\.0'),
        (lambda: LbfgsProbe(sweep_size=9), r'recipe\.sweep_size must be at least 10, got 9'),
        (lambda: AdamWProbe(weight_decay=-1.0), r'recipe\.weight_decay must be at least 0, got -1\.0'),
        (lambda: AdamWProbe(epochs=0), r'recipe\.epochs must be at least 1, got 0'),
    ],
)
def test_a_setting_that_cannot_work_is_refused(make: type[ProbeRecipe], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
