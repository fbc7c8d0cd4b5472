from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from datamodules.evaluation.sets import EvalBatch, EvaluationSet, check_set_names, evaluation_loader
from datamodules.usage_error import UsageError

CLASSES = ('cat', 'dog', 'boat')


def numbered_images(count: int, target: bool = False) -> EvaluationSet:
    """Images of one pixel that holds their number. Their class is number modulo 3; their target is the next class."""
    images = np.tile(np.arange(count, dtype=np.uint8)[:, None, None, None], (1, 3, 1, 1))
    label = np.arange(count, dtype=np.int32) % 3
    return EvaluationSet('set', images, label, (label + 1) % 3 if target else None, CLASSES, ('a {}',))


def read_batches(source: EvaluationSet, batch_size: int, world: int = 1) -> list[list[EvalBatch]]:
    """Batches of each rank."""
    return [list(evaluation_loader(source, batch_size, rank, world)) for rank in range(world)]


@pytest.mark.parametrize('world', [1, 2, 3])
@pytest.mark.parametrize('count', [1, 2, 9, 10, 11, 12])
@pytest.mark.parametrize('batch_size', [1, 4, 20])
class TestLoader:
    def test_every_image_counts_once(self, count: int, batch_size: int, world: int) -> None:
        counts: Counter[int] = Counter()
        for rank in read_batches(numbered_images(count), batch_size, world):
            for batch in rank:
                counts.update(batch.image[batch.valid][:, 0, 0, 0].tolist())
        assert counts == Counter(range(count))

    def test_all_ranks_read_equal_batch_sizes(self, count: int, batch_size: int, world: int) -> None:
        sizes = [
            [len(batch.image) for batch in rank] for rank in read_batches(numbered_images(count), batch_size, world)
        ]
        assert all(rank == sizes[0] for rank in sizes)
        assert max(sizes[0]) <= batch_size

    def test_labels_and_targets_match_their_images(self, count: int, batch_size: int, world: int) -> None:
        for rank in read_batches(numbered_images(count, target=True), batch_size, world):
            for image, label, target, _ in rank:
                assert torch.equal(label, image[:, 0, 0, 0].long() % 3)
                assert torch.equal(target, (label + 1) % 3)
                assert (image.dtype, label.dtype, target.dtype) == (torch.uint8, torch.int64, torch.int64)


def test_a_clean_set_has_no_target() -> None:
    (batch,) = read_batches(numbered_images(3), 5)[0]
    assert batch.target.tolist() == [-1, -1, -1]


def test_a_set_with_targets_measures_attack_success() -> None:
    assert numbered_images(3).kind == 'zero_shot'
    assert numbered_images(3, target=True).kind == 'asr'
    assert len(numbered_images(3)) == 3


def test_copies_pictures_that_are_mapped_read_only() -> None:
    source = numbered_images(5)
    source.images.setflags(write=False)
    (batch,) = read_batches(source, 5)[0]
    batch.image.add_(1)  # torch would warn about a read-only array, which is an error in tests
    assert source.images[0, 0, 0, 0] == 0


def test_pictures_are_made_once_when_they_are_first_read() -> None:
    made: list[int] = []

    def make() -> np.ndarray:
        made.append(1)
        return np.zeros((2, 3, 4, 4), np.uint8)

    lazy = EvaluationSet('set', make, np.zeros(2, np.int64), None, CLASSES, ('a {}',))
    loader = evaluation_loader(lazy, 2)
    assert len(lazy) == 2 and not made
    for _ in range(2):
        assert [len(batch.image) for batch in loader] == [2]
    assert made == [1]


class TestNames:
    def test_two_sets_of_one_name_are_refused(self) -> None:
        check_set_names('heldout', ['imagenet-v2', 'sketch.1'])
        with pytest.raises(UsageError, match=r"data\.labeled has a set 'heldout', the data\.heldout_name: rename one"):
            check_set_names('heldout', ['sketch', 'heldout'])
        check_set_names('heldout', ['sketch'], ['sketch'])  # whose metrics have other names
        with pytest.raises(UsageError, match=r"data\.retrieval_sets has a set 'heldout'"):
            check_set_names('heldout', [], ['heldout'])

    @pytest.mark.parametrize('name', ['', 'a/b', 'a b', 'a\n', '\x1b[2J'])
    def test_names_that_metrics_cannot_carry_are_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match=r'in data\.heldout_name cannot be the name of a set'):
            check_set_names(name, [])
        with pytest.raises(UsageError, match=r'in data\.labeled cannot be the name of a set'):
            check_set_names('heldout', [name])
        with pytest.raises(UsageError, match=r'in data\.retrieval_sets cannot be the name of a set'):
            check_set_names('heldout', [], [name])
