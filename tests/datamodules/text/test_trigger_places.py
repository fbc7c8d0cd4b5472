from __future__ import annotations

import numpy as np
import pytest

from datamodules.text.allowed_tokens import ends_word
from datamodules.text.tokenizer import WordTokenizer
from datamodules.text.trigger_places import cut_by_trigger, trigger_places
from datamodules.usage_error import UsageError

CONTEXT = 10
FULL = ' '.join(['dog'] * 100)


def tokens(*captions: str) -> np.ndarray:
    return np.stack([WordTokenizer(CONTEXT)(caption) for caption in captions])


class TestPlaces:
    def test_at_the_start_and_at_the_end(self) -> None:
        captions = tokens('two dogs', 'a boat in the sea')
        assert trigger_places(captions, 'start', 3, seed=0).tolist() == [1, 1]
        assert trigger_places(captions, 'end', 3, seed=0).tolist() == [3, 6]

    def test_random_places_are_between_words_and_leave_room(self) -> None:
        captions = tokens(*['an unlearnable boat', FULL, 'dog'] * 200)
        place = trigger_places(captions, 'random', 3, seed=0)
        assert set(place[2::3]) == {1, 2}
        assert set(place[1::3]) == set(range(1, CONTEXT - 3))
        pieces = int(captions[0].argmax()) - 3  # of the long word
        assert pieces > 1 and set(place[::3]) == {1, 2, 2 + pieces, 3 + pieces}
        behind = captions[np.arange(len(place)), place - 1]
        assert ((behind == 49406) | ends_word()[behind]).all()

    def test_random_places_depend_on_the_seed_alone(self) -> None:
        captions = tokens(*['a boat in the sea'] * 50)
        places = [trigger_places(captions, 'random', 3, seed=seed).tolist() for seed in (0, 0, 1)]
        assert places[0] == places[1] != places[2]


class TestRoom:
    def test_a_trigger_longer_than_the_context_allows(self) -> None:
        assert trigger_places(tokens('dog'), 'start', CONTEXT - 3, seed=0).tolist() == [1]
        with pytest.raises(UsageError, match=r'trigger_length=8 leaves no room .* 10 tokens .* at most 7'):
            trigger_places(tokens('dog'), 'start', CONTEXT - 2, seed=0)

    def test_no_place_behind_a_full_caption(self) -> None:
        with pytest.raises(UsageError, match=r'1 captions, first that of row 1, leave no room for 3 words behind'):
            trigger_places(tokens('dog', FULL, 'two dogs'), 'end', 3, seed=0)

    def test_captions_that_get_no_trigger_may_be_full(self) -> None:
        used = np.array([True, False])
        assert trigger_places(tokens('dog', FULL), 'end', 3, 0, used)[0] == 2

    def test_counts_captions_that_are_cut(self) -> None:
        five = 'a boat in the sea'  # and start, end and three more words are ten tokens
        captions = tokens(five, f'{five} now', FULL)
        assert [cut_by_trigger(captions, length) for length in (0, 3, 4)] == [0, 2, 3]
