from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import cifar10
from tests.experiments.test_report import attacked, write_version


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Commands that were run; each leaves a run of one epoch, but for the rows named ``broken``."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        options = dict(word.split('=', 1) for word in command if '=' in word)
        folder = Path(options['--trainer.default_root_dir'], options['--name'])
        if '--fail' in command:
            return SimpleNamespace(returncode=1)
        write_version(folder, len(list(folder.glob('version_*'))), [{'epoch': 0, 'zero_shot/a': 0.5}])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, 'run', run)
    return commands


def train(folder: Path, *extra: str, name: str = 'twin', seed: int = 11) -> str:
    return cifar10.run((name, seed), Path('data'), folder / 'runs', folder / 'results', list(extra))


def test_every_row_names_files_that_exist() -> None:
    for arguments in (cifar10.ROWS | cifar10.SHARES).values():
        files = [word.removeprefix('--config=') for word in arguments if word.startswith('--config=')]
        assert files and all(Path(file).is_file() for file in files)


def test_a_cell_leaves_a_result_and_is_not_trained_twice(tmp_path: Path, started: list[list[str]]) -> None:
    assert train(tmp_path) == 'twin 11: done'
    assert (tmp_path / 'results/twin_11.json').exists()
    assert train(tmp_path) == 'twin 11: done before'
    assert len(started) == 1 and {'--seed_everything=11', '--data.root=data', '--name=twin'} <= set(started[0])


def test_a_cell_that_was_killed_goes_on(tmp_path: Path, started: list[list[str]]) -> None:
    checkpoint = tmp_path / 'runs/11/twin/version_0/checkpoints/last.ckpt'
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    train(tmp_path)
    assert started[0][-1] == f'--ckpt_path={checkpoint}'


def test_a_failed_cell_is_told_and_leaves_no_result(tmp_path: Path, started: list[list[str]]) -> None:
    assert train(tmp_path, '--fail').startswith('twin 11: failed, see ')
    assert not (tmp_path / 'results').exists()


def test_the_command_prints_the_table_of_all_that_is_there(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / 'results'
    cifar10.save(attacked('safeclip', 12, 1, 200), results / 'safeclip_12.json')
    where = [f'--runs={tmp_path}/runs', f'--results={results}', '--root=data']
    monkeypatch.setattr('sys.argv', ['cifar10', *where, '--rows', 'twin', '--seeds', '1', '2', '--model.lr=0.1'])
    cifar10.main()
    assert len(started) == 2 and all('--model.lr=0.1' in command for command in started)
    assert '| safeclip | 1 |' in capsys.readouterr().out
