from __future__ import annotations

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from experiments.slurm_environment import with_slurm
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
