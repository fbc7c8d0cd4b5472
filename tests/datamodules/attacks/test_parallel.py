from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datamodules.attacks import BadNet, Blend, ParallelTriggers, Patch, Trigger, poison_table
from datamodules.attacks.base import flatten_attacks
from datamodules.usage_error import UsageError
from tests.datamodules.attacks.pools import labeled_pool, pixels

TRIGGERS: dict[str, Trigger] = {'patch': Patch(3), 'blend': Blend(), 'dots': Patch(4, 'dots')}


def parallel(targets: list[str], **arguments: Any) -> ParallelTriggers:
    return ParallelTriggers(targets, **{'triggers': TRIGGERS, 'count': 11, **arguments})


def test_each_trigger_gets_its_own_images_and_its_share_of_the_poisons() -> None:
    pool = labeled_pool()
    table, manifest = poison_table({'pba': parallel(['dog'])}, pool)
    assert manifest.attacks == ('pba_patch', 'pba_blend', 'pba_dots')
    assert [len(manifest.rows(name)) for name in manifest.attacks] == [4, 4, 3]
    assert len({p.source for name in manifest.attacks for p in manifest.poisons(name)}) == 11
    assert set(manifest.table['target_class'].to_pylist()) == {'dog'}
    assert len(table) == 211


def test_all2all_gives_each_trigger_a_class() -> None:
    attack = parallel(['dog', 'cat', 'boat'], scheme='all2all', count=5, per_trigger=True)
    _, manifest = poison_table({'pba': attack}, labeled_pool())
    classes = [set(manifest.of_attack(name)['target_class'].to_pylist()) for name in manifest.attacks]
    assert classes == [{'dog'}, {'cat'}, {'boat'}]
    assert [len(manifest.rows(name)) for name in manifest.attacks] == [5, 5, 5]


def test_a_rate_is_over_all_triggers_or_for_each() -> None:
    for per_trigger, poisons in ((False, [2, 1, 1]), (True, [4, 4, 4])):
        attack = parallel(['dog'], count=None, rate=0.02, per_trigger=per_trigger)
        _, manifest = poison_table({'pba': attack}, labeled_pool())
        assert [len(manifest.rows(name)) for name in manifest.attacks] == poisons


def test_each_trigger_is_measured_separately_on_unused_images() -> None:
    pool, attack = labeled_pool(), parallel(['dog'], test_images=5)
    _, manifest = poison_table({'pba': attack}, pool)
    sources = np.array([poison.source for name in manifest.attacks for poison in manifest.poisons(name)])
    used = {image[:, 0, 0].tobytes() for image in pixels('heldout', sources)}
    measured = attack.parts('pba')['pba_patch'].evaluation('pba_patch', [], pool, pixels)
    assert len(measured) == 5
    assert (measured.images[..., -3:, -3:] == Patch(3).pixels).all()
    assert not used & {image[:, 0, 0].tobytes() for image in measured.images}


def test_depends_only_on_the_seed_and_its_parts_draw_independently() -> None:
    first, again, other = (
        poison_table({'pba': parallel(['dog'], seed=seed)}, labeled_pool())[1].digest for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len({part.seed for part in parallel(['dog']).parts('pba').values()}) == 3


def test_has_the_triggers_of_safeclip_by_default() -> None:
    parts = ParallelTriggers(['dog'], count=3, seed=2).parts('pba')
    assert list(parts) == ['pba_patch', 'pba_warp', 'pba_blend']


@pytest.mark.parametrize(
    'wrong',
    [{'targets': ['dog', 'cat']}, {'targets': ['dog', 'cat'], 'scheme': 'all2all'}, {'targets': []},
     {'targets': ['dog', 'Dog', 'cat'], 'scheme': 'all2all'}, {'targets': ['dog'], 'triggers': {}}],
)  # fmt: skip
def test_classes_must_fit_the_scheme(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r'targets must name \d different class'):
        parallel(**wrong)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match='scheme must be one of all2one, all2all'):
        parallel(['dog'], scheme='x')


def test_too_few_poisons_are_refused() -> None:
    with pytest.raises(ValueError, match="attack 'pba_patch': 2 poisons leave some of 3 triggers without any"):
        poison_table({'pba': parallel(['dog'], count=2)}, labeled_pool())


def test_an_attack_with_the_name_of_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="two attacks are named 'pba_patch': rename one"):
        poison_table({'pba': parallel(['dog']), 'pba_patch': parallel(['dog']).parts('x')['x_dots']}, labeled_pool())


@pytest.mark.parametrize('name', ['clean', 'a/b', 'a.b', ''])
def test_an_attack_whose_name_cannot_be_part_of_a_metric_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match='cannot be the name of an attack'):
        flatten_attacks({name: BadNet('dog', count=1)})
