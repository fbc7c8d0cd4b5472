from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from callbacks import ledger as ledger_module
from callbacks.ledger import (
    COLUMNS,
    FILE,
    SEEN_KEY,
    VERSION_KEY,
    ScoreLedger,
    describe_p_values,
    ledger,
    ledger_parts,
    mixture_from,
    read_ledger,
    sides_by,
    summary,
    write_ledger,
)
from callbacks.mixture import Mixture, fit_mixture
from callbacks.separation import separation
from datamodules.pictures.images import TarImages
from datamodules.rows.pair_sketch import hash_pairs, sketch
from datamodules.rows.partition import DROPPED, RISKY, SAFE
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError
from tests.callbacks.observed import POISONS, QUIET, ROWS, WARM_UP, Answers, Data, MakeSplits, table, trainer

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
        trainer(tmp_path, [MakeSplits(score, 25), ScoreLedger()]).fit(Answers(), datamodule=data)
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

    def test_logs_the_truth_about_the_split(self, tmp_path: Path) -> None:
        data = Data()
        run = trainer(tmp_path, [MakeSplits(two_groups(), 45), ScoreLedger()])
        run.fit(Answers(), datamodule=data)
        poisons = {attack: np.array(rows) for attack, rows in POISONS.items()}
        truth = separation(data.partition.side.numpy(), data.partition.score.numpy(), poisons)
        logged = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith('partition/')}
        assert logged == pytest.approx({f'partition/{name}': value for name, value in truth.items()})
        assert logged['partition/leak/badnet'] == pytest.approx(3 / 8)
        assert logged['partition/poisons'] == 7
        assert logged['partition/contamination'] == pytest.approx(7 / 15)

    def test_waits_for_a_new_split(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, [MakeSplits(two_groups(), 25), ScoreLedger()], epochs=WARM_UP - 1)
        run.fit(Answers(), datamodule=Data())
        assert not (tmp_path / FILE).exists()
        assert not [name for name in run.callback_metrics if name.startswith('partition/')]

    def test_without_attacks_says_nothing_of_poisons(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, [MakeSplits(two_groups(), 25), ScoreLedger()])
        run.fit(Answers(), datamodule=Data(is_poisoned=False))
        logged = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith('partition/')}
        assert not logged

    def test_does_not_change_the_split(self, tmp_path: Path) -> None:
        data = Data()
        splits = MakeSplits(two_groups(), 25)
        trainer(tmp_path, [splits, ScoreLedger()]).fit(Answers(), datamodule=data)
        assert torch.equal(data.partition.side, (torch.arange(ROWS) < 25).to(torch.int8))
        assert torch.equal(data.partition.score.nan_to_num(9), splits.score.nan_to_num(9))

    def test_a_split_that_is_kept_is_neither_written_nor_logged_again(self, tmp_path: Path) -> None:
        class Kept(Callback):
            """Keeps the split made after epoch 1 for all later epochs; runs before the ledger."""

            def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                trainer.datamodule.partition.scored_after = WARM_UP

        run = trainer(tmp_path, [MakeSplits(two_groups(), 25), Kept(), ScoreLedger()], epochs=WARM_UP + 3)
        run.fit(Answers(), datamodule=Data())
        logged = list(csv.DictReader((tmp_path / 'metrics.csv').read_text().splitlines()))
        assert [row['epoch'] for row in logged if row.get('partition/poisons')] == [str(WARM_UP - 1)]


