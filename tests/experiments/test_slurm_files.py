from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import LOST
from experiments.grid_file import read_grid
from experiments.job_array import Task, cells_of, read_task
from tests.experiments.conftest import EXPERIMENTS, parse

FOLDER = EXPERIMENTS / 'slurm'
FILES = sorted(FOLDER.glob('*.sbatch'))
JOB = {
    'SLURM_JOB_ID': '42',
    'SLURM_JOB_NAME': 'safeclip',
    'SLURM_JOB_NUM_NODES': '2',
    'SLURM_NTASKS_PER_NODE': '4',
    'SLURM_CPUS_PER_TASK': '8',
    'SLURM_ARRAY_JOB_ID': '42',  # the same for one of the tasks
    'SLURM_ARRAY_TASK_ID': '3',
}


class Job:
    """Runs a script with programs in the place of SLURM's that note how they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._write('srun', f'printf "%s\\n" "$@" > {folder}/srun.txt; exit ${{STATUS:-0}}')
        self._write('scontrol', f'echo "$@" >> {folder}/scontrol.txt')

    def _write(self, name: str, script: str) -> None:
        program = self.folder / name
        program.write_text(f'#!/bin/bash\n{script}\n')
        program.chmod(0o755)

    def run(self, file: str, *arguments: str, **environment: str) -> int:
        variables = {**os.environ, **JOB, **environment, 'PATH': f'{self.folder}:{os.environ["PATH"]}'}
        return subprocess.run(['bash', FOLDER / file, *arguments], env=variables, check=False).returncode

    @property
    def command(self) -> list[str]:
        """What ``srun`` is to start, without its own options."""
        words = (self.folder / 'srun.txt').read_text().splitlines()
        return words[next(number for number, word in enumerate(words) if not word.startswith('-')) :]

    @property
    def requeued(self) -> list[str]:
        file = self.folder / 'scontrol.txt'
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.mark.parametrize('file', FILES, ids=lambda path: path.name)
def test_are_valid_scripts_that_may_be_stopped_and_started_again(file: Path) -> None:
    subprocess.run(['bash', '-n', file], check=True)
    text = file.read_text()
    options: dict[str, str] = dict(re.findall(r'^#SBATCH --([\w-]+)(?:=(.*))?$', text, re.MULTILINE))
    assert {'requeue', 'open-mode', 'time', 'cpus-per-task'} <= {*options} and options['open-mode'] == 'append'
    assert len(options) == text.count('#SBATCH')
    assert options['signal'].startswith('B:USR1@') and "trap 'scontrol requeue" in text


def test_a_training_job_takes_its_shape_from_slurm_and_goes_on_with_the_run_of_its_name(job: Job) -> None:
    where = f'--trainer.default_root_dir={job.folder}'
    job.run('train.sbatch', '--config', 'safeclip_toy.yaml', '--seed_everything=2', where)
    program, *arguments = job.command
    config: Any = parse(*arguments)
    assert (program, config.name, config.ckpt_path, config.seed_everything) == ('clipward', 'safeclip', None, 2)
    trainer = config.trainer
    assert (trainer.num_nodes, str(trainer.devices), trainer.strategy) == (2, '4', 'ddp')
    assert '--ckpt_path=auto' in arguments


def test_a_task_of_an_array_trains_its_share_of_a_grid(job: Job) -> None:
    job.run('grid.sbatch', 'grids/table_3.yaml')
    *program, grid, option, share = job.command
    assert program == ['python', '-m', 'experiments.grid'] and option == '--array'
    tasks = read_task(share)
    assert tasks == Task(3, 8) and '#SBATCH --array=1-8\n' in (FOLDER / 'grid.sbatch').read_text()
    assert cells_of(read_grid(EXPERIMENTS / grid), tasks)


class TestFailure:
    def test_of_a_job_is_its_status(self, job: Job) -> None:
        for status in (1, 128 + signal.SIGTERM):  # the second of a job that was canceled
            assert [job.run(path.name, STATUS=str(status)) for path in FILES] == [status] * len(FILES)
        assert job.requeued == []

    @pytest.mark.parametrize('status', [LOST, 128 + signal.SIGKILL, 128 + signal.SIGABRT])
    def test_of_a_process_starts_a_job_again_a_few_times(self, status: int, job: Job) -> None:
        assert job.run('train.sbatch', STATUS=str(status)) == status
        assert job.requeued == ['requeue 42']
        job.run('train.sbatch', STATUS=str(status), SLURM_RESTART_COUNT='3')
        assert job.requeued == ['requeue 42']

    def test_a_job_whose_time_is_up_goes_back_into_the_queue_without_other_tasks(self, job: Job) -> None:
        job._write('srun', 'kill -USR1 $PPID; sleep 0.2')
        for path in FILES:
            job.run(path.name)
        assert job.requeued == ['requeue 42_3', 'requeue 42']  # a task of an array, not all of them
