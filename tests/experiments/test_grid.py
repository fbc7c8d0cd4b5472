from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.files.locks import lock
from datamodules.usage_error import UsageError
from experiments import grid as runner
from experiments.child_processes import Children
from experiments.grid import GridRunner, Outcome, check_commands, find_grid
from experiments.grid_file import Cell, read_grid
from experiments.result_files import load, save
from tests.experiments.finished_runs import attacked_result, write_version
from tests.experiments.grid_files import write_grid

CELL = Cell('clip', 'toy', 'badnet', 2, 3)
NAME = 'clip-toy-badnet-d2-t3'
SHIPPED_GRIDS = sorted(path.relative_to('experiments') for path in Path('experiments/grids').glob('*.yaml'))
MEASURED = {'epoch': 0, 'zero_shot/a': 0.5}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Commands that were run. Each one leaves a finished run, except those of the method ``broken``."""
    commands: list[Sequence[str]] = []

    def run(_: Children, command: Sequence[str], log: Path, environment: Any, inherited: Sequence[int]) -> int:
        assert log.parent.is_dir() and len(inherited) == 1
        commands.append(command)
        options = dict(word.split('=', 1) for word in command if '=' in word)
        folder = Path(options['--trainer.default_root_dir'], options['--name'])
        if 'broken' in options['--name']:
            log.write_text('error: early.\nmore\nerror: no class of that name.\n')
        elif 'predict' in command:
            (folder / 'predict_0').mkdir()
            (folder / 'predict_0/ledger.parquet').touch()
        else:
            write_version(folder, len(list(folder.glob('version_*'))), [MEASURED])
        return 0  # Lightning may return 0 even from a terminated run

    monkeypatch.setattr(Children, 'run', run)
    return commands


def test_runs_of_a_grid_are_a_group_in_wandb_with_their_names_as_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(Children, 'run', lambda _, command, log, environment, inherited: given.update(environment))
    make_runner(tmp_path).run(CELL)
    assert (given['WANDB_RUN_GROUP'], given['WANDB_TAGS']) == ('runs', 'clip,toy,badnet')
    monkeypatch.setenv('WANDB_TAGS', 'mine')
    make_runner(tmp_path).run(CELL)
    assert given['WANDB_TAGS'] == 'mine'


def make_runner(folder: Path, *extra: str, **changed: Any) -> GridRunner:
    return GridRunner(write_grid(folder, **changed), folder / 'runs', folder / 'results', extra, Children())


def leave_checkpoint(folder: Path, number: int, is_finished: bool = True, name: str = NAME) -> Path:
    version = write_version(folder / 'runs' / name, number, [MEASURED], is_finished=is_finished)
    checkpoint = version / 'checkpoints/last.ckpt'
    checkpoint.parent.mkdir()
    checkpoint.touch()
    return checkpoint


class TestRun:
    def run(self, folder: Path, cell: Cell = CELL, *extra: str, **changed: Any) -> Outcome:
        return make_runner(folder, *extra, **changed).run(cell)

    def test_a_cell_leaves_a_result_and_is_not_trained_twice(
        self, tmp_path: Path, started: list[Sequence[str]]
    ) -> None:
        assert self.run(tmp_path, CELL, '--e=5') == (CELL, 'done', 'done')
        result = load(tmp_path / f'results/{NAME}.json')
        assert (result.name, result.data_seed, result.seed) == ('clip-toy-badnet', 2, 3)
        assert self.run(tmp_path, CELL, '--e=5') == (CELL, 'done', 'already done')
        assert len(started) == 1
        assert {'--e=5', '--c=2', f'--trainer.default_root_dir={tmp_path}/runs'} <= set(started[0])

    def test_a_result_of_another_command_is_kept_and_named(self, tmp_path: Path, started: list[Sequence[str]]) -> None:
        self.run(tmp_path, CELL, '--e=5')
        file, folder = tmp_path / f'results/{NAME}.json', tmp_path / 'runs' / NAME
        by_another = f'by another command: to run it again, delete {file} and {folder}'
        assert self.run(tmp_path, CELL, '--e=6').text == f'already done {by_another}'
        file.unlink()
        assert self.run(tmp_path, CELL, '--e=6').text == f'done {by_another}' and len(started) == 1
        assert load(file).command.endswith('--e=5')

    @pytest.mark.parametrize('content', [None, '', '[]', '{"name": "clip", "se'])
    def test_a_lost_or_damaged_result_is_read_from_the_run_again(
        self, content: str | None, tmp_path: Path, started: list[Sequence[str]]
    ) -> None:
        leave_checkpoint(tmp_path, 0)
        if content is not None:
            (tmp_path / 'results').mkdir()
            (tmp_path / f'results/{NAME}.json').write_text(content)
        assert self.run(tmp_path).state == 'done' and not started
        assert load(tmp_path / f'results/{NAME}.json').seed == 3

    def test_a_result_of_a_later_release_is_kept(self, tmp_path: Path, started: list[Sequence[str]]) -> None:
        file = tmp_path / f'results/{NAME}.json'
        file.parent.mkdir()
        file.write_text('{"version": 9}')
        assert 'is a result file of version 9' in self.run(tmp_path).text
        assert file.read_text() == '{"version": 9}' and not started

    def test_a_killed_cell_resumes_from_the_newest_version_by_number(
        self, tmp_path: Path, started: list[Sequence[str]]
    ) -> None:
        checkpoints = [leave_checkpoint(tmp_path, number, is_finished=False) for number in (10, 9)]
        self.run(tmp_path)
        assert started[0][-1] == f'--ckpt_path={checkpoints[0]}'

    def test_a_method_starts_from_the_weights_of_another_that_is_finished(
        self, tmp_path: Path, started: list[Sequence[str]]
    ) -> None:
        late = Cell('cleanclip', 'toy', 'badnet', 2, 3)
        leave_checkpoint(tmp_path, 0, is_finished=False)
        assert self.run(tmp_path, late).text == f'failed: {NAME} has not left a checkpoint to start from.'
        checkpoint = leave_checkpoint(tmp_path, 1)
        self.run(tmp_path, late)
        assert [command[-1] for command in started] == [f'--model.init_from={checkpoint}']

    def test_a_method_is_trained_on_the_pairs_of_a_ledger_also_when_resumed(
        self, tmp_path: Path, started: list[Sequence[str]]
    ) -> None:
        methods = {'clip': [], 'retrain': {'ledger': 'clip'}}
        late = Cell('retrain', 'toy', 'badnet', 2, 3)
        assert self.run(tmp_path, late, methods=methods).text == f'failed: {NAME} has not left a ledger.'
        ledger = leave_checkpoint(tmp_path, 0).parents[1] / 'ledger.parquet'
        ledger.touch()
        own = leave_checkpoint(tmp_path, 0, is_finished=False, name=late.name)
        self.run(tmp_path, late, methods=methods)
        assert started[0][-2:] == [f'--data.filters.ledger.file={ledger}', f'--ckpt_path={own}']

    def test_nothing_is_trained_on_a_split_that_could_not_be_trusted(
        self, tmp_path: Path, started: list[Sequence[str]]
    ) -> None:
        (leave_checkpoint(tmp_path, 0).parents[1] / 'ledger.parquet').touch()
        self.run(tmp_path)
        file = tmp_path / f'results/{NAME}.json'
        save(replace(load(file), series={'partition/trusted': [(6, 0.0)]}), file)
        late = Cell('retrain', 'toy', 'badnet', 2, 3)
        outcome = self.run(tmp_path, late, methods={'clip': [], 'retrain': {'ledger': 'clip'}})
        assert outcome.state == 'failed' and not started
        assert f'the split of {NAME} after epoch 6 could not be trusted' in outcome.text

    def test_a_model_scores_pairs_for_a_method_that_is_not_done(
        self, tmp_path: Path, started: list[Sequence[str]]
    ) -> None:
        methods = {'clip': [], 'scores': {'predict': 'clip'}, 'b': {'ledger': ['scores', 'scores']}}
        scores, user = (Cell(method, 'toy', 'badnet', 2, 3) for method in ('scores', 'b'))
        checkpoint = leave_checkpoint(tmp_path, 0)
        assert self.run(tmp_path, scores, methods=methods) == (scores, 'done', 'done')
        assert started[0][3] == 'predict' and started[0][-1] == f'--ckpt_path={checkpoint}'
        assert self.run(tmp_path, scores, methods=methods).text == 'already done' and len(started) == 1
        assert (
            'by another command: to run it again, delete' in self.run(tmp_path, scores, '--e=7', methods=methods).text
        )
        assert not (tmp_path / 'results').exists()
        ledger = tmp_path / 'runs' / scores.name / 'predict_10/ledger.parquet'  # the latest of several
        for place in ('predict_10', 'predict_9'):
            shutil.copytree(ledger.parents[1] / 'predict_0', ledger.parents[1] / place)
        self.run(tmp_path, user, methods=methods)
        assert started[1][-1] == f'--data.filters.ledger.file=["{ledger}", "{ledger}"]'
        shutil.rmtree(tmp_path / 'runs')
        assert self.run(tmp_path, scores, methods=methods).text == 'already done' and len(started) == 2

    def test_says_how_to_train_a_deleted_run_again(self, tmp_path: Path, started: list[Sequence[str]]) -> None:
        self.run(tmp_path)
        shutil.rmtree(tmp_path / 'runs')
        late = Cell('cleanclip', 'toy', 'badnet', 2, 3)
        fix = f'Its run was deleted: to train it again, delete {tmp_path}/results/{NAME}.json.'
        assert self.run(tmp_path, late).text == f'failed: {NAME} has not left a checkpoint to start from. {fix}'

    def test_a_failed_cell_is_reported_and_leaves_no_result(self, tmp_path: Path, started: list[Sequence[str]]) -> None:
        outcome = self.run(tmp_path, Cell('broken', 'toy', 'badnet', 2, 3), methods={'clip': [], 'broken': []})
        assert outcome.state == 'failed'
        assert outcome.text.startswith('failed (no class of that name.), see ') and outcome.text.endswith('log.txt')
        assert not (tmp_path / 'results').exists()

    def test_a_cell_with_a_damaged_folder_is_reported(self, tmp_path: Path) -> None:
        (leave_checkpoint(tmp_path, 0).parents[1] / 'config.yaml').write_text('[')
        assert 'version_0/config.yaml is missing, cut or not what a run writes' in self.run(tmp_path).text

    def test_a_folder_that_cannot_be_written_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / 'runs').touch()
        assert self.run(tmp_path).text.startswith(f'failed: {tmp_path}/runs/{NAME} cannot be written')


class TestTwoGrids:
    def test_a_cell_that_another_grid_runs_is_left_to_it(self, tmp_path: Path, started: list[Sequence[str]]) -> None:
        with lock(tmp_path / 'runs' / NAME):
            outcome = make_runner(tmp_path).run(CELL)
        assert outcome.state == 'elsewhere' and outcome.text.startswith('runs in process ') and not started

    def test_other_cells_go_on_and_the_result_is_awaited(
        self, tmp_path: Path, started: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner, 'SECONDS_BETWEEN_TRIES', 0.01)
        grid = make_runner(tmp_path, methods={'clip': [], 'safeclip': []}, data=None, seeds=[1], undefended=None)
        states = []
        with ThreadPoolExecutor(1) as pool:
            with lock(tmp_path / 'runs/clip-badnet-d1-t1'):
                outcomes = grid.run_all(pool, grid.grid.cells())
                states += [next(outcomes), next(outcomes)]
                save(attacked_result('clip-badnet', 1, 1, 200), tmp_path / 'results/clip-badnet-d1-t1.json')
            states += outcomes
        assert [(outcome.cell.method, outcome.state) for outcome in states] == [
            ('clip', 'elsewhere'), ('safeclip', 'done'), ('clip', 'done'),
        ]  # fmt: skip
        assert len(started) == 1

    def test_a_cell_whose_grid_failed_is_taken_over(self, tmp_path: Path, started: list[Sequence[str]]) -> None:
        with lock(tmp_path / 'runs' / NAME):
            pass
        assert make_runner(tmp_path).run_when_free(CELL).state == 'done' and len(started) == 1

    def test_nobody_waits_once_the_grid_is_stopped(self, tmp_path: Path) -> None:
        grid = make_runner(tmp_path)
        grid.children.stop()
        with lock(tmp_path / 'runs' / NAME):
            assert grid.run_when_free(CELL).state == 'elsewhere'


class TestMain:
    def main(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *extra: str) -> None:
        folders = f'--runs={folder}/runs', f'--results={folder}/results'
        monkeypatch.setattr('sys.argv', ['grid', str(folder / 'grid.yaml'), *folders, *extra])
        runner.main()

    def test_trains_all_cells_prints_the_table_and_fails_if_one_does(
        self,
        tmp_path: Path,
        started: list[Sequence[str]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        methods = {'broken': [], 'clip': [], 'late': {'start': 'clip'}}
        attacks: dict[str, Any] = {'badnet': []}
        write_grid(tmp_path, methods=methods, data=None, attacks=attacks, arguments=[], seeds=[1])
        save(attacked_result('clip', 1, 1, 200), tmp_path / 'results/clip-badnet-d1-t1.json')
        with pytest.raises(SystemExit) as ended:
            self.main(tmp_path, monkeypatch, '--jobs=2', '--model.lr=0.1')
        assert ended.value.code == '2 of 3 cells failed: broken-badnet-d1-t1, late-badnet-d1-t1'
        printed = capsys.readouterr().out
        outcomes = [line.split(': ')[1].split(',')[0] for line in printed.splitlines()[:3]]
        assert outcomes == ['failed (no class of that name.)', 'already done', 'failed']
        assert len(started) == 1 and '--model.lr=0.1' in started[0]
        assert '| badnet: attack not established | - | 0.005 [0.001, 0.028] (0.100) |' in printed
        assert (tmp_path / 'results/table.md').read_text() in printed

    def test_the_tasks_of_an_array_train_all_cells_once_and_leave_one_table(
        self,
        tmp_path: Path,
        started: list[Sequence[str]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        methods = {'clip': [], 'safeclip': [], 'roclip': []}
        grid = write_grid(tmp_path, methods=methods, data=None, attacks=None, arguments=[], seeds=[1, 2])
        for task, trained in [('1/2', 3), ('2/2', 6), ('1/2', 6)]:
            self.main(tmp_path, monkeypatch, f'--array={task}')
            assert len(started) == trained
        names = {word.removeprefix('--name=') for command in started for word in command if word.startswith('--name=')}
        assert names == {cell.name for cell in grid.cells()}
        assert all(f'| {method} |' in (tmp_path / 'results/table.md').read_text() for method in methods)

    def test_named_cells_are_trained_alone(
        self, tmp_path: Path, started: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_grid(tmp_path, methods={'clip': [], 'roclip': []}, data=None, attacks=None, arguments=[], seeds=[1, 2])
        self.main(tmp_path, monkeypatch, '--cells=roclip-*,*-d2-t2')
        names = [word for command in started for word in command if word.startswith('--name=')]
        assert names == ['--name=roclip-d1-t1', '--name=clip-d2-t2', '--name=roclip-d2-t2']

    @pytest.mark.parametrize(
        ('option', 'message'),
        [
            ('--jobs=0', '--jobs must be at least 1, got 0.'),
            ('--array=9/8', '--array=9/8: tasks are counted from 1, so the first number must lie in 1 to 8.'),
            ('--cells=none-*', '--cells=none-*: no cell is named so; the first of 8 is cleanclip-coco-badnet-d1-t1.'),
            ('--name=mine', '--name=mine: the grid sets this for each cell; leave it out.'),
        ],
    )
    def test_a_mistake_ends_the_command_with_one_sentence(
        self,
        option: str,
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        write_grid(tmp_path)
        with pytest.raises(SystemExit, match='2'):
            self.main(tmp_path, monkeypatch, option)
        assert capsys.readouterr().err == f'error: {message}\n'

    def test_ctrl_c_ends_it_with_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupt(*_: object) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(Children, 'run', interrupt)
        write_grid(tmp_path, arguments=None, methods={'clip': []}, data=None, attacks=None)
        with pytest.raises(SystemExit, match='130'):
            self.main(tmp_path, monkeypatch)
        assert capsys.readouterr().err == 'Stopped. The same command goes on from here.\n'


@pytest.mark.parametrize('file', SHIPPED_GRIDS, ids=lambda path: path.stem)
def test_the_commands_of_the_shipped_grids_are_spelled_right(file: Path) -> None:
    grid = read_grid(find_grid(file))
    check_commands(grid)
    assert grid.cells()


def test_a_misspelled_option_of_a_later_stage_is_named(tmp_path: Path) -> None:
    late = {'ledger': 'clip', 'arguments': ['--model.lrr=0.1']}
    grid = write_grid(tmp_path, arguments=None, methods={'clip': [], 'late': late}, data=None, attacks=None)
    with pytest.raises(UsageError, match=r'late: unrecognized option --model.lrr: did you mean --model.lr\?'):
        check_commands(grid)