class TestPredict:
    def test_scores_and_splits_the_pairs_and_prints_the_result(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
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
        assert '31 of 60 pairs (51.7%) are risky by their posterior' in printed
        assert str(tmp_path / FILE) in printed

    def test_says_that_the_model_has_seen_the_pairs(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model = Answers()
        model.trained_pairs = [sketch(hash_pairs(table())[15:])]
        trainer(tmp_path, [ScoreLedger()]).predict(model, datamodule=Data(), return_predictions=False)
        assert 'trained on about 75% of these pairs' in capsys.readouterr().out
        assert (read_ledger(tmp_path / FILE).schema.metadata or {})[SEEN_KEY] == b'0.7500'

    def test_pairs_that_were_not_scored_are_dropped(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, [ScoreLedger()], limit_predict_batches=2)
        run.predict(Answers(), datamodule=Data(), return_predictions=False)
        assert pq.read_table(tmp_path / FILE)['side'].to_pylist()[20:] == ['dropped'] * 40

    def test_refuses_pairs_of_which_none_can_be_scored(self) -> None:
        data, model = Data(), Answers()
        data.partition.side.fill_(DROPPED)
        fitting: Any = SimpleNamespace(datamodule=data)
        with pytest.raises(UsageError, match='no pair is left to score: all pictures are unreadable'):
            ScoreLedger().on_predict_start(fitting, model)

    def test_leaves_canaries_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = Data()
        data.canary_count = 10
        trainer(tmp_path, [ScoreLedger()]).predict(Answers(), datamodule=data, return_predictions=False)
        assert pq.read_table(tmp_path / FILE)['row'].to_pylist() == [*range(ROWS - 10)]
        assert f' {ROWS - 10} pairs ' in capsys.readouterr().out

    @pytest.mark.parametrize('copies', ['apart', 'together'])
    def test_gives_each_pair_a_p_value(self, tmp_path: Path, copies: Any, capsys: pytest.CaptureFixture[str]) -> None:
        class Embedding(Answers):  # each caption describes its own picture, and no other
            def predict_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
                output = super().predict_step(batch, batch_idx)
                own, other = torch.eye(2 * ROWS)[output['row']], torch.eye(2 * ROWS)[output['row'] + ROWS]
                cosine = output['similarity'][:, None]
                text = cosine * own + (1 - cosine.square()).sqrt() * other
                return {**output, 'views': torch.stack([own, text])[:, None]}

        data = Data()
        data.similarity = two_groups().nan_to_num(0.1).clamp(0.05)
        data.similarity[7] = 0.0  # as similar as a mismatched pair
        data.picture_hashes = lambda: np.arange(ROWS) // 2  # type: ignore[attr-defined]
        ledger_callback = ScoreLedger(copies=copies)
        trainer(tmp_path, [ledger_callback]).predict(Embedding(), datamodule=data, return_predictions=False)
        p = np.array(pq.read_table(tmp_path / FILE)['p_value'].to_pylist())
        assert np.flatnonzero(p).tolist() == ([7] if copies == 'apart' else [6, 7])
        headline = '1 of 60 pairs (1.7%)' if copies == 'apart' else '2 of 60 pairs (3.3%)'
        assert (
            capsys.readouterr().out.strip().startswith(f'{headline} look like pairs that do not match: more than 10%')
        )

    def test_refuses_an_unknown_way_to_judge_copies(self) -> None:
        with pytest.raises(ValueError, match='copies must be apart or together'):
            ScoreLedger(copies='x')  # type: ignore[arg-type]

    def test_does_not_change_the_split(self, tmp_path: Path) -> None:
        data = Data()
        trainer(tmp_path, [ScoreLedger()]).predict(Answers(), datamodule=data, return_predictions=False)
        assert not data.partition.side.any() and data.partition.score.isnan().all()

    def test_refuses_a_threshold_that_is_not_a_probability(self) -> None:
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

    def test_names_pairs_of_shards_by_key_and_uid(self, tmp_path: Path) -> None:
        image, keys = ['0.tar:a:512:9', '0.tar:b:2048:9'], {'uid': pa.array(['00ff', None])}
        pairs = PairTable(image, ['x', 'y'], keys=keys, opener=TarImages('.'))
        write_ledger(tmp_path / FILE, [ledger(pairs, np.zeros(2, np.float32), np.zeros(2, np.int8), MIXTURE)])
        lines = read_ledger(tmp_path / FILE)
        assert lines['key'].to_pylist() == ['0.tar:a', '0.tar:b'] and lines['uid'].to_pylist() == ['00ff', None]

    def test_a_failed_write_leaves_the_previous_ledger_and_no_partial_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = pa.table({'row': [1]})
        write_ledger(tmp_path / FILE, [before])

        def fails(file: pq.ParquetWriter, lines: pa.Table) -> None:
            raise OSError('no space left')

        monkeypatch.setattr(pq.ParquetWriter, 'write_table', fails)
        with pytest.raises(OSError, match='no space left'):
            write_ledger(tmp_path / FILE, [pa.table({'row': [2]})])
        assert pq.read_table(tmp_path / FILE).equals(before)
        assert [path.name for path in tmp_path.iterdir()] == [FILE]

    def test_lines_are_written_some_at_a_time_and_read_by_row_and_column(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = table(), two_groups().numpy(), np.zeros(ROWS, np.int8), MIXTURE, np.linspace(0, 1, ROWS)
        whole = ledger(*given)
        monkeypatch.setattr(ledger_module, 'LINES_AT_ONCE', 25)
        write_ledger(tmp_path / FILE, ledger_parts(*given))
        assert pq.ParquetFile(tmp_path / FILE).num_row_groups == 3
        assert read_ledger(tmp_path / FILE).equals(whole)
        assert read_ledger(tmp_path / FILE, ['side', 'row'], [30, 2]).to_pylist() == [
            {'side': 'safe', 'row': 2},
            {'side': 'safe', 'row': 30},
        ]

    def test_the_mixture_of_a_partition_is_the_one_that_was_fitted(self) -> None:
        assert mixture_from({**MIXTURE.parameters(), 'threshold': 0.4}) == MIXTURE

    def test_sides_follow_the_cut(self) -> None:
        score = np.array([0.1, 0.5, np.nan, 0.4, 0.9], np.float32)
        assert sides_by(score, 0.5).tolist() == [RISKY, SAFE, DROPPED, RISKY, SAFE]
        assert sides_by(score, None).tolist() == [RISKY, RISKY, DROPPED, RISKY, RISKY]


class TestVersions:
    def lines(self) -> pa.Table:
        return ledger(table(), np.zeros(ROWS, np.float32), np.zeros(ROWS, np.int8), MIXTURE)

    def test_a_ledger_has_a_version_and_is_read_as_written(self, tmp_path: Path) -> None:
        write_ledger(tmp_path / FILE, [self.lines()])
        assert pq.read_schema(tmp_path / FILE).metadata[b'clipward.ledger'] == b'2'
        assert read_ledger(tmp_path / FILE).equals(self.lines(), check_metadata=True)

    def test_a_file_without_a_version_is_converted(self, tmp_path: Path) -> None:
        pq.write_table(self.lines().replace_schema_metadata(None), tmp_path / FILE)
        assert read_ledger(tmp_path / FILE).equals(self.lines(), check_metadata=True)

    def test_another_version_is_refused(self, tmp_path: Path) -> None:
        write_ledger(tmp_path / FILE, [self.lines().replace_schema_metadata({VERSION_KEY: b'3'})])
        with pytest.raises(UsageError, match=r'is a ledger of version 3, but this release reads versions 1 and 2: '):
            read_ledger(tmp_path / FILE)

    def test_a_table_that_is_not_a_ledger_is_refused(self, tmp_path: Path) -> None:
        write_ledger(tmp_path / FILE, [self.lines().drop_columns('side')])
        with pytest.raises(UsageError, match=rf'is not a ledger: it needs the columns {", ".join(COLUMNS)}'):
            read_ledger(tmp_path / FILE)

    @pytest.mark.parametrize('content', [None, b'row,side'], ids=['missing', 'not parquet'])
    def test_a_file_that_cannot_be_read_is_refused_in_one_line(self, tmp_path: Path, content: bytes | None) -> None:
        if content is not None:
            (tmp_path / FILE).write_bytes(content)
        with pytest.raises(UsageError, match='cannot be read as a ledger') as error:
            read_ledger(tmp_path / FILE)
        assert '\n' not in str(error.value)


class TestDescribePValues:
    def test_counts_pairs_that_look_mismatched(self) -> None:
        said = describe_p_values(np.array([0.0, 0.05, 0.6, np.nan]))
        assert said.startswith('1 of 3 pairs (33.3%) look like pairs that do not match: ')
        assert said.endswith('(p_value above 0.1).')

    def test_says_so_when_the_model_cannot_tell(self) -> None:
        assert 'But in only 50% of comparisons, ' in describe_p_values(np.linspace(0, 1, 101))

    def test_says_nothing_without_a_p_value(self) -> None:
        assert describe_p_values(np.array([np.nan])) == ''


class TestSummary:
    SCORE = np.array([0.1, 0.2, 0.7, np.nan], np.float32)

    def test_counts_what_is_below_the_cut(self) -> None:
        assert summary(self.SCORE, 0.5, MIXTURE) == (
            '2 of 3 pairs (66.7%) are risky by their posterior: their similarity is below 0.500. All pairs form two '
            'groups around similarities of 0.100 and 0.600. 3 pairs are too few to tell groups apart: look at the '
            'least similar ones.'
        )

    def test_says_so_when_there_are_no_two_groups(self) -> None:
        assert 'do not form two groups (constant): all count as risky' in summary(self.SCORE, None, FLAT)

    def test_says_so_when_the_groups_overlap(self) -> None:
        assert 'overlap too much to trust any of them: all count as risky' in summary(self.SCORE, None, MIXTURE)
