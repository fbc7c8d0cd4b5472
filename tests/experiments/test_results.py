from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.results import VERSION, Result, attacks_in, group_by_name, load, read_run, save
from tests.experiments.finished_runs import attacked_result, write_version

OLD_NAMES = {'asr/badnet': 0.5, 'asr/badnet_clean': 0.1, 'asr/badnet_low': 0.2, 'asr/badnet_high': 0.8,
             'asr/badnet_hits': 2.0, 'asr/badnet_n': 4.0, 'zero_shot/a': 0.6, 'zero_shot/a_top5': 0.9}  # fmt: skip
CURRENT_NAMES = {'asr/badnet/rate': 0.5, 'asr/badnet/clean': 0.1, 'asr/badnet/low': 0.2, 'asr/badnet/high': 0.8,
                 'asr/badnet/hits': 2.0, 'asr/badnet/n': 4.0, 'zero_shot/a': 0.6, 'zero_shot_top5/a': 0.9}  # fmt: skip


def last_values(result: Result) -> dict[str, float | None]:
    return {metric: result.last(metric) for metric in result.series}


class TestResult:
    def test_attacks_are_those_with_hits(self) -> None:
        series = {f'asr/{attack}/hits': [(1, 0.0)] for attack in ('badnet', 'badnet_clean', 'a/b')}
        assert Result('x', 1, 1, {**series, 'asr/other/n': [(1, 4.0)]}, 0.0).attacks == [
            'badnet',
            'badnet_clean',
            'a/b',
        ]

    def test_accuracy_is_not_taken_from_five_guesses(self) -> None:
        series = {metric: [(1, 0.5)] for metric in ('zero_shot_top5/a', 'zero_shot/top5_photos')}
        assert Result('x', 1, 1, series, 0.0).accuracy_metric == 'zero_shot/top5_photos'

    def test_a_metric_that_was_not_measured_has_no_value(self) -> None:
        result = Result('x', 1, 1, {'zero_shot/a': []}, 0.0)
        assert result.first('zero_shot/a') is result.last('zero_shot/b') is None


class TestReadRun:
    def test_counts_the_epochs_trained(self, tmp_path: Path) -> None:
        write_version(tmp_path, 0, [{'epoch': 0, 'zero_shot/heldout': 0.25}, {'epoch': 1, 'zero_shot/heldout': 0.5}])
        result = read_run(tmp_path)
        assert result.series['zero_shot/heldout'] == [(1, 0.25), (2, 0.5)]
        assert (result.first('zero_shot/heldout'), result.last('zero_shot/heldout')) == (0.25, 0.5)
        assert (result.name, result.seed, result.epochs) == ('toy', 3, 4)

    def test_each_epoch_comes_from_the_newest_version(self, tmp_path: Path) -> None:
        write_version(tmp_path, 9, [{'epoch': 0, 'zero_shot/a': 0.1}, {'epoch': 1, 'zero_shot/a': 0.2}])
        write_version(tmp_path, 10, [{'epoch': 1, 'zero_shot/a': 0.9}, {'epoch': 2, 'zero_shot/a': 0.3}])
        assert read_run(tmp_path).series['zero_shot/a'] == [(1, 0.1), (2, 0.9), (3, 0.3)]

    def test_seconds_leave_out_evaluation(self, tmp_path: Path) -> None:
        epoch = {'cost/train_s': 5.0, 'cost/sweep_s': 1.0, 'cost/mixture_s': 0.5, 'cost/evaluation_s': 100.0}
        write_version(tmp_path, 0, [{'epoch': 0, **epoch}, {'epoch': 1, **epoch}])
        assert read_run(tmp_path).seconds == 13.0

    def test_keeps_only_metrics_of_tables_and_figures(self, tmp_path: Path) -> None:
        write_version(tmp_path, 0, [{'epoch': 0, 'train/loss': 3.0, 'zero_shot/a': 0.1}])
        assert list(read_run(tmp_path).series) == ['zero_shot/a']

    def test_counts_the_poisons_of_each_attack(self, tmp_path: Path) -> None:
        version = write_version(tmp_path, 0, [{'epoch': 0, 'zero_shot/a': 0.1}])
        pq.write_table(pa.table({'attack': ['badnet', 'tdpa', 'badnet']}), version / 'manifest.parquet')
        assert read_run(tmp_path).poisons == {'badnet': 2, 'tdpa': 1}

    def test_a_run_that_used_old_metric_names_goes_on_under_current_ones(self, tmp_path: Path) -> None:
        write_version(tmp_path, 0, [{'epoch': 0, **OLD_NAMES}])
        assert last_values(read_run(tmp_path)) == CURRENT_NAMES
        write_version(tmp_path, 1, [{'epoch': 1, **CURRENT_NAMES}])
        series = read_run(tmp_path).series
        assert series == {metric: [(1, value), (2, value)] for metric, value in CURRENT_NAMES.items()}

    def test_names_a_folder_without_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'holds no metrics\.csv: give the folder of a run'):
            read_run(tmp_path)


