from __future__ import annotations

import numpy as np
import pytest

from datamodules.attacks.canaries import Canary, CopiesCanary, MarkCanary, PatchCanary, WavesCanary, named_canaries
from datamodules.attacks.targeted import TargetedPoison
from datamodules.usage_error import UsageError
from tests.datamodules.attacks.pools import gradient

TRIGGERED = (PatchCanary(), PatchCanary(moves=True), WavesCanary(), MarkCanary())


@pytest.mark.parametrize('canary', TRIGGERED, ids=['place', 'patch', 'waves', 'mark'])
@pytest.mark.parametrize('side', [8, 32, 224])
def test_a_trigger_fits_the_picture_and_is_that_of_its_seed(canary: Canary, side: int) -> None:
    picture = gradient(side)
    triggers = [canary.attack('boat', 20, side, seed).trigger for seed in (1, 1, 2)]
    first, again, other = (trigger(picture, keys=[7]) for trigger in triggers if trigger is not None)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, picture)


def test_a_patch_covers_a_sixteenth_of_the_picture_in_black_and_white() -> None:
    for canary in TRIGGERED[:2]:
        trigger = canary.attack('boat', 20, 32, 5).trigger
        assert trigger is not None
        picture = np.full((1, 3, 32, 32), 100, np.uint8)
        changed = trigger(picture, keys=[3])
        assert ((changed != 100).sum((2, 3)) == 64).all()
        assert {*np.unique(changed).tolist()} == {0, 100, 255}


def test_patches_of_different_seeds_are_at_different_places() -> None:
    places = {PatchCanary().attack('boat', 20, 32, seed).trigger.parameters()['position'] for seed in range(40)}
    assert len(places) == 5


def test_copies_are_of_as_many_pictures_as_it_takes() -> None:
    for count, pictures in ((24, 3), (1500, 187), (5, 1)):
        attack = CopiesCanary(copies=8).attack('boat', count, 32, 0)
        assert isinstance(attack, TargetedPoison)
        assert (attack.targets, attack.count, attack.trigger) == (pictures, count, None)


def test_small_sets_get_enough_of_each_canary_to_read_a_share() -> None:
    canary = PatchCanary(rate=0.001, at_least=20)
    assert [canary.amount(pairs) for pairs in (100, 10_000, 3_000_000)] == [20, 20, 3000]


@pytest.mark.parametrize(
    ('kind', 'argument', 'value'),
    [
        (PatchCanary, 'rate', 1.0),
        (PatchCanary, 'at_least', 0),
        (PatchCanary, 'size', 1.5),
        (WavesCanary, 'amplitude', 0.0),
        (MarkCanary, 'ratio', 1.5),
        (MarkCanary, 'width', 0.0),
        (CopiesCanary, 'copies', 0),
    ],
)
def test_refuses_numbers_out_of_range(kind: type[Canary], argument: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf'data.canaries: {argument} must'):
        kind(**{argument: value})


def test_a_name_is_part_of_a_metric() -> None:
    canary = PatchCanary()
    assert named_canaries({'a b-c_1': canary, 'none': None}) == {'a b-c_1': canary}
    with pytest.raises(UsageError, match=r"'a/b' in data.canaries cannot be the name of a canary"):
        named_canaries({'a/b': canary})
