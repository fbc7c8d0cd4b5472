from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from callbacks import shuffled_pairs
from callbacks.shuffled_pairs import (
    SAME_WORDS,
    SHUFFLES,
    ShuffledPairs,
    agreement_of_words,
    compare_with_others,
    draw_sample,
    weigh_words,
)
from datamodules.text.tokenizer import WordTokenizer
from tests.callbacks.planted import trainer

PAIRS, VIEWS, WIDTH = 40, 3, 8
TOKENS = np.arange(PAIRS)[:, None]  # each caption has one word of its own


def embeddings() -> torch.Tensor:
    """Of pictures and captions, (2, V, N, D)."""
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(2, VIEWS, PAIRS, WIDTH, generator=generator), dim=-1)


def collect(views: torch.Tensor, rows: np.ndarray, batch: int = 7) -> ShuffledPairs:
    shuffled = ShuffledPairs(rows, TOKENS[rows])
    for row in torch.arange(PAIRS).split(batch):
        shuffled.add({'row': row, 'views': views[:, :, row]})
    return shuffled


class TestSample:
    def test_is_random_and_depends_on_the_rows_alone(self) -> None:
        rows = np.arange(0, 90_000, 2)
        sample = draw_sample(rows)
        assert len(np.unique(sample)) == shuffled_pairs.SAMPLE and np.isin(sample, rows).all()
        assert abs(np.corrcoef(sample, np.arange(len(sample)))[0, 1]) < 0.05
        assert abs(sample.mean() / 45_000 - 1) < 0.05
        assert draw_sample(rows).tolist() == sample.tolist()

    def test_is_every_row_of_a_small_set(self) -> None:
        assert sorted(draw_sample(np.arange(5))) == [0, 1, 2, 3, 4]


class TestSimilarities:
    def test_are_those_of_pictures_and_other_captions(self) -> None:
        views, rows = embeddings(), np.array([31, 2, 17, 8, 25, 0, 11])
        values = collect(views, rows).similarities(trainer(1)).view(SHUFFLES, len(rows))
        image, text = views.double()
        for place, row in enumerate(rows):
            for shift in range(SHUFFLES):
                other = rows[(place + shift + 1) % len(rows)]
                expected = (image[:, row] * text[:, other]).sum(-1).mean()
                agree = F.cosine_similarity(text[:, row].mean(0), text[:, other].mean(0), dim=0) > 0.9
                assert agree or values[shift, place].item() == pytest.approx(expected.item(), abs=1e-6)

    def test_leave_out_captions_that_say_the_same(self) -> None:
        image, text = embeddings()
        text[:, 1] = text[:, 0] + 1e-3
        values = compare_with_others(image, text, 1)
        assert values[0].isnan() and not values[1:].isnan().any()

    def test_leave_out_captions_with_the_same_words(self) -> None:
        shuffled = ShuffledPairs(np.arange(PAIRS), np.where(TOKENS == 1, 0, TOKENS))
        shuffled.add({'row': torch.arange(PAIRS), 'views': embeddings()})
        values = shuffled.similarities(trainer(1)).view(SHUFFLES, PAIRS)
        assert values[0, 0].isnan() and not values[0, 1:].isnan().any()

    def test_leave_out_pairs_that_were_not_swept(self) -> None:
        views = embeddings()
        shuffled = ShuffledPairs(np.arange(PAIRS), TOKENS)
        shuffled.add({'row': torch.arange(10), 'views': views[:, :, :10]})
        values = shuffled.similarities(trainer(1)).view(SHUFFLES, PAIRS)
        assert not values[0, :9].isnan().any() and values[0, 9:].isnan().all()

    def test_are_unknown_of_a_module_without_embeddings(self) -> None:
        shuffled = ShuffledPairs(np.arange(4), TOKENS[:4])
        shuffled.add({'row': torch.arange(4), 'similarity': torch.ones(4)})
        assert shuffled.similarities(trainer(1)).isnan().all()

    def test_a_pair_of_a_small_sample_is_not_compared_with_itself(self) -> None:
        values = collect(embeddings(), np.arange(SHUFFLES)).similarities(trainer(1)).view(SHUFFLES, SHUFFLES)
        assert values[-1].isnan().all()


class TestWords:
    def test_of_a_class_agree_whatever_else_is_said(self) -> None:
        templates = ['a photo of a {}', 'a low contrast photo of the {}', 'a black and white photo of a {}']
        captions = [template.format(name) for name in ('dog', 'cat', 'truck', 'ship') for template in templates]
        words = weigh_words(np.stack([WordTokenizer(16)(caption) for caption in captions]))
        assert agreement_of_words(words, 1)[0] > SAME_WORDS  # two dogs
        assert agreement_of_words(words, 4)[0] < SAME_WORDS  # a dog, and a cat in low contrast

    def test_are_weighed_by_how_rare_they_are(self) -> None:
        words = weigh_words(np.array([[0, 1, 2], [0, 1, 3], [0, 4, 5], [0, 6, 7]]))
        once, twice = np.log(4), np.log(2)  # inverse document frequencies; that of 0, which all have, is 0
        assert agreement_of_words(words, 1) == pytest.approx([twice**2 / (once**2 + twice**2), 0, 0, 0])

    def test_of_a_caption_without_any_agree_with_nothing(self) -> None:
        assert agreement_of_words(weigh_words(np.zeros((3, 2), np.int64)), 1).tolist() == [0, 0, 0]
