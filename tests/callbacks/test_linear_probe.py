from __future__ import annotations

import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from callbacks.attack_success import AttackSuccessRate
from callbacks.intervals import wilson_interval
from callbacks.linear_probe import LinearProbe, Pictures, fit, training_splits, without_test_pictures
from callbacks.metric_names import AsrQuantity, Head, asr_metric
from callbacks.probe_features import ImageFeatures
from callbacks.probe_recipes import Classifier, Features, Labels, LbfgsProbe, ProbeRecipe
from datamodules.attacks.badnet import BadNet
from datamodules.evaluation.labeled import ClassFolders
from datamodules.evaluation.sets import EvaluationSet
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from tests.callbacks.observed import QUIET, batches, evaluation_set
from tests.datamodules.evaluation.test_labeled import write_class_folders
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer

pytestmark = QUIET
CPU = torch.device('cpu')
QUANTITIES = get_args(AsrQuantity)
HEADS: tuple[Head, ...] = ('probe', 'knn')


# --- one set, with planted features ---------------------------------------------------------------------------------


def corner(label: list[int]) -> Features:
    """Features that show a class as a corner of a simplex."""
    return np.eye(3, dtype=np.float32)[label]


def planted(name: str, label: list[int], shown: list[int], target: list[int] | None = None) -> Pictures:
    """Pictures of some classes that look like others."""
    return Pictures(evaluation_set(name, label, target), corner(shown))


TRAIN = planted('pets', [0, 1, 2] * 10, [0, 1, 2] * 10)


class TestOneSet:
    def test_accuracy_is_that_of_the_set_s_metric(self) -> None:
        test = planted('pets', [0, 0, 0, 1, 2, -1], [0, 0, 1, 1, 0, 0])
        assert LinearProbe().measure_set(TRAIN, test, [], CPU) == {'probe/pets': 3 / 5}
        by_class = test._replace(source=replace(test.source, metric='mean_per_class'))
        assert LinearProbe().measure_set(TRAIN, by_class, [], CPU) == {'probe/pets': pytest.approx((2 / 3 + 1 + 0) / 3)}

    @pytest.mark.parametrize('head', HEADS)
    def test_attacks_are_counted_as_through_prompts(self, head: Head) -> None:
        test = planted('pets', [0, 0, 1, 1, 2, 2], [0, 2, 1, 1, 2, 0])
        attack = planted('badnet', [0, 0, 0, 1, 1, 2], [2, 2, 0, 2, 1, 2], target=[2] * 6)
        measured = LinearProbe(neighbors=3).measure_set(TRAIN, test, [attack], CPU)
        low, high = wilson_interval(3, 5)
        expected = {
            'rate': 3 / 5, 'low': low, 'high': high, 'hits': 3, 'n': 5,
            'clean': (3 * 1 / 2 + 2 * 0) / 5, 'recall': 1 / 2, 'recall_n': 2,
        }  # fmt: skip
        of_attack = {what: measured[asr_metric('badnet', what, head)] for what in QUANTITIES}
        assert of_attack == pytest.approx(expected) and measured[f'{head}/pets'] == 4 / 6

    def test_the_same_predictions_give_the_numbers_of_attack_success(self) -> None:
        test = planted('pets', [0, 0, 1, 1, 2, 2], [0, 2, 1, 1, 2, 0])
        attack = planted('badnet', [0, 0, 0, 1, 1, 2], [2, 2, 0, 2, 1, 2], target=[2] * 6)
        by_probe = LinearProbe().measure_set(TRAIN, test, [attack], CPU)
        sets, by_prompts, counts = [test.source, attack.source], AttackSuccessRate(), {}
        for index, pictures in enumerate((test, attack)):
            (batch,) = batches(pictures.source, 10)
            count = by_prompts.count(sets, index, torch.from_numpy(pictures.feature), batch)
            assert count is not None
            counts[index] = count
        assert by_prompts.report(sets, counts) == {
            name.replace('asr_probe', 'asr'): value for name, value in by_probe.items() if 'asr_probe' in name
        }

    def test_features_that_are_not_finite_are_of_no_class(self) -> None:
        train, test = (
            planted('pets', [0, 1, 2] * 10, [0, 1, 2] * 10)._replace(feature=TRAIN.feature.copy()) for _ in range(2)
        )
        train.feature[0], test.feature[:3] = np.nan, np.inf
        assert LinearProbe().measure_set(train, test, [], CPU) == {'probe/pets': 0.9}
        nothing = Pictures(train.source, np.full_like(train.feature, np.nan))
        assert fit(LbfgsProbe(), nothing, CPU)(TRAIN.feature).tolist() == [3] * 30


# --- training pictures ----------------------------------------------------------------------------------------------


