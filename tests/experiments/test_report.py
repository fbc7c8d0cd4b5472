from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.report import main
from experiments.result_files import save
from tests.experiments.finished_runs import attacked_result, timed_result, write_version


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        monkeypatch.setattr('sys.argv', ['report', *map(str, arguments)])
        main()

    return run


def test_reads_run_folders_and_saved_results_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], report: Callable[..., None]
) -> None:
    write_version(tmp_path / 'run', 0, [{'epoch': 0, 'zero_shot/heldout': 0.25}], name='fresh')
    save(attacked_result('kept', 1, 1, 200), tmp_path / 'kept_1.json')
    draw = f'--figure={tmp_path}/new/f.png', f'--trade-off={tmp_path}/new/t.png'
    report(tmp_path / 'run', tmp_path / 'kept_1.json', *draw, f'--save={tmp_path}/saved')
    printed = capsys.readouterr().out
    assert '| fresh | 1 | 0.250 |' in printed and '| kept | 1 |' in printed
    assert all((tmp_path / 'new' / name).stat().st_size > 1000 for name in ('f.png', 't.png'))
    assert {path.name for path in (tmp_path / 'saved').iterdir()} == {'fresh_3.json', 'kept_1.json'}


def test_two_runs_in_one_folder_are_two_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], report: Callable[..., None]
) -> None:
    for number, share in enumerate((0.2, 0.7)):
        write_version(tmp_path, number, [{'epoch': 0, 'zero_shot/a': 0.25, 'partition/share': share}])
    report(tmp_path, tmp_path / '..' / tmp_path.name, f'--save={tmp_path}/saved')
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(' | ')[:2] for row in rows] == [['| toy/version_0', '1'], ['| toy/version_1', '1']]
    assert ' 0.200 ' in rows[0] and ' 0.700 ' in rows[1]
    assert {path.name for path in (tmp_path / 'saved').iterdir()} == {'toy_version_0_3.json', 'toy_version_1_3.json'}


def test_runs_of_one_name_that_are_not_repetitions_are_named_by_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], report: Callable[..., None]
) -> None:
    for folder in ('a', 'b'):
        write_version(tmp_path / folder / 'toy', 0, [{'epoch': 0, 'zero_shot/x': 0.25}])
    folders = tmp_path / 'a/toy', tmp_path / 'b/toy'
    report(*folders)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(' | ')[0] for row in rows] == [f'| {folder}/version_0' for folder in folders]
    with pytest.raises(SystemExit, match='2'):
        report(*folders, f'--save={tmp_path}/saved')
    assert '--save: two runs have one name and one seed' in capsys.readouterr().err


def test_compares_seeds_and_costs_with_the_first_run_or_the_one_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], report: Callable[..., None]
) -> None:
    for seed in (1, 2):
        for name, seconds in (('clip', 10.0), ('safeclip', 15.0)):
            run = timed_result(name, seed, {'clip': [seconds]}, {}, views=1)
            run.series.update(attacked_result(name, seed, 150 if name == 'clip' else 50, 200).series)
            save(run, tmp_path / f'{name}_{seed}.json')
    report(tmp_path, '--cost')
    printed = capsys.readouterr().out
    assert '| difference from clip | seeds | safeclip |' in printed and '| safeclip | 1 | 15 | +50.0% |' in printed
    report(tmp_path, '--cost', '--against=safeclip')
    assert '| badnet | 2 | +0.500 [+0.500, +0.500] |' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            '--report={}/r.pdf',
            'error: {}/r.pdf has no ending of a report: give a file that ends in .html, .md or .tex.',
        ),
        ('--against=none', "error: --against: 'none' is none of the runs: toy."),
        ('--cost', 'error: no time of toy was measured: train with callbacks.epoch_cost'),
        ('--figure={}/file/f.png', 'error: {}/file cannot be created as a folder'),
        ('--figure={}/f.xyz', 'error: {}/f.xyz has no ending of a picture'),
        ('--trade-off={}/t.png', 'error: --trade-off needs a run that measured an attack'),
        ('--save={}/file', 'error: {}/file cannot be created as a folder'),
        ('{}/none', 'error: {}/none cannot be read (No such file or directory)'),
        ('{}', 'error: {} holds no run that was trained and measured'),
        ('{}/file', 'error: {}/file is not a whole result file'),
    ],
)
def test_a_mistake_ends_the_command_with_one_sentence(
    option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], report: Callable[..., None]
) -> None:
    write_version(tmp_path / 'run', 0, [{'epoch': 0, 'zero_shot/heldout': 0.25}])
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match='2'):
        report(tmp_path / 'run', option.format(tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message.format(tmp_path))


def test_a_figure_that_cannot_be_drawn_costs_no_other_file(tmp_path: Path, report: Callable[..., None]) -> None:
    write_version(tmp_path / 'run', 0, [{'epoch': 0, 'zero_shot/heldout': 0.25}])
    with pytest.raises(SystemExit, match='2'):
        report(tmp_path / 'run', f'--retrieval={tmp_path}/curves.png', f'--report={tmp_path}/report.md')
    assert '| 0.250 |' in (tmp_path / 'report.md').read_text()
