"""Integrated gradients: what each token of a caption adds to its similarity to a picture."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP, embed

STEPS = 50
PADDING = 0
MAX_GAP = 0.01  # of the difference; more means that the attributions are not to be trusted


class Attributions(NamedTuple):
    """What tokens add.

    Attributes:
        token: What each token adds to the cosine, (B, T): 0 for start, end and padding.
        difference: Cosine of the caption less that of a caption of padding, (B,), which the tokens add up to.
    """

    token: Tensor
    difference: Tensor

    @property
    def gap(self) -> Tensor:
        """How far each caption's tokens are from adding up, as a share of the difference, (B,)."""
        return ((self.token.sum(1) - self.difference) / self.difference).abs()


def integrated_gradients(model: CLIP, tokens: Tensor, image: Tensor) -> Attributions:
    """Integrated gradients (Sundararajan et al., 2017) of the cosine of caption and picture, at the token embedding.

    The path leads from a caption whose words are padding. Start and end stay where they are, because the tower reads
    out at the end; with another baseline the attributions do not add up.

    Args:
        model: The model in evaluation mode.
        tokens: Captions in CLIP's tokens, int64 (B, T).
        image: Unit-norm embeddings of their pictures, (B, D).

    Raises:
        UsageError: If captum is not installed, or the model's tokens are not CLIP's.
    """
    check_captions(model)

    def cosine(tokens: Tensor, image: Tensor) -> Tensor:
        return (embed(model.towers.encode_text, tokens) * image).sum(-1)

    explain = captum_attr().LayerIntegratedGradients(cosine, token_embedding(model.towers))
    rows = []
    for caption, picture in zip(tokens.split(1), image.split(1), strict=True):  # each takes a batch of its own
        parts = explain.attribute(caption, without_words(caption), additional_forward_args=picture, n_steps=STEPS)
        rows.append(parts.detach().sum(-1))
    with torch.no_grad():
        difference = cosine(tokens, image) - cosine(without_words(tokens), image)
    return Attributions(torch.cat(rows), difference)


def without_words(tokens: Tensor) -> Tensor:
    """The same captions (B, T) with padding for words, between the start and the end."""
    place, end = torch.arange(tokens.shape[1], device=tokens.device), tokens.argmax(1, keepdim=True)
    return tokens.where((place == 0) | (place >= end), PADDING)


def check_captions(model: CLIP) -> None:
    """Refuses a model of which integrated gradients cannot be had, or a missing package.

    Raises:
        UsageError: If it is one.
    """
    captum_attr()
    if model.tokenizer is not None or token_embedding(model.towers) is None:
        raise UsageError(
            "integrated gradients need a text tower of open_clip with CLIP's tokenizer, which this model.architecture "
            'does not have: choose another.'
        )


def token_embedding(towers: Any) -> nn.Module | None:
    """The table of token embeddings of an open_clip model; ``None`` if it has none of its own."""
    return getattr(getattr(towers, 'text', towers), 'token_embedding', None)


def captum_attr() -> Any:
    """The methods of captum.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import captum.attr  # imports Matplotlib, and is optional
    except ImportError as error:
        raise UsageError('integrated gradients need captum: pip install "clipward[explain]".') from error
    return captum.attr
