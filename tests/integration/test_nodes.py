from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from datamodules.rows.partition import PartitionSampler
from experiments.errors import LOST
from tests.helpers.tiny import trainer
from tests.integration.kills import read_outcome
from tests.integration.nodes import NODES, fit_on_two_nodes, train
from tests.integration.processes import (
    Environment,
    Launch,
    read_tracebacks,
    run_in_processes,
    slurm_environment,
    torchrun_environment,
)
from tests.integration.ranks import Gradients, results_of
from tests.integration.runs import find_differences, run

pytestmark = [
    pytest.mark.filterwarnings('ignore:.*LeafSpec.*:FutureWarning'),  # of Lightning 2.6 on a newer torch
]
LAUNCHERS = pytest.mark.parametrize('environment', [slurm_environment, torchrun_environment], ids=['slurm', 'torchrun'])


@LAUNCHERS
def test_every_process_of_every_node_trains_its_own_share_of_a_batch(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[list[Any]] = []
    expected: dict[Any, type] = {
        slurm_environment: SLURMEnvironment, torchrun_environment: TorchElasticEnvironment,
    }  # fmt: skip
    for rank in range(4):
        with monkeypatch.context() as patch:
            for name, value in environment(Launch(rank, 4, 2, 29500)).items():
                patch.setenv(name, str(value))
            running = trainer(devices=2, num_nodes=NODES, strategy='ddp')
            launcher: Any = running.strategy
            assert isinstance(launcher.cluster_environment, expected[environment])
            place = running.global_rank, running.local_rank, running.node_rank, running.world_size
            assert place == (rank, rank % 2, rank // 2, 4)
            rows = torch.arange(40).numpy()
            sampler = PartitionSampler(
                rows, rows[:0], 5, 8, seed=1, epoch=2, rank=running.global_rank, world=running.world_size,
                order='interleaved', safe_weight=1.0,
            )  # fmt: skip
            shares.append([draw.rows for draw in sampler])
    batches = [torch.cat([torch.as_tensor(part) for part in batch]) for batch in zip(*shares, strict=True)]
    assert [len(batch.unique()) for batch in batches] == [8] * 5 and len(torch.cat(batches).unique()) == 40


@pytest.mark.slow
@LAUNCHERS
def test_two_nodes_of_two_processes_train_as_one_process_does(environment: Environment, tmp_path: Path) -> None:
    watch = Gradients()
    alone = results_of(run(tmp_path / 'alone', watch=[watch]))
    folder = tmp_path / 'together'
    folder.mkdir()
    statuses = run_in_processes(train, folder, ranks=4, per_node=2, environment=environment)
    assert statuses == [0] * 4, read_tracebacks(folder)
    first, *others = (torch.load(folder / f'{rank}.pt', weights_only=True) for rank in range(4))
    assert [each['local_rank'] for each in (first, *others)] == [0, 1, 0, 1]
    for other in others:
        for part in ('partition', 'pools', 'weights', 'metrics', 'losses'):
            assert find_differences(first[part], other[part]) == [], part
    assert first['losses'] == pytest.approx(watch.losses, abs=1e-5)
    assert torch.equal(first['partition']['side'], alone['partition']['side'])
    assert torch.allclose(first['partition']['score'], alone['partition']['score'], atol=1e-5)
    for name, weight in trained_weights(alone).items():
        assert torch.allclose(trained_weights(first)[name], weight, atol=1e-5), name
    for epoch, of_ranks in enumerate(zip(first['rows'], *(other['rows'] for other in others), strict=True)):
        together = [sorted(sum(parts, [])) for parts in zip(*of_ranks, strict=True)]
        assert together == [sorted(rows) for rows in alone['rows'][epoch]]


def trained_weights(results: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights that the loss depends on, without pools, whose rows are in another order.

    A bias of all keys alike cancels in the softmax of attention, so its gradient is rounding alone, of which Adam makes
    steps.
    """
    weights = {name: weight for name, weight in results['weights'].items() if not name.startswith('pools.')}
    for name in [name for name in weights if name.endswith('in_proj_bias')]:
        queries, _, values = weights[name].chunk(3)
        weights[name] = torch.cat([queries, values])
    return weights


@pytest.mark.slow
class TestTwoNodes:
    def test_end_with_a_sentence_when_one_does_and_the_run_goes_on_in_its_folder(self, tmp_path: Path) -> None:
        whole, died = tmp_path / 'whole', tmp_path / 'died'
        assert fit_on_two_nodes(whole) == [0, 0], read_tracebacks(whole)
        for rank, number, statuses in ((1, signal.SIGKILL, [LOST, -9]), (0, signal.SIGTERM, [143, LOST])):
            callback = {'class_path': 'tests.integration.nodes.Signal', 'init_args': {'number': number, 'rank': rank}}
            assert fit_on_two_nodes(died, f'--trainer.callbacks={json.dumps([callback])}') == statuses
            said = (died / f'{1 - rank}.log').read_text()
            ended = f'error: process {rank} of 2, on {socket.gethostname()}, has ended, and the run with it: its own '
            assert sum(line.startswith(ended) for line in said.splitlines()) == 1
            assert 'Traceback' not in said
        assert fit_on_two_nodes(died) == [0, 0], read_tracebacks(died)
        assert [path.name for path in (died / 'runs/toy').iterdir()] == ['version_0']
        one, other = (read_outcome(folder / 'runs/toy/version_0') for folder in (whole, died))
        assert find_differences(one, other) == []

    def test_that_read_different_pairs_are_refused(self, tmp_path: Path) -> None:
        assert fit_on_two_nodes(tmp_path, '--data.rows=12RANK') == [2, 2]
        for rank in range(NODES):
            (error,) = (line for line in (tmp_path / f'{rank}.log').read_text().splitlines() if 'error: ' in line)
            assert error.startswith('error: data: process 1 on ') and 'does not read the same pairs' in error
        assert not (tmp_path / 'runs').exists()
