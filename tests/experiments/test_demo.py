from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import demo
from experiments.child_processes import Children
from tests.experiments.finished_runs import write_version


def run_with(status: int, epochs: list[dict[str, float]]) -> Any:
    """Replacement of ``Children.run`` that leaves a run's folder and a log."""

    def run(_: Children, command: list[str], log: Path, environment: Any) -> int:
        options = dict(word.split('=', 1) for word in command if '=' in word)
        log.write_text('first line\nlast line\n')
        folder = Path(options['--trainer.default_root_dir'], options['--name'])
        write_version(folder, len(list(folder.glob('version_*'))), epochs, options['--name'])
        return status

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
    monkeypatch.setattr(Children, 'run', run_with(0, [{'epoch': 0, 'zero_shot/heldout': 0.5}]))
    demo.main()
    demo.main()  # the table is of the newest runs
    rows = (folder / 'table.md').read_text().splitlines()
    assert [row.split(' | ')[0] for row in rows[2:]] == ['| clip_toy', '| control_toy', '| safeclip_toy']
    assert rows[-1] in capsys.readouterr().out and (folder / 'demo.png').stat().st_size > 1000


def test_a_failed_run_is_named_with_the_end_of_its_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Children, 'run', run_with(1, []))
    with pytest.raises(SystemExit, match=r'_toy failed, see [\s\S]*last line'):
        demo.main()
