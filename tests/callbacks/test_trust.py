from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.trust import Trust, add_hits
from datamodules.evaluation.sets import EvalBatch, EvaluationSet, evaluation_loader
from tests.callbacks.observed import QUIET, Answers, Data, trainer

pytestmark = QUIET
NAMES = ('patch', 'copies')
TRIGGER = 200  # brightness of pictures with the trigger


class Planted(Data):
    """Five plain pictures for each canary, and three with the trigger of the first."""

    def canary_rows(self) -> dict[str, np.ndarray]:
        return {name: np.arange(2) for name in NAMES}

    def canary_prompts(self) -> Tensor:
        return torch.zeros(2, 3, 4, dtype=torch.int64)

    def canary_dataloader(self) -> DataLoader[EvalBatch]:
        images = np.zeros((13, 3, 2, 2), np.uint8)
        images[:3] = TRIGGER
        label, target = np.array([0] * 3 + [-1] * 10), np.array([0] * 8 + [1] * 5)
        return evaluation_loader(EvaluationSet('canaries', images, label, target, NAMES, ()), 4)


class Backdoored(Answers):
    """Takes pictures with the trigger for the first canary, all others for the second."""

    def classifier(self, tokens: Tensor) -> Tensor:
        return torch.eye(len(tokens))

    def encode_image(self, image: Tensor) -> Tensor:
        triggered = (image.float().mean((1, 2, 3)) > TRIGGER / 2).float()
        return torch.stack([triggered, 1 - triggered], 1)


@pytest.mark.parametrize('stage', ['fit', 'test'])
def test_a_canary_that_was_learned_shows(stage: str, tmp_path: Path) -> None:
    sets = [EvaluationSet('heldout', np.zeros((2, 3, 1, 1), np.uint8), np.zeros(2, np.int64), None, ('a', 'b'), ())]
    run, model = trainer(tmp_path, [Trust()], epochs=1), Backdoored([torch.eye(2)])
    getattr(run, stage)(model, datamodule=Planted(sets), **({} if stage == 'fit' else {'verbose': False}))
    logged = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith('canary')}
    assert (logged['canary/asr/patch'], logged['canary/clean/patch']) == (1.0, 0.0)
    assert logged['canary/clean/copies'] == 1.0


def test_pairs_without_labels_and_attacks_show_it_too(tmp_path: Path) -> None:
    run = trainer(tmp_path, [Trust()], epochs=2, check_val_every_n_epoch=2)
    run.fit(Backdoored(), datamodule=Planted())
    assert run.callback_metrics['canary/asr/patch'] == 1
    logged = list(csv.DictReader((tmp_path / 'metrics.csv').read_text().splitlines()))
    assert [row['epoch'] for row in logged if row.get('canary/asr/patch')] == ['1']


@pytest.mark.parametrize('stage', ['validate', 'test'])
def test_so_do_they_when_a_checkpoint_is_measured(stage: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, [Trust()])
    getattr(run, stage)(Backdoored(), datamodule=Planted(), verbose=False)
    assert run.callback_metrics['canary/asr/patch'] == 1
    (logged,) = csv.DictReader((tmp_path / 'metrics.csv').read_text().splitlines())
    assert float(logged['canary/asr/patch']) == 1


def test_without_canaries_nothing_is_logged(tmp_path: Path) -> None:
    run = trainer(tmp_path, [Trust()], epochs=1)
    run.fit(Answers(), datamodule=Data())
    assert not any(name.startswith('canary') for name in run.callback_metrics)


def test_counts_neither_padding_nor_pictures_without_an_answer_as_hits() -> None:
    similarity = torch.tensor([[1.0, 0], [1, 0], [float('nan'), 0], [0, 1]])
    target, label = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, -1])
    batch = EvalBatch(torch.zeros(4), label, target, torch.tensor([True, False, True, True]))
    counts = torch.zeros(2, 2, 2, dtype=torch.int64)
    add_hits(counts, similarity, batch)
    assert counts.tolist() == [[[1, 0], [0, 1]], [[2, 0], [0, 1]]]
