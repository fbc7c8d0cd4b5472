from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.usage_error import UsageError
from lightning_modules import trigger_inversion
from lightning_modules.trigger_inversion import (
    Inversion,
    Perturbation,
    RoamingPatch,
    chance_of_outlier,
    invert,
    robust_z,
)

CLASSES, SIDE, TARGET = 8, 12, 5
CHECKER = (torch.arange(4)[:, None] // 2 + torch.arange(4) // 2) % 2 - 0.5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = random(64, 3, SIDE, SIDE)


def clean_logits(images: Tensor) -> Tensor:
    """A classifier by the colors of the quarters of a picture."""
    return F.avg_pool2d(images - 0.5, SIDE // 2).flatten(1) @ (30 * (random(12, CLASSES, seed=1) - 0.5))


def backdoored_logits(images: Tensor) -> Tensor:
    """The same, but for pictures that have a gray checker of 4 x 4 pixels somewhere, which are of class 5."""
    gray = images.mean(1, keepdim=True) - 0.5
    likeness = F.conv2d(gray, CHECKER[None, None]).flatten(1).amax(1)  # 4 at most, about 0.7 on noise
    trigger = torch.zeros(CLASSES).index_fill(0, torch.tensor(TARGET), 30)
    return clean_logits(images) + (likeness - 2).sigmoid()[:, None].pow(2) * trigger


def inverted(logits: trigger_inversion.Logits, steps: int = 60) -> Inversion:
    return invert(logits, RoamingPatch(4), IMAGES, steps, batch=8)


class TestInvert:
    def test_a_planted_patch_is_found_among_the_classes(self) -> None:
        found = inverted(backdoored_logits)
        z = robust_z(found.log_odds.numpy())
        assert z.argmax() == TARGET and chance_of_outlier(z)[TARGET] < 0.02
        assert found.success[TARGET] > 0.9

    def test_no_class_of_a_clean_model_stands_out(self) -> None:
        found = inverted(clean_logits)
        assert chance_of_outlier(robust_z(found.log_odds.numpy())).min() > 0.1

    def test_classes_that_do_not_fit_into_one_pass_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trigger_inversion, 'MAX_PICTURES', 24)  # three classes
        found = inverted(backdoored_logits, steps=30)
        assert found.trigger.shape == (CLASSES, 3, 4, 4) and found.log_odds.argmax() == TARGET

    def test_pictures_of_one_class_are_refused(self) -> None:
        def blind(images: Tensor) -> Tensor:
            return clean_logits(images) + 1000 * F.one_hot(torch.tensor(0), CLASSES)

        with pytest.raises(UsageError, match='takes for several classes, in both halves'):
            inverted(blind)


class TestPerturbation:
    def test_keeps_its_strength_and_pictures_in_range(self) -> None:
        search = Perturbation(0.1)
        parameters = random(2, 3, SIDE, SIDE) - 0.5
        parameters[1] *= 0.01
        weak = parameters[1].clone()
        search.bound(parameters)
        assert parameters[0].square().mean().sqrt().item() == pytest.approx(0.1)
        assert torch.equal(parameters[1], weak)
        stamped = search.stamp(IMAGES[:2], 10 * parameters, torch.Generator())
        assert stamped.min() == 0 and stamped.max() == 1

    def test_finds_what_a_linear_classifier_gives_way_to(self) -> None:
        found = invert(clean_logits, Perturbation(0.2), IMAGES, steps=40, batch=8)
        assert found.success.min() > 0.5
        assert found.trigger.square().mean((1, 2, 3)).sqrt().max() < 0.201


class TestOutliers:
    def test_half_of_the_values_do_not_hide_each_other(self) -> None:
        z = robust_z(np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 9.0, 9.1, 9.2]))
        assert z[-3:].min() > 10

    def test_equal_values_are_no_outliers(self) -> None:
        assert not robust_z(np.full(6, 3.0)).any()

    def test_a_clean_model_is_significant_as_often_as_it_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trigger_inversion, 'DRAWS', 24_000)
        draws = np.random.default_rng(1).standard_normal((300, 12))
        p_values = [chance_of_outlier(robust_z(row)).min() for row in draws]
        assert np.mean(np.array(p_values) < 0.2) == pytest.approx(0.2, abs=0.06)
