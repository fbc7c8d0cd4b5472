from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datamodules.pictures.images import TarImages
from datamodules.rows.pair_sketch import hash_pairs, share_in, sketch
from datamodules.rows.table import PairTable


def pairs(images: list[str], captions: list[str]) -> PairTable:
    return PairTable(pa.chunked_array([images[:1], images[1:]]), pa.array(captions), opener=TarImages('.'))


class TestHashPairs:
    def test_know_a_pair_by_its_names_and_never_change(self) -> None:
        hashes = hash_pairs(pairs(['0.tar:a:512:9', '0.tar:a:1024:9', '0.tar:b:512:9'], ['x', 'x', 'ä']))
        assert hashes.tolist() == [*[6448329335855580132] * 2, 6799983860934284721]  # without places in shards


class TestShareIn:
    HASHES = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 4000)

    def test_is_exact_for_small_sets(self) -> None:
        known = sketch(self.HASHES[:1000])
        assert share_in([known], self.HASHES[500:1500]) == 0.5
        assert share_in([known], self.HASHES[2000:]) == 0
        assert share_in([known, sketch(self.HASHES[1000:1250])], self.HASHES[500:1500]) == 0.75

    def test_is_within_a_few_percent_for_large_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr('datamodules.rows.pair_sketch.SIZE', 1000)
        large = sketch(self.HASHES[:3000])
        assert len(large) == 1000
        assert share_in([large], self.HASHES) == pytest.approx(0.75, abs=0.03)
        assert share_in([large], self.HASHES[2700:3300]) == pytest.approx(0.5, abs=0.1)
        assert share_in([large, sketch(self.HASHES[3500:])], self.HASHES) == pytest.approx(0.875, abs=0.03)

    def test_is_unknown_without_a_sketch_or_a_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert share_in([], self.HASHES) is None
        monkeypatch.setattr('datamodules.rows.pair_sketch.SIZE', 10)
        assert share_in([sketch(self.HASHES)], self.HASHES[self.HASHES > 0]) is None
