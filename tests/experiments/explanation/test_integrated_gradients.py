from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.text.tokenizer import WordTokenizer
from datamodules.usage_error import UsageError
from experiments.explanation.integrated_gradients import (
    MAX_GAP,
    Attributions,
    check_captions,
    integrated_gradients,
    without_words,
)
from lightning_modules.clip import CLIP
from tests.helpers.tiny import CONTEXT_LENGTH, tiny_architecture, unit_rows

CAPTIONS = ('a red dog', 'two boats')


def captions() -> Tensor:
    return torch.stack([torch.from_numpy(WordTokenizer(CONTEXT_LENGTH)(caption)).long() for caption in CAPTIONS])


@pytest.fixture
def model(tmp_path: Path) -> CLIP:
    """A model whose token embeddings are as large as those of a trained one, beside its positions."""
    torch.manual_seed(2)
    model = CLIP(tiny_architecture(tmp_path, 'reading', layers=2))
    torch.nn.init.normal_(model.towers.token_embedding.weight, std=0.5)
    return model.eval().requires_grad_(False)


def test_keeps_start_and_end_of_a_caption_without_words() -> None:
    start, end = 49406, 49407
    expected = [[start, 0, 0, 0, end, 0, 0, 0], [start, 0, 0, end, 0, 0, 0, 0]]
    assert without_words(captions()).tolist() == expected


class TestIntegratedGradients:
    @pytest.fixture(autouse=True)
    def captum(self) -> None:
        pytest.importorskip('captum')

    def test_words_add_up_to_what_they_change(self, model: CLIP) -> None:
        image = unit_rows(2, 8, seed=1).float()
        token, difference = result = integrated_gradients(model, captions(), image)
        cosine = (model.encode_text(captions()) * image).sum(1)
        empty = (model.encode_text(without_words(captions())) * image).sum(1)
        assert torch.allclose(difference, cosine - empty, atol=1e-6) and (difference.abs() > 0.01).all()
        assert torch.allclose(token.sum(1), difference, rtol=MAX_GAP) and (result.gap < MAX_GAP).all()
        is_word = captions() != without_words(captions())
        assert token[is_word].all() and not token[~is_word].any()

    def test_a_word_that_is_embedded_as_padding_adds_nothing(self, model: CLIP) -> None:
        tokens, image = captions(), unit_rows(2, 8, seed=1).float()
        table = model.towers.token_embedding.weight
        table[tokens[0, 2]] = table[0]
        token = integrated_gradients(model, tokens, image).token
        assert token[0, 2] == 0 and token[0, 1] != 0 and token[0, 3] != 0


def test_the_gap_is_a_share_of_the_difference() -> None:
    result = Attributions(torch.tensor([[0.1, 0.2], [-0.3, 0.0]]), torch.tensor([0.4, -0.2]))
    assert result.gap.tolist() == pytest.approx([0.25, 0.5])


def test_names_the_package_that_is_missing(model: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'captum', None)
    monkeypatch.delitem(sys.modules, 'captum.attr', raising=False)
    with pytest.raises(UsageError, match=r'need captum: pip install "clipward\[explain\]"'):
        check_captions(model)
