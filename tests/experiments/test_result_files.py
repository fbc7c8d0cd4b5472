from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.usage_error import UsageError
from experiments.result_files import VERSION, DamagedResultError, load, save
from experiments.results import Result
from tests.experiments.finished_runs import attacked_result
from tests.experiments.test_run_results import CURRENT_NAMES, OLD_NAMES


def last_values(result: Result) -> dict[str, float | None]:
    return {metric: result.last(metric) for metric in result.series}


class TestSave:
    def test_load_returns_what_was_saved(self, tmp_path: Path) -> None:
        fields: dict[str, Any] = {'data_seed': 7, 'settings': 'abc', 'kept': 0.75, 'kept_poisons': {'badnet': 3}}
        result = attacked_result('clip', 1, hits=2, n=8, caveat='not finished', **fields)
        save(result, tmp_path / 'new' / 'clip_1.json')
        loaded = load(tmp_path / 'new' / 'clip_1.json')
        assert loaded.source == str(tmp_path / 'new' / 'clip_1.json')
        assert loaded.__dict__ == {**result.__dict__, 'source': loaded.source}

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

    def test_what_is_not_finite_was_not_measured(self, tmp_path: Path) -> None:
        series = {'zero_shot/a': [[3, 0.5], [4, float('nan')]]}
        assert load(self.write(tmp_path, version=VERSION, series=series)).last('zero_shot/a') == 0.5

    def test_refuses_a_newer_version(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, version=3, series={})
        with pytest.raises(
            UsageError, match=r'is a result file of version 3, but this release reads up to 2: read it with .*\.$'
        ) as refused:
            load(path)
        assert not isinstance(refused.value, DamagedResultError)

    @pytest.mark.parametrize(
        'content',
        [
            '', '[]', '3', '{"epochs": 3}', '{"name": "x", "ser', '\0', '[' * 100_000,
            '{"name": "x", "seed": "one", "epochs": 4, "seconds": 2, "series": {}}',
            '{"name": "x", "seed": 1, "epochs": 4, "seconds": 2, "series": []}',
            '{"name": "x", "seed": 1, "epochs": 4, "seconds": 2, "series": {"zero_shot/a": [[1, "high"]]}}',
            '{"name": "x", "seed": 1, "epochs": 4, "seconds": 2, "series": {"zero_shot/a": [1, 2]}}',
            '{"name": "x", "seed": 1, "epochs": 4, "seconds": 2, "series": {"asr/b/hits": [[1, 9]]}, "version": 2}',
            '{"name": "x", "seed": 1, "epochs": 4, "seconds": 2, "series": {}, "poisons": ["badnet"]}',
            '{"name": "x", "seed": 1, "epochs": 1e999, "seconds": 2, "series": {}}',
            '{"version": null, "name": "x", "seed": 1, "epochs": 4, "seconds": 2, "series": {}}',
        ],
        ids=range(15),
    )  # fmt: skip
    def test_names_a_file_that_is_not_a_whole_result(self, content: str, tmp_path: Path) -> None:
        (tmp_path / 'other.json').write_text(content)
        with pytest.raises(DamagedResultError, match=r'other\.json is not a whole result file: give a run folder'):
            load(tmp_path / 'other.json')

    def test_names_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'none\.json cannot be read \(No such file or directory\)'):
            load(tmp_path / 'none.json')
