from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import demo
from tests.experiments.finished_runs import write_version


def run_with(status: int, epochs: list[dict[str, float]]) -> Any:
    """Replacement of ``subprocess.run`` that leaves a run's folder and a log."""

    def run(command: list[str], stdout: Any, **_: Any) -> SimpleNamespace:
        options = dict(word.split('=', 1) for word in command if '=' in word)
        stdout.write('first line\nlast line\n')
        write_version(Path(options['--trainer.default_root_dir'], options['--name']), 0, epochs, options['--name'])
        return SimpleNamespace(returncode=status)

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr('sys.argv', ['demo', f'--folder={tmp_path}/demo'])
    return tmp_path / 'demo'


def test_its_configuration_files_exist() -> None:
    files = [word.removeprefix('--config=') for arguments in demo.RUNS.values() for word in arguments]
    assert len(files) == 4 and all(Path(file).is_file() for file in files)


def test_writes_a_table_and_a_figure_of_all_three_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, 'run', run_with(0, [{'epoch': 0, 'zero_shot/heldout': 0.5}]))
    demo.main()
    rows = (folder / 'table.md').read_text().splitlines()
    assert [row.split(' | ')[0] for row in rows[2:]] == ['| clip_toy', '| control_toy', '| safeclip_toy']
    assert rows[-1] in capsys.readouterr().out and (folder / 'demo.png').stat().st_size > 1000


def test_a_failed_run_is_named_with_the_end_of_its_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, 'run', run_with(1, []))
    with pytest.raises(SystemExit, match=r'safeclip_toy failed, see [\s\S]*last line'):
        demo.main()
