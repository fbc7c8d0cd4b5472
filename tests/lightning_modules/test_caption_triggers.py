from __future__ import annotations

from pathlib import Path

import torch

from datamodules.text.tokenizer import WordTokenizer
from lightning_modules.caption_triggers import insert_trigger
from lightning_modules.clip import CLIP
from tests.helpers.tiny import tiny_architecture

TOKENIZE = WordTokenizer(context_length=10)


def tokens(*captions: str) -> torch.Tensor:
    return torch.stack([torch.from_numpy(TOKENIZE(caption)) for caption in captions])


def words(*triggers: str) -> torch.Tensor:
    return torch.stack([torch.from_numpy(TOKENIZE(trigger)[1 : 1 + len(trigger.split())]) for trigger in triggers])


class TestInsertion:
    def test_gives_the_tokens_of_the_text_with_the_words_in_it(self) -> None:
        """At the start, in the middle and at the end; a caption that gets too long is cut as the tokenizer does."""
        long = 'one two three four five six seven eight nine'
        caption, place = tokens('two dogs', 'two dogs', 'two dogs', long), torch.tensor([1, 2, 3, 1])
        trigger = words(*['red car'] * 4)
        expected = tokens('red car two dogs', 'two red car dogs', 'two dogs red car', f'red car {long}')
        assert torch.equal(insert_trigger(caption, place, trigger), expected)

    def test_a_full_caption_keeps_its_end_token_in_the_last_place(self) -> None:
        full = tokens(' '.join(['dog'] * 100))
        inserted = insert_trigger(full, torch.tensor([1]), words('red car red'))
        assert inserted[0, -1] == 49407 and inserted.argmax() == 9
        assert inserted[0, 1:4].tolist() == words('red car red')[0].tolist()

    def test_the_end_token_as_a_trigger_would_hide_the_caption(self, tmp_path: Path) -> None:
        """Which is why no trigger may hold it."""
        torch.manual_seed(0)
        model, captions = CLIP(tiny_architecture(tmp_path)), tokens('two dogs', 'a boat')[:, :8]
        for word, is_hidden in ((49407, True), (49406, False), (518, False)):
            inserted = insert_trigger(captions, torch.tensor([1, 1]), torch.tensor([[word], [word]]))
            one, two = model.encode_text(inserted)
            assert torch.allclose(one, two, atol=1e-6) == is_hidden

    def test_a_trigger_of_no_words_changes_nothing(self) -> None:
        caption = tokens('two dogs', ' '.join(['dog'] * 100))
        nothing = torch.empty(2, 0, dtype=torch.int64)
        assert torch.equal(insert_trigger(caption, torch.tensor([1, 1]), nothing), caption)

    def test_shuffled_captions_take_the_words_of_another_and_keep_their_own_trigger(self) -> None:
        caption, place = tokens('two dogs', 'a boat in the sea'), torch.tensor([3, 1])
        order = torch.tensor([1, 0])
        mixed = insert_trigger(caption[order], place[order], words('red car', 'old man'))
        assert torch.equal(mixed, tokens('red car a boat in the sea', 'two dogs old man'))
