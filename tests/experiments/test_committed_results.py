"""The results of docs/results, which README and pages show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.grid_file import read_grid
from experiments.grid_results import make_tables
from experiments.result_files import VERSION, load
from experiments.results import attacks_in_splits
from experiments.retrieval_table import measured_sets

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'
GRIDS = Path(__file__).parents[2] / 'experiments' / 'grids'
TABLES = sorted(path.parent.name for path in RESULTS.glob('*/table.md'))


def test_every_result_has_the_current_version_and_a_measurement_or_ends_at_its_first_split() -> None:
    files = sorted(RESULTS.rglob('*.json'))
    assert files and all(json.loads(file.read_text())['version'] == VERSION for file in files)
    for result in map(load, files):
        is_measured = result.last(result.accuracy_metric) is not None or measured_sets([result])
        assert is_measured or attacks_in_splits([result])


@pytest.mark.parametrize('name', TABLES)
def test_a_table_is_made_from_the_results_beside_it(name: str) -> None:
    assert make_tables(read_grid(GRIDS / f'{name}.yaml'), RESULTS / name) == (RESULTS / name / 'table.md').read_text()
