"""The results of a grid's cells, and the tables and figures that are made from them alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from callbacks.figure_files import save_figure
from datamodules.files.atomic import write_text
from experiments.audit_table import audit_table
from experiments.detection_tables import detector_table, inspection_table
from experiments.grid_file import Cell, Grid
from experiments.method_figure import accuracy_against_worst_attack
from experiments.method_table import method_table
from experiments.paired import difference_table
from experiments.result_files import DamagedResultError, load
from experiments.results import Result, attacks_in
from experiments.retrieval_table import is_retrieval_alone, retrieval_table
from experiments.table_forms import Table
from experiments.table_layout import TableLayout
from experiments.tables import attack_table, run_table

Finished = Mapping[Cell, Result]


def result_file(results: Path, cell: Cell) -> Path:
    """The file of a cell's result."""
    return results / f'{cell.name}.json'


def of_cell(result: Result, cell: Cell) -> Result:
    """A result under the name and the seeds of its cell."""
    return replace(result, name=cell.name_without_seeds, seed=cell.seed, data_seed=cell.data_seed)


def load_result(results: Path, cell: Cell) -> Result | None:
    """The result of a cell; ``None`` if there is none that is whole.

    Raises:
        UsageError: If a later release wrote it.
    """
    file = result_file(results, cell)
    try:
        return of_cell(load(file), cell) if file.exists() else None
    except DamagedResultError:
        return None


def write_report(grid: Grid, results: Path) -> str:
    """Writes ``table.md`` beside the results, and the figure of each data set if the grid names methods to show.

    Where another grid saves a result meanwhile, both are written again, so that the last one to end leaves all.

    Returns:
        The tables.

    Raises:
        UsageError: If a file cannot be written.
    """
    written, tables = None, make_tables(grid, results)
    while written != tables:
        write_text(results / 'table.md', tables)
        _draw(grid, results)
        written, tables = tables, make_tables(grid, results)
    return tables


def _draw(grid: Grid, results: Path) -> None:
    for data in grid.data if grid.table else ():
        cells = by_method(_load_finished(grid, results, data))
        if grid.table and (figure := accuracy_against_worst_attack(cells, grid.table)):
            save_figure(figure, results / f'{data or "table"}.png', dpi=150)


def make_tables(grid: Grid, results: Path) -> str:
    """Markdown tables of the cells that are finished: for each data set, success by attack and method.

    Where no attack was measured, a row for each method says what was. If the grid names methods to show, tables of
    these come first. Differences from the undefended method follow if there are two seeds. What was measured by
    retrieval alone is in one table of all data sets at the end.
    """
    lines: list[str] = []
    by_data = {data: _load_finished(grid, results, data) for data in grid.data}
    for data, finished in by_data.items():
        if all(map(is_retrieval_alone, finished.values())):  # or none has finished
            continue
        cells = by_method(finished)
        has_attacks = bool(attacks_in(finished.values()))
        table = attack_table(cells, grid.undefended) if has_attacks else run_table([*finished.values()])
        shown = _shown_tables(grid, finished, grid.table) if grid.table else {}
        lines += [f'### {data}\n'] * bool(data)
        lines += [f'#### {title}\n\n{part}\n' for title, part in shown.items() if part]
        lines += ['#### All methods and attacks\n'] * bool(shown) + [str(table), '']
        if audit := audit_table(by_method(finished)):
            lines += ['#### Audit\n', str(audit), '']
        if differences := difference_table(cells, grid.undefended):
            lines += ['#### Differences over the same seeds\n', str(differences), '']
    if retrieval := retrieval_table([result for finished in by_data.values() for result in finished.values()]):
        lines += ['### Retrieval\n', str(retrieval), '']
    return '\n'.join(lines) or 'No cell has finished, so there is no table.\n'


def _shown_tables(grid: Grid, finished: Finished, layout: TableLayout) -> dict[str, Table]:
    cells = by_method(finished)
    return {
        'Methods': method_table(cells, layout, costs(grid, finished), grid.undefended),
        'Detectors': detector_table(cells, layout, grid.undefended),
        'Inspection': inspection_table(cells, layout),
    }


def _load_finished(grid: Grid, results: Path, data: str) -> dict[Cell, Result]:
    cells = (cell for cell in grid.cells() if cell.data == data)
    return {cell: result for cell in cells if (result := load_result(results, cell))}


def by_method(finished: Finished) -> dict[str, dict[str, list[Result]]]:
    """Set of attacks -> method -> results, in the order of the cells."""
    runs: dict[str, dict[str, list[Result]]] = {}
    for cell, result in finished.items():
        runs.setdefault(cell.attack, {}).setdefault(cell.method, []).append(result)
    return runs


def costs(grid: Grid, finished: Finished) -> dict[str, float]:
    """Training time of each method and of all that it needs over that of the undefended one, on the same cells.

    Methods that only write a ledger count nothing. NaN if no cell has finished with its first stages and undefended.
    """
    return {method: _cost(grid, finished, method) for method in grid.methods}


def _cost(grid: Grid, finished: Finished, method: str) -> float:
    stages = [stage for stage in grid.stages(method) if not grid.methods[stage].predict]
    seconds = undefended = 0.0
    for cell in finished:
        needed = [replace(cell, method=stage) for stage in stages]
        reference = replace(cell, method=grid.undefended or '')
        if cell.method == method and {reference, *needed} <= finished.keys():
            seconds += sum(finished[stage].seconds for stage in needed)
            undefended += finished[reference].seconds
    return seconds / undefended if undefended else math.nan
