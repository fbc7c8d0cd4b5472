from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor

from lightning_modules.packed_text import can_be_packed, encode_packed, find_packing

START, END, LENGTH = 98, 99, 32


def tower(**kwargs: Any) -> Any:
    """A small text tower with two blocks, as part of a model."""
    torch.manual_seed(0)
    sizes = {'context_length': LENGTH, 'vocab_size': 100, 'width': 16, 'heads': 2, 'layers': 2, 'output_dim': 8}
    text = TextTransformer(**{**sizes, **kwargs})
    return SimpleNamespace(text=text, encode_text=text)


def captions(*lengths: int) -> Tensor:
    """Captions of some lengths, start and end included, int64 (B, T)."""
    tokens = torch.zeros(len(lengths), LENGTH, dtype=torch.int64)
    for caption, length in zip(tokens, lengths, strict=True):
        caption[:length] = torch.randint(1, START, (length,))
        caption[0], caption[length - 1] = START, END
    return tokens


def test_packing_leaves_out_what_follows_the_first_end() -> None:
    tokens = torch.tensor([[98, 5, 99, 0, 0], [98, 99, 7, 99, 0]])
    packing = find_packing(tokens)
    assert packing.caption.tolist() == [0, 0, 0, 1, 1]
    assert packing.position.tolist() == [0, 1, 2, 0, 1]
    assert (packing.end.tolist(), packing.width) == ([2, 1], 3)
    packed = tokens[packing.caption, packing.position][:, None]
    assert packing.pad(packed)[..., 0].tolist() == [[98, 5, 99], [98, 99, 0]]
    assert torch.equal(packing.pack(packing.pad(packed)), packed)
    assert packing.ends(packed)[:, 0].tolist() == [99, 99]


@pytest.mark.parametrize(
    'kwargs', [{}, {'layers': 1}, {'proj_bias': True}, {'proj_type': 'none'}, {'ls_init_value': 0.5}]
)
def test_equals_the_tower_with_padding(kwargs: dict[str, Any]) -> None:
    towers, tokens = tower(**kwargs), captions(2, 5, LENGTH, 7)
    assert can_be_packed(towers)
    padded, gradients = embed(towers, towers.encode_text, tokens)
    packed, gradients_packed = embed(towers, lambda tokens: encode_packed(towers, tokens), tokens)
    torch.testing.assert_close(packed, padded, atol=1e-6, rtol=1e-5)
    for gradient, other in zip(gradients_packed, gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5 * float(other.abs().max()), rtol=0)


def embed(towers: Any, encode: Any, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Embeddings, and the gradients of all weights under a loss that needs every embedding."""
    embedding = encode(tokens)
    weights = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((embedding * weights).sum(), list(towers.text.parameters()))
    return embedding.detach(), list(gradients)


def test_an_embedding_does_not_depend_on_its_neighbors() -> None:
    towers, tokens = tower(), captions(3, 9)
    both, alone = encode_packed(towers, tokens), encode_packed(towers, tokens[:1])
    torch.testing.assert_close(both[:1], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    'kwargs',
    [
        {'no_causal_mask': True},
        {'pool_type': 'last'},
        {'pool_type': 'first'},
        {'embed_cls': True},
        {'context_length': 31},
    ],
)
def test_leaves_other_towers_alone(kwargs: dict[str, Any]) -> None:
    assert not can_be_packed(tower(**kwargs))


def test_packs_the_towers_of_a_clip_model() -> None:
    towers = open_clip.create_model('ViT-S-32', load_weights=False)
    tokens = open_clip.tokenize(['a dog', 'a photo of two dogs that run'])
    with torch.no_grad():
        assert can_be_packed(towers)
        torch.testing.assert_close(encode_packed(towers, tokens), towers.encode_text(tokens), atol=1e-5, rtol=1e-4)
