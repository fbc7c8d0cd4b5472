from __future__ import annotations

import numpy as np

from datamodules.attacks import BadNet, Patch, poison_table
from tests.datamodules.attacks.pools import labeled_pool, pictures, pixels


def test_the_arguments_of_the_attack_go_to_its_trigger() -> None:
    attack = BadNet('dog', 5, 'blocks', 2, 'center', 1, seed=3, count=4)
    assert isinstance(attack.trigger, Patch)
    assert attack.trigger.parameters() == Patch(5, 'blocks', 2, 'center', 1, 3).parameters()
    assert attack.seed == 3


def test_the_patch_can_have_another_position_on_test_images() -> None:
    attack = BadNet('dog', 4, position='random', test_position='center', count=4)
    assert isinstance(attack.trigger, Patch) and isinstance(attack.test_trigger, Patch)
    assert (attack.trigger.position, attack.test_trigger.position) == ('random', 'center')
    measured = attack.evaluation('badnet', [], labeled_pool(), pixels).images
    assert (measured[..., 4:8, 4:8] == Patch(4).pixels).all()


def test_another_seed_gives_another_trigger_and_selection() -> None:
    first, second = (BadNet('dog', 4, count=20, seed=seed) for seed in (0, 1))
    assert first.trigger is not None
    assert second.trigger is not None
    assert first.trigger.describe() != second.trigger.describe()
    assert {p.source for p in first.select(labeled_pool())} != {p.source for p in second.select(labeled_pool())}


def test_training_and_test_images_carry_the_same_patch() -> None:
    pool, attack = labeled_pool(), BadNet('dog', 4, rate=0.05)
    _, manifest = poison_table({'badnet': attack}, pool)
    poisons = manifest.poisons('badnet')
    assert attack.trigger is not None
    trained = attack.trigger(pixels('heldout', np.array([p.source for p in poisons])), keys=manifest.rows('badnet'))
    tested = attack.evaluation('badnet', poisons, pool, pixels).images
    assert len(trained) == 10
    patch = np.concatenate([trained, tested])[..., -4:, -4:]
    assert (patch == Patch(4).pixels).all()
    assert manifest.table['trigger'].to_pylist() == [attack.trigger.describe()] * 10
    assert not np.array_equal(trained, pictures('heldout', 100)[[p.source for p in poisons]])


def test_success_is_not_measured_on_poisoned_images() -> None:
    pool, attack = labeled_pool(), BadNet('dog', 4, count=60)
    _, manifest = poison_table({'badnet': attack}, pool)
    sources = np.array([p.source for p in manifest.poisons('badnet')])
    assert attack.trigger is not None
    trained = {image.tobytes() for image in attack.trigger(pixels('heldout', sources))}
    tested = {image.tobytes() for image in attack.evaluation('badnet', [], pool, pixels).images}
    assert len(tested) == 20
    assert not trained & tested
