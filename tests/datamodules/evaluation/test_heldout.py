from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.evaluation.heldout import read_published
from datamodules.usage_error import UsageError


class TestReadPublished:
    def test_reads_protected_captions(self, tmp_path: Path) -> None:
        columns = {'image': ['images/0.png'], 'source': ['0.jpg'], 'protected_caption': ['vows  a cat'], 'row': [0]}
        pq.write_table(pa.table(columns), tmp_path / 'manifest.parquet')
        table = read_published(str(tmp_path), 'data.retrieval_sets.protected')
        assert (table.image.to_pylist(), table.captions([0])) == (['images/0.png'], ['vows a cat'])

    def test_a_picture_that_was_published_for_each_caption_is_one(self, tmp_path: Path) -> None:
        images, sources = ['b_0.png', 'a.png', 'b_1.png', 'b_2.png'], ['b.jpg', 'a.jpg', 'b.jpg', 'b.jpg']
        columns = {'image': images, 'source': sources, 'protected_caption': ['one', 'two', 'three', 'four']}
        pq.write_table(pa.table(columns), tmp_path / 'manifest.parquet')
        table = read_published(str(tmp_path), 'data.retrieval_sets.protected')
        assert table.image.to_pylist() == ['b_0.png', 'a.png', 'b_0.png', 'b_0.png']
        assert table.captions([0, 3]) == ['one', 'four']

    @pytest.mark.parametrize('content', [None, b'', {'row': [0], 'caption': ['a cat']}, {'image': [['a']]}])
    def test_refuses_other_folders(self, content: object, tmp_path: Path) -> None:
        if isinstance(content, bytes):
            (tmp_path / 'manifest.parquet').write_bytes(content)
        elif content:
            pq.write_table(pa.table(content), tmp_path / 'manifest.parquet')
        with pytest.raises(
            UsageError, match=r'data.retrieval_sets.protected=.*: give a folder that clipward protect has'
        ):
            read_published(str(tmp_path), 'data.retrieval_sets.protected')

    def test_refuses_a_missing_folder(self) -> None:
        with pytest.raises(UsageError, match=r"data.retrieval_sets.protected='nowhere' does not exist"):
            read_published('nowhere', 'data.retrieval_sets.protected')
