from __future__ import annotations

import numpy as np
import pytest

from datamodules.attacks import Blend, Chain, HybridTrigger, Patch, Warp, poison_table
from tests.datamodules.attacks.pools import checksum, labeled_pool, pixels


class TestChain:
    def test_applies_triggers_in_order(self) -> None:
        image = pixels('train', np.arange(2))
        after = Chain([Warp(), Blend(), Patch(3)])(image)
        assert np.array_equal(after, Patch(3)(Blend()(Warp()(image))))
        assert np.array_equal(after[..., -3:, -3:], np.stack([Patch(3).pixels] * 2))  # neither bent nor faded
        assert not np.array_equal(after, Blend()(Patch(3)(Warp()(image))))

    def test_is_described_by_all_of_them(self) -> None:
        chain = Chain([Blend(), Patch(3)])
        assert chain.parameters() == {'trigger_0': Blend().describe(), 'trigger_1': Patch(3).describe()}

    def test_an_empty_chain_is_refused(self) -> None:
        with pytest.raises(ValueError, match='triggers must name at least one'):
            Chain([])

    def test_the_default_never_changes(self) -> None:
        assert checksum(Chain([Warp(), Blend(), Patch()])) == '4965e9bd0ea5ab54'


def test_the_default_triggers_are_drawn_from_the_seed() -> None:
    attack = HybridTrigger('dog', seed=3, count=4)
    assert attack.trigger is not None
    assert attack.trigger.describe() == Chain([Warp(seed=3), Blend(seed=3), Patch(seed=3)]).describe()


def test_all_triggers_are_on_every_image() -> None:
    pool, attack = labeled_pool(), HybridTrigger('dog', [Blend(), Patch(3)], count=4)
    _, manifest = poison_table({'hybrid': attack}, pool)
    assert attack.trigger is not None
    assert manifest.table['trigger'].to_pylist() == [attack.trigger.describe()] * 4
    rows = np.setdiff1d([row for row in range(100) if row % 5 != 1], [p.source for p in manifest.poisons('hybrid')])
    measured = attack.evaluation('hybrid', manifest.poisons('hybrid'), pool, pixels)
    assert np.array_equal(measured.images, Patch(3)(Blend()(pixels('heldout', rows))))
