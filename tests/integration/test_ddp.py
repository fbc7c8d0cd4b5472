from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.processes import read_tracebacks, run_in_processes
from tests.integration.ranks import (
    largest_difference,
    probe_results,
    resnet_results,
    results_of,
    resume_on_two,
    run_on_two,
    transformer_results,
)
from tests.integration.runs import HELDOUT, PHASES, STEPS, Run, find_differences

pytestmark = [
    pytest.mark.filterwarnings('ignore:.*LeafSpec.*:FutureWarning'),  # of Lightning 2.6 on a newer torch
    pytest.mark.filterwarnings('ignore:The dirpath has changed'),  # a resumed run has its own folder
    pytest.mark.filterwarnings('ignore:.*in eval mode'),  # the poisoned model of PAR, and a frozen tower
]
Results = dict[str, Any]
LOSSES = (
    'cross-modal, one view',
    'cross-modal, two views',
    'cross-modal, in chunks',
    'cross-modal, in tiles',
    'cross-modal, sent in 16 bits',
    'unimodal, pool',
    'unimodal, as released',
    'unimodal, no pool',
    'unimodal, trusted pairs',
    'unimodal, in tiles',
    'within each modality, one way',
    'pushed away',
    'mixed, one side a batch',
    'mixed, both sides in a batch',
    'matching',
    'matching, text trained',
)
TOLERANCE = {
    'matching, text trained': 1e-4,  # 2e-5 by the order of a batch alone: gradients of shared captions cancel
    'cross-modal, sent in 16 bits': 2e-2,  # which have three digits
}


def run_on_two_processes(job: Callable[[Path], None], folder: Path) -> tuple[Results, Results]:
    """Runs a job on two processes and loads the results of each."""
    assert run_in_processes(job, folder, ranks=2) == [0, 0], read_tracebacks(folder)
    first, second = (torch.load(folder / f'{rank}.pt', weights_only=True) for rank in (0, 1))
    return first, second


@pytest.fixture(scope='module')
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    """Results of each of two processes."""
    return run_on_two_processes(run_on_two, tmp_path_factory.mktemp('together'))


@pytest.fixture(scope='module')
def alone(tmp_path_factory: pytest.TempPathFactory, finished: Run) -> Results:
    """Results of one process."""
    folder = tmp_path_factory.mktemp('alone')
    return {**transformer_results(folder), **resnet_results(folder), **results_of(finished)}


class TestSteps:
    """A global batch on two processes gives the same result as on one."""

    @pytest.mark.parametrize('loss', [*LOSSES, 'frozen norms', 'frozen image tower'])
    def test_loss_and_gradients_equal_those_of_one_process(
        self, together: tuple[Results, Results], alone: Results, loss: str
    ) -> None:
        assert len(alone[loss]['losses']) == 4
        for rank in together:
            tolerance = TOLERANCE.get(loss, 1e-5)
            assert rank[loss]['losses'] == pytest.approx(alone[loss]['losses'], abs=tolerance)
            assert largest_difference(rank[loss]['gradients'], alone[loss]['gradients']) < tolerance

    @pytest.mark.parametrize(
        ('whole', 'tiles'),
        [('cross-modal, two views', 'cross-modal, in tiles'), ('unimodal, pool', 'unimodal, in tiles')],
    )
    def test_tiles_change_neither_loss_nor_gradients(self, alone: Results, whole: str, tiles: str) -> None:
        assert alone[tiles]['losses'] == pytest.approx(alone[whole]['losses'], abs=1e-5)
        assert largest_difference(alone[tiles]['gradients'], alone[whole]['gradients']) < 1e-5

    def test_chunks_change_neither_loss_nor_gradients(self, alone: Results) -> None:
        whole, chunks = alone['cross-modal, two views'], alone['cross-modal, in chunks']
        assert chunks['losses'] == pytest.approx(whole['losses'], abs=1e-5)
        assert largest_difference(chunks['gradients'], whole['gradients']) < 1e-5

    @pytest.mark.parametrize('loss', [*LOSSES, 'frozen norms', 'frozen image tower'])
    def test_gradients_are_not_zero(self, alone: Results, loss: str) -> None:
        assert all(any(g.abs().max() > 1e-3 for g in step.values()) for step in alone[loss]['gradients'])

    def test_batch_norm_uses_only_the_pairs_of_its_process(
        self, together: tuple[Results, Results], alone: Results
    ) -> None:
        """The only effect of several processes, documented in the docstring of CLIP.

        ``trainer.sync_batchnorm: true`` removes it, but PyTorch supports that on GPUs only.
        """
        losses = (results['norms of each process']['losses'] for results in (alone, together[0]))
        gaps = [abs(a - b) for a, b in zip(*losses, strict=True)]
        assert max(gaps) > 1e-3


