"""Classifiers of image features, with their regularization chosen on a held-out part of the training pictures."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from callbacks.zero_shot import accuracy
from datamodules.evaluation.sets import Metric
from datamodules.rows.draws import permutation
from datamodules.usage_error import UsageError, check_number

Features = NDArray[np.float32]  # (N, D)
Labels = NDArray[np.int64]  # (N,)
Classifier = Callable[[Features], Labels]

SEED = 0  # of all draws: a probe of the same features is the same in every run
HELD_OUT = 5  # one of so many pictures is held out where the regularization is chosen


class ProbeRecipe(ABC):
    """A way to train a linear classifier."""

    @abstractmethod
    def fit(self, feature: Features, label: Labels, metric: Metric, device: torch.device) -> Classifier:
        """Trains a classifier.

        Args:
            feature: Features of the training pictures, float32 (N, D), all finite.
            label: Their classes, int64 (N,), at least two.
            metric: Accuracy by which the regularization is chosen.
            device: Where tensors may be trained.
        """


class LbfgsProbe(ProbeRecipe):
    """Logistic regression by L-BFGS (scikit-learn), the recipe of CLIP's authors (Radford et al., 2021, A.3).

    Features are moved to mean 0 and divided by one number, so that the mean of their squared norms is 1. This changes
    no classifier that the recipe can find, and gives ``c`` one meaning for all models.

    Args:
        c: Values of scikit-learn's ``C``, the inverse of the regularization, to choose from; by default two in each
            power of ten from 1e-3 to 1e3.
        sweep_size: Training pictures that ``c`` is chosen on at most, a fifth of them held out.
        max_iter: Iterations of a fit at most.
    """

    def __init__(self, c: Sequence[float] | None = None, sweep_size: int = 10_000, max_iter: int = 1000) -> None:
        self.c = sorted(np.logspace(-3, 3, 13).tolist() if c is None else c)
        check_choices('c', self.c, '(0, inf)')
        check_number('callbacks.linear_probe.recipe.sweep_size', sweep_size, '[10, inf)')
        check_number('callbacks.linear_probe.recipe.max_iter', max_iter, '[1, inf)')
        self.sweep_size, self.max_iter = sweep_size, max_iter

    def fit(self, feature: Features, label: Labels, metric: Metric, device: torch.device) -> Classifier:
        mean, scale = center_and_scale(feature)
        feature = (feature - mean) / scale
        fitted, held = hold_out(label, self.sweep_size)
        models = self._sweep(feature[fitted], label[fitted])
        best = models[choose([model.predict for model in models], feature[held], label[held], metric)]
        if not np.array_equal(best.classes_, np.unique(label)):  # of a part; then its weights are no start
            best.set_params(warm_start=False)
        classify = _fit_quietly(best, feature, label).predict
        return lambda others: classify((others - mean) / scale)

    def _sweep(self, feature: Features, label: Labels) -> list[Any]:
        """A model for each value of ``C``, ascending, each fit from where the last one ended."""
        from sklearn.linear_model import LogisticRegression  # takes a second to import

        model, models = LogisticRegression(max_iter=self.max_iter, warm_start=True), []
        for value in self.c:
            models.append(copy(_fit_quietly(model.set_params(C=value), feature, label)))
        return models


def _fit_quietly(model: Any, feature: Features, label: Labels) -> Any:
    """Fits a model of scikit-learn, which may stop at its last iteration."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)
        return model.fit(feature, label)


