"""A small grid file for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from experiments.grid_file import Grid, read_grid

GRID = {
    'arguments': ['--config={method}_{data}.yaml'],
    'methods': {'clip': ['--a=1'], 'cleanclip': {'start': 'clip', 'arguments': ['--b={attack}']}},
    'data': {'coco': [], 'toy': ['--c=2']},
    'attacks': {'badnet': ['--d=3']},
    'seeds': [1, [2, 3]],
    'undefended': 'clip',
}


def write_grid(folder: Path, **changed: Any) -> Grid:
    """Writes a grid file and reads it.

    Args:
        folder: Folder of the file ``grid.yaml``.
        **changed: Keys that differ from ``GRID``; ``None`` leaves a key out.
    """
    file = folder / 'grid.yaml'
    content = {key: value for key, value in {**GRID, **changed}.items() if value is not None}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return read_grid(file)
