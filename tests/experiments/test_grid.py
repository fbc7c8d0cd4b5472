from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import grid as runner
from experiments.grid_file import Cell
from experiments.results import load, save
from experiments.run_folder import DONE
from tests.experiments.finished_runs import attacked_result, write_version
from tests.experiments.grid_files import write_grid


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run. Each one leaves a finished run, except those of the method ``broken``."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        options = dict(word.split('=', 1) for word in command if '=' in word)
        folder = Path(options['--trainer.default_root_dir'], options['--name'])
        if 'broken' not in options['--name']:
            version = write_version(folder, len(list(folder.glob('version_*'))), [{'epoch': 0, 'zero_shot/a': 0.5}])
            (version / DONE).touch()
        return SimpleNamespace(returncode=0)  # Lightning may return 0 even from a terminated run

    monkeypatch.setattr(subprocess, 'run', run)
    return commands


class TestRun:
    cell = Cell('clip', 'toy', 'badnet', 2, 3)

    def run(self, folder: Path, cell: Cell = cell, *extra: str, **changed: Any) -> str:
        return runner.run(cell, write_grid(folder, **changed), folder / 'runs', folder / 'results', extra)

    def test_a_cell_leaves_a_result_and_is_not_trained_twice(self, tmp_path: Path, started: list[list[str]]) -> None:
        assert self.run(tmp_path, self.cell, '--e=5') == 'clip-toy-badnet-d2-t3: done'
        result = load(tmp_path / 'results/clip-toy-badnet-d2-t3.json')
        assert (result.name, result.seed) == ('clip-toy-badnet', 3)
        assert self.run(tmp_path) == 'clip-toy-badnet-d2-t3: already done'
        assert len(started) == 1 and {'--e=5', '--c=2', f'--trainer.default_root_dir={tmp_path}/runs'} <= set(
            started[0]
        )

    def test_a_lost_result_is_read_from_the_run_again(self, tmp_path: Path, started: list[list[str]]) -> None:
        self.run(tmp_path)
        (tmp_path / 'results/clip-toy-badnet-d2-t3.json').unlink()
        assert self.run(tmp_path).endswith('done') and len(started) == 1

    def test_a_killed_cell_resumes_from_its_checkpoint(self, tmp_path: Path, started: list[list[str]]) -> None:
        checkpoint = tmp_path / 'runs/clip-toy-badnet-d2-t3/version_0/checkpoints/last.ckpt'
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        self.run(tmp_path)
        assert started[0][-1] == f'--ckpt_path={checkpoint}'

    def test_a_method_starts_from_the_weights_of_another(self, tmp_path: Path, started: list[list[str]]) -> None:
        checkpoint = tmp_path / 'runs/clip-toy-badnet-d2-t3/version_0/checkpoints/last.ckpt'
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        self.run(tmp_path, Cell('cleanclip', 'toy', 'badnet', 2, 3))
        assert started[0][-1] == f'--model.init_from={checkpoint}'

    def test_a_failed_cell_is_reported_and_leaves_no_result(self, tmp_path: Path, started: list[list[str]]) -> None:
        methods = {'clip': [], 'broken': []}
        line = self.run(tmp_path, Cell('broken', 'toy', 'badnet', 2, 3), methods=methods)
        assert line.startswith('broken-toy-badnet-d2-t3: failed, see ') and line.endswith('log.txt')
        assert not (tmp_path / 'results').exists()

    def test_a_cell_with_an_unreadable_folder_is_reported(self, tmp_path: Path) -> None:
        version = tmp_path / 'runs/clip-toy-badnet-d2-t3/version_0'
        version.mkdir(parents=True)
        (version / DONE).touch()
        assert self.run(tmp_path).startswith('clip-toy-badnet-d2-t3: failed, because its folder cannot be read: ')

    def test_a_cell_is_not_trained_if_the_one_it_starts_from_failed(
        self, tmp_path: Path, started: list[list[str]]
    ) -> None:
        line = self.run(tmp_path, Cell('cleanclip', 'toy', 'badnet', 2, 3))
        assert (
            line == 'cleanclip-toy-badnet-d2-t3: failed, because clip-toy-badnet-d2-t3 has no checkpoint to start from'
        )
        assert not started


def test_the_command_trains_all_cells_and_prints_the_table(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = {'broken': [], 'clip': [], 'late': {'start': 'clip'}}
    write_grid(tmp_path, methods=methods, data=None, seeds=[1], undefended='clip')
    save(attacked_result('clip', 1, 1, 200), tmp_path / 'results/clip-badnet-d1-t1.json')
    where = [f'--runs={tmp_path}/runs', f'--results={tmp_path}/results', '--jobs=2', '--model.lr=0.1']
    monkeypatch.setattr('sys.argv', ['grid', str(tmp_path / 'grid.yaml'), *where])
    runner.main()
    printed = capsys.readouterr().out
    assert [line.split(': ')[1].split(',')[0] for line in printed.splitlines()[:3]] == [
        'failed',
        'already done',
        'failed',
    ]
    assert len(started) == 1 and '--model.lr=0.1' in started[0]
    assert '| badnet: attack not established | - | 0.005 [0.001, 0.028] (0.100) |' in printed
    assert (tmp_path / 'results/table.md').read_text() in printed
