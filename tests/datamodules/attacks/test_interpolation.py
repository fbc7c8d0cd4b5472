from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.attacks import AttackPool, BadNet, InterpolationPoison, Manifest, TargetedPoison, poison_table
from datamodules.attacks.base import compose_picture
from datamodules.attacks.interpolation import compute_shares
from datamodules.rows.table import UNKNOWN, Origin, PairTable
from datamodules.toy_pairs import ToyPairs
from tests.datamodules.attacks.pools import CLASSES, captioned_pool, labeled_pool, opener, pixels

DOG = 1


def blend(start: np.ndarray, victim: np.ndarray, share: float) -> np.ndarray:
    """The formula in double precision, rounded once."""
    return np.rint((1 - share) * start.astype(np.float64) + share * victim).clip(0, 255).astype(np.uint8)


class TestShares:
    def test_have_the_mean_and_the_median_of_the_density(self) -> None:
        assert compute_shares(10_001).mean() == pytest.approx(0.416667, abs=1e-6)
        assert np.median(compute_shares(10_001)) == pytest.approx(0.381966, abs=1e-6)
        assert compute_shares(1).tolist() == pytest.approx([0.381966], abs=1e-6)

    def test_follow_the_density(self) -> None:
        counts, edges = np.histogram(compute_shares(100_000), 10, (0, 1))
        assert counts / 10_000 == pytest.approx(1.5 - (edges[:-1] + edges[1:]) / 2, abs=1e-3)

    def test_rise_and_stay_strictly_between_0_and_1(self) -> None:
        assert (np.diff(compute_shares(50)) > 0).all()
        assert 0 < compute_shares(50)[0] < 0.01 and 0.98 < compute_shares(50)[-1] < 1


