from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from callbacks.audit_scores import ALL, AuditScores, audit_quality
from datamodules.attacks import BadNet
from datamodules.pair_scores import NAMES, PairScores
from lightning_modules.clip import CLIP
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer


def scores(**standing: list[float]) -> PairScores:
    """Scores of ten pairs: those that are given, and 0 otherwise."""
    each = {name: np.array(standing.get(name, [0.0] * 10)) for name in NAMES}
    return PairScores(np.zeros(10, np.float32), each, np.arange(10))


class TestAuditQuality:
    def test_counts_pairs_that_stand_out_and_clean_ones_among_them(self) -> None:
        given = scores(detail=[9, 0, 0, 0, 0, 0, 0, 0, 10, 11], copies=[0, 8, 7, 0, 0, 0, 0, 0, 12, 0])
        found = audit_quality(given, {'badnet': np.array([8, 9])})
        counts = {
            name: (found[f'detect/{name}/flagged'], found[f'detect/{name}/false_alarms']) for name in (*NAMES, ALL)
        }
        assert counts == {**dict.fromkeys(NAMES, (0, 0)), 'detail': (3, 1), 'copies': (2, 1), ALL: (4, 2)}

    def test_says_how_well_each_score_tells_each_attack(self) -> None:
        found = audit_quality(scores(detail=[6, 0, 0, 0, 0, 0, 0, 0, 7, 8]), {'badnet': np.array([8, 9])})
        assert found[f'detect/{ALL}/badnet/auroc'] == found['detect/detail/badnet/ap'] == 1
        assert found['detect/pattern/badnet/auroc'] == 0.5

    def test_without_an_attack_all_that_stand_out_are_false_alarms(self) -> None:
        found = audit_quality(scores(pattern=[9, 9, 0, 0, 0, 0, 0, 0, 0, 0]), {})
        assert found['detect/pattern/false_alarms'] == 2 and not [name for name in found if name.endswith('auroc')]


def fit(folder: Path, rows: int) -> dict[str, float]:
    """Metrics of the audit after a run of two epochs."""
    attacks = {'badnet': BadNet(target='dog', count=6, size=3, captions='templates')}
    data = TinyPairs(rows=rows, cache_dir=str(folder), attacks=attacks)
    run = trainer(callbacks=[AuditScores()], limit_val_batches=0)
    run.fit(CLIP(tiny_architecture(folder)), datamodule=data)
    return {name: float(value) for name, value in run.callback_metrics.items() if name.startswith('detect/')}


def test_a_run_ends_with_the_quality_of_all_scores(tmp_path: Path) -> None:
    logged = fit(tmp_path, rows=120)
    assert {f'detect/{name}/{what}' for name in (*NAMES, ALL) for what in ('flagged', 'badnet/ap')} <= logged.keys()


def test_too_few_pairs_lose_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fit(tmp_path, rows=40) == {}
    assert 'measuring the audit failed (UsageError: each picture is compared with 64 others' in caplog.text
