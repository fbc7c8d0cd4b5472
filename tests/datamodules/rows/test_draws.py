from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.rows.draws import bits, fractions, mix, noise_bytes, normals, permutation, uniform


def test_mix_gives_the_first_published_output_of_splitmix64() -> None:
    """First output of the published generator for seed 1234567."""
    assert int(mix(torch.tensor(1234567)).numpy().view(np.uint64)) == 6457827717110365317


def test_bits_depend_on_the_whole_key_and_on_nothing_else() -> None:
    keys = [(), (0,), (0, 0), (1,), (0, 1), (1, 0), (-1,)]
    drawn = [tuple(bits(3, *key).tolist()) for key in keys]
    assert len(set(drawn)) == len(keys)
    assert np.array_equal(bits(5, 7, 2)[:3], bits(3, 7, 2))


def test_bits_of_a_key_are_pinned() -> None:
    assert bits(2, 3, 1, 2).tolist() == [86926881224049903, 7676338870447620584]


def test_permutation_is_random() -> None:
    order = permutation(2000, 0)
    assert np.array_equal(np.sort(order), np.arange(2000))
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.06
    assert not np.array_equal(order, permutation(2000, 1))
    assert permutation(0, 0).tolist() == []


def test_noise_bytes_are_the_bytes_of_the_bits() -> None:
    assert noise_bytes(11, 3).tobytes() == bits(2, 3).astype('<u8').tobytes()[:11]
    assert abs(noise_bytes(20_000, 0).mean() - 127.5) < 2


def test_fractions_are_uniform_in_the_unit_interval() -> None:
    drawn = fractions(20_000, 5)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01 and abs(drawn.std() - 12**-0.5) < 0.005


def test_normals_have_mean_0_and_variance_1() -> None:
    drawn = normals(20_000, 5)
    assert abs(drawn.mean()) < 0.03 and abs(drawn.std() - 1) < 0.02
    assert abs((np.abs(drawn) < 1).mean() - 0.6827) < 0.01


ROWS = torch.arange(1000)


def splitmix64(x: int) -> int:
    """The finalizer in plain integers (Steele et al., 2014)."""
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
    return x ^ x >> 31


@pytest.mark.parametrize('x', [0, 1, -1, 42, 2**63 - 1, -(2**63)])
def test_mix_agrees_with_the_published_finalizer(x: int) -> None:
    assert mix(torch.tensor(x)).item() % 2**64 == splitmix64(x % 2**64)


def test_mix_of_zero_is_pinned() -> None:
    assert mix(torch.tensor(0)).item() % 2**64 == 0xE220A8397B1DCDAF


def test_uniform_numbers_are_uniform_and_uncorrelated() -> None:
    numbers = uniform(0, 0, ROWS, 0, 20)
    assert numbers.shape == (1000, 20)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 10, 0, 1)
    assert ((counts - 2000).abs() < 5 * (2000 * 0.9) ** 0.5).all()  # five standard deviations of a binomial
    assert numbers.T.corrcoef().fill_diagonal_(0).abs().max() < 0.15


@pytest.mark.parametrize('changed', [{'seed': 1}, {'epoch': 1}, {'epoch': -1}, {'view': 1}])
def test_every_part_of_the_key_changes_the_numbers(changed: dict[str, int]) -> None:
    key = {'seed': 0, 'epoch': 0, 'view': 0}
    first, second = (uniform(row=ROWS, count=1, **k).flatten() for k in (key, key | changed))
    assert not (first == second).any()
    assert torch.stack([first, second]).corrcoef()[0, 1].abs() < 0.15


def test_parts_of_the_key_are_not_interchangeable() -> None:
    assert not torch.equal(uniform(1, 0, ROWS, 0, 1), uniform(0, 1, ROWS, 0, 1))
    assert not torch.equal(uniform(0, 1, ROWS, 0, 1), uniform(0, 0, ROWS, 1, 1))


def test_a_row_s_numbers_do_not_depend_on_its_batch() -> None:
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    numbers = uniform(3, 4, ROWS, 1, 5)
    assert torch.equal(uniform(3, 4, order, 1, 5), numbers[order])
    assert torch.equal(uniform(3, 4, ROWS[17:18], 1, 5), numbers[17:18])
    assert torch.equal(uniform(3, 4, ROWS, 1, 3), numbers[:, :3])


def test_does_not_touch_the_global_generator() -> None:
    state = torch.get_rng_state()
    uniform(0, 0, ROWS, 0, 3)
    assert torch.equal(torch.get_rng_state(), state)
