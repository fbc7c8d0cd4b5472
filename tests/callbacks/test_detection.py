from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.detection import RESULT_FILE, Detectors
from callbacks.ledger import FILE, ScoreLedger
from datamodules.rows.embeddings import IMAGE_FILE, TEXT_FILE, read_embeddings
from datamodules.rows.filters import read_lines
from datamodules.usage_error import UsageError
from tests.callbacks.observed import POISONS, QUIET, ROWS, Answers, Data, trainer

pytestmark = QUIET

SOME: dict[str, Any] = {'detectors': ['k_distance', 'isolation_forest'], 'neighbors': 3}


class Embedding(Answers):
    """Embeds pictures near each other, but for those of badnet, and captions so that similarities are as planted."""

    width = 4

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        output = super().predict_step(batch, batch_idx)
        row = output['row']
        angle = torch.where((row >= 40) & (row < 48), 2 + 0.3 * (row - 40), 0.01 * row)
        image = torch.stack([angle.cos(), angle.sin(), 0 * angle, 0 * angle], 1)
        cosine = output['similarity'][:, None]
        text = cosine * image + (1 - cosine.square()).sqrt() * torch.eye(4)[3]
        views = torch.stack([image, text])[:, None]
        return {**output, 'image': image, 'text': text, 'views': views}


def test_training_ends_with_the_quality_of_each_detector(tmp_path: Path) -> None:
    run = trainer(tmp_path, [Detectors(**SOME)], epochs=2)
    run.fit(Embedding(), datamodule=Data())
    logged = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith('detect/')}
    scores = ('similarity', 'k_distance', 'isolation_forest')
    names = {f'detect/{score}/{a}/{what}' for score in scores for a in POISONS for what in ('auroc', 'ap', 'leak_10')}
    assert names | {'detect/k_distance/seconds'} <= logged.keys() and 'detect/similarity/seconds' not in logged
    assert logged['detect/k_distance/badnet/auroc'] == 1 and logged['detect/k_distance/badnet/leak_10'] == 0.25
    assert logged['detect/similarity/badnet/auroc'] == pytest.approx(9 / 49, abs=0.06)


def test_says_nothing_without_attacks(tmp_path: Path) -> None:
    run = trainer(tmp_path, [Detectors(**SOME)], epochs=1)
    run.fit(Embedding(), datamodule=Data(is_poisoned=False))
    assert not [name for name in run.callback_metrics if name.startswith('detect/')]


def test_a_detector_that_fails_loses_neither_the_training_nor_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Collapsed(Embedding):
        def predict_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
            output = super().predict_step(batch, batch_idx)
            return {**output, 'image': torch.ones_like(output['image']) / 2}

    run = trainer(tmp_path, [Detectors(**SOME)], epochs=1)
    run.fit(Collapsed(), datamodule=Data())
    assert 'measuring the detector k_distance failed (UsageError: neighbors=3 is too many: the set has 1' in caplog.text
    assert 'detect/isolation_forest/badnet/auroc' in run.callback_metrics
    assert 'detect/k_distance/badnet/auroc' not in run.callback_metrics


def test_more_neighbors_than_pairs_are_refused_before_training(tmp_path: Path) -> None:
    run = trainer(tmp_path, [Detectors(neighbors=3)], epochs=1)
    with pytest.raises(
        UsageError, match='dimension_neighbors=64 is too many: the set that Detectors measure dao on has'
    ):
        run.fit(Embedding(), datamodule=Data())
    assert run.global_step == 0


class TestPredict:
    def test_measures_the_embeddings_that_the_ledger_writes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = Data()
        data.canary_count = 8  # the last rows
        run = trainer(tmp_path, [Detectors(**SOME), ScoreLedger(embeddings=True)])
        run.predict(Embedding(), datamodule=data, return_predictions=False)
        similarity = read_lines(str(tmp_path / FILE))['similarity'].to_numpy()
        image, text = read_embeddings(str(tmp_path / FILE), similarity)
        assert image.shape == text.shape == (ROWS - 8, 4) and image.dtype == np.float16
        assert '| k_distance | badnet | 1.000 |' in capsys.readouterr().out
        assert json.loads((tmp_path / RESULT_FILE).read_text())['detect/k_distance/badnet/auroc'] == 1

    def test_pairs_that_are_not_run_over_have_no_embedding(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, [ScoreLedger(embeddings=True)], limit_predict_batches=2)
        run.predict(Embedding(), datamodule=Data(), return_predictions=False)
        for name in (IMAGE_FILE, TEXT_FILE):
            assert np.isnan(np.load(tmp_path / name)).all(1).tolist() == [False] * 20 + [True] * 40

    def test_needs_the_embeddings(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, [Detectors(), ScoreLedger()])
        with pytest.raises(UsageError, match=r'give --callbacks.ledger.embeddings=true'):
            run.predict(Embedding(), datamodule=Data(), return_predictions=False)
