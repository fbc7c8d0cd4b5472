from __future__ import annotations

import pytest
import torch

from datamodules.randomness import mix, uniform

ROWS = torch.arange(1000)


def splitmix64(x: int) -> int:
    """The finaliser in plain integers (Steele et al., 2014)."""
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
    return x ^ x >> 31


@pytest.mark.parametrize('x', [0, 1, -1, 42, 2**63 - 1, -(2**63)])
def test_mixes_as_published(x: int) -> None:
    assert mix(torch.tensor(x)).item() % 2**64 == splitmix64(x % 2**64)


def test_first_output_of_seed_zero() -> None:
    assert mix(torch.tensor(0)).item() % 2**64 == 0xE220A8397B1DCDAF


def test_numbers_are_uniform() -> None:
    numbers = uniform(0, 0, ROWS, 0, 20)
    assert numbers.shape == (1000, 20)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 10, 0, 1)
    assert ((counts - 2000).abs() < 5 * (2000 * 0.9) ** 0.5).all()  # five standard deviations of a binomial
    assert numbers.T.corrcoef().fill_diagonal_(0).abs().max() < 0.15


@pytest.mark.parametrize('changed', [{'seed': 1}, {'epoch': 1}, {'epoch': -1}, {'view': 1}])
def test_every_part_of_the_key_counts(changed: dict[str, int]) -> None:
    key = {'seed': 0, 'epoch': 0, 'view': 0}
    first, second = (uniform(row=ROWS, count=1, **k).flatten() for k in (key, key | changed))
    assert not (first == second).any()
    assert torch.stack([first, second]).corrcoef()[0, 1].abs() < 0.15


def test_parts_of_the_key_are_not_interchangeable() -> None:
    assert not torch.equal(uniform(1, 0, ROWS, 0, 1), uniform(0, 1, ROWS, 0, 1))
    assert not torch.equal(uniform(0, 1, ROWS, 0, 1), uniform(0, 0, ROWS, 1, 1))


def test_a_row_s_numbers_depend_on_nothing_else() -> None:
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    numbers = uniform(3, 4, ROWS, 1, 5)
    assert torch.equal(uniform(3, 4, order, 1, 5), numbers[order])
    assert torch.equal(uniform(3, 4, ROWS[17:18], 1, 5), numbers[17:18])
    assert torch.equal(uniform(3, 4, ROWS, 1, 3), numbers[:, :3])


def test_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    uniform(0, 0, ROWS, 0, 3)
    assert torch.equal(torch.get_rng_state(), state)
