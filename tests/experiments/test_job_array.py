from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.usage_error import UsageError
from experiments.grid_file import Grid, read_grid
from experiments.job_array import Task, cells_of, chains, read_task
from tests.experiments.grid_files import write_grid

GRIDS = sorted(Path('experiments/grids').glob('*.yaml'))
LINKED = {
    'clip': [],
    'safeclip': [],
    'retrain': {'ledger': 'safeclip'},
    'scores': {'predict': 'retrain'},
    'both': {'start': 'clip', 'ledger': 'third'},
    'third': [],
}


def linked_grid(folder: Path) -> Grid:
    return write_grid(folder, methods=LINKED, data=None, attacks=None, arguments=None, seeds=[1, 2])


class TestCells:
    @pytest.mark.parametrize('file', GRIDS, ids=lambda path: path.stem)
    @pytest.mark.parametrize('count', [1, 3])
    def test_each_falls_to_one_task_with_all_that_it_needs(self, file: Path, count: int) -> None:
        grid = read_grid(file)
        tasks = [cells_of(grid, Task(number, count)) for number in range(1, count + 1)]
        assert sum(map(len, tasks)) == len(grid.cells()) and set().union(*tasks) == {*grid.cells()}
        for cells in tasks:
            assert all(replace(cell, method=m) in cells for cell in cells for m in grid.methods[cell.method].needs)

    def test_chains_are_as_short_as_what_needs_what_allows(self, tmp_path: Path) -> None:
        found = [sorted(cell.name for cell in chain) for chain in chains(linked_grid(tmp_path))]
        assert sorted(found) == sorted(
            [f'{method}-d{seed}-t{seed}' for method in methods]
            for methods in (['both', 'clip', 'third'], ['retrain', 'safeclip', 'scores'])
            for seed in (1, 2)
        )

    def test_tasks_get_equal_shares_and_long_chains_first(self, tmp_path: Path) -> None:
        methods = {'clip': [], 'par': {'start': 'clip'}, 'cleanclip': {'start': 'clip'}, 'a': [], 'b': [], 'c': []}
        grid = write_grid(tmp_path, methods=methods, data=None, attacks=None, seeds=[1])
        shares = [sorted(cell.method for cell in cells_of(grid, Task(number, 2))) for number in (1, 2)]
        assert shares == [['cleanclip', 'clip', 'par'], ['a', 'b', 'c']]

    def test_a_task_may_be_left_without_any(self, tmp_path: Path) -> None:
        assert [len(cells_of(linked_grid(tmp_path), Task(number, 5))) for number in range(1, 6)] == [3, 3, 3, 3, 0]


class TestTask:
    @pytest.mark.parametrize('text', ['1/1', '3/8', '8/8'])
    def test_is_read(self, text: str) -> None:
        assert '/'.join(map(str, read_task(text))) == text

    @pytest.mark.parametrize('text', ['0/8', '9/8', '1/0', '8/1'])
    def test_out_of_range_is_refused(self, text: str) -> None:
        last = text.partition('/')[2]
        with pytest.raises(UsageError, match=rf'^--array={text}: tasks are counted .* must lie in 1 to {last}\.$'):
            read_task(text)

    @pytest.mark.parametrize('text', ['', '3', '/8', '1/', '-1/8', '1.5/8', '1/8/9', ' 1/8', '\u0663/8'])
    def test_something_else_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match='give the task and the number of tasks as I/N'):
            read_task(text)
