from __future__ import annotations

from pathlib import Path

import pytest

from experiments.report import main
from experiments.results import save
from tests.experiments.finished_runs import attacked_result, write_version


def test_reads_run_folders_and_saved_results_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(tmp_path / 'run', 0, [{'epoch': 0, 'zero_shot/heldout': 0.25}], name='fresh')
    save(attacked_result('kept', 1, 1, 200), tmp_path / 'kept_1.json')
    arguments = [str(tmp_path / 'run'), str(tmp_path / 'kept_1.json')]
    arguments += [f'--figure={tmp_path}/new/f.png', f'--trade-off={tmp_path}/new/t.png', f'--save={tmp_path}/saved']
    monkeypatch.setattr('sys.argv', ['report', *arguments])
    main()
    printed = capsys.readouterr().out
    assert '| fresh | 1 | 0.250 |' in printed and '| kept | 1 |' in printed
    assert all((tmp_path / 'new' / name).stat().st_size > 1000 for name in ('f.png', 't.png'))
    assert {path.name for path in (tmp_path / 'saved').iterdir()} == {'fresh_3.json', 'kept_1.json'}


def test_a_folder_without_a_run_ends_the_command_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('sys.argv', ['report', str(tmp_path)])
    with pytest.raises(SystemExit, match='2'):
        main()
    assert capsys.readouterr().err.splitlines()[-1].startswith(f'report: error: {tmp_path} holds no metrics.csv: ')
