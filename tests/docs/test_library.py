"""The page *Use as a library*: its code is run as it stands."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.docs.snippets import snippets

COLORS = {'cat': (200, 60, 60), 'dog': (60, 200, 60), 'boat': (60, 60, 200)}


def write_pairs(folder: Path, name: str, count: int) -> None:
    """Noisy pictures whose color tells the class, and a CSV that names them."""
    draw = np.random.default_rng(len(name))
    lines = [('image', 'caption')]
    (folder / 'pictures').mkdir(exist_ok=True)
    for number in range(count):
        label, color = list(COLORS.items())[number % len(COLORS)]
        noise = draw.integers(-40, 40, (32, 32, 3)) + np.array(color)
        Image.fromarray(noise.astype(np.uint8)).save(folder / 'pictures' / f'{name}_{number}.png')
        lines.append((f'{name}_{number}.png', f'a photo of a {label}'))
    with open(folder / f'{name}.csv', 'w', newline='') as file:
        csv.writer(file).writerows(lines)


@pytest.mark.filterwarnings('ignore:GPU available but not used')
def test_the_page_trains_splits_and_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path, 'pairs', 60)
    write_pairs(tmp_path, 'heldout', 30)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(snippets('docs/library.md')['library'].replace("'auto'", "'cpu'"), names)
    assert 'of the pairs are safe' in capsys.readouterr().out
    ledger = pq.read_table(tmp_path / 'runs/library/version_0/ledger.parquet')
    assert len(ledger) == 68 and set(ledger['side'].to_pylist()) == {'safe', 'risky'}
    assert (tmp_path / 'runs/library/version_0/checkpoints/last.ckpt').is_file()
