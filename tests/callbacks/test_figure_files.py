from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from callbacks.figure_files import save_figure
from datamodules.usage_error import UsageError


def test_the_ending_of_the_file_is_its_format(tmp_path: Path) -> None:
    save_figure(Figure(figsize=(1, 1)), tmp_path / 'new' / 'f.PNG', dpi=50)
    save_figure(Figure(figsize=(1, 1)), tmp_path / 'f.svg')
    assert (tmp_path / 'new' / 'f.PNG').read_bytes().startswith(b'\x89PNG')
    assert '<svg' in (tmp_path / 'f.svg').read_text()
    for name in ('f.xyz', 'f'):
        with pytest.raises(UsageError, match=rf'{name} has no ending of a picture: give a file that ends in \.png'):
            save_figure(Figure(), tmp_path / name)


def test_a_failure_leaves_the_earlier_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'f.png'
    path.write_text('earlier')

    def fill_the_disk(figure: Figure, file: Path, **_: object) -> None:
        file.write_text('half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Figure, 'savefig', fill_the_disk)
    with pytest.raises(UsageError, match='no space is left on the disk of'):
        save_figure(Figure(), path)
    assert path.read_text() == 'earlier' and list(tmp_path.iterdir()) == [path]
