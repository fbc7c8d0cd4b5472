from __future__ import annotations

import math
from pathlib import Path

import pytest

from datamodules.files.atomic import write_text
from experiments import grid_results
from experiments.grid_file import Grid
from experiments.grid_results import costs, make_tables, write_report
from experiments.result_files import save
from experiments.results import Result
from tests.experiments.finished_runs import attacked_result
from tests.experiments.grid_files import write_grid

STAGES = {
    'clip': [],
    'safeclip': [],
    'retrain': {'ledger': 'safeclip'},
    'scores': {'predict': 'retrain'},
    'again': {'start': 'safeclip', 'ledger': 'scores'},
}
TABLE = {'methods': {'plain': {'clip': 'CLIP'}, 'repair': {'cleanclip': 'CleanCLIP'}}, 'attacks': {'badnet': 'BadNet'}}


class TestCosts:
    def costs(self, grid: Grid, **seconds: float) -> dict[str, float]:
        """Costs where only these methods have finished, with one pair of seeds, in so many seconds."""
        cells = (cell for cell in grid.cells() if cell.method in seconds)
        return costs(grid, {cell: Result('', 1, 1, {}, seconds[cell.method]) for cell in cells})

    def grid(self, folder: Path) -> Grid:
        return write_grid(folder, methods=STAGES, data=None, attacks=None, seeds=[1])

    def test_include_each_first_stage_once(self, tmp_path: Path) -> None:
        times = self.costs(self.grid(tmp_path), clip=10, safeclip=20, retrain=5, again=1)
        expected = {'clip': 1, 'safeclip': 2, 'retrain': 2.5, 'again': 2.6}
        assert {method: times[method] for method in expected} == pytest.approx(expected)

    def test_are_unknown_without_a_first_stage_or_the_undefended_method(self, tmp_path: Path) -> None:
        assert math.isnan(self.costs(self.grid(tmp_path), clip=10, retrain=5)['retrain'])
        assert math.isnan(self.costs(self.grid(tmp_path), safeclip=10)['safeclip'])

    def test_compare_the_same_seeds(self, tmp_path: Path) -> None:
        grid = write_grid(tmp_path, methods={'clip': [], 'par': {'seeds': [1]}}, data=None, attacks=None, seeds=[1, 2])
        seconds = {('clip', 1): 10.0, ('clip', 2): 90.0, ('par', 1): 15.0}
        finished = {cell: Result('', 1, 1, {}, seconds[cell.method, cell.seed]) for cell in grid.cells()}
        assert costs(grid, finished) == {'clip': 1, 'par': 1.5}


class TestTableOfMethods:
    def grid(self, folder: Path, **changed: object) -> Grid:
        grid = write_grid(folder, seeds=[1], table=TABLE, **changed)
        for cell in grid.cells():
            hits = 180 if cell.method == 'clip' else 20
            save(attacked_result('x', 1, hits, 200), folder / f'{cell.name}.json')
        return grid

    def test_comes_before_the_one_of_attacks(self, tmp_path: Path) -> None:
        lines = make_tables(self.grid(tmp_path, data=None), tmp_path).splitlines()
        assert [line for line in lines if line.startswith('#')] == ['#### Methods', '#### All methods and attacks']
        assert [line.split(' | ')[0] for line in lines[4:6]] == ['| CLIP', '| CleanCLIP']
        assert lines[5].endswith(' | 2.00 |')  # starts from CLIP's weights

    def test_is_drawn_for_each_data_set(self, tmp_path: Path) -> None:
        assert write_report(self.grid(tmp_path), tmp_path) == (tmp_path / 'table.md').read_text()
        assert sorted(path.name for path in tmp_path.glob('*.png')) == ['coco.png', 'toy.png']
        write_report(write_grid(tmp_path, data=None, seeds=[1], table=TABLE), tmp_path)
        assert not (tmp_path / 'table.png').exists()  # no cell of this grid has finished


def test_a_result_that_another_grid_saves_while_the_table_is_written_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = write_grid(tmp_path, data=None, seeds=[1])
    save(attacked_result('clip', 1, 1, 200), tmp_path / 'clip-badnet-d1-t1.json')

    def write_late(path: Path, text: str) -> None:
        write_text(path, text)
        save(attacked_result('cleanclip', 1, 1, 200), tmp_path / 'cleanclip-badnet-d1-t1.json')

    monkeypatch.setattr(grid_results, 'write_text', write_late)
    tables = write_report(grid, tmp_path)
    assert 'cleanclip' in tables and tables == (tmp_path / 'table.md').read_text()


def test_a_grid_without_attacks_has_a_row_for_each_method(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, data=None, attacks=None, seeds=[1])
    for method in ('clip', 'cleanclip'):
        save(Result(method, 1, 2, {'partition/share': [(2, 0.5)]}, 60.0), tmp_path / f'{method}-d1-t1.json')
    rows = [line.split(' | ')[0] for line in make_tables(grid, tmp_path).splitlines()]
    assert rows[:1] + rows[2:] == ['| run', '| clip', '| cleanclip']


def test_a_grid_none_of_whose_cells_has_finished_says_so(tmp_path: Path) -> None:
    assert write_report(write_grid(tmp_path), tmp_path) == 'No cell has finished, so there is no table.\n'


def test_two_seeds_are_compared_with_those_of_the_undefended_method(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, data=None)
    for cell in grid.cells():
        save(attacked_result('x', 1, 180 if cell.method == 'clip' else 20, 200), tmp_path / f'{cell.name}.json')
    *_, head, _, badnet, _, _, note = make_tables(grid, tmp_path).strip().splitlines()
    assert head == '| difference from clip | seeds | cleanclip |'
    assert badnet == '| badnet | 2 | -0.800 [-0.800, -0.800] |' and 'paired t-test' in note


def test_tables_leave_out_damaged_results(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, methods={'clip': []}, data=None, seeds=[1, 2])
    save(attacked_result('clip', 1, 1, 200), tmp_path / 'clip-badnet-d1-t1.json')
    (tmp_path / 'clip-badnet-d2-t2.json').write_text('{"name": "cli')
    assert '| 0.005 [' in make_tables(grid, tmp_path)
