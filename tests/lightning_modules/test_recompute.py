from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import packed_text
from lightning_modules.clip import CLIP
from lightning_modules.losses import info_nce
from lightning_modules.recompute import frozen_statistics, recompute
from tests.helpers.tiny import tiny_architecture, write_json

PAIRS = 8


class Batch(NamedTuple):
    image: Tensor
    tokens: Tensor
    row: Tensor
    cross_modal: int


def train_step(architecture: str, **kwargs: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss of one step of a model whose random weights are always the same, then all gradients and buffers."""
    torch.manual_seed(0)
    model = CLIP(architecture, **kwargs)
    image = torch.randn(1, PAIRS, 3, model.image_size, model.image_size)
    tokens = torch.randint(1, 49408, (1, PAIRS, model.context_length))
    images, texts = model._embed(Batch(image, tokens, torch.arange(PAIRS), PAIRS))
    loss = info_nce(images[0], texts[0], model.logit_scale, images[0], texts[0], 0)
    model.backward(loss)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), {**gradients, **dict(model.named_buffers())}


@pytest.fixture
def transformer(tmp_path: Path) -> str:
    return tiny_architecture(tmp_path, 'recomputed', layers=2)


@pytest.fixture
def timm_resnet(tmp_path: Path) -> str:
    vision = {'timm_model_name': 'test_resnet', 'timm_pool': 'avg', 'image_size': 32}
    text = {'context_length': 8, 'width': 8, 'heads': 2, 'layers': 1}
    return write_json(tmp_path / 'timm_resnet.json', {'embed_dim': 8, 'vision_cfg': vision, 'text_cfg': text})


@pytest.mark.parametrize('towers', ['resnet', 'timm_resnet', 'transformer'])
def test_recomputing_blocks_changes_no_bit(towers: str, request: pytest.FixtureRequest) -> None:
    architecture = 'tiny_toy.json' if towers == 'resnet' else request.getfixturevalue(towers)
    (loss, plain), (loss_2, recomputed) = (train_step(architecture, grad_checkpointing=c) for c in (False, True))
    assert loss == loss_2
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_a_batch_in_chunks_has_the_loss_and_gradients_of_the_whole(transformer: str) -> None:
    (loss, whole), (loss_2, chunked) = (train_step(transformer, chunk_size=size) for size in (None, 3))
    assert loss_2 == pytest.approx(loss, rel=1e-5)
    for name in whole:
        tolerance = 1e-5 * float(whole[name].nan_to_num(neginf=0).abs().max())
        torch.testing.assert_close(chunked[name], whole[name], atol=tolerance, rtol=0)


def test_the_last_chunk_is_about_as_large_as_the_others(transformer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode = CLIP.encode_image
    monkeypatch.setattr(CLIP, 'encode_image', lambda model, image: sizes.append(len(image)) or encode(model, image))
    train_step(transformer, chunk_size=PAIRS - 1)
    assert sizes == [PAIRS // 2] * 4  # else batch normalization would see one pair; each chunk is computed twice


def test_a_copy_recomputes_its_own_blocks() -> None:
    towers = CLIP('tiny_toy.json', grad_checkpointing=True).towers
    pickle.dumps(towers)
    copied = copy.deepcopy(towers).eval()
    image = torch.randn(1, 3, 32, 32)
    before = copied.encode_image(image)
    for weight in towers.parameters():
        weight.data.zero_()
    assert torch.equal(copied.encode_image(image), before)


@pytest.mark.slow
@pytest.mark.parametrize('min_context_length', [1, 99])
def test_compiled_towers_have_the_same_loss_and_gradients(
    transformer: str, min_context_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_text, 'MIN_CONTEXT_LENGTH', min_context_length)
    (loss, plain), (loss_2, compiled) = (train_step(transformer, compile=c) for c in (False, True))
    assert loss_2 == pytest.approx(loss, rel=1e-5)
    for name in plain:
        tolerance = 1e-4 * float(plain[name].nan_to_num(neginf=0).abs().max())
        torch.testing.assert_close(compiled[name], plain[name], atol=tolerance, rtol=0)


def test_keeps_what_one_chunk_needs(transformer: str) -> None:
    model, kept = CLIP(transformer, chunk_size=2), []
    image, tokens = torch.randn(1, PAIRS, 3, model.image_size, model.image_size), torch.ones(1, PAIRS, 8).long()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        model._embed(Batch(image, tokens, torch.arange(PAIRS), PAIRS))
    assert sum(kept) <= image.numel() + tokens.numel()  # the inputs, and no activation


def test_recomputing_counts_a_batch_once() -> None:
    norm, x = nn.BatchNorm1d(3), torch.randn(5, 3)
    once = nn.BatchNorm1d(3)
    once(x)
    y = recompute(norm, x.requires_grad_())
    with frozen_statistics(norm):
        y.sum().backward()
    for name, buffer in once.named_buffers():
        assert torch.equal(norm.get_buffer(name), buffer)


def test_frozen_statistics_leave_evaluation_alone() -> None:
    norm = nn.BatchNorm1d(3).eval()
    with frozen_statistics(norm):
        assert norm.momentum == 0.1
