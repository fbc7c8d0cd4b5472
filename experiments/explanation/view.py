"""What one model makes of the examples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from experiments.explanation.embedding_map import map_embeddings
from experiments.explanation.examples import Examples
from experiments.explanation.grad_cam import grad_cam
from experiments.explanation.integrated_gradients import integrated_gradients
from lightning_modules.clip import CLIP


class View(NamedTuple):
    """What a model sees in some pairs, each a picture with its first caption, and how it places all examples.

    Attributes:
        heat: Grad-CAM of each pair, (n, h, w).
        cosine: Similarity of each pair, (n,).
        token: What each token of a caption adds to the similarity, (n, T).
        gap: How far they are from adding up, as a share of what they should add up to, (n,).
        picture_place: Place of each picture by t-SNE, (P, 2).
        caption_place: Place of each caption, (N, 2).
    """

    heat: np.ndarray
    cosine: np.ndarray
    token: np.ndarray
    gap: np.ndarray
    picture_place: np.ndarray
    caption_place: np.ndarray


def look(model: CLIP, examples: Examples, pairs: int) -> View:
    """Explains the first pairs and maps all examples.

    Args:
        model: The model in evaluation mode.
        examples: Pictures and captions.
        pairs: Number n of pairs to explain.

    Raises:
        UsageError: If the towers of the model are not made for it.
    """
    with torch.no_grad():
        image = model.encode_image(examples.image.to(model.device))
        text = model.encode_text(examples.tokens.to(model.device))
    first = torch.from_numpy(examples.first_caption(pairs))
    seen = grad_cam(model, examples.image[:pairs].to(model.device), text[first])
    read = integrated_gradients(model, examples.tokens[first].to(model.device), image[:pairs])
    heat, cosine, token, gap = (part.cpu().numpy() for part in (*seen, read.token, read.gap))
    return View(heat, cosine, token, gap, *map_embeddings(image.cpu().numpy(), text.cpu().numpy()))
