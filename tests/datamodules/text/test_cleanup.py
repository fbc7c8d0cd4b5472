from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.text.caption_views import CaptionViews
from datamodules.text.cleanup import DropFirstWords, DropRareWords
from datamodules.usage_error import UsageError
from tests.helpers.tiny import TinyPairs, attach, set_up

KEYS = [(0, 0, 0, 0), (1, 5, 7, 1)]


class TestDropFirstWords:
    @pytest.mark.parametrize('key', KEYS)
    def test_leaves_the_others_as_they_were(self, key: tuple[int, ...]) -> None:
        assert DropFirstWords(3)('lantern oboe Of A dog , running .', key=key) == 'A dog , running .'

    @pytest.mark.parametrize('caption', ['', 'two words', 'just three words'])
    def test_a_caption_without_others_stays(self, caption: str) -> None:
        assert DropFirstWords(3)(caption, key=KEYS[0]) == caption


class TestDropRareWords:
    def view(self, min_captions: int) -> DropRareWords:
        view = DropRareWords(min_captions)
        view.study(['a dog runs', 'A Dog , a dog !', 'oboe a cat'])
        return view

    @pytest.mark.parametrize('key', KEYS)
    def test_counts_captions_in_upper_or_lower_case(self, key: tuple[int, ...]) -> None:
        assert self.view(2)('OBOE a dog runs', key=key) == 'a dog'
        assert self.view(3)('OBOE a dog runs', key=key) == 'a'
        assert self.view(1)('OBOE a dog walks', key=key) == 'OBOE a dog'

    def test_a_bound_that_keeps_no_word_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r'min_captions=4: no word is in that many .*: lower it'):
            self.view(4)

    def test_a_caption_of_rare_words_stays(self) -> None:
        assert self.view(2)('lantern runs', key=KEYS[0]) == 'lantern runs'


@pytest.mark.parametrize('view', [DropFirstWords(1), DropRareWords(9)])
def test_training_sees_captions_that_are_cleaned_up(view: CaptionViews, tmp_path: Path) -> None:
    data = set_up(TinyPairs(caption_views=view, cache_dir=str(tmp_path), class_names=['cat']))
    attach(data)
    batch = next(iter(data.train_dataloader()))
    captions = data.table.captions(batch.row.numpy())
    cleaned = [view(caption, key=(0, 0, 0, 0)) for caption in captions]
    assert cleaned != captions
    assert torch.equal(batch.tokens[0], torch.stack([torch.as_tensor(data.tokenizer(text)) for text in cleaned]))


@pytest.mark.parametrize('argument', ['count', 'min_captions'])
def test_a_number_below_one_is_refused(argument: str) -> None:
    view = {'count': DropFirstWords, 'min_captions': DropRareWords}[argument]
    with pytest.raises(UsageError, match=f'data.caption_views.{argument}'):
        view(0)
