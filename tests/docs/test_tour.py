"""The notebook runs from its first cell to its last."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.docs.snippets import ROOT

NOTEBOOK = ROOT / 'docs' / 'tour.ipynb'
MAX_BYTES = 20_000  # of the committed notebook: it holds no outputs


def test_is_committed_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())['cells']
    assert all(not cell.get('outputs') and cell.get('execution_count') is None for cell in cells)
    assert NOTEBOOK.stat().st_size < MAX_BYTES


@pytest.mark.slow
@pytest.mark.filterwarnings('default')
def test_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={'metadata': {'path': str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs]
    printed = ''.join(output.get('text', '') for output in outputs)
    assert 'poisons on the safe side' in printed
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 2
