from __future__ import annotations

import numpy as np
import pytest

from datamodules.attacks import BadNet, NoOpTrigger, Unchanged, poison_table
from tests.datamodules.attacks.pools import labeled_pool, pixels


@pytest.mark.parametrize('mode', ['append', 'replace'])
def test_chooses_the_images_captions_and_places_of_a_backdoor(mode: str) -> None:
    backdoor, control = (attack('dog', count=9, seed=2, mode=mode) for attack in (BadNet, NoOpTrigger))
    assert backdoor.select(labeled_pool()) == control.select(labeled_pool())


def test_is_measured_on_the_same_images_without_a_trigger() -> None:
    pool, attack = labeled_pool(), NoOpTrigger('dog', count=9)
    _, manifest = poison_table({'no_op': attack}, pool)
    used = [p.source for p in manifest.poisons('no_op')]
    rows = np.setdiff1d([row for row in range(100) if row % 5 != 1], used)
    measured = attack.evaluation('no_op', manifest.poisons('no_op'), pool, pixels)
    assert np.array_equal(measured.images, pixels('heldout', rows))
    assert set(manifest.table['trigger'].to_pylist()) == {Unchanged().describe()}