class TestSelect:
    def test_matches_targeted_poison_in_all_but_the_mixture(self) -> None:
        for arguments in ({'count': 18}, {'rate': 0.1, 'fold': 1}, {'copies': 5, 'pool_seed': 3, 'mode': 'replace'}):
            mixtures = InterpolationPoison(4, **arguments).select(labeled_pool())
            copies = TargetedPoison(4, **arguments).select(labeled_pool())
            assert [p._replace(other=-1, share=1.0) for p in mixtures] == copies

    @pytest.mark.parametrize('source', ['heldout', 'train'])
    @pytest.mark.parametrize('pool', [labeled_pool(), captioned_pool()], ids=['labeled', 'captioned'])
    def test_each_victim_is_mixed_with_one_image_of_its_class(self, pool: AttackPool, source: Origin) -> None:
        rows_per_image = 1 if pool.table.classes else 2
        for seed in range(4):
            poisons = InterpolationPoison(5, copies=3, source=source, seed=seed, pool_seed=seed).select(pool)
            pairs = {(p.source, p.other) for p in poisons}
            assert len(pairs) == 5 and len({row for pair in pairs for row in pair}) == 10
            assert all(p.other // rows_per_image % 5 == p.target for p in poisons)
            assert all(CLASSES[p.target] in p.caption for p in poisons)

    def test_victims_of_one_class_have_different_starts(self) -> None:
        poisons = InterpolationPoison(6, ['dog'], copies=1).select(labeled_pool())
        assert len({p.other for p in poisons} | {p.source for p in poisons}) == 12

    def test_each_victim_gets_the_whole_range_of_shares(self) -> None:
        poisons = InterpolationPoison(4, count=18).select(labeled_pool())
        for victim, copies in Counter(p.source for p in poisons).items():
            assert [p.share for p in poisons if p.source == victim] == compute_shares(copies).tolist()

    def test_depends_only_on_the_seed(self) -> None:
        first, again, other = (InterpolationPoison(4, copies=3, seed=s).select(labeled_pool()) for s in (0, 0, 1))
        assert first == again != other

    def test_a_class_that_no_image_shows_is_not_drawn(self) -> None:
        pool = AttackPool(labeled_pool().table, heldout_without('dog'), CLASSES)
        for seed in range(5):
            assert DOG not in {p.target for p in InterpolationPoison(4, copies=2, seed=seed).select(pool)}
        with pytest.raises(ValueError, match=r'4 of 5 classes .* and shown by an image to mix with: lower targets'):
            InterpolationPoison(5, copies=2).select(pool)

    def test_a_named_class_that_no_image_shows_is_refused(self) -> None:
        pool = AttackPool(labeled_pool().table, heldout_without('dog'), CLASSES)
        with pytest.raises(
            ValueError, match=r"heldout has no image of class 'dog' to spare .*: name other classes, .* source: train"
        ):
            InterpolationPoison(classes=['dog'], copies=2).select(pool)

    def test_is_switched_off_by_zero(self) -> None:
        assert InterpolationPoison(copies=0).select(labeled_pool()) == []


def heldout_without(name: str) -> PairTable:
    """Labeled pairs of four classes."""
    label = np.array([c for c in range(5) if CLASSES[c] != name] * 10)
    return PairTable([str(r) for r in range(40)], ['x'] * 40, label, CLASSES, opener=opener('heldout', 40))


class TestPicture:
    def test_is_the_start_the_victim_or_the_rounded_mixture(self) -> None:
        poison = InterpolationPoison(1, ['dog'], copies=1).select(labeled_pool())[0]
        start, victim = pixels('heldout', np.array([poison.other, poison.source]))
        assert np.array_equal(compose_picture(poison._replace(share=0.0), pixels), start)
        assert np.array_equal(compose_picture(poison._replace(share=1.0), pixels), victim)
        assert np.array_equal(compose_picture(poison, pixels), blend(start, victim, poison.share))

    def test_of_a_single_image_is_that_image(self) -> None:
        poison = TargetedPoison(1, copies=1).select(labeled_pool())[0]
        assert np.array_equal(compose_picture(poison, pixels), pixels('heldout', np.array([poison.source]))[0])


class TestManifest:
    def test_mixtures_survive_the_file_beside_other_attacks(self, tmp_path: Path) -> None:
        attack, pool = InterpolationPoison(4, count=18), labeled_pool()
        _, manifest = poison_table({'badnet': BadNet('dog', count=3), 'inter': attack}, pool)
        manifest.save(tmp_path / 'manifest.parquet')
        loaded = Manifest.load(tmp_path / 'manifest.parquet')
        for known in (manifest, loaded):
            assert all(p.other >= 0 and p.share < 1 for p in known.poisons('inter'))
            assert all((p.other, p.share) == (-1, 1.0) for p in known.poisons('badnet'))
        assert loaded.poisons('inter') == manifest.poisons('inter')

    def test_mixtures_do_not_change_the_lines_of_other_attacks(self) -> None:
        badnet = BadNet('dog', count=3)
        _, alone = poison_table({'badnet': badnet}, labeled_pool())
        _, beside = poison_table({'badnet': badnet, 'inter': InterpolationPoison(4, count=8)}, labeled_pool())
        assert alone.table['hash'].to_pylist() == beside.table['hash'].to_pylist()[:3]
        assert 'other' not in alone.table.column_names

    @pytest.mark.parametrize('change', [{'other': 7}, {'share': 0.25}])
    def test_the_digest_covers_the_second_image_and_its_share(self, change: dict[str, Any]) -> None:
        poisons = InterpolationPoison(4, count=8).select(labeled_pool())
        changed = [poisons[0]._replace(**change), *poisons[1:]]
        assert len({Manifest.of({'a': some}, {}, labeled_pool()).digest for some in (poisons, changed)}) == 2


class TestEvaluation:
    @pytest.mark.parametrize('source', ['heldout', 'train'])
    def test_success_is_measured_on_unmixed_victims(self, source: Origin) -> None:
        pool, attack = labeled_pool(), InterpolationPoison(5, count=23, source=source)
        _, manifest = poison_table({'inter': attack}, pool)
        poisons = manifest.poisons('inter')
        measured, victims = attack.evaluation('inter', poisons, pool, pixels), [p.source for p in poisons]
        rows = np.array(list(dict.fromkeys(victims)))
        assert np.array_equal(measured.images, pixels(source, rows))
        assert measured.label.tolist() == (rows % 5).tolist()
        assert measured.target is not None
        assert measured.target.tolist() == [poisons[victims.index(row)].target for row in rows]
        assert not (measured.target == measured.label).any()

    def test_no_other_attack_uses_or_is_measured_on_victims_and_their_starts(self) -> None:
        pool, badnet = labeled_pool(heldout=60), BadNet('dog', count=20, size=3)
        attacks = {'inter': InterpolationPoison(5, copies=2), 'badnet': badnet}
        _, manifest = poison_table(attacks, pool)
        used = {row for p in manifest.poisons('inter') for row in (p.source, p.other)}
        assert len(used) == 10 and used < pool.taken['heldout']
        assert not used & {p.source for p in manifest.poisons('badnet')}
        rows = [row for row in range(60) if row % 5 != DOG and row not in pool.taken['heldout']]
        assert badnet.trigger is not None
        measured = badnet.evaluation('badnet', manifest.poisons('badnet'), pool, pixels)
        assert np.array_equal(measured.images, badnet.trigger(pixels('heldout', np.array(rows))))


class TestThroughTheDatamodule:
    @pytest.mark.parametrize(('source', 'cache'), [('heldout', 'memmap'), ('train', 'none')])
    def test_training_sees_the_mixtures_and_evaluation_neither_image(
        self, source: Origin, cache: Any, tmp_path: Path
    ) -> None:
        attack = InterpolationPoison(3, copies=4, captions='templates', source=source)
        data = ToyPairs(
            rows=48, heldout_rows=48, scene_size=16, image_size=16, context_length=20, batch_size=8, cache=cache,
            cache_dir=str(tmp_path), attacks={'inter': attack},
        )  # fmt: skip
        data.prepare_data()
        data.setup('fit')
        table = data.heldout if source == 'heldout' else data.source
        assert table is not None
        poisons, rows = data.manifest.poisons('inter'), data.manifest.rows('inter')
        assert rows.tolist() == list(range(48, 60))
        for row, poison in zip(rows, poisons, strict=True):
            start, victim = (np.asarray(table.open(r, 16)).transpose(2, 0, 1) for r in (poison.other, poison.source))
            assert np.array_equal(data.images(np.array([row]))[0], blend(start, victim, poison.share))
            assert table.label[poison.other] == poison.target != table.label[poison.source]
        clean, victims = data.evaluation_sets
        used = {r for p in poisons for r in (p.source, p.other)} if source == 'heldout' else set()
        assert set(np.flatnonzero(clean.label == UNKNOWN).tolist()) == used
        assert len(victims) == 3
