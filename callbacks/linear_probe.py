"""Linear probe: how well a linear classifier of the image tower's features does, and whether triggers deceive it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torchmetrics.functional.classification import multiclass_confusion_matrix

from callbacks.attack_success import clean_set_for, measure_clean, measure_success
from callbacks.measuring import measuring
from callbacks.metric_names import AsrQuantity, Head, asr_metric, knn_metric, probe_metric
from callbacks.probe_features import ImageFeatures
from callbacks.probe_recipes import (
    Classifier,
    Features,
    Labels,
    LbfgsProbe,
    NearestNeighbors,
    ProbeRecipe,
    score,
)
from datamodules.contracts import truth_of
from datamodules.evaluation.sets import EvaluationSet
from datamodules.rows.table import UNKNOWN
from datamodules.usage_error import UsageError, check_number
from lightning_modules.clip import CLIP


class LinearProbe(Callback):
    """Trains a linear classifier on features of each clean set's training split, and measures it on the set.

    A set of ``data.labeled`` has a training split if it is given as ``ClassFolders`` or ``DownstreamSet``; the held-out
    pictures have one if the training pairs are labeled: their clean pictures. Training pictures with the same pixels as
    a test picture are left out. Logged are

    - ``probe/<set>``: accuracy of the probe, as the set's ``metric`` says, like ``zero_shot/<set>``;
    - ``asr_probe/<attack>/<quantity>``: success of an attack through the probe of the first clean set with its classes,
      as ``asr/<attack>/<quantity>`` through prompts; the probe itself is trained on clean pictures alone;
    - ``knn/<set>`` and ``asr_knn/<attack>/<quantity>``: the same for the vote of the nearest training pictures, for
      sets with an attack.

    Large sets take minutes, so it is measured once in ``fit``, after the last of ``trainer.max_epochs`` epochs and not
    in a run that ends before, and in ``validate`` and ``test``, which keep
    the features in ``data.cache_dir``.

    Args:
        recipe: How the classifier is trained: ``LbfgsProbe``, the default, or ``AdamWProbe``.
        neighbors: Training pictures that vote.
        every_n_epochs: Also measure after every so many epochs of ``fit``.
    """

    def __init__(
        self, recipe: ProbeRecipe | None = None, neighbors: int = 50, every_n_epochs: int | None = None
    ) -> None:
        check_number('callbacks.linear_probe.neighbors', neighbors, '[1, inf)')
        check_number('callbacks.linear_probe.every_n_epochs', every_n_epochs, '[1, inf)')
        self.recipe = LbfgsProbe() if recipe is None else recipe
        self.neighbors, self.every_n_epochs = NearestNeighbors(neighbors), every_n_epochs
        self.splits: dict[int, EvaluationSet] = {}  # training split of the clean set with an index

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != 'predict':
            self.splits = training_splits(truth_of(trainer).evaluation_sets)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.is_due(trainer.current_epoch + 1, trainer.max_epochs):
            self._log(trainer, pl_module)

    def is_due(self, trained: int, planned: int | None) -> bool:
        """Whether to measure in ``fit`` after this many epochs of the planned ones."""
        return trained == planned or bool(self.every_n_epochs and trained % self.every_n_epochs == 0)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != 'fit':
            self._log(trainer, pl_module)

    on_test_epoch_end = on_validation_epoch_end

    def _log(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        with measuring(trainer, module):
            metrics = self._measure(trainer, cast(CLIP, module))
        module.log_dict(metrics, sync_dist=True)  # equal on all ranks

    def _measure(self, trainer: L.Trainer, module: CLIP) -> dict[str, float]:
        sets = truth_of(trainer).evaluation_sets
        features = ImageFeatures(trainer, module, stored=trainer.state.fn != 'fit')
        metrics: dict[str, float] = {}
        for index, train in self.splits.items():
            attacks = [attack for attack in sets if clean_set_for(attack, sets) == index]
            train_part, test, *triggered = (Pictures(each, features(each)) for each in (train, sets[index], *attacks))
            if trainer.is_global_zero:
                metrics |= self.measure_set(train_part, test, triggered, module.device)
        return trainer.strategy.broadcast(metrics)

    def measure_set(
        self, train: Pictures, test: Pictures, attacks: Sequence[Pictures], device: torch.device
    ) -> dict[str, float]:
        """Metrics of a clean set and of the attacks with its classes."""
        recipes: dict[Head, ProbeRecipe] = {'probe': self.recipe, **({'knn': self.neighbors} if attacks else {})}
        metrics = {}
        for head, recipe in recipes.items():
            classify = fit(recipe, train, device)
            predicted = classify(test.feature)
            name = {'probe': probe_metric, 'knn': knn_metric}[head](test.source.name)
            metrics[name] = score(predicted, test.source.label, test.source.metric)
            for attack in attacks:
                quantities = measure_attack(attack.source, classify(attack.feature), predicted, test.source)
                metrics |= {asr_metric(attack.source.name, what, head): x for what, x in quantities.items()}
        return metrics


class Pictures(NamedTuple):
    """An evaluation set or its training split, and the features of its pictures, (N, D)."""

    source: EvaluationSet
    feature: Features


def fit(recipe: ProbeRecipe, train: Pictures, device: torch.device) -> Classifier:
    """A classifier of any features; those that are not finite belong to no class, which is C."""
    classes = len(train.source.classes)
    usable = (train.source.label != UNKNOWN) & np.isfinite(train.feature).all(1)
    label = train.source.label[usable].astype(np.int64)
    known = np.unique(label)
    classify = recipe.fit(train.feature[usable], label, train.source.metric, device) if len(known) > 1 else None

    def classify_finite(feature: Features) -> Labels:
        predicted = np.full(len(feature), classes)
        finite = np.isfinite(feature).all(1)
        if classify is not None and finite.any():
            predicted[finite] = classify(feature[finite])
        return predicted

    return classify_finite


def measure_attack(
    attack: EvaluationSet, predicted: Labels, predicted_clean: Labels, clean: EvaluationSet
) -> Mapping[AsrQuantity, float]:
    """Success of an attack on a classifier, with the same conventions as through prompts.

    Args:
        attack: The attack's images.
        predicted: Their predicted classes, (N,).
        predicted_clean: Predicted classes of the images of the clean set, (M,).
        clean: The clean set.
    """
    assert attack.target is not None
    counted = attack.label != attack.target
    success = measure_success(int((predicted == attack.target)[counted].sum()), int(counted.sum()))
    known = clean.label != UNKNOWN
    answers, truth = (torch.from_numpy(part[known].astype(np.int64)) for part in (predicted_clean, clean.label))
    matrix = multiclass_confusion_matrix(answers, truth, len(clean.classes) + 1, validate_args=False)
    return success | measure_clean(matrix, attack.label, attack.target)


# --- training pictures ----------------------------------------------------------------------------------------------


def training_splits(sets: Sequence[EvaluationSet]) -> dict[int, EvaluationSet]:
    """The training split of each clean set that has one, by the index of the set.

    Raises:
        UsageError: If no set has any, or one has too few pictures of its own.
    """
    made = {index: (each, each.train()) for index, each in enumerate(sets) if each.train is not None}
    if not made:
        raise UsageError(
            'callbacks.linear_probe needs labeled pictures to train on: give data.labeled a set with a training split, '
            'such as ClassFolders or DownstreamSet, or set callbacks.linear_probe to null.'
        )
    splits = {index: without_test_pictures(train, test) for index, (test, train) in made.items()}
    for index, split in splits.items():
        say_untrained(split, sets[index])
        if len(np.unique(split.label[split.label != UNKNOWN])) < 2:
            raise UsageError(
                f'callbacks.linear_probe has fewer than two classes to train on in the set {split.name!r}, without '
                f'pictures that it is also tested on: mend its training split, or leave the set out.'
            )
    return splits


def say_untrained(train: EvaluationSet, test: EvaluationSet) -> None:
    """Logs which classes of the test pictures have no usable training picture, so that no probe answers with them."""
    if missing := sorted(set(test.label.tolist()) - set(train.label.tolist()) - {UNKNOWN}):
        rank_zero_info(
            f'{test.name}: {len(missing)} of {len(test.classes)} classes, first {test.classes[missing[0]]!r}, have no '
            f'training picture that can be read and is no test picture: a probe takes all their pictures for others.'
        )


def without_test_pictures(train: EvaluationSet, test: EvaluationSet) -> EvaluationSet:
    """The training split, in which pictures with the same pixels as a test picture have no label."""
    shared = np.isin(train.hashes, test.hashes) & (train.label != UNKNOWN)
    if shared.any():
        rank_zero_info(
            f'{test.name}: {shared.sum():,} of {len(train):,} training pictures are test pictures too, and no probe is '
            f'trained on them.'
        )
    return replace(train, label=np.where(shared, UNKNOWN, train.label))
