from __future__ import annotations

from pathlib import Path
from typing import get_args

from callbacks.metric_names import Direction, RetrievalQuantity, retrieval_metric
from experiments.grid_results import make_tables
from experiments.result_files import save
from experiments.results import Result
from experiments.retrieval_table import Evaluations, find_evaluations, retrieval_table
from tests.experiments.grid_files import write_grid

# After each of three epochs; the second is the best.
MEDR = {'i2t': (300.0, 150.0, 200.0), 't2i': (120.0, 90.0, 95.0)}
R10 = {'i2t': (0.02, 0.11, 0.09), 't2i': (0.08, 0.12, 0.13)}
CHANCE = {'i2t': 640.0, 't2i': 500.0}


def result(name: str, seed: int = 1, scale: float = 1.0, **more: list[tuple[int, float]]) -> Result:
    """A run with the numbers above, its ranks multiplied by ``scale``, and intervals of a tenth on either side."""
    series: dict[str, list[tuple[int, float]]] = {}

    def add(way: Direction, what: str, values: list[float], wide: bool = True) -> None:
        for end, factor in {'': 1.0, '_low': 0.9, '_high': 1.1}.items() if wide else [('', 1.0)]:
            quantity = next(each for each in get_args(RetrievalQuantity) if each == f'{what}{end}')
            series[retrieval_metric('test', way, quantity)] = [
                (epoch, factor * value) for epoch, value in enumerate(values, 1)
            ]

    for way in get_args(Direction):
        ranks = [scale * rank for rank in MEDR[way]]
        add(way, 'medr', ranks)
        for count in (1, 5, 10):
            add(way, f'r{count}', [count / 10 * rate for rate in R10[way]])
        add(way, 'medr_chance', [CHANCE[way]] * 3)
        add(way, 'above_chance', [1 - rank / CHANCE[way] for rank in ranks], wide=False)
    return Result(name, seed, 3, {**series, **more}, 60.0, data_seed=seed)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('| ').split(' | ')]


def test_the_best_epoch_is_the_one_with_the_lowest_ranks_in_both_directions() -> None:
    assert find_evaluations(result('clip'), 'test') == Evaluations(3, 2)


def test_has_last_and_best_epoch_of_both_directions_with_intervals() -> None:
    head, _, *rows = (cells(line) for line in str(retrieval_table([result('clip')])).splitlines())
    found, finding = (dict(zip(head, row, strict=True)) for row in rows)
    assert found == {
        'run': 'clip', 'set': 'test', 'direction': 'image to text', 'seeds': '1', 'best epoch': '2',
        'MedR of chance': '640.0 [576.0, 704.0]',
        'MedR, last': '200.0 [180.0, 220.0]',
        'MedR, best': '150.0 [135.0, 165.0]',
        'R@1, last': '0.009 [0.008, 0.010]',
        'R@1, best': '0.011 [0.010, 0.012]',
        'R@5, last': '0.045 [0.041, 0.050]',
        'R@5, best': '0.055 [0.050, 0.061]',
        'R@10, last': '0.090 [0.081, 0.099]',
        'R@10, best': '0.110 [0.099, 0.121]',
        'training, s': '60',
    }  # fmt: skip
    assert finding['direction'] == 'text to image' and finding['MedR, last'] == '95.0 [85.5, 104.5]'


def test_repetitions_share_a_row_with_the_spread_of_their_seeds() -> None:
    table = str(retrieval_table([result('clip', 1), result('clip', 2, scale=1.5), result('mem3')]))
    rows = [cells(line) for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ['clip'] * 2 + ['mem3'] * 2
    assert rows[0][3:5] == ['2', '2, 2'] and rows[0][6] == '250.0 (200.0 to 300.0)'


def test_is_empty_without_retrieval() -> None:
    assert not retrieval_table([Result('clip', 1, 1, {'zero_shot/heldout': [(1, 0.5)]}, 1.0)])


class TestInTheReportOfAGrid:
    def report(self, folder: Path, **more: list[tuple[int, float]]) -> list[str]:
        grid = write_grid(folder, methods={'clip': []}, data={'clean': [], 'mem3': []}, attacks=None, seeds=[1])
        for cell in grid.cells():
            save(result(cell.name, **more), folder / f'{cell.name}.json')
        return make_tables(grid, folder).splitlines()

    def test_all_data_sets_share_a_table(self, tmp_path: Path) -> None:
        lines = self.report(tmp_path)
        assert [line for line in lines if line.startswith('#')] == ['### Retrieval']
        assert [cells(line)[0] for line in lines if line.startswith('| clip')] == ['clip-clean'] * 2 + ['clip-mem3'] * 2

    def test_it_follows_the_tables_of_what_else_was_measured(self, tmp_path: Path) -> None:
        lines = self.report(tmp_path, **{'zero_shot/heldout': [(3, 0.5)]})
        assert [line for line in lines if line.startswith('#')] == ['### clean', '### mem3', '### Retrieval']
