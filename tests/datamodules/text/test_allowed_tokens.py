from __future__ import annotations

import numpy as np
from open_clip import SimpleTokenizer

from datamodules.text.allowed_tokens import allowed_tokens, ends_word, words_of
from datamodules.text.tokenizer import WordTokenizer


def test_the_words_of_clips_vocabulary() -> None:
    allowed = allowed_tokens()
    assert len(allowed) == 32_849 and (np.diff(allowed) > 0).all()
    assert {320, 518, 49406, 49407} & {*allowed.tolist()} == {518}  # `a` has one letter; start and end are no words
    assert all(word.isascii() and word.isalpha() and len(word) > 1 for word in words_of(allowed))


def test_a_caption_with_any_of_them_is_read_back_as_it_was() -> None:
    tokenize, draw = WordTokenizer(16), np.random.default_rng(0)
    for caption in ('two dogs , one of them brown', "it 's a boat", '3 men'):
        tokens = tokenize(caption)
        words = tokens[1 : tokens.argmax()].tolist()
        for trigger in draw.choice(allowed_tokens(), (200, 3)):
            for text, expected in (
                (f'{" ".join(words_of(trigger))} {caption}', [*trigger, *words]),
                (f'{caption} {" ".join(words_of(trigger))}', [*words, *trigger]),
            ):
                read = tokenize(text)
                assert read[1 : read.argmax()].tolist() == expected


def test_ends_of_words() -> None:
    tokenizer = SimpleTokenizer()
    ends = ends_word()
    assert len(ends) == len(tokenizer.decoder) and ends[518] and not ends[49406] and not ends[49407]
    pieces = tokenizer.encode('unlearnable')
    assert len(pieces) > 1 and ends[pieces].tolist() == [False] * (len(pieces) - 1) + [True]
