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
import pytest

from datamodules.rows.draws import bits
from datamodules.text import eda
from datamodules.text.eda import EDA, Draws, Operation, synonyms, wordnet_installed

WORDS = [f'w{i}' for i in range(30)]


@pytest.fixture
def fake_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WordNet in which every word but ``rock`` has two synonyms."""
    monkeypatch.setattr(eda, 'wordnet_installed', lambda: True)
    monkeypatch.setattr(eda, 'synonyms', lambda word: () if word == 'rock' else (f'{word} one', f'{word} two'))


class TestDraws:
    def test_equal_those_of_arrays(self) -> None:
        draws = Draws(3, 1, 2)
        assert [draws.next_bits() for _ in range(4)] == bits(4, 3, 1, 2).tolist()
        assert Draws(-1).next_bits() == int(bits(1, -1)[0])

    def test_are_uniform(self) -> None:
        draws = Draws(0)
        counts = Counter(draws.below(7) for _ in range(7000))
        assert sorted(counts) == list(range(7))
        assert all(abs(count - 1000) < 150 for count in counts.values())
        assert abs(np.mean([draws.uniform() for _ in range(5000)]) - 0.5) < 0.02

    def test_shuffle_produces_every_order_of_the_items(self) -> None:
        orders = Counter(''.join(Draws(key).shuffle(list('abc'))) for key in range(1200))
        assert len(orders) == 6
        assert min(orders.values()) > 140


def edit_once(operation: Operation, caption: str, key: int = 0, alpha: float = 0.1) -> str:
    return EDA(alpha, [operation])(caption, key=(0, 0, key, 0))


@pytest.mark.usefixtures('fake_wordnet')
class TestOperations:
    def test_each_of_the_four_is_equally_likely(self) -> None:
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
    def test_edits_a_tenth_of_the_words_but_at_least_one(self, length: int, n: int) -> None:
        caption = ' '.join(WORDS[:length])
        assert len(edit_once('insertion', caption).split()) == length + 2 * n  # a synonym is of two words
        assert len(re.findall('one|two', edit_once('synonym', caption))) == n
        moved = {
            sum(a != b for a, b in zip(edit_once('swap', caption, key).split(), WORDS[:length], strict=True))
            for key in range(200)
        }
        assert max(moved) == 2 * n

    def test_edits_of_a_caption_of_two_words(self) -> None:
        assert edit_once('synonym', 'a dog') in ('a dog one', 'a dog two')
        assert {edit_once('insertion', 'a dog', key) for key in range(50)} == {
            'a one a dog', 'a a one dog', 'dog one a dog', 'a dog one dog',
        }  # fmt: skip
        assert Counter(edit_once('swap', 'a dog', key) for key in range(800))['a dog'] == pytest.approx(100, abs=35)

    def test_synonyms_replace_all_occurrences_of_a_word_but_no_stop_words(self) -> None:
        assert edit_once('synonym', 'the dog and the dog of the') in (
            'the dog one and the dog one of the',
            'the dog two and the dog two of the',
        )
        assert edit_once('synonym', 'it is what it is') == 'it is what it is'

    def test_words_without_synonyms_are_not_replaced(self) -> None:
        assert edit_once('synonym', 'rock') == edit_once('insertion', 'rock') == 'rock'
        assert edit_once('synonym', 'rock dog') in ('rock dog one', 'rock dog two')

    def test_insertion_tries_ten_times_to_find_a_word_with_synonyms(self) -> None:
        results = Counter(edit_once('insertion', 'rock ' * 4 + 'dog', key) for key in range(1000))
        assert results['rock rock rock rock dog'] == pytest.approx(1000 * 0.8**10, abs=35)

    def test_deletion_drops_a_tenth_of_the_words_but_never_all(self) -> None:
        left = [len(edit_once('deletion', ' '.join(WORDS), key).split()) for key in range(400)]
        assert np.mean(left) == pytest.approx(27, abs=0.3)
        assert {edit_once('deletion', 'a b', key, alpha=1.0) for key in range(30)} == {'a', 'b'}
        assert {edit_once('deletion', 'dog', key, alpha=1.0) for key in range(30)} == {'dog'}

    def test_swap_does_not_change_a_single_word(self) -> None:
        assert edit_once('swap', 'dog') == 'dog'


class TestEDA:
    def test_normalizes_case_apostrophes_and_symbols(self) -> None:
        keep = EDA(1e-9, ['deletion'])  # drops no word
        assert keep("A dog's T-shirt,\tx_y (2 €)", key=(0, 0, 0, 0)) == 'a dogs t shirt x y 2'
        assert keep('LE CAFÉ l\u2019été', key=(0, 0, 0, 0)) == 'le café lété'

    def test_letters_only_drops_everything_else_as_in_the_released_code(self) -> None:
        released = EDA(1e-9, ['deletion'], letters_only=True)
        assert released('2 dogs', key=(0, 0, 0, 0)) == 'dogs'
        assert re.fullmatch('[a-z ]+', released("It's 5 o'clock: café!", key=(0, 0, 0, 0)))

    @pytest.mark.parametrize('caption', ['', ' ', '!!! ...', '_'])
    def test_a_caption_without_words_is_returned_unchanged(self, caption: str) -> None:
        assert EDA()(caption, key=(0, 0, 0, 0)) == caption
        assert EDA(letters_only=True)('123', key=(0, 0, 0, 0)) == '123'

    def test_every_part_of_the_key_changes_the_result(self) -> None:
        caption, eda = ' '.join(WORDS), EDA(operations=['swap'])
        keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)]
        rewritten = [eda(caption, key=key) for key in keys]
        assert rewritten[0] == rewritten[-1]
        assert len(set(rewritten)) == 5

    def test_with_refresh_once_the_epoch_does_not_matter(self) -> None:
        caption, eda = ' '.join(WORDS), EDA(operations=['swap'], refresh='once')
        first = eda(caption, key=(0, 0, 4, 1))
        assert first == eda(caption, key=(0, 9, 4, 1)) == EDA(operations=['swap'])(caption, key=(0, 0, 4, 1))
        assert first != eda(caption, key=(0, 0, 4, 0))

    def test_another_process_with_another_hash_seed_rewrites_alike(self) -> None:
        script = (
            'from datamodules.text.eda import EDA\n'
            "words = ' '.join(f'w{i}' for i in range(30))\n"
            'print([EDA()(words, key=(1, 2, row, 0)) for row in range(8)])'
        )
        other = subprocess.run(
            [sys.executable, '-c', script], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
            env={**os.environ, 'PYTHONHASHSEED': '1', 'PYTHONPATH': '.'},
        )  # fmt: skip
        assert other.stdout == f'{[EDA()(" ".join(WORDS), key=(1, 2, row, 0)) for row in range(8)]}\n'

    def test_can_be_pickled(self) -> None:
        eda = EDA(letters_only=True)
        copy = pickle.loads(pickle.dumps(eda))
        assert copy('a dog in a park', key=(0, 0, 3, 0)) == eda('a dog in a park', key=(0, 0, 3, 0))

    def test_without_wordnet_swap_and_deletion_remain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(eda, 'wordnet_installed', lambda: False)
        assert EDA().operations == ('swap', 'deletion')
        with pytest.raises(ValueError, match=r'need the WordNet corpus: install it with .* or add swap or deletion'):
            EDA(operations=['synonym', 'insertion'])

    def test_rejects_invalid_arguments(self) -> None:
        for alpha in (0.0, 1.1):
            with pytest.raises(ValueError, match=r'data\.caption_views\.alpha'):
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

    def test_require_nltk_and_its_corpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, 'nltk.corpus', None)
        assert not wordnet_installed.__wrapped__()

    @pytest.mark.skipif(not wordnet_installed(), reason='the WordNet corpus is not installed')
    def test_come_from_wordnet(self) -> None:
        assert 'domestic dog' in synonyms('dog')
        assert list(synonyms('dog')) == sorted(synonyms('dog'))
