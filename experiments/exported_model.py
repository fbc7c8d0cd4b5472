"""A trained model as a folder that open_clip opens without the network: weights, settings, tokenizer and model card."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from datamodules.files.atomic import fill_atomically
from datamodules.text.tokenizer import ModelTokenizer, WordTokenizer
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from lightning_modules.normalization import CLIP_MEAN, CLIP_STD
from lightning_modules.towers import SAVED_FOR_HUGGING_FACE, find_model

WEIGHTS, CARD = 'open_clip_model.safetensors', 'README.md'  # names that open_clip and Hugging Face look for
TOLERANCE = 1e-4  # of unit-norm embeddings, which differ by rounding alone: other settings give others
PROBES = ('a photo of a dog.', "isn't it 12?", 'Two  WOMEN & a café', 'a')


def write_model(model: CLIP, folder: Path, card: str) -> None:
    """Writes a model, opens what was written, and only then gives the folder its name.

    Args:
        model: The trained model, which is moved to the CPU.
        folder: The folder; must be missing or empty.
        card: Text of the model card.

    Raises:
        UsageError: If open_clip would open another model, or the folder cannot be written.
    """
    model = model.cpu().eval()
    with fill_atomically(folder) as temporary:
        save_file(weights_of(model), temporary / WEIGHTS, {'format': 'pt'})
        (temporary / SAVED_FOR_HUGGING_FACE).write_text(json.dumps(settings_of(model), indent=2) + '\n', 'utf-8')
        (temporary / WEIGHTS).chmod((temporary / SAVED_FOR_HUGGING_FACE).stat().st_mode)  # safetensors hides it
        if (save := getattr(getattr(model.tokenizer, 'tokenize', None), 'save_pretrained', None)) is not None:
            save(temporary)  # CLIP's own comes with open_clip, which has no such method
        (temporary / CARD).write_text(card, 'utf-8')
        check_opens(model, temporary)


def weights_of(model: CLIP) -> dict[str, Tensor]:
    """Weights of the towers under open_clip's names, each in memory of its own and in the usual order of channels."""
    memory = torch.contiguous_format
    return {name: weight.clone(memory_format=memory) for name, weight in model.towers.state_dict().items()}


def settings_of(model: CLIP) -> dict[str, Any]:
    """Settings of a model, and of the pictures that it was trained on, as open_clip reads them."""
    _, settings = find_model(model.architecture)
    channels = model.normalization.settings or {'mean': list(CLIP_MEAN), 'std': list(CLIP_STD)}
    views = {'interpolation': 'bicubic', 'resize_mode': 'shortest'}  # how pictures.cache.crop_square resizes
    return {'model_cfg': copy.deepcopy(settings), 'preprocess_cfg': {**channels, **views}}


@torch.no_grad()
def check_opens(model: CLIP, folder: Path) -> None:
    """Refuses a folder that open_clip would not open as this model.

    Raises:
        UsageError: If it opens with another tokenizer, or gives other embeddings.
    """
    import open_clip  # takes seconds

    name = f'local-dir:{folder}'
    opened: Any = open_clip.create_model(name, require_pretrained=True).eval()
    tokens = open_clip.get_tokenizer(name)(list(PROBES))
    if not np.array_equal(tokens, _tokens(model)):
        raise UsageError(
            f'open_clip takes another tokenizer for a folder with model.architecture={model.architecture!r}: name the '
            f'right one in its text_cfg.hf_tokenizer_name.'
        )
    image = torch.randn(2, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(0))
    embedded = model.encode_image(image), model.encode_text(tokens)
    reopened = opened.encode_image(model.normalization(image), normalize=True), opened.encode_text(tokens, True)
    if not all(torch.allclose(*pair, rtol=0, atol=TOLERANCE) for pair in zip(embedded, reopened, strict=True)):
        raise UsageError(
            f'open_clip builds another model from the settings of model.architecture={model.architecture!r} than this '
            f'one: give the JSON file that it was trained with.'
        )


def _tokens(model: CLIP) -> np.ndarray:
    own, length = model.tokenizer, model.context_length
    tokenize = ModelTokenizer(own, length) if own else WordTokenizer(length)
    return np.stack([tokenize(probe) for probe in PROBES])
