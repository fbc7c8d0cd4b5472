from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from experiments import grid as runner
from experiments.grid import Cell, Grid, read_grid
from experiments.report import load, save
from experiments.run_folder import DONE
from tests.experiments.test_report import attacked, write_version

FILES = sorted(Path('experiments/grids').glob('*.yaml'))
WRITTEN = {
    'arguments': ['--config={method}_{data}.yaml'],
    'methods': {'clip': ['--a=1'], 'cleanclip': {'start': 'clip', 'arguments': ['--b={attack}']}},
    'data': {'coco': [], 'toy': ['--c=2']},
    'attacks': {'badnet': ['--d=3']},
    'seeds': [1, [2, 3]],
    'undefended': 'clip',
}


def written(folder: Path, **changed: Any) -> Grid:
    file = folder / 'grid.yaml'
    content = {key: value for key, value in {**WRITTEN, **changed}.items() if value is not None}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return read_grid(file)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run; each leaves a finished run, but for those of method ``broken``."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        options = dict(word.split('=', 1) for word in command if '=' in word)
        folder = Path(options['--trainer.default_root_dir'], options['--name'])
        if 'broken' not in options['--name']:
            version = write_version(folder, len(list(folder.glob('version_*'))), [{'epoch': 0, 'zero_shot/a': 0.5}])
            (version / DONE).touch()
        return SimpleNamespace(returncode=0)  # as Lightning may even end a run that was terminated

    monkeypatch.setattr(subprocess, 'run', run)
    return commands


class TestReadGrid:
    def test_is_the_product_of_its_axes(self, tmp_path: Path) -> None:
        cells = written(tmp_path).cells()
        assert len(cells) == len(set(cells)) == 2 * 2 * 1 * 2
        assert cells[0] == Cell('clip', 'coco', 'badnet', 1, 1) and cells[-1] == Cell(
            'cleanclip', 'toy', 'badnet', 2, 3
        )

    def test_what_belongs_to_a_cell_follows_what_all_share(self, tmp_path: Path) -> None:
        command = written(tmp_path).command(Cell('cleanclip', 'toy', 'badnet', 2, 3))
        assert command[:5] == ['fit', '--config=cleanclip_toy.yaml', '--c=2', '--b=badnet', '--d=3']
        assert command[5:] == ['--name=cleanclip-toy-badnet-d2-t3', '--data.seed=2', '--seed_everything=3']

    def test_attacks_may_have_seeds_of_their_own(self, tmp_path: Path) -> None:
        grid = written(tmp_path, data=None, attacks={'tdpa': [], 'wanet': {'seeds': [[2, 3], 4]}})
        runs = {(cell.attack, cell.data_seed, cell.seed) for cell in grid.cells()}
        assert runs == {('tdpa', 1, 1), ('tdpa', 2, 3), ('wanet', 2, 3), ('wanet', 4, 4)}

    def test_data_and_attacks_may_be_left_out(self, tmp_path: Path) -> None:
        grid = written(tmp_path, data=None, attacks=None, seeds=[4])
        assert [cell.name for cell in grid.cells()] == ['clip-d4-t4', 'cleanclip-d4-t4']

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            ({'method': {}}, 'method: unknown or missing, a grid has arguments, attacks, data'),
            ({'seeds': None}, 'seeds: unknown or missing'),
            ({'undefended': 'x'}, 'x: start and undefended name one of the methods'),
            ({'methods': {'clip': {'start': 'y'}}}, 'y: start and undefended name'),
        ],
    )
    def test_names_what_it_cannot_read(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            written(tmp_path, **change)

    @pytest.mark.parametrize('file', FILES, ids=lambda path: path.stem)
    def test_the_projects_own_grids_name_files_that_exist(self, file: Path) -> None:
        grid = read_grid(file)
        for cell in grid.cells():
            files = [word.removeprefix('--config=') for word in grid.command(cell) if word.startswith('--config=')]
            assert files and all(Path(name).is_file() for name in files), cell.name


class TestRun:
    cell = Cell('clip', 'toy', 'badnet', 2, 3)

    def run(self, folder: Path, cell: Cell = cell, *extra: str, **changed: Any) -> str:
        return runner.run(cell, written(folder, **changed), folder / 'runs', folder / 'results', extra)

    def test_a_cell_leaves_a_result_and_is_not_trained_twice(self, tmp_path: Path, started: list[list[str]]) -> None:
        assert self.run(tmp_path, self.cell, '--e=5') == 'clip-toy-badnet-d2-t3: done'
        result = load(tmp_path / 'results/clip-toy-badnet-d2-t3.json')
        assert (result.name, result.seed) == ('clip-toy-badnet', 3)
        assert self.run(tmp_path) == 'clip-toy-badnet-d2-t3: done before'
        assert len(started) == 1 and {'--e=5', '--c=2', f'--trainer.default_root_dir={tmp_path}/runs'} <= set(
            started[0]
        )

    def test_a_result_that_was_lost_is_read_from_the_run(self, tmp_path: Path, started: list[list[str]]) -> None:
        self.run(tmp_path)
        (tmp_path / 'results/clip-toy-badnet-d2-t3.json').unlink()
        assert self.run(tmp_path).endswith('done') and len(started) == 1

    def test_a_cell_that_was_killed_goes_on(self, tmp_path: Path, started: list[list[str]]) -> None:
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

    def test_a_failed_cell_is_told_and_leaves_no_result(self, tmp_path: Path, started: list[list[str]]) -> None:
        methods = {'clip': [], 'broken': []}
        line = self.run(tmp_path, Cell('broken', 'toy', 'badnet', 2, 3), methods=methods)
        assert line.startswith('broken-toy-badnet-d2-t3: failed, see ') and line.endswith('log.txt')
        assert not (tmp_path / 'results').exists()

    def test_a_cell_whose_folder_cannot_be_read_is_told(self, tmp_path: Path) -> None:
        version = tmp_path / 'runs/clip-toy-badnet-d2-t3/version_0'
        version.mkdir(parents=True)
        (version / DONE).touch()
        assert self.run(tmp_path).startswith('clip-toy-badnet-d2-t3: failed, as its folder cannot be read: ')

    def test_nor_is_one_trained_whose_start_has_failed(self, tmp_path: Path, started: list[list[str]]) -> None:
        line = self.run(tmp_path, Cell('cleanclip', 'toy', 'badnet', 2, 3))
        assert line == 'cleanclip-toy-badnet-d2-t3: failed, as clip-toy-badnet-d2-t3 has no checkpoint to start from'
        assert not started


def test_the_command_trains_all_cells_and_prints_the_table(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = {'broken': [], 'clip': [], 'late': {'start': 'clip'}}
    written(tmp_path, methods=methods, data=None, seeds=[1], undefended='clip')
    save(attacked('clip', 1, 1, 200), tmp_path / 'results/clip-badnet-d1-t1.json')
    where = [f'--runs={tmp_path}/runs', f'--results={tmp_path}/results', '--jobs=2', '--model.lr=0.1']
    monkeypatch.setattr('sys.argv', ['grid', str(tmp_path / 'grid.yaml'), *where])
    runner.main()
    printed = capsys.readouterr().out
    assert [line.split(': ')[1][:6] for line in printed.splitlines()[:3]] == ['failed', 'done b', 'failed']
    assert len(started) == 1 and '--model.lr=0.1' in started[0]
    assert '| badnet: attack not established | - | 0.005 [0.001, 0.028] (0.100) |' in printed
    assert (tmp_path / 'results/table.md').read_text() in printed