class TestSave:
    def test_load_returns_what_was_saved(self, tmp_path: Path) -> None:
        result = attacked_result('clip', 1, hits=2, n=7)
        save(result, tmp_path / 'new' / 'clip_1.json')
        loaded = load(tmp_path / 'new' / 'clip_1.json')
        assert loaded.last('asr/badnet/rate') == pytest.approx(2 / 7, abs=1e-6)
        assert loaded.series.keys() == result.series.keys() and loaded.seconds == result.seconds

    def test_a_failed_write_leaves_the_earlier_result(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / 'clip_1.json'
        save(attacked_result('clip', 1, hits=2, n=7), path)

        def stop(*_: object) -> None:
            raise OSError('stopped')

        monkeypatch.setattr('os.replace', stop)
        with pytest.raises(OSError, match='stopped'):
            save(attacked_result('clip', 1, hits=5, n=7), path)
        assert load(path).last('asr/badnet/hits') == 2 and list(tmp_path.iterdir()) == [path]

    def test_a_file_states_its_version(self, tmp_path: Path) -> None:
        save(attacked_result('clip', 1, 2, 7), tmp_path / 'clip_1.json')
        assert json.loads((tmp_path / 'clip_1.json').read_text())['version'] == VERSION


class TestLoad:
    def write(self, folder: Path, **fields: object) -> Path:
        path = folder / 'result.json'
        path.write_text(json.dumps({'name': 'x', 'seed': 1, 'epochs': 4, 'seconds': 2.0, **fields}))
        return path

    def test_a_file_without_version_gets_current_names(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, series={metric: [[4, value]] for metric, value in OLD_NAMES.items()})
        assert last_values(load(path)) == CURRENT_NAMES

    def test_a_file_of_this_version_keeps_its_names(self, tmp_path: Path) -> None:
        series = {'zero_shot/a': [[4, 0.5]], 'zero_shot/a_top5': [[4, 0.25]]}
        assert last_values(load(self.write(tmp_path, version=VERSION, series=series))) == {
            'zero_shot/a': 0.5, 'zero_shot/a_top5': 0.25,
        }  # fmt: skip

    def test_refuses_a_newer_version(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, version=3, series={})
        with pytest.raises(
            ValueError, match=r'is a result file of version 3, but this release reads up to 2: read it with .*\.$'
        ):
            load(path)

    @pytest.mark.parametrize('content', ['[]', '{"epochs": 3}'])
    def test_names_a_file_that_is_not_a_result(self, content: str, tmp_path: Path) -> None:
        (tmp_path / 'other.json').write_text(content)
        with pytest.raises(ValueError, match=r'other\.json is not a result file: give a run folder'):
            load(tmp_path / 'other.json')


def test_names_and_attacks_keep_the_order_of_their_first_appearance() -> None:
    results = [attacked_result(name, seed, 1, 2) for name, seed in (('b', 1), ('a', 1), ('b', 2))]
    assert [(name, len(runs)) for name, runs in group_by_name(results).items()] == [('b', 2), ('a', 1)]
    results[2].series['asr/early/hits'] = [(4, 1.0)]
    assert attacks_in(results) == ['badnet', 'early']