def numbered(first: int, count: int, train: EvaluationSet | None = None) -> EvaluationSet:
    """Pictures that show their number, of two classes."""
    images = np.arange(first, first + count, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    read = None if train is None else lambda: train
    return EvaluationSet('x', images, np.arange(count) % 2, None, ('a', 'b'), ('a {}',), train=read)


class TestTrainingPictures:
    def test_test_pictures_are_left_out(self) -> None:
        split = without_test_pictures(numbered(0, 6), numbered(4, 6))
        assert split.label.tolist() == [0, 1, 0, 1, -1, -1]

    def test_a_split_of_test_pictures_alone_is_refused(self) -> None:
        """So the fault of the released code, which trains and tests on one part of Flowers-102, cannot happen."""
        with pytest.raises(UsageError, match="fewer than two classes to train on in the set 'x', without"):
            training_splits([numbered(0, 6, numbered(0, 6))])

    def test_a_class_without_any_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        test, train = numbered(0, 6), numbered(10, 6)
        train = replace(train, classes=('a', 'b', 'c'), label=np.array([0, 0, 1, 1, -1, -1]))
        test = replace(test, classes=('a', 'b', 'c'), label=np.array([0, 1, 2, 2, -1, -1]), train=lambda: train)
        with caplog.at_level('INFO', 'lightning.pytorch.utilities.rank_zero'):
            training_splits([test])
        assert "x: 1 of 3 classes, first 'c', have no training picture that can be read" in caplog.text

    def test_sets_without_a_training_split_are_passed_over(self) -> None:
        assert training_splits([numbered(0, 4), numbered(0, 4, numbered(4, 4))]).keys() == {1}

    def test_no_set_at_all_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r'callbacks\.linear_probe needs labeled pictures to train on: give data'):
            training_splits([numbered(0, 4)])


# --- runs -----------------------------------------------------------------------------------------------------------


class Remembers(ProbeRecipe):
    """Remembers what it is trained on."""

    def __init__(self) -> None:
        self.trained: list[tuple[Features, Labels]] = []

    def fit(self, feature: Features, label: Labels, metric: str, device: torch.device) -> Classifier:
        self.trained.append((feature, label))
        return LbfgsProbe().fit(feature, label, 'accuracy', device)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sets whose features were computed."""
    names: list[str] = []
    compute = ImageFeatures._compute

    def record(self: ImageFeatures, source: EvaluationSet) -> Features:
        names.append(source.name)
        return compute(self, source)

    monkeypatch.setattr(ImageFeatures, '_compute', record)
    return names


def run(stage: str, folder: Path, probe: LinearProbe, epochs: int = 1, seed: int = 0, **data: Any) -> dict[str, Any]:
    """Values of each metric of a run, by name, in the order of its epochs."""
    torch.manual_seed(seed)
    model = CLIP(tiny_architecture(folder), lr=1e-3)
    logger = CSVLogger(tempfile.mkdtemp(dir=folder), name='', version='')
    running = trainer(max_epochs=epochs, callbacks=[probe], logger=logger, check_val_every_n_epoch=3)
    attacks = {'badnet': BadNet('cat', count=2, size=2, captions='templates')}
    pairs = TinyPairs(**{'rows': 40, 'heldout_rows': 30, 'attacks': attacks, **data}, cache_dir=str(folder / 'cache'))
    getattr(running, stage)(model, datamodule=pairs, **({} if stage == 'fit' else {'verbose': False}))
    rows = list(csv.DictReader(Path(logger.log_dir, 'metrics.csv').read_text().splitlines()))
    names = [name for name in rows[0] if 'probe' in name or 'knn' in name]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


@pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
def test_is_measured_once_in_every_kind_of_run(stage: str, tmp_path: Path) -> None:
    logged = run(stage, tmp_path, LinearProbe(), epochs=2)
    names = {asr_metric('badnet', what, head) for what in QUANTITIES for head in HEADS}
    assert logged.keys() == names | {'probe/heldout', 'knn/heldout'}
    assert {len(values) for values in logged.values()} == {1}
    assert logged['probe/heldout'][0] > 0.6  # of four classes, which are easy to see
    assert list((tmp_path / 'cache').glob('features-*')) == [] or stage != 'fit'


def test_is_measured_every_so_many_epochs_on_demand(tmp_path: Path) -> None:
    assert len(run('fit', tmp_path, LinearProbe(every_n_epochs=2), epochs=5)['probe/heldout']) == 3  # 2, 4 and 5


def test_is_trained_on_clean_pictures_of_the_training_split_alone(tmp_path: Path) -> None:
    recipe, root = Remembers(), tmp_path / 'animals'
    write_class_folders(root / 'train', each=5)
    write_class_folders(root / 'test', each=4)  # the first four of each class once more
    run('test', tmp_path, LinearProbe(recipe), labeled={'animals': ClassFolders(str(root))}, attacks={})
    (of_pairs, labels), (_, of_animals) = recipe.trained
    assert labels.tolist() == [row % 4 for row in range(40)] and of_pairs.shape == (40, 8)
    assert of_animals.tolist() == [0, 1]


def test_features_are_stored_by_weights_and_pictures(embedded: list[str], tmp_path: Path) -> None:
    first = run('test', tmp_path, LinearProbe())
    assert embedded == ['heldout', 'heldout', 'badnet']  # to train on, to test on, and with a trigger
    assert run('validate', tmp_path, LinearProbe()) == first and len(embedded) == 3
    run('test', tmp_path, LinearProbe(), seed=1)
    assert len(embedded) == 6
    run('test', tmp_path, LinearProbe(), picture_seed=5)
    assert len(embedded) == 9


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: LinearProbe(neighbors=0), r'callbacks\.linear_probe\.neighbors must be at least 1, got 0'),
        (lambda: LinearProbe(every_n_epochs=0), r'callbacks\.linear_probe\.every_n_epochs must be at least 1, got 0'),
    ],
)
def test_a_number_that_cannot_work_is_refused(make: type[LinearProbe], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_data_without_a_training_split_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'callbacks\.linear_probe needs labeled pictures to train on'):
        run('fit', tmp_path, LinearProbe(), heldout_rows=0, attacks={})
