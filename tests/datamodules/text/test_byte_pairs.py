from __future__ import annotations

import time

import numpy as np
import pytest
from open_clip import SimpleTokenizer

from datamodules.text.byte_pairs import Ranks, merge_pairs


@pytest.fixture(scope='module')
def clip() -> SimpleTokenizer:
    return SimpleTokenizer()


def merge(word: str, ranks: Ranks) -> str:
    return ' '.join(merge_pairs([*word[:-1], f'{word[-1]}</w>'], ranks))


def test_agrees_with_open_clip(clip: SimpleTokenizer) -> None:
    rng = np.random.default_rng(0)
    alphabets = [[*'abcdefghijklmnopqrstuvwxyz'], [*'aetoni'], [*clip.byte_encoder.values()], ['ha', 'ab', 'ing', '!']]
    for number in range(400):
        word = ''.join(rng.choice(alphabets[number % 4], rng.choice([1, 2, 5, 20, 100])))
        assert merge(word, clip.bpe_ranks) == (clip.bpe(word) if len(word) > 1 else f'{word}</w>')


def test_every_symbol_is_made_by_one_pair_of_earlier_symbols(clip: SimpleTokenizer) -> None:
    made = {first + second: rank for (first, second), rank in clip.bpe_ranks.items()}
    assert len(made) == len(clip.bpe_ranks)
    assert all(made.get(part, -1) < rank for pair, rank in clip.bpe_ranks.items() for part in pair)


def test_a_word_of_twice_the_letters_takes_about_twice_the_time(clip: SimpleTokenizer) -> None:
    letters = np.random.default_rng(0).choice([*'abcdefghijklmnopqrstuvwxyz'], 16_000)
    start = time.process_time()
    merge(''.join(letters), clip.bpe_ranks)
    assert time.process_time() - start < 1  # open_clip's takes 5 s


@pytest.mark.parametrize(
    ('word', 'symbols'), [('', []), ('a', ['a']), ('aaa', ['aa', 'a']), ('aaaa', ['aaaa']), ('baab', ['b', 'aab'])]
)
def test_the_leftmost_of_equal_pairs_comes_first(word: str, symbols: list[str]) -> None:
    assert merge_pairs(word, {('a', 'a'): 0, ('aa', 'aa'): 1, ('aa', 'b'): 2}) == symbols
