from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.attacks.ranking import read_ranking, write_ranking
from datamodules.rows.table import PairTable
from tests.datamodules.attacks.pools import captioned_table, labeled_table, opener

ALL = np.arange(20)


def written(folder: Path, text: str) -> str:
    (folder / 'ranking.csv').write_text(text)
    return str(folder / 'ranking.csv')


def test_images_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'image,similarity\n7,0.1\n3,0.9\n12,0.5\n')
    assert read_ranking(file, labeled_table('heldout', 20), ALL).tolist() == [7, 3, 12]


def test_images_that_are_not_candidates_are_skipped(tmp_path: Path) -> None:
    file = written(tmp_path, 'image\n7\nelsewhere\n3\n12\n')
    selected = read_ranking(file, labeled_table('heldout', 20), np.array([3, 5, 12]))
    assert selected.tolist() == [3, 12]


def test_an_image_that_is_listed_twice_is_selected_once(tmp_path: Path) -> None:
    file = written(tmp_path, 'image\n7\n3\n7\n')
    assert read_ranking(file, labeled_table('heldout', 20), ALL).tolist() == [7, 3]


def test_an_image_of_several_rows_is_selected_by_its_candidate_row(tmp_path: Path) -> None:
    file = written(tmp_path, 'image\n7\n3\n')  # image 3 has rows 6 and 7
    assert read_ranking(file, captioned_table('heldout', 10), np.array([1, 7, 15])).tolist() == [15, 7]


@pytest.mark.parametrize('kind', [pa.string(), pa.large_string()])
def test_chunked_columns_and_large_strings_are_supported(kind: pa.DataType, tmp_path: Path) -> None:
    image = pa.chunked_array([pa.array(['a', 'b'], kind), pa.array(['c'], kind)])
    table = PairTable(image, ['x'] * 3, opener=opener('heldout', 3))
    assert read_ranking(written(tmp_path, 'image\nc\na\n'), table, np.arange(3)).tolist() == [2, 0]


def test_a_written_ranking_is_read_back(tmp_path: Path) -> None:
    images = ['b.jpg', 'a, "b".jpg', 'two\nlines.jpg', 'ü.jpg']
    file = str(tmp_path / 'new' / 'ranking.csv')
    write_ranking(file, images, np.array([0.5, 0.25, 0, -0.125], np.float32))
    assert Path(file).read_text(encoding='utf-8').splitlines()[:2] == ['image,similarity', 'b.jpg,0.500000']
    table = PairTable(images, ['x'] * 4, opener=opener('heldout', 4))
    assert read_ranking(file, table, np.arange(4)).tolist() == [0, 1, 2, 3]


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^ranking '.*none\.csv' does not exist: make it with clipward rank_images"):
        read_ranking(str(tmp_path / 'none.csv'), labeled_table('heldout', 20), ALL)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'is empty'),
        ('file,similarity\n3,0.5\n', "has no column 'image'"),
        ('image,similarity\n3\n', 'has no row that can be read: 1 of 1 rows do not have 2 fields'),
    ],
)
def test_a_file_of_another_kind_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^ranking '.*ranking\.csv' {reason}"):
        read_ranking(written(tmp_path, text), labeled_table('heldout', 20), ALL)
