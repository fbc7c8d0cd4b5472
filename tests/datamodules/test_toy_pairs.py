from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.pictures.scenes import CLASSES, COLORS
from datamodules.rows.table import PairTable
from datamodules.text.tokenizer import WordTokenizer
from datamodules.toy_pairs import TEMPLATES, ToyPairs, draw_pairs


@pytest.fixture(scope='module')
def pairs() -> PairTable:
    return draw_pairs(1200, 32, (0, 0))


@pytest.fixture(scope='module')
def captions(pairs: PairTable) -> list[str]:
    return pairs.captions(range(len(pairs)))


def read_pixels(table: PairTable) -> list[bytes]:
    return [np.asarray(table.open(row)).tobytes() for row in range(len(table))]


class TestDrawPairs:
    def test_captions_labels_and_pixels_depend_on_the_seed(self) -> None:
        one, same, other = (draw_pairs(30, 32, (seed, 0)) for seed in (3, 3, 4))
        assert one.fingerprint == same.fingerprint != other.fingerprint
        assert read_pixels(one) == read_pixels(same) != read_pixels(other)

    def test_more_rows_do_not_change_the_earlier_ones(self) -> None:
        few, many = draw_pairs(20, 32, (0, 0)), draw_pairs(270, 32, (0, 0))
        assert few.captions(range(20)) == many.captions(range(20))
        assert read_pixels(few) == read_pixels(many)[:20]

    @pytest.mark.parametrize('rows', [1, 24, 100, 250, 480])
    def test_classes_are_balanced_within_one(self, rows: int) -> None:
        table = draw_pairs(rows, 16, (0, 0))
        count = np.bincount(table.label, minlength=len(CLASSES))
        assert len(table) == rows == count.sum() and count.max() - count.min() <= 1

    def test_classes_are_shuffled(self, pairs: PairTable) -> None:
        assert not np.array_equal(pairs.label[:24], pairs.label[24:48])

    def test_pictures_are_rgb_of_the_requested_size(self) -> None:
        assert draw_pairs(1, 48, (0, 0)).open(0).size == (48, 48)
        assert draw_pairs(1, 48, (0, 0)).open(0).mode == 'RGB'

    def test_pictures_of_two_sizes_have_different_fingerprints(self) -> None:
        small, large = draw_pairs(24, 32, (0, 0)), draw_pairs(24, 48, (0, 0))
        assert small.captions(range(24)) == large.captions(range(24))
        assert small.fingerprint != large.fingerprint

    def test_no_picture_occurs_twice(self, pairs: PairTable) -> None:
        assert len(set(read_pixels(pairs))) == len(pairs)


class TestCaptions:
    def test_name_exactly_their_own_class(self, pairs: PairTable, captions: list[str]) -> None:
        for label, caption in zip(pairs.label, captions, strict=True):
            assert [name for name in CLASSES if name in caption] == [CLASSES[label]]

    def test_vary(self, captions: list[str]) -> None:
        assert len(set(captions)) > 0.8 * len(captions)

    def test_are_lower_case_words_with_the_right_article(self, captions: list[str]) -> None:
        assert all(re.fullmatch(r'[a-z]+( [a-z]+)*', caption) for caption in captions)
        assert not any(re.search(r'\ba [aeiou]|\ban [^aeiou]', caption) for caption in captions)

    def test_fit_into_20_tokens(self, captions: list[str]) -> None:
        tokenizer = WordTokenizer(20)
        for caption in captions:
            tokenizer(caption)
        assert tokenizer.truncated == 0

    def test_never_say_left_or_right(self, captions: list[str]) -> None:
        assert not any(word in caption.split() for caption in captions for word in ('left', 'right'))

    def test_describe_the_background_correctly(self, pairs: PairTable, captions: list[str]) -> None:
        smooth = re.compile(rf'smooth ({"|".join(COLORS)})\b')
        told = [(row, found.group(1)) for row, caption in enumerate(captions) if (found := smooth.search(caption))]
        assert len(told) > 10
        for row, name in told:
            frame = np.asarray(pairs.open(row)).astype(float)
            edge = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
            assert np.abs(np.median(edge, 0) - COLORS[name]).max() < 50

    def test_describe_the_height_correctly(self, pairs: PairTable, captions: list[str]) -> None:
        """The object differs from the background; the middle of what differs is its height."""
        height: dict[str, list[float]] = {'near the top': [], 'near the bottom': []}
        for row, caption in enumerate(captions):
            frame = np.asarray(pairs.open(row)).astype(float)
            far = np.abs(frame - np.median(np.concatenate([frame[0], frame[-1]]), 0)).sum(-1) > 150
            for place in height:
                if place in caption and far.any():
                    height[place].append(float(np.nonzero(far)[0].mean()))
        assert np.mean(height['near the top']) + 2 < np.mean(height['near the bottom'])


class TestToyPairs:
    def test_no_heldout_scene_is_a_training_scene(self) -> None:
        data = ToyPairs(rows=480, heldout_rows=240)
        train, heldout = data.load_table(), data.load_heldout()
        assert (len(train), len(heldout)) == (480, 240)
        assert train.fingerprint != heldout.fingerprint
        assert not set(read_pixels(train)) & set(read_pixels(heldout))

    def test_another_seed_draws_other_scenes(self) -> None:
        tables = [
            draw
            for seed in (0, 1)
            for data in [ToyPairs(24, 24, seed)]
            for draw in (data.load_table(), data.load_heldout())
        ]
        assert len({picture for table in tables for picture in read_pixels(table)}) == 4 * 24

    def test_classes_are_the_drawn_ones(self) -> None:
        assert ToyPairs(rows=1, heldout_rows=1).classes == CLASSES

    def test_prompts_default_to_the_words_of_the_captions(self) -> None:
        assert ToyPairs(rows=1).templates == TEMPLATES
        assert ToyPairs(rows=1, templates=['see: {}']).templates == ('see: {}',)

    @pytest.mark.parametrize(
        ('wrong', 'minimum'),
        [({'rows': 0}, 1), ({'heldout_rows': -1}, 1), ({'scene_seed': -1}, 0), ({'scene_size': 8}, 16)],
    )
    def test_names_the_number_that_is_out_of_range(self, wrong: dict[str, Any], minimum: int) -> None:
        with pytest.raises(ValueError, match=rf'data\.{next(iter(wrong))} must be at least {minimum}, got'):
            ToyPairs(**wrong)

    def test_setup_builds_batches(self, tmp_path: Path) -> None:
        data = ToyPairs(
            rows=48, heldout_rows=24, batch_size=8, image_size=32, context_length=20, cache_dir=str(tmp_path)
        )
        data.prepare_data()
        data.setup('fit')
        assert len(data.table) == 48 and data.classes == CLASSES
        assert data.images(np.array([5]))[0].transpose(1, 2, 0).tobytes() == read_pixels(data.source)[5]
        assert [len(evaluation.label) for evaluation in data.evaluation_sets] == [24]
