from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor

from callbacks.attack_success import AttackSuccessRate
from callbacks.zero_shot import ZeroShot
from datamodules.evaluation.sets import EvaluationSet
from datamodules.pictures.views import clean_view
from lightning_modules.clip import CLIP
from tests.callbacks.observed import QUIET, Answers, Data, batches, evaluation_set, numbers, trainer
from tests.helpers.tiny import CONTEXT_LENGTH, IMAGE_SIZE, TinyPairs, tiny_architecture
from tests.helpers.tiny import trainer as tiny_trainer

pytestmark = QUIET


def clean_set(classes: int, images: int = 53) -> EvaluationSet:
    """A set in which the class of one image in ten is unknown."""
    generator = np.random.default_rng(classes)
    label = np.where(generator.random(images) < 0.1, -1, generator.integers(0, classes, images))
    return evaluation_set('heldout', label.tolist(), None, classes)


def logits(source: EvaluationSet) -> Tensor:
    return torch.randn(len(source), len(source.classes), generator=torch.Generator().manual_seed(0))


def counted(source: EvaluationSet, answers: Tensor, size: int, world: int = 1) -> dict[str, float]:
    total = torch.zeros(3, len(source.classes), dtype=torch.int64)
    for rank in range(world):
        for batch in batches(source, size, rank, world):
            count = ZeroShot().count([source], 0, answers[numbers(batch)], batch)
            assert count is not None
            total += count
    return ZeroShot().report([source], {0: total})


def by_definition(source: EvaluationSet, answers: Tensor, guesses: int) -> float:
    right = []
    for label, answer in zip(source.label, answers.tolist(), strict=True):
        if label >= 0:
            ranked = sorted(range(len(answer)), key=lambda c: -answer[c])
            right.append(label in ranked[:guesses])
    return sum(right) / len(right)


@pytest.mark.parametrize(('size', 'world'), [(1, 1), (8, 1), (100, 1), (5, 2), (3, 7)])
def test_counts_each_known_image_once_for_every_batch_size_and_number_of_ranks(size: int, world: int) -> None:
    source = clean_set(12)
    answers = logits(source)
    expected = {
        'zero_shot/heldout': by_definition(source, answers, 1),
        'zero_shot_top5/heldout': by_definition(source, answers, 5),
    }
    assert counted(source, answers, size, world) == expected


@pytest.mark.parametrize(('classes', 'has_top_5'), [(3, False), (10, False), (11, True)])
def test_top_5_needs_more_than_ten_classes(classes: int, has_top_5: bool) -> None:
    source = clean_set(classes)
    assert ('zero_shot_top5/heldout' in counted(source, logits(source), 8)) == has_top_5


def test_mean_per_class_is_counted_by_hand() -> None:
    source = replace(evaluation_set('pets', [0, 0, 0, 1, 2, -1], None), metric='mean_per_class')
    predicted = torch.eye(3)[[0, 0, 1, 1, 0, 0]]  # 2 of 3 cats, 1 of 1 dogs, 0 of 1 boats
    assert counted(source, predicted, 4) == {'zero_shot/pets': pytest.approx((2 / 3 + 1 + 0) / 3)}
    assert counted(replace(source, metric='accuracy'), predicted, 4) == {'zero_shot/pets': 3 / 5}


def test_is_that_of_open_clip_s_own_classifier(tmp_path: Path) -> None:
    model, data = CLIP(tiny_architecture(tmp_path)), TinyPairs(heldout_rows=200, cache_dir=str(tmp_path / 'cache'))
    (logged,) = tiny_trainer(callbacks=[ZeroShot()]).validate(model, data, verbose=False)
    (source,) = data.evaluation_sets
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    weights = open_clip.build_zero_shot_classifier(model.towers.eval(), tokenizer, source.classes, source.templates)
    assert torch.allclose(model.classifiers[0].T, weights, rtol=0, atol=1e-6)
    image = model.towers.encode_image(clean_view(torch.from_numpy(source.images.copy()), IMAGE_SIZE), normalize=True)
    right = (image @ weights).argmax(1).numpy() == source.label
    assert logged['zero_shot/heldout'] == pytest.approx(right.mean(), abs=1e-6)


def test_logs_nothing_for_a_set_without_known_classes() -> None:
    source = evaluation_set('heldout', [-1, -1], None, 12)
    assert counted(source, logits(source), 8) == {}


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_an_image_without_finite_logits_is_wrong(bad: float) -> None:
    source = evaluation_set('heldout', [0] * 6, None, 12)
    answers = torch.eye(12)[[0] * 6]
    answers[0] = bad
    answers[1, 5] = bad
    assert counted(source, answers, 4) == {'zero_shot/heldout': 4 / 6, 'zero_shot_top5/heldout': 4 / 6}


def test_images_without_an_answer_are_counted_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = torch.eye(3)[[0, 1, 2]]
    answers[2] = float('nan')
    callbacks = [ZeroShot(), AttackSuccessRate()]
    with caplog.at_level('INFO'):
        trainer(tmp_path, callbacks).validate(
            Answers([answers]), Data([evaluation_set('unanswered', [0, 1, 2], None)]), verbose=False
        )
    (line,) = (message for message in caplog.messages if 'unanswered' in message)
    assert line.startswith('unanswered: the model gives no finite score to 1 of 3 images')


def test_a_set_named_like_a_top_5_metric_overwrites_nothing() -> None:
    plain, named_top5 = (evaluation_set(name, [0, 1], None, 12) for name in ('a', 'a_top5'))
    counts = {0: torch.tensor([[1, 0], [1, 1], [1, 1]]), 1: torch.tensor([[0, 0], [1, 0], [1, 1]])}
    assert ZeroShot().report([plain, named_top5], counts) == {
        'zero_shot/a': 0.5, 'zero_shot_top5/a': 1.0, 'zero_shot/a_top5': 0.0, 'zero_shot_top5/a_top5': 0.5,
    }  # fmt: skip


@pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
def test_logs_only_clean_sets_in_every_kind_of_run(stage: str, tmp_path: Path) -> None:
    sets = [clean_set(12), evaluation_set('badnet', [0, 1, 2], [2, 2, 2], 12)]
    answers = [logits(source) for source in sets]
    run = trainer(tmp_path, [ZeroShot()], epochs=1)
    getattr(run, stage)(Answers(answers), datamodule=Data(sets), **({} if stage == 'fit' else {'verbose': False}))
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    assert logged == pytest.approx(counted(sets[0], answers[0], 100))
