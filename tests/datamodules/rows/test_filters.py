from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.pictures.images import ArrayImages
from datamodules.rows.filters import (
    UIDS,
    CleanSubset,
    Filter,
    KeyList,
    LedgerFilter,
    PictureFold,
    RandomSubset,
    apply_filters,
    dropped_by_any,
    mask_digest,
)
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError
from tests.helpers.mutations import mutations

ROWS = 100
POISONS = np.arange(90, 100)


def table(rows: int = ROWS) -> PairTable:
    pictures = np.zeros((rows, 2, 2, 3), np.uint8)
    references, captions = zip(*((f'{row}.png', f'pair {row}') for row in range(rows)), strict=True)
    return PairTable(references, captions, opener=ArrayImages(pictures))


def write_ledger(path: Path, rows: list[int], similarity: list[float | None], side: list[Any]) -> str:
    keys, captions = [f'{row}.png' for row in rows], [f'pair {row}' for row in rows]
    pq.write_table(pa.table({'key': keys, 'caption': captions, 'similarity': similarity, 'side': side}), path)
    return str(path)


def rows_kept_by(rule: Filter, rows: int = ROWS) -> list[int]:
    return np.flatnonzero(~rule.drop(table(rows))).tolist()


def apply(filters: dict[str, Filter]) -> np.ndarray:
    """Pictures of which each is that of two pairs, half a table apart."""
    hashes = np.random.default_rng(1).integers(-(2**63), 2**63, ROWS // 2)
    return dropped_by_any(apply_filters(filters, table(), POISONS, lambda: np.tile(hashes, 2)), ROWS)


class TestRandomSubset:
    def test_keeps_the_share_and_a_larger_share_contains_a_smaller_one(self) -> None:
        small, large = rows_kept_by(RandomSubset(0.2, seed=3)), rows_kept_by(RandomSubset(0.5, seed=3))
        assert (len(small), len(large)) == (20, 50)
        assert {*small} < {*large}
        assert small != rows_kept_by(RandomSubset(0.2, seed=4))

    @pytest.mark.parametrize('share', [0.0, 1.5])
    def test_refuses_a_share_that_is_not_a_fraction(self, share: float) -> None:
        with pytest.raises(UsageError, match='share must be a fraction'):
            RandomSubset(share)


class TestCleanSubset:
    def test_keeps_the_given_number_of_clean_pairs_and_no_poison(self) -> None:
        dropped = apply({'clean': CleanSubset(30, seed=1)})
        assert (~dropped).sum() == 30
        assert dropped[POISONS].all()

    @pytest.mark.parametrize('count', [0, 91])
    def test_refuses_no_pairs_and_more_than_are_clean(self, count: int) -> None:
        with pytest.raises(UsageError, match=f'count={count} must be from 1 to the 90 clean pairs'):
            apply({'clean': CleanSubset(count)})


class TestPictureFold:
    def test_parts_hold_each_pair_once_and_copies_together(self) -> None:
        parts = [~apply({'part': PictureFold(fold, folds=3)}) for fold in range(3)]
        assert (np.sum(parts, 0) == 1).all() and min(part.sum() for part in parts) > ROWS / 6
        assert all((part[: ROWS // 2] == part[ROWS // 2 :]).all() for part in parts)
        assert (apply({'others': PictureFold(1, 3, listed='drop')}) == parts[1]).all()

    @pytest.mark.parametrize(('fold', 'folds'), [(2, 2), (-1, 2), (0, 1)])
    def test_refuses_a_part_that_does_not_exist(self, fold: int, folds: int) -> None:
        with pytest.raises(UsageError, match='fold must be from 0 to folds - 1'):
            PictureFold(fold, folds)


class TestLedgerFilter:
    def test_keeps_the_safe_side_whatever_the_order_of_the_ledger(self, tmp_path: Path) -> None:
        sides = ['safe' if row % 3 == 0 else 'risky' for row in range(ROWS)]
        file = write_ledger(tmp_path / 'ledger.parquet', [*reversed(range(ROWS))], [0.5] * ROWS, sides[::-1])
        assert rows_kept_by(LedgerFilter(file)) == [*range(0, ROWS, 3)]

    def test_keeps_the_most_similar_share(self, tmp_path: Path) -> None:
        similarity: list[float | None] = [row / ROWS for row in range(ROWS)]
        similarity[99] = None  # not scored
        file = write_ledger(tmp_path / 'ledger.parquet', [*range(ROWS)], similarity, ['risky'] * ROWS)
        assert rows_kept_by(LedgerFilter(file, share=0.1)) == [*range(89, 99)]

    def test_equal_similarities_are_not_ranked_by_row(self, tmp_path: Path) -> None:
        file = write_ledger(tmp_path / 'ledger.parquet', [*range(ROWS)], [0.5] * ROWS, ['risky'] * ROWS)
        rows = rows_kept_by(LedgerFilter(file, share=0.5))
        assert len(rows) == 50 and 15 <= sum(row >= 50 for row in rows) <= 35
        assert rows == rows_kept_by(LedgerFilter(file, share=0.5))

    def test_keeps_p_values_up_to_a_bound_and_none_that_is_unknown(self, tmp_path: Path) -> None:
        file = write_ledger(tmp_path / 'ledger.parquet', [*range(4)], [0.5] * 4, ['risky'] * 4)
        with pytest.raises(UsageError, match=r"^data.filters: file='[^']*' has no p-values, which max_p needs"):
            rows_kept_by(LedgerFilter(file, max_p=0.1))
        p_value = pa.array([0.2, 0.1, None, 0.0], pa.float32())
        pq.write_table(pq.read_table(file).append_column('p_value', p_value), file)
        assert rows_kept_by(LedgerFilter(file, max_p=0.1)) == [1, 3]
        assert rows_kept_by(LedgerFilter(file, share=0.03)) != [1, 3]  # p-values change nothing else

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'share': 0.5, 'max_p': 0.1}, 'share and max_p exclude each other'),
            ({'max_p': 1.0}, r'max_p must be a share of mismatched pairs in \(0, 1\), got 1.0'),
            ({'file': []}, 'file is an empty list'),
        ],
    )
    def test_refuses_arguments_that_decide_nothing(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            LedgerFilter(**{'file': 'ledger.parquet', **arguments})

    def test_drops_pairs_that_the_ledger_lacks(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = write_ledger(tmp_path / 'ledger.parquet', [*range(50)], [0.5] * 50, ['safe'] * 50)
        assert rows_kept_by(LedgerFilter(file)) == [*range(50)]
        assert 'lacks 50 of 100 pairs, which are dropped' in caplog.text

    def test_rows_of_one_name_and_caption_have_a_line_each(self, tmp_path: Path) -> None:
        """A stamped copy with the caption of the original must not be judged by the original's line."""
        file = write_ledger(tmp_path / 'ledger.parquet', [0, 1, 2, 0], [0.5] * 4, ['safe', 'safe', 'safe', 'risky'])
        rows = np.array([1, 0, 3, 0, 0, 2, 1])
        assert (~LedgerFilter(file).drop(table(4).take(rows))).tolist() == [True, True, False, False, False, True, True]

    def test_reads_ledgers_that_have_scored_a_part_each(self, tmp_path: Path) -> None:
        files = [
            write_ledger(tmp_path / name, [0, 1, 2, 3], [None] * 4, sides)
            for name, sides in (('1', ['safe', 'dropped', 'risky', 'dropped']), ('2', ['dropped', 'safe'] * 2))
        ]
        assert rows_kept_by(LedgerFilter(files)) == [0, 1, 3]

    @pytest.mark.parametrize('name', ['missing', ''])
    def test_refuses_a_path_without_a_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError, match=r'^data.filters: there is no file=.*: give the ledger.parquet that'):
            rows_kept_by(LedgerFilter(str(tmp_path / name)))  # a folder by an empty name

    def test_refuses_a_ledger_of_other_pairs_and_another_file(self, tmp_path: Path) -> None:
        file = write_ledger(tmp_path / 'ledger.parquet', [1000], [0.5], ['safe'])
        with pytest.raises(UsageError, match='has none of these pairs'):
            rows_kept_by(LedgerFilter(file))
        (tmp_path / 'text').write_text('no parquet')
        with pytest.raises(UsageError, match='is not a readable ledger'):
            rows_kept_by(LedgerFilter(str(tmp_path / 'text')))

    @pytest.mark.parametrize(('column', 'values'), [('similarity', ['high'] * 3), ('caption', [['pair 0']] * 3)])
    def test_refuses_a_file_with_columns_of_other_types(self, tmp_path: Path, column: str, values: list[Any]) -> None:
        file = write_ledger(tmp_path / 'ledger.parquet', [0, 1, 2], [0.5] * 3, ['safe'] * 3)
        lines = pq.read_table(file)
        changed = lines.set_column(lines.schema.get_field_index(column), column, pa.array(values))
        pq.write_table(changed, file)
        with pytest.raises(UsageError, match='is not a readable ledger'):
            rows_kept_by(LedgerFilter(file, share=0.5))

    def test_a_pair_without_a_side_is_not_safe(self, tmp_path: Path) -> None:
        file = write_ledger(tmp_path / 'ledger.parquet', [0, 1, 2], [0.5] * 3, ['safe', None, 'safe'])
        assert rows_kept_by(LedgerFilter(file)) == [0, 2]


class TestKeyList:
    def test_keeps_or_drops_the_pairs_in_a_text_file(self, tmp_path: Path) -> None:
        (tmp_path / 'keys.txt').write_text('3.png\n7.png\nunknown.png\n')
        assert rows_kept_by(KeyList(str(tmp_path / 'keys.txt'))) == [3, 7]
        assert rows_kept_by(KeyList(str(tmp_path / 'keys.txt'), listed='drop')) == [
            r for r in range(ROWS) if r not in (3, 7)
        ]

    def test_counts_keys_that_name_no_pair(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / 'keys.txt').write_text('3.png \n\tghost\x1b[2J.png\n7.png\n7.png\n')
        with caplog.at_level(logging.WARNING):
            assert rows_kept_by(KeyList(str(tmp_path / 'keys.txt'))) == [3, 7]
        assert r"1 of 3 keys name no pair; first: 'ghost\x1b[2J.png'" in caplog.text

    def test_reads_the_uids_of_datacomp(self, tmp_path: Path) -> None:
        """DataComp writes uids, 32 hexadecimal digits, as a structured array of two little-endian 64-bit halves."""
        uid = 'ff' * 8 + '00' * 7 + '07'
        np.save(tmp_path / 'subset.npy', np.array([(int(uid[:16], 16), int(uid[16:], 16))], 'u8,u8'))
        pictures = np.zeros((2, 2, 2, 3), np.uint8)
        pairs = PairTable(['0', '1'], ['a', 'b'], keys={'uid': pa.array([uid, None])}, opener=ArrayImages(pictures))
        assert KeyList(str(tmp_path / 'subset.npy')).drop(pairs).tolist() == [False, True]

    def test_reads_text_with_a_byte_order_mark_and_carriage_returns(self, tmp_path: Path) -> None:
        (tmp_path / 'keys.txt').write_bytes(b'\xef\xbb\xbf3.png\r\n7.png\r\n')
        assert rows_kept_by(KeyList(str(tmp_path / 'keys.txt'))) == [3, 7]

    @pytest.mark.parametrize(
        ('name', 'content'), [('keys.txt', b'\xff\x00'), ('keys.npy', b''), ('keys.npy', b'3.png\n')]
    )
    def test_refuses_a_file_of_another_kind(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match='is not a readable list'):
            rows_kept_by(KeyList(str(tmp_path / name)))

    def test_refuses_python_objects_and_archives(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'objects.npy', np.array([{'uid': 1}], object))
        np.savez(tmp_path / 'archive.npz', uids=np.arange(3))
        (tmp_path / 'archive.npz').rename(tmp_path / 'archive.npy')
        for name in ('objects.npy', 'archive.npy'):
            with pytest.raises(UsageError, match='is not a readable list'):
                rows_kept_by(KeyList(str(tmp_path / name)))

    def test_refuses_other_arrays_and_lists_of_other_pairs(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'rows.npy', np.arange(3))
        with pytest.raises(UsageError, match='holds int64'):
            rows_kept_by(KeyList(str(tmp_path / 'rows.npy')))
        (tmp_path / 'keys.txt').write_text('unknown.png\n')
        with pytest.raises(UsageError, match=r"lists none of the 100 pairs.*'0.png'"):
            rows_kept_by(KeyList(str(tmp_path / 'keys.txt')))


@pytest.mark.parametrize('name', ['keys.npy', 'keys.txt', 'ledger.parquet'])
def test_mutated_lists_end_in_a_sentence(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    np.save(tmp_path / 'keys.npy', np.array([(1, 2), (3, 4)], UIDS))
    (tmp_path / 'keys.txt').write_text('0.png\n1.png\n')
    write_ledger(tmp_path / 'ledger.parquet', [0, 1, 2], [0.5, 0.6, 0.7], ['safe', 'risky', 'safe'])
    rule = LedgerFilter(str(file), share=0.5) if name == 'ledger.parquet' else KeyList(str(file))
    for data in mutations(file.read_bytes(), 200):
        file.write_bytes(data)
        try:
            rule.drop(table(5))
        except UsageError as error:
            assert str(error).startswith('data.filters: file=') and '\n' not in str(error)


class TestApplyFilters:
    def test_a_pair_is_dropped_by_any_filter(self, tmp_path: Path) -> None:
        for name in ('1', '2'):
            (tmp_path / name).write_text(f'{name}.png\n')
        rules: dict[str, Filter] = {name: KeyList(str(tmp_path / name), 'drop') for name in ('1', '2')}
        assert np.flatnonzero(apply(rules)).tolist() == [1, 2]

    @pytest.mark.parametrize('mask', [np.zeros(1, bool), np.zeros(ROWS, int), [False] * ROWS])
    def test_names_a_filter_that_returns_no_mask_of_the_rows(self, mask: Any) -> None:
        class Mine(Filter):
            def drop(self, table: PairTable) -> np.ndarray:
                return mask

        with pytest.raises(TypeError, match=r'Mine must return a numpy array of type bool and shape \(100,\)'):
            apply({'mine': Mine()})

    def test_refuses_to_drop_everything(self, tmp_path: Path) -> None:
        for name in ('1', '2'):
            (tmp_path / name).write_text(f'{name}.png\n')
        with pytest.raises(UsageError, match=r'data.filters drop all 100 pairs: loosen or remove one of first, second'):
            apply({'first': KeyList(str(tmp_path / '1')), 'second': KeyList(str(tmp_path / '2'))})

    def test_the_digest_identifies_the_dropped_rows(self) -> None:
        masks = [np.arange(ROWS) == row for row in (3, 4)]
        assert mask_digest(masks[0]) == mask_digest(masks[0].copy()) != mask_digest(masks[1])
        assert mask_digest(np.zeros(ROWS, bool)) is None