class TestBatchNorm:
    def test_statistics_differ_after_a_step(self, together: tuple[Results, Results]) -> None:
        first, second = (rank['statistics']['trained'] for rank in together)
        assert not torch.equal(first, second)

    def test_evaluation_and_sweep_use_statistics_of_the_first_process(self, together: tuple[Results, Results]) -> None:
        first, second = (rank['statistics'] for rank in together)
        for evaluated in (*first['evaluated'], *second['evaluated']):
            assert any(torch.equal(evaluated, kept) for kept in first['evaluated'])
        assert torch.equal(first['evaluated'][-1], first['trained'])
        assert torch.equal(second['evaluated'][-1], first['trained'])
        assert torch.equal(first['swept'], first['trained']) and torch.equal(second['swept'], first['trained'])


class TestRun:
    def test_all_processes_have_the_same_split_weights_and_pools(self, together: tuple[Results, Results]) -> None:
        first, second = together
        for part in ('partition', 'pools', 'weights', 'metrics'):
            assert find_differences(first[part], second[part]) == [], part
        assert first['partition']['epoch'] == len(PHASES)

    def test_pools_agree_although_the_first_process_does_not_send_them(self, together: tuple[Results, Results]) -> None:
        """Sending them would take half a gigabyte per step; both enqueue the same gathered embeddings instead."""
        first, second = together
        pools = sorted(f'pools.{name}' for name in first['pools'])
        assert len(pools) == 6  # rows, position and fill of images and of captions
        for rank in together:
            assert rank['ignored'] == pools
            assert rank['sent'] and not {*rank['sent']} & {*pools}  # other buffers are sent
        assert find_differences(first['pools'], second['pools']) == []
        assert all(pool.any() for name, pool in first['pools'].items() if name.endswith(('rows', 'filled')))

    def test_split_equals_that_of_one_process(self, together: tuple[Results, Results], alone: Results) -> None:
        one, two = alone['partition'], together[0]['partition']
        assert torch.equal(one['side'], two['side'])
        assert torch.allclose(one['score'], two['score'], atol=1e-5)

    def test_pools_equal_those_of_one_process(self, together: tuple[Results, Results], alone: Results) -> None:
        for name, pool in together[0]['pools'].items():
            other = alone['pools'][name]
            if pool.ndim == 2:
                nearest = torch.cdist(pool, other).min(1).values
                assert nearest.max() < 1e-5, name
            else:
                assert torch.equal(pool, other), name

    def test_metrics_equal_those_of_one_process(self, together: tuple[Results, Results], alone: Results) -> None:
        for one, two in zip(alone['metrics'], together[0]['metrics'], strict=True):
            counted = [name for name in one if name.startswith(('asr/', 'zero_shot/', 'partition/leak'))]
            assert len(counted) > 5
            assert {name: two[name] for name in counted} == pytest.approx({name: one[name] for name in counted})

    def test_probes_equal_those_of_one_process(self, together: tuple[Results, Results], tmp_path: Path) -> None:
        one, (first, second) = probe_results(tmp_path), (rank['probed'] for rank in together)
        assert {'probe/heldout', 'asr_probe/badnet/rate', 'asr_knn/badnet/clean'} <= one.keys()
        assert first == second == pytest.approx(one)

    def test_processes_share_the_pairs_of_each_batch(self, together: tuple[Results, Results], alone: Results) -> None:
        pairs = zip(*(rank['rows'] for rank in together), strict=True)
        for epoch, (first, second) in zip(alone['rows'], pairs, strict=True):
            assert len(first) == len(second) == STEPS
            for batch, one, two in zip(epoch, first, second, strict=True):
                assert len(one) == len(two)
                assert sorted(one + two) == sorted(batch)

    def test_every_image_is_evaluated_once(self, together: tuple[Results, Results], alone: Results) -> None:
        sets = zip(alone['images'], *(rank['images'] for rank in together), strict=True)
        for one, first, second in sets:
            assert len(one[0]) == HELDOUT
            for index in one:
                assert sorted(first[index] + second[index]) == pytest.approx(sorted(one[index]))
                assert len(first[index]) != len(second[index]) or len(one[index]) % 2 == 0

    def test_evaluates_once_per_epoch(self, together: tuple[Results, Results]) -> None:
        for rank in together:
            assert rank['validations'] == list(range(len(PHASES)))

    @pytest.mark.slow
    def test_resumes_as_if_it_had_not_died(self, together: tuple[Results, Results], tmp_path: Path) -> None:
        for whole, resumed in zip(together, run_on_two_processes(resume_on_two, tmp_path), strict=True):
            for part in ('partition', 'pools', 'weights', 'metrics'):
                assert find_differences(whole[part], resumed[part]) == [], part
            assert whole['rows'][-2:] == resumed['rows']
