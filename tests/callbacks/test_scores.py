from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks.repartition import SafeRiskyRepartition
from callbacks.scores import Augmented, Clean, Random, Running, Score
from datamodules.rows.partition import RISKY, SAFE
from datamodules.usage_error import UsageError
from tests.callbacks.planted import POISONS, WARM_UP, Batch, PlantedData, PlantedModule, quiet_lightning, trainer

CROSS_MODAL = {'cross_modal': 1}


def fit_planted() -> tuple[L.Trainer, PlantedModule, PlantedData]:
    module, data = PlantedModule(), PlantedData()
    fitting = trainer(1)
    fitting.fit(module, data)
    return fitting, module, data


def feed_epoch(running: Running, rows: list[int], value: float, sides: Mapping[str, int] = CROSS_MODAL) -> None:
    running.begin_epoch(4, sides, torch.device('cpu'))
    running.add(Batch(torch.tensor(rows), torch.zeros(len(rows))), {'similarity': torch.full((len(rows),), value)})
    running.end_epoch(trainer(1))


@quiet_lightning
class TestSwept:
    @pytest.mark.parametrize('score', [Clean(), Augmented(), Augmented(views=3)])
    def test_measures_every_row(self, score: Score) -> None:
        fitting, module, data = fit_planted()
        value = score.measure(fitting, module, 5)
        assert value.dtype == torch.float32
        assert torch.allclose(value, data.similarity, atol=0.01)

    @pytest.mark.parametrize('score', [Clean(), Augmented()])
    def test_measures_only_the_given_rows(self, score: Score) -> None:
        value = score.measure(*fit_planted()[:2], 5, np.array([3, 5]))
        assert torch.nonzero(~value.isnan()).flatten().tolist() == [3, 5]

    @pytest.mark.parametrize(
        ('score', 'asked_for'),
        [(Clean(), []), (Augmented(), [('epoch', 5), ('views', 1)]), (Augmented(4), [('epoch', 5), ('views', 4)])],
    )
    def test_reads_clean_or_augmented_views(self, score: Score, asked_for: list[Any]) -> None:
        fitting, module, data = fit_planted()
        score.measure(fitting, module, 5)
        assert data.swept == asked_for

    def test_refuses_less_than_one_view(self) -> None:
        with pytest.raises(UsageError, match=r'score.views must be at least 1, got 0'):
            Augmented(views=0)

    def test_needs_a_previous_epoch(self) -> None:
        assert not Clean().is_measurable_after([])
        assert Clean().is_measurable_after([{'within_modal': 2}])


class TestRunning:
    def test_starts_with_the_first_value_and_moves_by_the_momentum(self) -> None:
        running = Running(0.75)
        feed_epoch(running, [0, 1], 0.2)
        feed_epoch(running, [1, 2], 0.6)
        assert running.average is not None
        assert running.average[:3].tolist() == pytest.approx([0.2, 0.75 * 0.2 + 0.25 * 0.6, 0.6])
        assert running.average[3].isnan()

    def test_epochs_within_each_modality_do_not_count(self) -> None:
        running = Running()
        feed_epoch(running, [0], 0.2, sides={'within_modal': 2})
        assert running.average is None
        assert not running.is_measurable_after([{'within_modal': 2}])
        assert running.is_measurable_after([{'within_modal': 2}, CROSS_MODAL])

    def test_an_interrupted_epoch_is_forgotten(self) -> None:
        running = Running()
        running.begin_epoch(1, CROSS_MODAL, torch.device('cpu'))
        running.add(Batch(torch.tensor([0]), torch.zeros(1)), {'similarity': torch.tensor([0.9])})
        running.begin_epoch(1, CROSS_MODAL, torch.device('cpu'))
        running.end_epoch(trainer(1))
        assert running.average is not None and running.average.isnan().all()

    def test_measures_a_copy_of_the_average(self) -> None:
        fitting, module, _ = trainer(1), PlantedModule(), None
        running = Running()
        feed_epoch(running, [0, 1, 2, 3], 0.2)
        measured = running.measure(fitting, module, 2)
        feed_epoch(running, [0, 1, 2, 3], 0.6)
        assert measured.tolist() == pytest.approx([0.2] * 4)

    def test_the_average_survives_a_checkpoint(self) -> None:
        running, resumed = Running(), Running()
        feed_epoch(running, [0, 1, 2, 3], 0.2)
        resumed.load_state_dict(running.state_dict())
        for score in (running, resumed):
            feed_epoch(score, [0, 1, 2, 3], 0.6)
        assert running.average is not None and resumed.average is not None
        assert torch.equal(running.average, resumed.average)

    def test_refuses_a_checkpoint_with_another_score(self) -> None:
        running = Running()
        running.load_state_dict(Clean().state_dict())
        with pytest.raises(UsageError, match=r'score=Running has no similarities from before epoch 3: resume from'):
            running.measure(trainer(1), PlantedModule(), 3)

    @pytest.mark.parametrize('momentum', [-0.1, 1.0])
    def test_refuses_a_momentum_out_of_range(self, momentum: float) -> None:
        with pytest.raises(UsageError, match=r'score.momentum must lie in \[0, 1\)'):
            Running(momentum)


@quiet_lightning
class TestRandom:
    def test_a_split_lets_as_many_poisons_in_as_other_pairs_and_keeps_those_that_it_has(self) -> None:
        data, sides = PlantedData(), []
        for epochs in (WARM_UP, WARM_UP + 1):
            data = PlantedData()
            trainer(epochs, SafeRiskyRepartition(score=Random(), first_fraction=0.5, growth=0.1)).fit(
                PlantedModule(), data
            )
            sides.append({*data.partition.rows(SAFE).tolist()})
        first, second = sides
        assert (len(first), len(second)) == (32, 38) and first < second
        assert 4 <= len(first & {*range(64 - POISONS, 64)}) <= 12  # of 16; by similarity, none
        assert data.swept == []

    def test_another_seed_draws_other_numbers_which_do_not_depend_on_the_epoch(self) -> None:
        fitting, module, _ = fit_planted()
        one, later, other = (Random(seed).measure(fitting, module, epoch) for seed, epoch in ((1, 2), (1, 9), (2, 2)))
        assert torch.equal(one, later) and not torch.equal(one, other)
        assert one.dtype == torch.float32 and one.shape == (64,)


class Reversed(Score):
    """A custom score: a constant and a value for each row."""

    def measure(
        self, trainer: L.Trainer, module: L.LightningModule, epoch: int, rows: Any = None, shuffled: Any = None
    ) -> Tensor:
        return torch.linspace(-1, 1, 64)


@quiet_lightning
def test_a_custom_score_only_needs_measure() -> None:
    data = PlantedData()
    split = SafeRiskyRepartition(score=Reversed(), first_fraction=0.25)
    trainer(WARM_UP, split).fit(PlantedModule(), data)
    assert (data.partition.side[:-POISONS] == RISKY).all()
    assert (data.partition.side[-POISONS:] != RISKY).all()
