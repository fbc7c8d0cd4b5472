from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import open_clip
import pyarrow as pa
import pytest

from datamodules import captions
from datamodules.attacks.draws import bits
from datamodules.captions import (
    EDA,
    Draws,
    Operation,
    WordTokenizer,
    imagenet_classes,
    imagenet_templates,
    mentions,
    prompts,
    synonyms,
    wordnet_installed,
)

WORDS = [f'w{i}' for i in range(30)]


@pytest.fixture
def thesaurus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WordNet in which every word but ``rock`` has two synonyms."""
    monkeypatch.setattr(captions, 'wordnet_installed', lambda: True)
    monkeypatch.setattr(captions, 'synonyms', lambda word: () if word == 'rock' else (f'{word} one', f'{word} two'))


class TestPrompts:
    def test_are_those_of_clips_authors(self) -> None:
        templates = imagenet_templates()
        assert len(templates) == len(set(templates)) == 80
        assert prompts('banana', templates)[0] == 'a bad photo of a banana.'
        assert imagenet_classes().index('banana') == 954
        twice = {name for name, count in Counter(imagenet_classes()).items() if count > 1}
        assert twice == {'missile', 'sunglasses'}

    def test_a_name_may_hold_braces(self) -> None:
        assert prompts('set {}', ['a {}, the {}']) == ['a set {}, the set {}']


def named(name: str, *texts: str) -> list[bool]:
    return [bool(found) for found in mentions(pa.array(texts), name)]


class TestMentions:
    def test_a_word_ends_where_letters_and_digits_do(self) -> None:
        assert named('suit', 'a suit.', 'suitcase', 'pursuit', 'Suit', 'suit2', 'my_suit!', '(suit)', '') == [
            True, False, False, True, False, True, True, False,
        ]  # fmt: skip

    def test_the_plural_counts(self) -> None:
        assert named('dog', 'two dogs', "the dog's bone", 'dogma') == [True, True, False]
        assert named('box', 'boxes', 'boxed') == [True, False]
        assert named('strawberry', 'strawberries', 'a strawberry') == [True, True]
        assert named('toy', 'toys', 'toies') == [True, False]

    def test_a_longer_name_around_it_does_not_matter(self) -> None:
        assert named('dog', 'a hot dog with mustard') == [True]

    def test_words_of_a_name_may_be_joined_in_several_ways(self) -> None:
        assert named('ice cream', 'ICE CREAM', 'ice  creams', 'ice-cream') == [True, True, True]
        assert named('ice cream', 'icecream', 'ice of cream', 'nice cream') == [False, False, False]
        assert named('T-shirt', 'a t-shirt', 'T shirts') == [True, True]

    def test_remarks_and_alternatives_in_a_name_are_understood(self) -> None:
        assert named('kite (bird of prey)', 'a kite', 'a bird of prey') == [True, False]
        assert named('cardboard box / carton', 'cardboard boxes', 'milk carton', 'box') == [True, True, False]

    def test_symbols_and_other_alphabets_are_letters_or_plain_text(self) -> None:
        assert named('C++', 'C++ code', 'C code', 'cc') == [True, False, False]
        assert named('café', 'LE CAFÉ.', 'cafés', 'cafe', 'caféine') == [True, True, False, False]
        assert named('a.b', 'a.b', 'axb') == [True, False]

    def test_imagenet_classes_with_symbols_name_themselves(self) -> None:
        symbols = [name for name in imagenet_classes() if re.search('[^A-Za-z ]', name)]
        assert len(symbols) > 30
        assert all(mentions(pa.array([f'a photo of the {name}.']), name)[0] for name in symbols)

    def test_reads_columns_in_chunks(self) -> None:
        found = mentions(pa.chunked_array([['a dog'], [], ['a cat', 'dogs']]), 'dog')
        assert found.dtype == bool
        assert found.tolist() == [True, False, True]

    @pytest.mark.parametrize('name', ['', ' ', '(bird)', '-'])
    def test_a_name_without_a_word_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match='has no word that a caption could contain'):
            named(name, 'a dog')


class TestDraws:
    def test_are_those_of_arrays(self) -> None:
        draws = Draws(3, 1, 2)
        assert [draws.word() for _ in range(4)] == bits(4, 3, 1, 2).tolist()
        assert Draws(-1).word() == int(bits(1, -1)[0])

    def test_are_uniform(self) -> None:
        draws = Draws(0)
        counts = Counter(draws.below(7) for _ in range(7000))
        assert sorted(counts) == list(range(7))
        assert all(abs(count - 1000) < 150 for count in counts.values())
        assert abs(np.mean([draws.uniform() for _ in range(5000)]) - 0.5) < 0.02

    def test_shuffle_keeps_the_items_and_makes_every_order(self) -> None:
        orders = Counter(''.join(Draws(key).shuffle(list('abc'))) for key in range(1200))
        assert len(orders) == 6
        assert min(orders.values()) > 140


def one(operation: Operation, caption: str, key: int = 0, alpha: float = 0.1) -> str:
    return EDA(alpha, [operation])(caption, key=(0, 0, key, 0))


@pytest.mark.usefixtures('thesaurus')
class TestOperations:
    def test_one_of_the_four_is_done_each_as_likely(self) -> None:
        caption, eda = ' '.join(WORDS), EDA()
        done: Counter[str] = Counter()
        for key in range(2000):
            words = eda(caption, key=(0, 0, key, 0)).split()
            new = len([word for word in words if word not in WORDS])
            if len(words) > 33:  # three of two words each, or longer ones where a synonym got one itself
                done['insertion'] += new >= 3
            elif new:
                done['synonym'] += len(words) == 33
            elif sorted(words) == sorted(WORDS) and words != WORDS:
                done['swap'] += 1
            else:
                done['deletion'] += words == [word for word in WORDS if word in words]
        assert sum(done.values()) == 2000
        assert all(abs(count - 500) < 80 for count in done.values())

    @pytest.mark.parametrize(('length', 'n'), [(2, 1), (19, 1), (20, 2), (25, 2), (30, 3)])
    def test_a_tenth_of_the_words_but_at_least_one_is_edited(self, length: int, n: int) -> None:
        caption = ' '.join(WORDS[:length])
        assert len(one('insertion', caption).split()) == length + 2 * n  # a synonym is of two words
        assert len(re.findall('one|two', one('synonym', caption))) == n
        moved = {
            sum(a != b for a, b in zip(one('swap', caption, key).split(), WORDS[:length], strict=True))
            for key in range(200)
        }
        assert max(moved) == 2 * n

    def test_two_words_of_a_small_caption(self) -> None:
        assert one('synonym', 'a dog') in ('a dog one', 'a dog two')
        assert {one('insertion', 'a dog', key) for key in range(50)} == {
            'a one a dog', 'a a one dog', 'dog one a dog', 'a dog one dog',
        }  # fmt: skip
        assert Counter(one('swap', 'a dog', key) for key in range(800))['a dog'] == pytest.approx(100, abs=35)

    def test_synonyms_replace_a_word_wherever_it_stands_and_no_stop_word(self) -> None:
        assert one('synonym', 'the dog and the dog of the') in (
            'the dog one and the dog one of the',
            'the dog two and the dog two of the',
        )
        assert one('synonym', 'it is what it is') == 'it is what it is'

    def test_words_without_synonyms_stay(self) -> None:
        assert one('synonym', 'rock') == one('insertion', 'rock') == 'rock'
        assert one('synonym', 'rock dog') in ('rock dog one', 'rock dog two')

    def test_insertion_looks_for_a_word_with_synonyms_ten_times(self) -> None:
        results = Counter(one('insertion', 'rock ' * 4 + 'dog', key) for key in range(1000))
        assert results['rock rock rock rock dog'] == pytest.approx(1000 * 0.8**10, abs=35)

    def test_deletion_drops_a_tenth_and_never_all(self) -> None:
        left = [len(one('deletion', ' '.join(WORDS), key).split()) for key in range(400)]
        assert np.mean(left) == pytest.approx(27, abs=0.3)
        assert {one('deletion', 'a b', key, alpha=1.0) for key in range(30)} == {'a', 'b'}
        assert {one('deletion', 'dog', key, alpha=1.0) for key in range(30)} == {'dog'}

    def test_swap_leaves_a_single_word(self) -> None:
        assert one('swap', 'dog') == 'dog'


class TestEDA:
    def test_lower_case_apostrophes_and_symbols(self) -> None:
        keep = EDA(1e-9, ['deletion'])  # drops no word
        assert keep("A dog's T-shirt,\tx_y (2 €)", key=(0, 0, 0, 0)) == 'a dogs t shirt x y 2'
        assert keep('LE CAFÉ l\u2019été', key=(0, 0, 0, 0)) == 'le café lété'

    def test_letters_only_loses_the_rest_as_released(self) -> None:
        released = EDA(1e-9, ['deletion'], letters_only=True)
        assert released('2 dogs', key=(0, 0, 0, 0)) == 'dogs'
        assert re.fullmatch('[a-z ]+', released("It's 5 o'clock: café!", key=(0, 0, 0, 0)))

    @pytest.mark.parametrize('caption', ['', ' ', '!!! ...', '_'])
    def test_a_caption_without_words_comes_back_as_it_is(self, caption: str) -> None:
        assert EDA()(caption, key=(0, 0, 0, 0)) == caption
        assert EDA(letters_only=True)('123', key=(0, 0, 0, 0)) == '123'

    def test_every_part_of_the_key_counts(self) -> None:
        caption, eda = ' '.join(WORDS), EDA(operations=['swap'])
        keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)]
        rewritten = [eda(caption, key=key) for key in keys]
        assert rewritten[0] == rewritten[-1]
        assert len(set(rewritten)) == 5

    def test_refreshed_once_the_epoch_does_not_count(self) -> None:
        caption, eda = ' '.join(WORDS), EDA(operations=['swap'], refresh='once')
        first = eda(caption, key=(0, 0, 4, 1))
        assert first == eda(caption, key=(0, 9, 4, 1)) == EDA(operations=['swap'])(caption, key=(0, 0, 4, 1))
        assert first != eda(caption, key=(0, 0, 4, 0))

    def test_another_process_with_another_hash_seed_writes_the_same(self) -> None:
        script = (
            'import sys, types\n'
            "sys.modules['open_clip'] = types.ModuleType('open_clip')\n"  # EDA needs none of it, and its import is slow
            "for name in ('IMAGENET_CLASSNAMES', 'OPENAI_IMAGENET_TEMPLATES', 'SimpleTokenizer'):\n"
            "    setattr(sys.modules['open_clip'], name, None)\n"
            'from datamodules.captions import EDA\n'
            "words = ' '.join(f'w{i}' for i in range(30))\n"
            'print([EDA()(words, key=(1, 2, row, 0)) for row in range(8)])'
        )
        other = subprocess.run(
            [sys.executable, '-c', script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
            env={**os.environ, 'PYTHONHASHSEED': '1', 'PYTHONPATH': '.'},
        )  # fmt: skip
        assert other.stdout == f'{[EDA()(" ".join(WORDS), key=(1, 2, row, 0)) for row in range(8)]}\n'

    def test_travels_to_workers(self) -> None:
        eda = EDA(letters_only=True)
        copy = pickle.loads(pickle.dumps(eda))
        assert copy('a dog in a park', key=(0, 0, 3, 0)) == eda('a dog in a park', key=(0, 0, 3, 0))

    def test_without_wordnet_swap_and_deletion_remain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(captions, 'wordnet_installed', lambda: False)
        assert EDA().operations == ('swap', 'deletion')
        with pytest.raises(ValueError, match=r'need the WordNet corpus: install it with .* or add swap or deletion'):
            EDA(operations=['synonym', 'insertion'])

    def test_refuses_arguments_that_mean_nothing(self) -> None:
        for alpha in (0.0, 1.1):
            with pytest.raises(ValueError, match='alpha must be a share of words'):
                EDA(alpha)
        for operations in ([], ['shuffle']):
            with pytest.raises(ValueError, match='operations must be some of synonym, insertion, swap, deletion'):
                EDA(operations=operations)


class TestSynonyms:
    def test_are_sorted_phrases_of_letters_without_the_word(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [['dog', 'Canis_familiaris'], ['hot-dog', 'dog', "dog's_body", 'x2']]
        senses = [
            SimpleNamespace(lemmas=lambda of=of: [SimpleNamespace(name=lambda name=name: name) for name in of])
            for of in names
        ]
        corpus = ModuleType('nltk.corpus')
        corpus.wordnet = SimpleNamespace(synsets=lambda word: senses)
        monkeypatch.setitem(sys.modules, 'nltk.corpus', corpus)
        assert synonyms.__wrapped__('dog') == ('canis familiaris', 'dogs body', 'hot dog', 'x')

    def test_need_nltk_and_its_corpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, 'nltk.corpus', None)
        assert not wordnet_installed.__wrapped__()

    @pytest.mark.skipif(not wordnet_installed(), reason='the WordNet corpus is not installed')
    def test_come_from_wordnet(self) -> None:
        assert 'domestic dog' in synonyms('dog')
        assert list(synonyms('dog')) == sorted(synonyms('dog'))


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

    def test_agrees_with_the_tokenizer_of_a_model(self) -> None:
        tokens = WordTokenizer()('A Dog, 2 cats')
        assert np.array_equal(tokens, open_clip.get_tokenizer('RN50')('A Dog, 2 cats')[0].numpy())
        assert (tokens.dtype, tokens.shape) == (np.dtype(np.int64), (77,))

    def test_agrees_on_rewritten_captions(self) -> None:
        tokenize, reference, eda = WordTokenizer(24), open_clip.SimpleTokenizer(context_length=24), EDA()
        texts = [eda("A man's photo of the 2 fastest boats at sea", key=(0, 0, row, 0)) for row in range(100)]
        assert np.array_equal(np.stack([tokenize(text) for text in texts]), reference(texts).numpy())

    def test_cut_captions_end_with_the_end_and_are_counted(self) -> None:
        tokenize = WordTokenizer(6)
        end = tokenize('')[1]
        assert tokenize('one two three four')[-1] == end
        assert tokenize.truncated == 0
        assert tokenize('one two three four five')[-1] == end
        assert tokenize.truncated == 1

    def test_remembers_no_more_words_than_it_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(WordTokenizer, '_MOST_WORDS', 2)
        tokenize = WordTokenizer(8)
        for _ in range(2):
            assert np.array_equal(
                tokenize('a b c d'), open_clip.SimpleTokenizer(context_length=8)('a b c d')[0].numpy()
            )
        assert len(tokenize._ids) == 2

    def test_travels_to_workers(self) -> None:
        tokenize = WordTokenizer(8)
        assert np.array_equal(pickle.loads(pickle.dumps(tokenize))('a dog'), tokenize('a dog'))

    def test_needs_room_for_start_and_end(self) -> None:
        with pytest.raises(ValueError, match='context_length must leave room for start and end, at least 2, got 1'):
            WordTokenizer(1)
