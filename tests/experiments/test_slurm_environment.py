from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from datamodules.usage_error import UsageError
from experiments.slurm_environment import check_launch, refuse_checkpoints_of_others, with_slurm
from tests.integration.processes import Launch, slurm_environment, torchrun_environment

LAUNCH = Launch(rank=0, ranks=4, per_node=2, port=29500)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in slurm_environment(LAUNCH).items():
        monkeypatch.setenv(name, str(value))


def test_a_job_is_not_requeued_from_the_middle_of_an_epoch(job: None) -> None:
    kept, environment = with_slurm(['a plugin'])
    assert kept == 'a plugin'
    assert isinstance(environment, SLURMEnvironment) and not environment.auto_requeue
    assert environment.world_size() == 4


def test_an_environment_that_was_given_is_kept(job: None) -> None:
    given = LightningEnvironment()
    assert with_slurm([given]) == [given]


def test_torchrun_within_a_job_starts_the_processes(job: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in torchrun_environment(LAUNCH).items():
        monkeypatch.setenv(name, str(value))
    assert with_slurm([]) == []


def test_nothing_is_added_elsewhere() -> None:
    assert with_slurm([]) == []


def test_a_checkpoint_that_lightning_would_load_unasked_is_refused(job: None, tmp_path: Path) -> None:
    refuse_checkpoints_of_others(str(tmp_path))
    (tmp_path / 'hpc_ckpt_3.ckpt').touch()  # lightning 2.6.6 loads the newest of them in any job with this folder
    with pytest.raises(UsageError, match=r'hpc_ckpt_3\.ckpt is what another run saved'):
        refuse_checkpoints_of_others(str(tmp_path))


def test_outside_of_a_job_such_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    (left := tmp_path / 'hpc_ckpt_3.ckpt').touch()
    refuse_checkpoints_of_others(str(tmp_path))
    assert left.exists()


def test_several_machines_need_something_that_starts_the_run_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = L.Trainer(num_nodes=2, devices=1, accelerator='cpu', strategy='ddp', logger=False)
    with pytest.raises(UsageError, match=r'^trainer\.num_nodes=2 needs processes on every machine: .* torchrun'):
        check_launch(trainer)
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')  # started by hand
    check_launch(trainer)
