from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from callbacks.ledger import FILE, ScoreLedger, ledger, mixture_from, sides_by, summary, write_ledger
from callbacks.mixture import Mixture, fit_mixture
from callbacks.separation import separation
from datamodules.rows.partition import DROPPED, RISKY, SAFE
from tests.callbacks.observed import POISONS, QUIET, ROWS, WARM_UP, Answers, Data, Splits, table, trainer

pytestmark = QUIET

MIXTURE = Mixture((0.1, 0.6), (0.1, 0.1), (0.5, 0.5))
FLAT = Mixture((0.1, 0.1), (0.0, 0.0), (1.0, 0.0), 'constant')


def two_groups() -> torch.Tensor:
    """Poisoned rows and a few clean ones around 0.1, the other clean ones around 0.8; row 3 is not scored."""
    generator = torch.Generator().manual_seed(0)
    score = torch.where(torch.arange(ROWS) < 30, 0.8, 0.1) + 0.05 * torch.randn(ROWS, generator=generator)
    score[3] = float('nan')
    return score


class TestInTraining:
    def test_writes_the_split_of_the_next_epoch(self, tmp_path: Path) -> None:
        score = two_groups()
        data = Data()
        trainer(tmp_path, [Splits(score, 25), ScoreLedger()]).fit(Answers(), datamodule=data)
        lines = pq.read_table(tmp_path / FILE)
        assert lines.column_names == ['row', 'key', 'caption', 'similarity', 'posterior', 'side']
        assert lines['row'].to_pylist() == list(range(ROWS))
        assert lines['key'].to_pylist() == [str(row) for row in range(ROWS)]
        assert lines['caption'].to_pylist() == data.table.captions(range(ROWS))
        assert lines['side'].to_pylist() == ['risky'] * 25 + ['safe'] * 35
        similarity, posterior = lines['similarity'].to_pylist(), lines['posterior'].to_pylist()
        assert similarity[3] is None and posterior[3] is None
        assert similarity[4] == score[4].item()
        assert data.partition.mixture is not None
        expected = mixture_from(data.partition.mixture).posterior(score[4].item())
        assert posterior[4] == pytest.approx(float(expected), rel=1e-6)

    def test_logs_what_the_truth_says_about_the_split(self, tmp_path: Path) -> None:
        data = Data()
        run = trainer(tmp_path, [Splits(two_groups(), 45), ScoreLedger()])
        run.fit(Answers(), datamodule=data)
        poisons = {attack: np.array(rows) for attack, rows in POISONS.items()}
        truth = separation(data.partition.side.numpy(), data.partition.score.numpy(), poisons)
        logged = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith('partition/')}
        assert logged == pytest.approx({f'partition/{name}': value for name, value in truth.items()})
        assert logged['partition/leak/badnet'] == pytest.approx(3 / 8)
        assert logged['partition/poisons'] == 7
        assert logged['partition/contamination'] == pytest.approx(7 / 15)

    def test_waits_for_a_new_split(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, [Splits(two_groups(), 25), ScoreLedger()], epochs=WARM_UP - 1)
        run.fit(Answers(), datamodule=Data())
        assert not (tmp_path / FILE).exists()
        assert not [name for name in run.callback_metrics if name.startswith('partition/')]

    def test_clean_data_has_no_poisons(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, [Splits(two_groups(), 25), ScoreLedger()])
        run.fit(Answers(), datamodule=Data(is_poisoned=False))
        logged = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith('partition/')}
        assert logged == {'partition/poisons': 0, 'partition/contamination': 0}

    def test_changes_nothing_of_the_split(self, tmp_path: Path) -> None:
        data = Data()
        splits = Splits(two_groups(), 25)
        trainer(tmp_path, [splits, ScoreLedger()]).fit(Answers(), datamodule=data)
        assert torch.equal(data.partition.side, (torch.arange(ROWS) < 25).to(torch.int8))
        assert torch.equal(data.partition.score.nan_to_num(9), splits.score.nan_to_num(9))


