from __future__ import annotations

import numpy as np
import torch

from datamodules.attacks.draws import bits, fractions, noise_bytes, normals, shuffled
from datamodules.randomness import mix


def test_the_finaliser_is_that_of_splitmix64() -> None:
    """First output of the published generator for seed 1234567."""
    assert int(mix(torch.tensor(1234567)).numpy().view(np.uint64)) == 6457827717110365317


def test_bits_depend_on_the_whole_key_and_nothing_else() -> None:
    keys = [(), (0,), (0, 0), (1,), (0, 1), (1, 0), (-1,)]
    drawn = [tuple(bits(3, *key).tolist()) for key in keys]
    assert len(set(drawn)) == len(keys)
    assert np.array_equal(bits(5, 7, 2)[:3], bits(3, 7, 2))


def test_bits_of_a_key_never_change() -> None:
    assert bits(2, 3, 1, 2).tolist() == [86926881224049903, 7676338870447620584]


def test_shuffled_is_a_permutation_without_order() -> None:
    order = shuffled(2000, 0)
    assert np.array_equal(np.sort(order), np.arange(2000))
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.06
    assert not np.array_equal(order, shuffled(2000, 1))
    assert shuffled(0, 0).tolist() == []


def test_noise_is_the_bytes_of_the_bits() -> None:
    assert noise_bytes(11, 3).tobytes() == bits(2, 3).astype('<u8').tobytes()[:11]
    assert abs(noise_bytes(20_000, 0).mean() - 127.5) < 2


def test_fractions_are_even_and_below_1() -> None:
    drawn = fractions(20_000, 5)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01 and abs(drawn.std() - 12**-0.5) < 0.005


def test_normals_have_mean_0_and_variance_1() -> None:
    drawn = normals(20_000, 5)
    assert abs(drawn.mean()) < 0.03 and abs(drawn.std() - 1) < 0.02
    assert abs((np.abs(drawn) < 1).mean() - 0.6827) < 0.01
