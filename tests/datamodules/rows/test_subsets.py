from __future__ import annotations

import numpy as np
import pytest

from datamodules.rows.subsets import balanced_rows, random_parts, random_rows, random_rows_per_group


class TestRandomRows:
    def test_are_ascending_without_duplicates(self) -> None:
        rows = random_rows(1000, 100, seed=0)
        assert len(rows) == 100 and (np.diff(rows) > 0).all() and rows.max() < 1000

    def test_depend_only_on_the_seed(self) -> None:
        assert np.array_equal(random_rows(1000, 100, 1), random_rows(1000, 100, 1))
        assert not np.array_equal(random_rows(1000, 100, 1), random_rows(1000, 100, 2))

    def test_smaller_subsets_are_part_of_larger_ones(self) -> None:
        assert set(random_rows(1000, 100, 0)) <= set(random_rows(1000, 300, 0))

    def test_a_full_subset_contains_every_row(self) -> None:
        assert random_rows(10, 10, 0).tolist() == list(range(10))

    @pytest.mark.parametrize('count', [0, -1, 11])
    def test_rejects_an_impossible_count(self, count: int) -> None:
        with pytest.raises(ValueError, match=f'data.subset={count} must be from 1 to 10'):
            random_rows(10, count, 0)


class TestBalancedRows:
    label = np.repeat([0, 1, 2], [50, 5, 45])

    def test_classes_get_equally_many_rows_as_far_as_they_have_them(self) -> None:
        rows = balanced_rows(self.label, 15, 0)
        assert np.bincount(self.label[rows]).tolist() == [5, 5, 5]
        assert sorted(np.bincount(self.label[balanced_rows(self.label, 26, 0)]).tolist()) == [5, 10, 11]

    def test_are_ascending_random_and_nested(self) -> None:
        rows = balanced_rows(self.label, 15, 0)
        assert (np.diff(rows) > 0).all()
        assert not np.array_equal(rows, balanced_rows(self.label, 15, 1))
        assert set(rows) <= set(balanced_rows(self.label, 40, 0))

    def test_accepts_a_class_without_rows(self) -> None:
        assert balanced_rows(np.array([3, 0, 3, 0]), 2, 0).size == 2

    def test_rejects_more_rows_than_exist(self) -> None:
        with pytest.raises(ValueError, match='from 1 to 100'):
            balanced_rows(self.label, 101, 0)


class TestRandomRowsPerGroup:
    sizes = np.array([3, 0, 7, 1])

    def test_a_group_gives_the_requested_rows_or_all_it_has(self) -> None:
        group = np.repeat(np.arange(4), self.sizes)
        for count in (0, 1, 2, 5, 10):
            rows = random_rows_per_group(self.sizes, count, seed=0)
            assert (np.diff(rows) > 0).all()
            assert np.bincount(group[rows], minlength=4).tolist() == np.minimum(self.sizes, count).tolist()

    def test_are_nested_and_depend_on_the_seed(self) -> None:
        assert set(random_rows_per_group(self.sizes, 2, 0)) <= set(random_rows_per_group(self.sizes, 4, 0))
        assert len({tuple(random_rows_per_group(self.sizes, 2, seed)) for seed in range(9)}) > 3

    def test_a_group_s_rows_depend_only_on_its_number(self) -> None:
        whole = random_rows_per_group(self.sizes, 2, seed=4)
        assert (random_rows_per_group(self.sizes[2:], 2, seed=4, start=2) + 3).tolist() == whole[whole >= 3].tolist()

    def test_every_row_is_equally_likely(self) -> None:
        drawn = random_rows_per_group(np.full(6000, 3), 1, seed=0) % 3
        assert np.abs(np.bincount(drawn) - 2000).max() < 150  # four standard deviations


class TestRandomParts:
    def test_hold_each_number_once_and_are_large_enough(self) -> None:
        parts = random_parts(1000, 300)
        assert [len(part) for part in parts] == [334, 333, 333]
        assert sorted(np.concatenate(parts)) == [*range(1000)]
        assert all((np.diff(part) > 0).all() for part in parts) and parts[0].tolist() != [*range(334)]

    @pytest.mark.parametrize('least', [None, 4, 7])
    def test_a_small_set_is_one_part(self, least: int | None) -> None:
        (part,) = random_parts(7, least)
        assert part.tolist() == [*range(7)]
