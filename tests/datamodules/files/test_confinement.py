from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from datamodules.files.confinement import are_inside, is_inside, real_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder, itself reached by a link, with links that stay in it and links that leave it."""
    for file in ('root/a/0.png', 'root/1.png', 'private/0.png', 'root-2/0.png'):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    for link, target in {
        'link': 'root',
        'root/within.png': 'a/0.png',
        'root/out.png': '../private/0.png',
        'root/folder_within': 'a',
        'root/folder_out': '../private',
        'root/gone.png': '../private/absent.png',
        'root/circle.png': 'circle.png',
        'private/back.png': '../root/1.png',
    }.items():
        (tmp_path / link).symlink_to(target)
    return tmp_path / 'link'


def check(root: Path, *references: str) -> list[bool]:
    return are_inside(root, references, os.path.realpath(root)).tolist()


def test_files_and_links_inside(root: Path) -> None:
    inside = ['1.png', 'a/0.png', 'a/../1.png', './/1.png', '../root/1.png', 'within.png', 'folder_within/0.png']
    assert all(check(root, *inside, str(root / '1.png'), str(root.parent / 'private/back.png'), 'absent/0.png'))


def test_files_and_links_outside(root: Path) -> None:
    outside = ['../private/0.png', 'a/../../private/0.png', 'out.png', 'folder_out/0.png', 'gone.png', '/etc/passwd']
    assert not any(check(root, *outside, '../root-2/0.png', '..', 'folder_out/../0.png'))


def test_what_cannot_be_opened_counts_as_inside(root: Path) -> None:
    assert all(check(root, 'circle.png', 'nul\0.png', 'x' * 300, 'a/' * 1_000_000, '0/' * 3_000 + '1.png'))


def test_folders_are_looked_into_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(os, 'scandir', lambda folder, scan=os.scandir: looked.append(folder) or scan(folder))
    monkeypatch.setattr(os.path, 'islink', None)
    assert np.all(are_inside(root, (f'a/{number}.png' for number in range(1000)), os.path.realpath(root)))
    assert looked == [os.path.join(root, 'a')]


def test_a_long_chain_of_links_is_refused(tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / f'{number}').symlink_to(f'{number + 1}')
    with pytest.raises(OSError, match='symbolic links'):
        real_path(tmp_path / '0')


def test_a_folder_is_not_confused_with_one_whose_name_begins_alike() -> None:
    assert is_inside('/data/cats/1.png', '/data/cats') and is_inside('/1.png', '/')
    assert not is_inside('/data/cats-2/1.png', '/data/cats')