class AdamWProbe(ProbeRecipe):
    """A linear layer trained by AdamW on features as they are, the recipe of the code that SafeCLIP's authors released.

    The learning rate falls to 0 along a cosine. The layer starts at 0; as its loss is convex, the start hardly matters.

    Args:
        lr: Learning rate at the start.
        weight_decay: Weight decay of the matrix, or several values to choose from on a held-out fifth, as
            CLIP_benchmark does.
        epochs: Passes over the training pictures.
        batch_size: Pictures in a step.
    """

    def __init__(
        self, lr: float = 0.005, weight_decay: float | list[float] = 0.01, epochs: int = 32, batch_size: int = 128
    ) -> None:
        self.weight_decay = weight_decay if isinstance(weight_decay, list) else [weight_decay]
        check_choices('weight_decay', self.weight_decay, '[0, inf)')
        check_number('callbacks.linear_probe.recipe.lr', lr, '(0, inf)')
        check_number('callbacks.linear_probe.recipe.epochs', epochs, '[1, inf)')
        check_number('callbacks.linear_probe.recipe.batch_size', batch_size, '[1, inf)')
        self.lr, self.epochs, self.batch_size = lr, epochs, batch_size

    def fit(self, feature: Features, label: Labels, metric: Metric, device: torch.device) -> Classifier:
        best = self.weight_decay[0]
        if len(self.weight_decay) > 1:
            fitted, held = hold_out(label, len(label))
            sweep = [self._train(feature[fitted], label[fitted], value, device) for value in self.weight_decay]
            best = self.weight_decay[choose(sweep, feature[held], label[held], metric)]
        return self._train(feature, label, best, device)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _train(self, feature: Features, label: Labels, weight_decay: float, device: torch.device) -> Classifier:
        x, y = torch.from_numpy(feature).to(device), torch.from_numpy(label).to(device)
        layer = nn.utils.skip_init(nn.Linear, x.shape[1], int(y.max()) + 1, device=device)
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        groups = [{'params': [layer.weight], 'weight_decay': weight_decay}, {'params': [layer.bias], 'weight_decay': 0}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=True)
        steps = self.epochs * -(-len(y) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for rows in self._batches(len(y)):
            optimizer.zero_grad()
            with torch.autocast(device.type, enabled=False):
                F.cross_entropy(layer(x[rows.to(device)]), y[rows.to(device)]).backward()
            optimizer.step()
            schedule.step()
        weight, bias = (parameter.detach().cpu().numpy() for parameter in (layer.weight, layer.bias))
        return lambda others: (others @ weight.T + bias).argmax(1)

    def _batches(self, images: int) -> Iterator[Tensor]:
        for epoch in range(self.epochs):
            yield from torch.from_numpy(permutation(images, SEED, epoch)).split(self.batch_size)


class NearestNeighbors(ProbeRecipe):
    """The vote of the training pictures with the highest cosine similarity, which trains nothing.

    Args:
        k: Pictures that vote; all if there are fewer.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def fit(self, feature: Features, label: Labels, metric: Metric, device: torch.device) -> Classifier:
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        voters = KNeighborsClassifier(min(self.k, len(label)), algorithm='brute')  # of unit norm: ranked as by cosine
        return make_pipeline(Normalizer(), voters).fit(feature, label).predict


# --- parts of the recipes -------------------------------------------------------------------------------------------


def check_choices(argument: str, values: Sequence[float], interval: str) -> None:
    """Refuses an empty list of values, and one with a value outside an interval."""
    argument = f'callbacks.linear_probe.recipe.{argument}'
    if not values:
        raise UsageError(f'{argument} is empty: give at least one value.')
    for value in values:
        check_number(argument, value, interval)


def center_and_scale(feature: Features) -> tuple[Features, np.float32]:
    """Mean of the features, (D,), and the root of the mean squared norm that they have without it.

    Example:
        >>> mean, scale = center_and_scale(np.array([[1, 5], [7, 13]], np.float32))
        >>> mean, float(scale)
        (array([4., 9.], dtype=float32), 5.0)
    """
    mean = feature.mean(0, np.float64).astype(np.float32)
    scale = np.sqrt(np.square(feature - mean).sum(1, np.float64).mean()).astype(np.float32)
    return mean, scale or np.float32(1)


def hold_out(label: Labels, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws at most ``most`` images and divides them into those to fit and, up to a fifth of them, those to judge by.

    An image of each class, as far as there is room, is among those to fit.
    """
    order = permutation(len(label), SEED)
    is_first = np.zeros(len(label), bool)
    is_first[np.unique(label[order], return_index=True)[1]] = True
    drawn = np.concatenate([order[is_first], order[~is_first]])[:most]
    held = min(len(drawn) // HELD_OUT, max(0, len(drawn) - int(is_first.sum())))
    return drawn[: len(drawn) - held], drawn[len(drawn) - held :]


def choose(classifiers: Sequence[Classifier], feature: Features, label: Labels, metric: Metric) -> int:
    """Number of the most accurate classifier, the first of several.

    Args:
        classifiers: The classifiers.
        feature: Features to judge by; if there are none, the one in the middle is chosen.
        label: Their classes.
        metric: Accuracy to compare.
    """
    if not len(label):
        return len(classifiers) // 2
    return int(np.argmax([score(classify(feature), label, metric) for classify in classifiers]))


def score(predicted: Labels, label: Labels, metric: Metric) -> float:
    """Accuracy of predictions (N,), of which only those of known classes count."""
    known = label >= 0
    predicted, label = predicted[known], label[known]
    images = np.bincount(label)
    right = np.bincount(label[predicted == label], minlength=len(images))
    return accuracy(torch.from_numpy(right), torch.from_numpy(images), metric)