class TestPredict:
    def test_scores_splits_and_says_what_it_found(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = Data()
        data.similarity = two_groups().nan_to_num(0.1)
        run = trainer(tmp_path, [ScoreLedger()])
        run.predict(Answers(), datamodule=data, return_predictions=False)
        lines = pq.read_table(tmp_path / FILE)
        assert lines['similarity'].to_pylist() == data.similarity.tolist()
        mixture = fit_mixture(data.similarity.numpy())
        assert lines['posterior'].to_pylist() == pytest.approx(mixture.posterior(data.similarity.numpy()), abs=1e-6)
        assert lines['side'].to_pylist() == [
            'risky' if row >= 30 or row == 3 else 'safe' for row in range(ROWS)
        ]  # fmt: skip
        printed = capsys.readouterr().out
        assert '31 of 60 pairs (51.7%) look risky' in printed
        assert str(tmp_path / FILE) in printed

    def test_what_was_not_scored_is_dropped(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, [ScoreLedger()], limit_predict_batches=2)
        run.predict(Answers(), datamodule=Data(), return_predictions=False)
        assert pq.read_table(tmp_path / FILE)['side'].to_pylist()[20:] == ['dropped'] * 40

    def test_changes_nothing_of_the_split(self, tmp_path: Path) -> None:
        data = Data()
        trainer(tmp_path, [ScoreLedger()]).predict(Answers(), datamodule=data, return_predictions=False)
        assert not data.partition.side.any() and data.partition.score.isnan().all()

    def test_refuses_a_threshold_that_is_no_probability(self) -> None:
        with pytest.raises(ValueError, match='threshold must lie between 0 and 1, got 1'):
            ScoreLedger(threshold=1.0)


class TestLedger:
    def test_has_no_posterior_without_a_mixture(self) -> None:
        score, side = np.zeros(ROWS, np.float32), np.zeros(ROWS, np.int8)
        assert ledger(table(), score, side, None)['posterior'].null_count == ROWS
        assert ledger(table(), score, side, FLAT)['posterior'].null_count == ROWS

    def test_types_are_compact(self) -> None:
        lines = ledger(table(), np.zeros(ROWS, np.float32), np.zeros(ROWS, np.int8), MIXTURE)
        assert [field.type for field in lines.schema] == [
            pa.int64(), pa.string(), pa.string(), pa.float32(), pa.float32(), pa.string(),
        ]  # fmt: skip

    def test_a_failed_write_leaves_the_ledger_before_and_no_half_of_the_new_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = pa.table({'row': [1]})
        write_ledger(tmp_path / FILE, before)

        def fails(lines: pa.Table, path: Path) -> None:
            path.write_bytes(b'half')
            raise OSError('no space left')

        monkeypatch.setattr(pq, 'write_table', fails)
        with pytest.raises(OSError, match='no space left'):
            write_ledger(tmp_path / FILE, pa.table({'row': [2]}))
        assert pq.read_table(tmp_path / FILE).equals(before)
        assert [path.name for path in tmp_path.iterdir()] == [FILE]

    def test_the_mixture_of_a_partition_is_the_one_that_was_fitted(self) -> None:
        assert mixture_from({**MIXTURE.parameters(), 'threshold': 0.4}) == MIXTURE

    def test_sides_follow_the_cut(self) -> None:
        score = np.array([0.1, 0.5, np.nan, 0.4, 0.9], np.float32)
        assert sides_by(score, 0.5).tolist() == [RISKY, SAFE, DROPPED, RISKY, SAFE]
        assert sides_by(score, None).tolist() == [RISKY, RISKY, DROPPED, RISKY, RISKY]


class TestSummary:
    SCORE = np.array([0.1, 0.2, 0.7, np.nan], np.float32)

    def test_counts_what_is_below_the_cut(self) -> None:
        said = summary(self.SCORE, 0.5, MIXTURE)
        assert said == (
            '2 of 3 pairs (66.7%) look risky: less similar than 0.500, of two groups around a similarity of 0.100 and '
            '0.600.'
        )

    def test_says_so_when_there_are_no_two_groups(self) -> None:
        assert 'do not form two groups (constant): all count as risky' in summary(self.SCORE, None, FLAT)

    def test_says_so_when_the_groups_overlap(self) -> None:
        assert 'overlap too much to trust any of them: all count as risky' in summary(self.SCORE, None, MIXTURE)
