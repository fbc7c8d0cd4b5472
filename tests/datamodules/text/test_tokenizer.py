from __future__ import annotations

import pickle
import time

import numpy as np
import open_clip
import pytest

from datamodules.text.eda import EDA
from datamodules.text.tokenizer import WordTokenizer

TEXTS = [
    '',
    '   ',
    'A dog on the beach .',
    "don't we'll they've it's I'm",
    'photo #3: 123,456 (2019) -- in pictures!!!',
    'fish &amp; chips',
    '&amp;amp;amp;lt;b&amp;gt;',
    'a&nbsp;b &eacute;',
    'naïve café — “quoted” \u2018single\u2019',
    'schÃ¶n mojibake',
    'ﬁne ligature \uff37\uff29\uff24\uff25 İstanbul ǅ',
    '日本語 テスト',
    'tab\tline\nsep\u2028fs\x1cbreak\u00a0zero\u200bwidth',
    '\x1b[31mred\x1b[0m',
    '<start_of_text> hi <end_of_text>',
    'x' * 300,
    'word ' * 100,
    '\U0001f600 smile',
]


class TestWordTokenizer:
    @pytest.mark.parametrize('context_length', [2, 3, 16, 77])
    def test_agrees_with_open_clip(self, context_length: int) -> None:
        tokenize, reference = WordTokenizer(context_length), open_clip.SimpleTokenizer(context_length=context_length)
        rng = np.random.default_rng(0)
        parts = [part for text in TEXTS[2:-2] for part in text.split(' ') if part]
        texts = TEXTS + [' '.join(rng.choice(parts, rng.integers(1, 25))) for _ in range(300)]
        expected = reference(texts).numpy()
        for _ in range(2):  # words seen for the first time, and remembered
            assert np.array_equal(np.stack([tokenize(text) for text in texts]), expected)

    def test_agrees_with_the_tokenizer_of_an_open_clip_model(self) -> None:
        tokens = WordTokenizer()('A Dog, 2 cats')
        assert np.array_equal(tokens, open_clip.get_tokenizer('RN50')('A Dog, 2 cats')[0].numpy())
        assert (tokens.dtype, tokens.shape) == (np.dtype(np.int64), (77,))

    def test_agrees_on_rewritten_captions(self) -> None:
        tokenize, reference, eda = WordTokenizer(24), open_clip.SimpleTokenizer(context_length=24), EDA()
        texts = [eda("A man's photo of the 2 fastest boats at sea", key=(0, 0, row, 0)) for row in range(100)]
        assert np.array_equal(np.stack([tokenize(text) for text in texts]), reference(texts).numpy())

    def test_truncated_captions_end_with_the_end_token_and_are_counted(self) -> None:
        tokenize = WordTokenizer(6)
        end = tokenize('')[1]
        assert tokenize('one two three four')[-1] == end
        assert tokenize.truncated == 0
        assert tokenize('one two three four five')[-1] == end
        assert tokenize.truncated == 1

    def test_remembers_a_limited_number_of_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(WordTokenizer, '_MAX_REMEMBERED_WORDS', 2)
        tokenize = WordTokenizer(8)
        for _ in range(2):
            assert np.array_equal(
                tokenize('a b c d'), open_clip.SimpleTokenizer(context_length=8)('a b c d')[0].numpy()
            )
        assert len(tokenize._ids) == 2

    def test_long_words_are_not_remembered(self) -> None:
        tokenize = WordTokenizer(8)
        tokenize('x' * 9_000 + ' y')
        assert set(tokenize._ids) == {'y'}

    def test_a_long_caption_is_cut_before_it_is_split(self) -> None:
        tokenize = WordTokenizer(77)
        reference = open_clip.SimpleTokenizer(context_length=77)
        rng = np.random.default_rng(0)
        long = ''.join(rng.choice([*'abcdefgh &;é'], 9_999))
        for text in (long, long.replace(' ', '')[:2_000], 'é' * 2_000):
            assert np.array_equal(tokenize(text), reference(text)[0].numpy())
        start = time.process_time()
        tokenize('a dog ' * 2_000_000)
        tokenize('x' * 10_000_000)
        assert time.process_time() - start < 1

    def test_can_be_pickled(self) -> None:
        tokenize = WordTokenizer(8)
        assert np.array_equal(pickle.loads(pickle.dumps(tokenize))('a dog'), tokenize('a dog'))

    def test_rejects_a_context_without_room_for_start_and_end(self) -> None:
        with pytest.raises(ValueError, match='context_length must leave room for start and end, at least 2, got 1'):
            WordTokenizer(1)
